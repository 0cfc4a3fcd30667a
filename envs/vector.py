"""Many environments with explicit resets: only those that are named are stepped, and every error names its copy.

There is no automatic reset, so no transition can cross one. Copies run in this process (`workers: 0`) or each in a
process of its own (`envs.workers`); both give the same numbers for the same seeds.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from envs.guard import Guard
from envs.make import make_env
from envs.options import EnvOptions
from worldmodels.errors import EnvironmentFault
from worldmodels.specs import ActionSpec, ObsSpec


@dataclass(frozen=True)
class StepResult:
    """What n environments returned for one action each.

    obs: name -> (n, ...). reward: (n,) float32. terminated, truncated: (n,) bool. steps: (n,) int64 simulator steps.
    discarded: (n,) bool; the episode ends here as truncated and nothing of this step may be stored.
    dropped: (n,) bool; the environment failed and was rebuilt: its open episode must be thrown away as a whole, its
        row is zero, and it needs a reset.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    steps: np.ndarray
    discarded: np.ndarray
    dropped: np.ndarray


Transition = tuple[dict[str, np.ndarray], float, bool, bool, int, bool]
"""obs, reward, terminated, truncated, simulator steps, discarded."""


class Copies(Protocol):
    """n environments somewhere. A failure comes back as the EnvironmentFault of its row, never raised."""

    obs_specs: dict[str, ObsSpec]
    action_spec: ActionSpec
    spaces: dict[str, Any]

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> list[dict[str, np.ndarray] | EnvironmentFault]:
        """Reset the named environments."""
        ...

    def step(self, indices: Sequence[int], actions: np.ndarray) -> list[Transition | EnvironmentFault]:
        """Step the named environments."""
        ...

    def render(self, index: int) -> np.ndarray:
        """Draw one environment."""
        ...

    def rebuild(self, index: int) -> None:
        """Replace a failed environment."""
        ...

    def kill(self) -> None:
        """Let go of everything at once, raising nothing."""
        ...

    def close(self) -> None:
        """Close every environment in an orderly way. Raises EnvironmentFault where one does not close."""
        ...


class VectorEnv:
    """n copies of one environment.

    Attributes: obs_specs, action_spec, num_envs, env_id; spaces, as `Guard.spaces`; restarts_left, (n,) how often each
    copy may still fail.
    """

    def __init__(self, options: EnvOptions, num_envs: int, *, render: bool = False) -> None:
        """Build the copies. render: open them for `render`. Raises: EnvironmentFault as `make_env` does."""
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected at least 1")
        self.num_envs, self.env_id = num_envs, options.id
        self.restarts_left = [options.restarts] * num_envs
        if options.workers > 0:
            from envs.workers import WorkerCopies

            self._copies: Copies = WorkerCopies(options, num_envs, render=render)
        else:
            self._copies = LocalCopies(options, num_envs, render=render)
        self.obs_specs, self.action_spec = self._copies.obs_specs, self._copies.action_spec
        self.spaces = self._copies.spaces

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """Begin an episode in each named environment, with its seed; first observations, name -> (n, ...).

        Raises: EnvironmentFault; then everything is closed.
        """
        results = self._copies.reset(indices, seeds)
        obs = self._empty(len(indices))
        for row, result in enumerate(results):
            while isinstance(result, EnvironmentFault):
                self._restart(indices[row], result)
                result = self._copies.reset([indices[row]], [seeds[row]])[0]
            for name, array in obs.items():
                array[row] = result[name]
        return obs

    def step(self, indices: Sequence[int], actions: np.ndarray) -> StepResult:
        """Step the named environments. actions: float32 (n, A), encoded.

        Raises: EnvironmentFault; then everything is closed.
        """
        count = len(indices)
        obs, reward = self._empty(count), np.zeros(count, dtype=np.float32)
        terminated, truncated = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        steps, discarded, dropped = np.zeros(count, dtype=np.int64), np.zeros(count, bool), np.zeros(count, bool)
        for row, result in enumerate(self._copies.step(indices, actions)):
            if isinstance(result, EnvironmentFault):
                self._restart(indices[row], result)
                dropped[row] = True
                continue
            arrays, reward[row], terminated[row], truncated[row], steps[row], discarded[row] = result
            for name, array in obs.items():
                array[row] = arrays[name]
        return StepResult(obs, reward, terminated, truncated, steps, discarded, dropped)

    def render(self, index: int) -> np.ndarray:
        """uint8 (height, width, 3). Raises: EnvironmentFault where it was not opened for drawing."""
        return self._copies.render(index)

    def close(self) -> None:
        """Close every environment. Raises: EnvironmentFault where one does not close in time (it is killed)."""
        self._copies.close()

    def __enter__(self) -> Self:
        """Use as a context: closed at the end, killed where an exception passes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, or kill where an exception passes."""
        if kind is None:
            self.close()
        else:
            self._copies.kill()

    def _restart(self, index: int, fault: EnvironmentFault) -> None:
        """Rebuild a failed environment, or give up: close everything and raise its fault."""
        if self.restarts_left[index] <= 0:
            self._copies.kill()
            raise fault
        self.restarts_left[index] -= 1
        try:
            self._copies.rebuild(index)
        except BaseException:
            self._copies.kill()
            raise

    def _empty(self, count: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((count, *spec.shape), spec.dtype) for name, spec in self.obs_specs.items()}


