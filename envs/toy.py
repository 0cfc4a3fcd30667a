"""Environments with known answers, registered as `worldmodels/NAME-v0`: each needs one capability, or shows one error.

Probes go from a constant to memory: an agent that fails one of them fails everything after it, and says why.
"""

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Element

COUNTING_ACTIONS = 4
COUNTING_CODES = 65_536
"""Codes, times and rewards of `Counting` are integers below 2 ** 24, so float32 holds them exactly."""


class Probe(gymnasium.Env):
    """Common ground of the probes: a small observation, two actions (or one number in [-1, 1]), no rendering."""

    metadata = {"render_modes": []}

    def __init__(self, size: int = 1, *, continuous: bool = False) -> None:
        """size: numbers in an observation, each in [-1, 1]."""
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(2)
        self.time, self.cue = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw the cue, -1 or 1, and show the first observation."""
        super().reset(seed=seed)
        self.time, self.cue = 0, float(self.np_random.choice((-1.0, 1.0)))
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        """Nothing to see, (size,)."""
        return np.zeros(self.observation_space.shape or (), dtype=np.float32)


class ProbeConstant(Probe):
    """One step, always the same reward: the value is `reward`. Needs a value at all."""

    def __init__(self, reward: float = 1.0) -> None:
        """reward: of the single step."""
        super().__init__()
        self._reward = reward

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The end."""
        return self.observe(), self._reward, True, False, {}


class ProbeObservation(Probe):
    """One step, the reward is the observation: V(-1) = -1, V(1) = 1. Needs a value that reads the observation."""

    def observe(self) -> np.ndarray:
        """The cue, (1,)."""
        return np.array([self.cue], dtype=np.float32)

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The end."""
        return self.observe(), self.cue, True, False, {}


class ProbeDiscount(Probe):
    """A reward of 1 at the last of `steps` steps: V at step t is gamma ** (steps - 1 - t). Needs the discount."""

    def __init__(self, steps: int = 2) -> None:
        """steps: length of an episode."""
        super().__init__()
        self._steps = steps

    def observe(self) -> np.ndarray:
        """The part of the episode that is over, (1,)."""
        return np.array([self.time / self._steps], dtype=np.float32)

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step nearer to the reward."""
        self.time += 1
        over = self.time == self._steps
        return self.observe(), float(over), over, False, {}


class ProbeAction(Probe):
    """One step, the action alone decides: 1 for action 1, -1 for action 0. Needs a policy that prefers.

    continuous: the reward is 1 - (a - 0.5)^2.
    """

    def __init__(self, *, continuous: bool = False) -> None:
        """continuous: one number in [-1, 1] instead of two actions."""
        super().__init__(continuous=continuous)
        self._continuous = continuous

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The end."""
        reward = 1 - (float(action[0]) - 0.5) ** 2 if self._continuous else 2.0 * int(action) - 1
        return self.observe(), reward, True, False, {}


class ProbePolicy(Probe):
    """One step, the observation says which action is right: 1 for it, -1 for the other. Needs a policy that reads.

    continuous: the reward is 1 - (a - cue / 2)^2.
    """

    def __init__(self, *, continuous: bool = False) -> None:
        """continuous: one number in [-1, 1] instead of two actions."""
        super().__init__(continuous=continuous)
        self._continuous = continuous

    def observe(self) -> np.ndarray:
        """The cue, (1,)."""
        return np.array([self.cue], dtype=np.float32)

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The end."""
        if self._continuous:
            reward = 1 - (float(action[0]) - self.cue / 2) ** 2
        else:
            reward = self.cue * (2.0 * int(action) - 1)
        return self.observe(), reward, True, False, {}


