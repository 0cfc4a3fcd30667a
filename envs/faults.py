"""Sensor faults: from a given step of each episode on, chosen numbers of the observation lie.

    SensorFault(env, drift(0.01), start=50, dimensions=[2])

works alone, around any environment whose observation is a Box, and around another one of its kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.spaces import Element
from worldmodels.errors import EnvironmentFault

_STREAM = 0x5E45
"""Sets the noise of a sensor apart from every other generator with the same seed."""


@dataclass(frozen=True)
class Reading:
    """What a faulty sensor has to go by at one step.

    value: float64 (n,), the truth. held: float64 (n,), the truth at the last step before the fault. age: steps since
    the fault began, 0 at first. rng: for what is random.
    """

    value: np.ndarray
    held: np.ndarray
    age: int
    rng: np.random.Generator


Fault = Callable[[Reading], np.ndarray]
"""A reading -> what the sensor says, float64 (n,)."""


def drop(value: float = 0.0, *, chance: float = 1.0) -> Fault:
    """The sensor says `value` with probability `chance` at each step, for each dimension by itself."""
    return lambda r: np.where(r.rng.random(r.value.shape) < chance, value, r.value)


def freeze() -> Fault:
    """The sensor repeats the last value before the fault; the first of the episode where it begins at step 0."""
    return lambda r: r.held


def drift(rate: float) -> Fault:
    """The sensor is `rate` further off at each step, beginning with `rate`."""
    return lambda r: r.value + rate * (r.age + 1)


def offset(size: float) -> Fault:
    """The sensor is off by `size`."""
    return lambda r: r.value + size


def noise(std: float) -> Fault:
    """Gaussian noise of standard deviation `std` is added, independent over steps and dimensions."""
    return lambda r: r.value + std * r.rng.standard_normal(r.value.shape)


def miscalibration(gain: float) -> Fault:
    """The sensor says `gain` times the truth."""
    return lambda r: gain * r.value


FAULTS: dict[str, Callable[..., Fault]] = {
    function.__name__: function for function in (drop, freeze, drift, offset, noise, miscalibration)
}
"""Name -> what makes the fault from its size."""


class SensorFault(gymnasium.Wrapper, RecordConstructorArgs):
    """Shows the wrapped environment through a faulty sensor. Rewards and ends of episodes stay the true ones.

    `info["sensor_fault"]` says at every step whether a fault acts. Numbers with decimals may leave the bounds that the
    environment declared, so these are lifted where the sensor may lie; whole numbers saturate at them.
    """

    def __init__(
        self, env: gymnasium.Env, fault: Fault, *, start: int = 0, dimensions: Sequence[int] | None = None
    ) -> None:
        """Wrap `env`.

        Args:
            env: its observation is a Box of numbers, of any shape.
            fault: what the sensor says instead, in the observation's own units.
            start: step of the episode from which it acts; the observation of a reset is step 0.
            dimensions: indices into the flattened observation; None stands for all of it.

        Raises: EnvironmentFault where the observation is no Box or has no such dimension, or the step is negative.
        """
        RecordConstructorArgs.__init__(self, fault=fault, start=start, dimensions=dimensions)
        gymnasium.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or space.dtype.kind not in "fiu":
            raise EnvironmentFault(f"SensorFault needs an observation that is a Box of numbers, not {space}.")
        size = int(np.prod(space.shape))
        self._places = np.arange(size) if dimensions is None else np.asarray(dimensions, dtype=np.int64)
        if self._places.ndim != 1 or not ((self._places >= 0) & (self._places < size)).all():
            raise EnvironmentFault(f"SensorFault: dimensions {dimensions}, expected indices below {size}, a list.")
        if start < 0:
            raise EnvironmentFault(f"SensorFault: start is {start}, expected a step of the episode, 0 or later.")
        self._fault, self._start, self._time = fault, start, 0
        self._rng = np.random.default_rng()
        self._low, self._high = (bound.reshape(-1)[self._places] for bound in (space.low, space.high))
        self._whole, self._held = space.dtype.kind != "f", np.zeros(len(self._places))
        if not self._whole:
            low, high = space.low.copy(), space.high.copy()
            low.reshape(-1)[self._places], high.reshape(-1)[self._places] = -np.inf, np.inf
            self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the fault begins anew. seed: of the fault's noise too."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._time = 0
        if seed is not None:
            self._rng = np.random.default_rng((seed, _STREAM))
        return self._read(obs, info)

    def step(self, action: Element) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step of the wrapped environment, seen through the sensor."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._time += 1
        obs, info = self._read(obs, info)
        return obs, reward, terminated, truncated, info

    def _read(self, obs: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        age = self._time - self._start
        info = {**info, "sensor_fault": age >= 0 or bool(info.get("sensor_fault", False))}
        flat = np.array(obs).reshape(-1)
        value = flat[self._places].astype(np.float64)
        if age < 0 or self._time == 0:
            self._held = value
        if age < 0:
            return np.array(obs), info
        said = self._fault(Reading(value, self._held, age, self._rng))
        flat[self._places] = np.clip(np.rint(said), self._low, self._high) if self._whole else said
        return flat.reshape(np.shape(obs)), info