class LocalCopies:
    """Every environment in this process. One that hangs cannot be interrupted: use workers where that may happen."""

    def __init__(self, options: EnvOptions, num_envs: int, *, render: bool) -> None:
        """Build the environments."""
        self._make = lambda: make_env(options, render=render)
        self._envs: list[Guard] = []
        try:
            for _ in range(num_envs):
                self._envs.append(self._make())
        except BaseException:
            self.kill()
            raise
        self.obs_specs, self.action_spec = self._envs[0].obs_specs, self._envs[0].action_spec
        self.spaces = self._envs[0].spaces

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> list[dict[str, np.ndarray] | EnvironmentFault]:
        """Reset the named environments."""
        results: list[dict[str, np.ndarray] | EnvironmentFault] = []
        for index, seed in zip(indices, seeds, strict=True):
            try:
                results.append(self._envs[index].reset(seed=int(seed))[0])
            except EnvironmentFault as fault:
                results.append(_named(index, fault))
        return results

    def step(self, indices: Sequence[int], actions: np.ndarray) -> list[Transition | EnvironmentFault]:
        """Step the named environments."""
        results: list[Transition | EnvironmentFault] = []
        for index, action in zip(indices, actions, strict=True):
            try:
                results.append(transition(self._envs[index].step(action)))
            except EnvironmentFault as fault:
                results.append(_named(index, fault))
        return results

    def render(self, index: int) -> np.ndarray:
        """Draw one environment."""
        return self._envs[index].render()

    def rebuild(self, index: int) -> None:
        """Replace a failed environment."""
        self._let_go(self._envs[index])
        self._envs[index] = self._make()

    def kill(self) -> None:
        """Let go of everything; the error that led here is the one to show."""
        for env in self._envs:
            self._let_go(env)
        self._envs = []

    def close(self) -> None:
        """Close every environment."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()

    def _let_go(self, env: Guard) -> None:
        """Close an environment after an error, which is the one to raise: a second one is a warning."""
        try:
            env.close()
        except Exception as error:
            warnings.warn(f"{env.env_id}: close() raised {type(error).__name__}: {error}", stacklevel=2)


def transition(result: tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]) -> Transition:
    """What a guarded `step` returned, without its info."""
    obs, reward, terminated, truncated, info = result
    return obs, reward, terminated, truncated, info.get("simulator_steps", 1), "discarded_step" in info


def _named(index: int, fault: EnvironmentFault) -> EnvironmentFault:
    named = EnvironmentFault(f"environment {index}: {fault}")
    named.__cause__ = fault
    return named
