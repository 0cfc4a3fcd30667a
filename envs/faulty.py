"""One environment that breaks gymnasium's contract in one chosen way at one chosen step: `worldmodels/Faulty-v0`.

For tests of anything that steps environments, here and in projects that use this one.
"""

import os
import signal
import threading
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.spaces import Element

Fault = Literal[
    "none",
    "raises",  # a ValueError
    "hangs",  # for ever, without using the processor
    "stops",  # SIGSTOP: the whole process stands still
    "dies",  # SIGKILL, as from the kernel when memory is short
    "exits",  # the process ends by itself, with exit code 3
    "hangs_in_close",
    "nan_obs",
    "inf_obs",
    "nan_reward",
    "inf_reward",
    "wrong_shape",
    "wrong_dtype",  # the keyword dtype says which
    "list_obs",
    "scalar_obs",
    "reuses_array",  # from the first step on, whatever `at` says
    "four_tuple",
    "int_flags",
    "none_flags",
    "info_none",
    "text_reward",
    "out_of_bounds",
    "resets_next_step",  # after the end, step() begins the next episode (gymnasium's AutoresetMode.NEXT_STEP)
    "resets_same_step",  # the last step returns the next episode's first observation (SAME_STEP)
]


LARGEST = 1_000_000
"""Upper bound of the observation space."""


class Faulty(gymnasium.Env):
    """Counts episodes and steps in an honest way until step `at`: obs (episode, t, 0, 0), reward t, two actions.

    A fault at step 0 shows in reset(). With `seed`, only episodes that were reset with it are faulty.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        fault: Fault = "none",
        at: int = 3,
        length: int = 10,
        dtype: str = "complex64",
        seed: int | None = None,
    ) -> None:
        """fault: what goes wrong. at: the step at which it does. length: steps of an episode."""
        self.observation_space = spaces.Box(0, LARGEST, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._fault, self._at, self._length, self._dtype = fault, at, length, dtype
        self._seed, self._chosen = seed, seed is None
        self._episode, self._time, self._over = -1, 0, False
        self._array = np.zeros(4, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Element, dict[str, Any]]:
        """Begin the next episode."""
        super().reset(seed=seed)
        self._chosen = self._seed is None or self._seed == seed
        self._begin()
        self._misbehave()
        result: Any = (self._observe(), None if self._now("info_none") else {})
        return (*result, {}) if self._now("four_tuple") else result

    def step(self, action: Element) -> Any:  # noqa: ANN401
        """One step; what comes back depends on the fault."""
        if self._over and self._fault == "resets_next_step":
            self._begin()
            return self._observe(), 0.0, False, False, {}
        self._time += 1
        self._misbehave()
        obs, reward, info = self._observe(), self._reward(), {}
        self._over = self._time == self._length
        if self._over and self._fault == "resets_same_step":
            self._begin()
            return self._observe(), reward, True, False, {"final_obs": obs, "final_info": {}}
        if self._now("four_tuple"):
            return obs, reward, self._over, info
        if self._now("int_flags"):
            return obs, reward, int(self._over), 0, info
        if self._now("none_flags"):
            return obs, reward, None, None, info
        return obs, reward, self._over, False, None if self._now("info_none") else info

    def close(self) -> None:
        """Close, or never."""
        if self._fault == "hangs_in_close":
            threading.Event().wait()

    def _begin(self) -> None:
        self._episode, self._time, self._over = self._episode + 1, 0, False

    def _now(self, fault: Fault) -> bool:
        return self._fault == fault and self._time == self._at and self._chosen

    def _misbehave(self) -> None:
        if self._now("raises"):
            raise ValueError(f"the simulator broke at step {self._time}")
        if self._now("hangs"):
            threading.Event().wait()
        if self._now("stops"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._now("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._now("exits"):
            os._exit(3)

    def _reward(self) -> Any:  # noqa: ANN401
        odd: dict[Fault, Any] = {"nan_reward": float("nan"), "inf_reward": float("inf"), "text_reward": "1.0"}
        return odd[self._fault] if self._fault in odd and self._now(self._fault) else float(self._time)

    def _observe(self) -> Any:  # noqa: ANN401
        obs = self._array if self._fault == "reuses_array" else np.zeros(4, dtype=np.float32)
        obs[:2] = self._episode, self._time
        if self._now("nan_obs") or self._now("inf_obs"):
            obs[2] = np.nan if self._fault == "nan_obs" else np.inf
        if self._now("out_of_bounds"):
            obs[3] = LARGEST + 1
        if self._now("wrong_shape"):
            return np.append(obs, obs[:1])
        if self._now("wrong_dtype"):
            return obs.astype(self._dtype)
        if self._now("list_obs"):
            return obs.tolist()
        return float(self._time) if self._now("scalar_obs") else obs
