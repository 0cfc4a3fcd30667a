"""How good a world model is on episodes of its own environment: what it expected many steps ahead and what came."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.recordings import record_episodes
from envs.options import EnvOptions
from worldmodels.seeding import derive, forked
from worldmodels.types import Batch, State, cat_states
from worldmodels.uncertainty import realised
from worldmodels.uncertainty.forecast import forecast, readout

EPISODES, STEPS, HORIZON, STRIDE = 10, 200, 30, 4
"""Episodes of policy and chance each, their length at most, steps dreamt, steps between the starts of dreams."""
SAMPLES = 8
"""Dreams from each start; their mean is the prediction."""


@dataclass(frozen=True)
class ModelQuality:
    """Errors at 1 .. H steps ahead without looking, each (H,), NaN where no episode went so far.

    observation: root mean square, in standard deviations of the observation (of the latent without vectors). expected:
    what the ensemble expected of it, None without one. latent: root mean square, in units of the latent. reward: mean
    absolute. reward_spread: standard deviation of the rewards, for comparison. continuation: mean nats of the flag.
    starts: dreams compared at each horizon. imagined, real: (n,) sums of reward over the H steps of each whole dream.
    """

    observation: np.ndarray
    expected: np.ndarray | None
    latent: np.ndarray
    reward: np.ndarray
    reward_spread: float
    continuation: np.ndarray
    starts: np.ndarray
    imagined: np.ndarray
    real: np.ndarray


def model_quality(
    agent: Agent, env_options: EnvOptions | None = None, *, seed: int = 60_000, horizon: int = HORIZON
) -> ModelQuality:
    """Dream along actions that were taken, from every `STRIDE`-th step of episodes that the model has not seen.

    Half of the episodes are the policy's, half are chance's. Nothing of the agent changes.
    Raises: ConfigError, EnvironmentFault: as `agents.evaluate.evaluate`.
    """
    env_options = env_options or agent.env_options
    batches = [
        record_episodes(agent, env_options, who, episodes=EPISODES, steps=STEPS, seed=seed)
        for who in ("policy", "random")
    ]
    with forked(derive(seed, "quality")), torch.no_grad():
        parts = [_compare(agent, batch.to(agent.world_model.device), horizon) for batch in batches]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # (N, H) each
    valid = columns.pop("valid")
    whole = valid.all(1)
    imagined, real = (columns.pop(name)[whole].sum(1).numpy() for name in ("imagined", "real"))
    rewards = torch.cat([batch.reward[batch.mask] for batch in batches])
    means = {name: _masked(values, valid) for name, values in columns.items()}
    root = {name: np.sqrt(means[name]) for name in ("observation", "latent", "expected") if name in means}
    return ModelQuality(
        observation=root["observation"],
        expected=root.get("expected"),
        latent=root["latent"],
        reward=means["reward"],
        reward_spread=float(rewards.std(correction=0)),
        continuation=means["continuation"],
        starts=valid.sum(0).numpy(),
        imagined=imagined,
        real=real,
    )


def _compare(agent: Agent, batch: Batch, horizon: int) -> dict[str, Tensor]:
    """Errors of every dream, name -> (N, H); `valid` (N, H) says where the episode went on."""
    model = agent.world_model
    states = model.infer(batch, sample=False)
    target = realised(model, batch.obs, states)
    start, ahead = _windows(states, batch, target, horizon)
    rollout = model.imagine(start.repeat(SAMPLES), ahead["action"].repeat(SAMPLES, 1, 1), horizon)
    dreamt = rollout.states.index((slice(None), slice(1, None)))  # (S * N, H)
    count = len(start.z)

    def mean(values: Tensor) -> Tensor:
        return values.unflatten(0, (SAMPLES, count)).mean(0)

    seen, reward, goes_on = mean(readout(model, dreamt)[0]), mean(rollout.reward), mean(rollout.continuation)
    ended = ahead["terminated"].bool()
    found = {
        "observation": (seen - ahead["target"]).square().mean(-1),
        "latent": (mean(dreamt.z) - ahead["z"]).square().mean(-1),
        "reward": (reward - ahead["reward"]).abs(),
        "continuation": -torch.where(ended, 1 - goes_on, goes_on).clamp(min=1e-6).log(),
        "imagined": reward,
        "real": ahead["reward"],
        "valid": ahead["mask"].cumprod(1).bool(),
    }
    if model.ensemble is not None:
        found["expected"] = forecast(model, start, ahead["action"]).std.square().mean(-1)
    return {name: value.cpu() for name, value in found.items()}


def _windows(states: State, batch: Batch, target: Tensor, horizon: int) -> tuple[State, dict[str, Tensor]]:
    """Starts (N, ...) and what followed each of them, name -> (N, H, ...), zero behind an episode's end."""
    columns = {
        "action": batch.action,
        "reward": batch.reward,
        "terminated": batch.terminated.float(),
        "mask": batch.mask.long(),
        "target": target[:, 1:],
        "z": states.z[:, 1:],
    }
    padded = {n: torch.cat([v, v.new_zeros(len(v), horizon, *v.shape[2:])], 1) for n, v in columns.items()}
    places = [(batch.mask[:, t], t) for t in range(0, batch.action.shape[1], STRIDE)]
    starts = [states.index(place) for place in places]
    ahead = {n: torch.cat([v[rows, t : t + horizon] for rows, t in places]) for n, v in padded.items()}
    return cat_states(starts), ahead


def _masked(values: Tensor, valid: Tensor) -> np.ndarray:
    """Mean over the starts (N, H) that reach each horizon -> (H,); NaN where none does."""
    return (torch.where(valid, values, 0).sum(0) / valid.sum(0)).numpy()
