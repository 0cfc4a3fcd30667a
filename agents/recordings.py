"""Episodes to judge a model by: played by its policy, at random, and in between, as one batch."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents.collector import random_actions
from agents.evaluate import Actor, check_fit
from envs.options import EnvOptions
from envs.vector import VectorEnv
from worldmodels.seeding import forked, generator
from worldmodels.types import Batch

Behaviour = Literal["policy", "noisy", "random", "held"]
"""Who acts: the policy's best action; the policy or chance, by a coin at each step; chance; chance held for 8 steps."""
BEHAVIOURS: tuple[Behaviour, ...] = ("policy", "noisy", "random", "held")
_HOLD = 8
_CHANCE = {"policy": 0.0, "noisy": 0.5, "random": 1.0, "held": 1.0}

Row = dict[str, np.ndarray]
"""One step of all episodes: action, reward, terminated, truncated, mask."""


def record_episodes(
    agent: Actor, env_options: EnvOptions, behaviour: Behaviour, *, episodes: int, steps: int, seed: int
) -> Batch:
    """Play at most `steps` steps of the episodes with seeds `seed`, `seed` + 1, ...; random numbers stay untouched.

    Returns: windows (episodes, T+1) that begin where episodes begin, T the longest episode's; what comes after the end
    of a shorter one is masked.
    Raises: ConfigError, EnvironmentFault: as `agents.evaluate.evaluate`.
    """
    with forked(seed), torch.inference_mode(), VectorEnv(env_options, episodes) as envs:
        check_fit(agent, envs, env_options.id)
        obs = envs.reset(range(episodes), [seed + k for k in range(episodes)])
        seen, rows = {name: [value.copy()] for name, value in obs.items()}, []
        choose, playing = _Chooser(agent, behaviour, episodes, seed), np.ones(episodes, dtype=bool)
        while len(rows) < steps and playing.any():
            row = _step(envs, obs, choose(obs), playing)
            rows.append(row)
            for name, value in obs.items():
                seen[name].append(value.copy())
            playing = row["mask"] & ~row["terminated"] & ~row["truncated"]
    columns: dict[str, Any] = {name: torch.from_numpy(np.stack([row[name] for row in rows], 1)) for name in rows[0]}
    first = torch.zeros(episodes, len(rows) + 1, dtype=torch.bool)
    first[:, 0] = True
    return Batch(
        obs={name: torch.from_numpy(np.stack(values, 1)) for name, values in seen.items()},
        is_first=first,
        obs_mask=torch.cat([first[:, :1], columns["mask"]], 1),
        **columns,
    )


def part(batch: Batch, rows: slice) -> Batch:
    """Some windows of a batch."""
    columns: dict[str, Any] = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return Batch(obs={name: value[rows] for name, value in batch.obs.items()}, **columns)


class _Chooser:
    """Actions (n, A) for observations (n, ...), by policy and chance as `behaviour` says."""

    def __init__(self, agent: Actor, behaviour: Behaviour, episodes: int, seed: int) -> None:
        self.agent, self.behaviour, self.episodes = agent, behaviour, episodes
        self.rng = generator(seed, f"record {behaviour}")
        self.carry, self.is_first = agent.initial_carry(episodes), np.ones(episodes, dtype=bool)
        self.count = 0

    def __call__(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        if self.behaviour != "held" or self.count % _HOLD == 0:
            self.drawn = random_actions(self.agent.action_spec, self.episodes, self.rng)
        self.count += 1
        chance = self.rng.random(self.episodes) < _CHANCE[self.behaviour]
        if chance.all():
            self.is_first[:] = True
            return self.drawn
        action, self.carry = self.agent.act(obs, self.carry, self.is_first, deterministic=True)
        self.is_first = chance  # what chance did is not remembered: the state starts anew from what is seen
        return np.where(chance[:, None], self.drawn, action)


def _step(envs: VectorEnv, obs: dict[str, np.ndarray], action: np.ndarray, playing: np.ndarray) -> Row:
    """Step the episodes that are open; `obs` is changed in place where something came."""
    index = np.flatnonzero(playing)
    result = envs.step(index.tolist(), action[index])
    real = np.zeros(len(playing), dtype=bool)
    real[index] = ~(result.dropped | result.discarded)
    reward, terminated, truncated = np.zeros(len(real), np.float32), np.zeros_like(real), np.zeros_like(real)
    reward[index], terminated[index], truncated[index] = result.reward, result.terminated, result.truncated
    for name, value in result.obs.items():
        obs[name][real] = value[real[index]]
    return {
        "action": (action * real[:, None]).astype(np.float32),
        "reward": reward * real,
        "terminated": terminated & real,
        "truncated": truncated & real & ~terminated,
        "mask": real,
    }