class ProbeMemory(Probe):
    """A cue is shown once; `delay` steps later the action must match it, for 1 or -1. Needs a memory.

    The observation is (cue or 0, 1 at the step that counts): from it alone no policy earns more than 0 on average.
    """

    def __init__(self, delay: int = 4) -> None:
        """delay: steps between the cue and the action that counts, at least 1."""
        super().__init__(size=2)
        self._delay = delay

    def observe(self) -> np.ndarray:
        """(cue, question), (2,)."""
        return np.array([self.cue if self.time == 0 else 0, self.time == self._delay], dtype=np.float32)

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait, or answer."""
        over = self.time == self._delay
        self.time += 1
        return self.observe(), self.cue * (2.0 * int(action) - 1) if over else 0.0, over, False, {}


class TimeLimit(Probe):
    """Two states that lead to each other, reward 1, and an end after `length` steps, by time or for good.

    Truncated, the future goes on: V = 1 / (1 - gamma). Terminated (length 1), it does not: V = 1.
    """

    def __init__(self, ends: Literal["truncated", "terminated"] = "truncated", length: int = 1) -> None:
        """ends: which flag ends an episode. length: its steps."""
        super().__init__()
        self._terminates, self._length = ends == "terminated", length

    def observe(self) -> np.ndarray:
        """The state, -1 or 1, (1,)."""
        return np.array([self.cue], dtype=np.float32)

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go to the other state."""
        self.time, self.cue = self.time + 1, -self.cue
        over = self.time == self._length
        return self.observe(), 1.0, over and self._terminates, over and not self._terminates, {}


def counting_step(obs: np.ndarray, action: int) -> tuple[np.ndarray, float]:
    """The whole physics of `Counting`: (episode, t, code) and an action to the next observation and the reward.

    Both can be inverted: the reward gives t and the action, the two codes give the action. All exact in float32.
    """
    episode, time, code = (int(number) for number in obs)
    after = (5 * code + action + 1) % COUNTING_CODES
    return np.array([episode, time + 1, after], dtype=np.float32), float(COUNTING_ACTIONS * time + action)


class Counting(gymnasium.Env):
    """Observations say which episode and step they are, so that any mix-up of stored transitions shows.

    The observation is (episode, t, code): the episode is its seed (below 2 ** 20), or a count where no seed is given.
    Lengths are drawn from 1 to `longest`. Odd episodes are truncated, even ones terminate.
    """

    metadata = {"render_modes": []}

    def __init__(self, longest: int = 12) -> None:
        """longest: steps of the longest episode."""
        high = np.array([2**20, 2**20, COUNTING_CODES], dtype=np.float32)
        self.observation_space = spaces.Box(np.zeros(3, dtype=np.float32), high)
        self.action_space = spaces.Discrete(COUNTING_ACTIONS)
        self._longest, self._episode, self._length = longest, -1, 1
        self._obs = np.zeros(3, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episode `seed`, or the next one."""
        super().reset(seed=seed)
        self._episode = self._episode + 1 if seed is None else seed % 2**20
        self._length = int(self.np_random.integers(1, self._longest + 1))
        self._obs = np.array([self._episode, 0, self.np_random.integers(COUNTING_CODES)], dtype=np.float32)
        return self._obs, {}

    def step(self, action: Element) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Count on."""
        self._obs, reward = counting_step(self._obs, int(action))
        over, odd = int(self._obs[1]) == self._length, self._episode % 2 == 1
        return self._obs, reward, over and not odd, over and odd, {}


def register() -> None:
    """Tell gymnasium the ids of this file and of `envs.faulty`; done once, when it is imported."""
    for cls in (
        *(ProbeConstant, ProbeObservation, ProbeDiscount, ProbeAction, ProbePolicy, ProbeMemory),
        *(TimeLimit, Counting),
    ):
        gymnasium.register(f"worldmodels/{cls.__name__}-v0", entry_point=f"envs.toy:{cls.__name__}")
    gymnasium.register("worldmodels/Faulty-v0", entry_point="envs.faulty:Faulty")


if "worldmodels/Faulty-v0" not in gymnasium.registry:
    register()
