"""Shared by the tests of environments: scripted environments, actions, presets, and collecting by the book."""

from collections.abc import Iterable
from pathlib import Path

import gymnasium
import numpy as np
import yaml
from gymnasium import spaces

from envs import EnvOptions, Guard, VectorEnv
from worldmodels.specs import ActionSpec

PRESETS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "env").glob("*.yaml"))


class Scripted(gymnasium.Env):
    """Returns exactly what it was given, whatever the action; remembers the actions."""

    def __init__(self, observation_space, steps: Iterable = (), reset=None, action_space=None):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.first = (observation_space.sample(), {}) if reset is None else reset
        self.results = iter(steps)
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first

    def step(self, action):
        self.actions.append(action)
        return next(self.results)


def preset(name: str) -> EnvOptions:
    path = Path(__file__).parents[2] / "configs" / "env" / f"{name}.yaml"
    return EnvOptions(**yaml.safe_load(path.read_text())["env"])


def faulty(fault: str = "none", *, workers: int = 0, restarts: int = 0, timeout_s: float = 30.0, **kwargs):
    return EnvOptions(
        id="worldmodels/Faulty-v0",
        kwargs={"fault": fault, **kwargs},
        workers=workers,
        restarts=restarts,
        timeout_s=timeout_s,
    )


def random_action(spec: ActionSpec, generator: np.random.Generator) -> np.ndarray:
    """float32 (A,)."""
    if spec.kind == "continuous":
        return generator.uniform(-1, 1, spec.size).astype(np.float32)
    blocks = [np.eye(classes, dtype=np.float32)[generator.integers(classes)] for classes in spec.classes]
    return np.concatenate(blocks)


def still(spec: ActionSpec, count: int | None = None) -> np.ndarray:
    """The first class of every block, or zeros: float32 (A,), or (count, A)."""
    action = random_action(spec, _Zero()) if spec.kind != "continuous" else np.zeros(spec.size, dtype=np.float32)
    return action if count is None else np.tile(action, (count, 1))


class _Zero:
    def integers(self, high):
        return 0


def play(env: Guard, seed: int, steps: int = 200, action_seed: int = 0) -> list[tuple]:
    """(obs, reward, terminated, truncated) of one episode, or of its first `steps` steps."""
    generator = np.random.default_rng(action_seed)
    rows = [(env.reset(seed=seed)[0], 0.0, False, False)]
    while len(rows) <= steps and not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(random_action(env.action_spec, generator))[:4])
    return rows


def collect(vector: VectorEnv, episodes: int, *, first_seed: int = 0) -> list[list[tuple]]:
    """Complete episodes of transitions (obs, reward, terminated, truncated, next obs), seeds counting up.

    What is discarded or dropped is not stored, as the toolkit's collector must do.
    """
    seeds = iter(range(first_seed, first_seed + episodes))
    done, open_, last = [], {}, {}

    def begin(indices):
        chosen = [(index, seed) for index, seed in zip(indices, seeds, strict=False)]
        for index in indices:
            open_.pop(index, None)
        if chosen:
            obs = vector.reset([index for index, _ in chosen], [seed for _, seed in chosen])["obs"]
            for (index, _), row in zip(chosen, obs, strict=True):
                open_[index], last[index] = [], row

    begin(list(range(min(vector.num_envs, episodes))))
    while open_:
        indices = sorted(open_)
        result = vector.step(indices, still(vector.action_spec, len(indices)))
        over = []
        for row, index in enumerate(indices):
            if result.dropped[row]:
                over.append(index)
                continue
            if not result.discarded[row]:
                obs, flags = result.obs["obs"][row], (bool(result.terminated[row]), bool(result.truncated[row]))
                open_[index].append((last[index], float(result.reward[row]), *flags, obs))
                last[index] = obs
            if result.terminated[row] or result.truncated[row]:
                done.append(open_[index])
                over.append(index)
        if over:
            begin(over)
    return done
