"""A cart that swings up the pole that hangs from it: the task of PILCO, as `worldmodels/CartPoleSwingUp-v0`."""

from math import cos, exp, pi, sin
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Element

GRAVITY = 9.82
CART, POLE, LENGTH = 0.5, 0.5, 0.6
"""Masses in kg, and the length in m of a pole whose mass is spread evenly."""
FORCE = 10.0
"""Of the action 1, in N."""
FRICTION = 0.1
"""Of the cart, in N s/m."""
STEP = 0.1
"""Seconds of a step."""
REACH = 0.25
"""Distance from the goal, in m, that costs 1 - exp(-1/2)."""
FAR = 100.0
"""More m, m/s and rad/s than can be had in 25 steps."""
START_STD = 0.02
"""Standard deviation of each number of the first state around a hanging pole at rest."""


def swing_up_rates(state: np.ndarray, force: float, friction: float = FRICTION) -> np.ndarray:
    """d/dt of (x, x', theta, theta') in m and rad: (4,) -> (4,).

    A uniform rod on a cart; theta = 0 is upright, and the tip is at (x - LENGTH sin theta, LENGTH cos theta)
    (Deisenroth 2010, appendix C.2, whose angle is measured from the hanging pole).
    """
    _, speed, theta, turn = state
    s, c, mass = sin(theta), cos(theta), CART + POLE
    push = force - friction * speed
    whirl = POLE * LENGTH * turn**2 * s
    share = 4 * mass - 3 * POLE * c**2
    acceleration = (4 * push - 2 * whirl + 3 * POLE * GRAVITY * s * c) / share
    twist = (6 * mass * GRAVITY * s + 6 * push * c - 3 * whirl * c) / (LENGTH * share)
    return np.array([speed, acceleration, turn, twist])


def swing_up_reward(x: float, theta: float) -> float:
    """exp(-d^2 / (2 REACH^2)) - 1, from -1 far away to 0, d the distance of the pole's tip from where it should be.

    The tip is taken at x + LENGTH sin(theta), the mirror image of where it is and the same at the goal: so it is in the
    published task, on which its threshold and the figures of others rest (Mehta et al. 2022).
    """
    squared = (x + LENGTH * sin(theta)) ** 2 + (LENGTH * cos(theta) - LENGTH) ** 2
    return exp(-0.5 * squared / REACH**2) - 1


class CartPoleSwingUp(gymnasium.Env):
    """25 steps of 0.1 s to swing the pole up and hold it over the middle of the track; force of at most 10 N.

    The observation is (x, x', sin theta, cos theta, theta'), the reward `swing_up_reward` of the state reached. A step
    is one of Euler's, as published: what a shorter one would do is another task.
    """

    metadata = {"render_modes": []}

    def __init__(self, step_s: float = STEP) -> None:
        """step_s: seconds of a step."""
        high = np.array([FAR, FAR, 1, 1, FAR], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._step_s = step_s
        self._state = np.zeros(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Hanging, nearly at rest."""
        super().reset(seed=seed)
        self._state = np.array([0, 0, pi, 0]) + START_STD * self.np_random.standard_normal(4)
        return self._observe(), {}

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push for a tenth of a second."""
        force = FORCE * float(np.clip(action[0], -1, 1))
        self._state = self._state + self._step_s * swing_up_rates(self._state, force)
        return self._observe(), swing_up_reward(self._state[0], self._state[2]), False, False, {}

    def _observe(self) -> np.ndarray:
        x, speed, theta, turn = self._state
        return np.array([x, speed, sin(theta), cos(theta), turn], dtype=np.float32)


def register() -> None:
    """Tell gymnasium the id of this file; done once, when it is imported."""
    gymnasium.register(
        "worldmodels/CartPoleSwingUp-v0", entry_point="envs.swing_up:CartPoleSwingUp", max_episode_steps=25
    )


if "worldmodels/CartPoleSwingUp-v0" not in gymnasium.registry:
    register()
