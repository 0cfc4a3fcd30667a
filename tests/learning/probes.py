"""Learn a probe environment through the real trainer, in seconds, and ask the agent what it thinks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.options import ActorCriticOptions, EvaluationOptions, LearnerOptions, ReplayOptions, TrainOptions
from agents.trainer import Trainer
from envs.options import EnvOptions
from tests.learning.tools import tiny_run
from worldmodels.options import GaussianOptions, HeadOptions, RecurrentOptions, TrunkOptions, WorldModelOptions


def probe_options(name: str, kwargs: dict[str, Any] | None = None) -> TrainOptions:
    """A run of a few hundred steps: random ones first, many updates from them, then the policy's own."""
    return TrainOptions(
        env=EnvOptions(id=f"worldmodels/{name}-v0", kwargs=kwargs or {}),
        world_model=WorldModelOptions(
            trunk=TrunkOptions(units=32, layers=1),
            gaussian=GaussianOptions(size=4),
            recurrent=RecurrentOptions(deter=32, hidden=32),
            heads=HeadOptions(units=32, bins=41, limit=5.0),
            norm=True,
        ),
        agent=ActorCriticOptions(
            horizon=5,
            starts=64,
            gamma=0.9,
            hidden=32,
            layers=1,
            bins=41,
            limit=5.0,
            critic_rate=3e-3,
            slow_critic=0.1,
            actor_rate=3e-3,
            actor_average=0.1,
            entropy=1e-3,
            norm=False,
        ),
        replay=ReplayOptions(capacity=2000, batch=16, length=8),
        train=LearnerOptions(
            warmup_steps=200,
            warmup_updates=300,
            updates_per_step=0.5,
            every=10,
            model_rate=3e-3,
            checkpoint_every=100_000,
        ),
        evaluation=EvaluationOptions(every=0, episodes=8, final_episodes=8, num_envs=8),
        steps=400,
    )


@contextmanager
def learned(folder: Path, options: TrainOptions, *assignments: str) -> Iterator[Trainer]:
    """A trainer at the end of its loop."""
    with tiny_run(folder / "run", *assignments, options=options) as (trainer, _):
        trainer.loop()
        yield trainer


def values(trainer: Trainer, *episodes: list[list[float]]) -> list[float]:
    """What the critic says after each episode's observations so far, all actions being the first one.

    episodes: observations o_0 .. o_t of one vector environment, of equal length.
    """
    model, policy = trainer.agent.world_model, trainer.agent.policy
    obs = torch.tensor(np.asarray(episodes), dtype=torch.float32)  # (N, t+1, n)
    action = torch.zeros(len(obs), trainer.agent.action_spec.size)
    action[:, 0] = 1
    state = None
    with torch.no_grad():
        for t in range(obs.shape[1]):
            first = torch.full((len(obs),), t == 0)
            state = model.filter(state, action if state else None, {"obs": obs[:, t]}, first, sample=False)
        assert state is not None
        return policy.critic(state.features).mean.tolist()
