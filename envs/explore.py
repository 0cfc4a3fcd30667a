"""Environments in which exploration can be measured, as `worldmodels/NAME-v0`: what there is to see is known."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Element

Result = tuple[np.ndarray, float, bool, bool, dict[str, Any]]
MAZE_SIDE = 24
"""Cells along each side of `Maze`; they are of unit size."""
CORRIDOR = 3
"""Width of the corridors of `Maze`."""


class DeepSea(gymnasium.Env):
    """A square of size x size cells, one row down a step; only the rightmost path pays (Osband et al. 2020, bsuite).

    Every step to the right costs 0.01 / size, the last cell on the right gives 1. Which of the two actions goes right
    is drawn once for every cell, from `layout`. A policy that acts at random finds the reward once in 2 ** size
    episodes. The observation is (row, column), scaled to [-1, 1], or both as one-hots.
    """

    metadata = {"render_modes": []}

    def __init__(self, size: int = 10, layout: int = 0, *, one_hot: bool = False) -> None:
        """size: rows and columns. layout: seed of the actions' meaning.

        one_hot: observe 2 * size + 1 numbers, of which that of the row and that of the column are 1 and the rest 0:
        what is true of one column then says nothing about the next.
        """
        low, width = (0, 2 * size + 1) if one_hot else (-1, 2)
        self.observation_space = spaces.Box(low, 1, (width,), np.float32)
        self._one_hot = one_hot
        self.action_space = spaces.Discrete(2)
        self._size = size
        self._right = np.random.default_rng(layout).integers(2, size=(size, size))
        self._row = self._column = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The upper left cell."""
        super().reset(seed=seed)
        self._row = self._column = 0
        return self._observe(), {}

    def step(self, action: Element) -> Result:
        """One row down, to the left or to the right."""
        right = int(action) == self._right[self._row, self._column]
        reward = -0.01 / self._size if right else 0.0
        if right and self._column == self._size - 1:
            reward += 1.0
        self._column = min(self._column + 1, self._size - 1) if right else max(self._column - 1, 0)
        self._row += 1
        over = self._row == self._size
        return self._observe(), reward, over, False, {}

    def _observe(self) -> np.ndarray:
        if self._one_hot:
            seen = np.zeros(2 * self._size + 1, dtype=np.float32)
            seen[[self._row, self._size + 1 + self._column]] = 1
            return seen
        place = np.array([self._row, self._column]) / max(1, self._size)
        return (2 * place - 1).astype(np.float32)


def maze_walls() -> list[tuple[float, float, float]]:
    """Walls of `Maze`, (x that they stand on, from, to in y): eight corridors that lead into each other."""
    inner, side = MAZE_SIDE - CORRIDOR, float(MAZE_SIDE)
    odd = [(float(x), 0.0, float(inner)) for x in range(CORRIDOR, MAZE_SIDE, 2 * CORRIDOR)]
    return odd + [(float(x), float(CORRIDOR), side) for x in range(2 * CORRIDOR, MAZE_SIDE, 2 * CORRIDOR)]


class Maze(gymnasium.Env):
    """A point in a winding corridor of 24 x 24 cells; an action moves it by at most one unit along each axis.

    It starts in the middle of the way, and an episode is 100 steps: just enough to get to either end. There is no
    reward. The observation is the position, scaled to [-1, 1]. A move stops where it would cross a wall.
    """

    metadata = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self._walls = maze_walls()
        self._place = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The start, the same every time."""
        super().reset(seed=seed)
        self._place = np.array([(MAZE_SIDE - CORRIDOR) / 2, MAZE_SIDE / 2])
        return self._observe(), {}

    def step(self, action: Element) -> Result:
        """Move along one axis, then along the other."""
        for axis in (0, 1):
            self._place[axis] = self._moved(axis, float(np.clip(action[axis], -1, 1)))
        return self._observe(), 0.0, False, False, {}

    def _moved(self, axis: int, change: float) -> float:
        """The coordinate after a move along one axis, stopped just before a wall or the border."""
        here, other = self._place[axis], self._place[1 - axis]
        there = float(np.clip(here + change, 1e-3, MAZE_SIDE - 1e-3))
        for wall, start, stop in self._walls if axis == 0 else ():
            if start <= other <= stop and (here - wall) * (there - wall) <= 0:
                there = wall - 1e-3 if here < wall else wall + 1e-3
        return there

    def _observe(self) -> np.ndarray:
        return (2 * self._place / MAZE_SIDE - 1).astype(np.float32)


class NoisyTV(gymnasium.Wrapper):
    """A television beside a task of vectors: one more action, one more number to see, and nothing to learn from it.

    Where the last action exceeds 0 the number is drawn anew, uniform in [-1, 1]; else it stays. Rewards, ends and the
    rest of the observation are the task's own. `info["tv"]` says whether it was switched.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """env: with Box observations and a Box of actions."""
        super().__init__(env)
        seen, acted = env.observation_space, env.action_space
        if not (isinstance(seen, spaces.Box) and isinstance(acted, spaces.Box)):
            raise TypeError(f"NoisyTV: expected Box observations and actions, got {seen} and {acted}")
        one = np.ones(1, dtype=np.float32)
        self.observation_space = spaces.Box(np.append(seen.low, -one), np.append(seen.high, one), dtype=np.float32)
        self.action_space = spaces.Box(np.append(acted.low, -one), np.append(acted.high, one), dtype=np.float32)
        self._shown = np.float32(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The task's first observation; the television shows 0."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._shown = np.float32(0)
        return self._with_tv(obs), info

    def step(self, action: Element) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Act in the task with all but the last number."""
        obs, reward, terminated, truncated, info = self.env.step(action[:-1])
        switched = bool(action[-1] > 0)
        if switched:
            self._shown = np.float32(self.env.unwrapped.np_random.uniform(-1, 1))
        return self._with_tv(obs), reward, terminated, truncated, {**info, "tv": switched}

    def _with_tv(self, obs: np.ndarray) -> np.ndarray:
        return np.append(obs, self._shown).astype(np.float32)


def noisy_mountain_car() -> gymnasium.Env:
    """MountainCarContinuous with a television."""
    return NoisyTV(gymnasium.make("MountainCarContinuous-v0", disable_env_checker=True).unwrapped)


def maze_reachable() -> set[tuple[int, int]]:
    """Cells of `Maze` that can be visited: all of them, since no cell is walled in."""
    return {(x, y) for x in range(MAZE_SIDE) for y in range(MAZE_SIDE)}


def register() -> None:
    """Tell gymnasium the ids of this file; done once, when it is imported."""
    gymnasium.register("worldmodels/DeepSea-v0", entry_point="envs.explore:DeepSea")
    gymnasium.register("worldmodels/Maze-v0", entry_point="envs.explore:Maze", max_episode_steps=100)
    gymnasium.register(
        "worldmodels/NoisyMountainCar-v0", entry_point="envs.explore:noisy_mountain_car", max_episode_steps=999
    )


if "worldmodels/Maze-v0" not in gymnasium.registry:
    register()
