"""An environment tried out under its guard: random episodes, one episode repeated, and each action held."""

import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from envs.guard import Guard
from envs.spaces import ActionCodec
from worldmodels.errors import EnvironmentFault


class Moment(NamedTuple):
    """What one step returned; of a reset, reward 0 and no end."""

    obs: dict[str, np.ndarray]
    reward: float
    terminated: bool
    truncated: bool


@dataclass
class Play:
    """Random episodes, the last of which may be unfinished.

    obs: name -> arrays, one for each observation. rewards, actions: one for each step. firsts: the first observations.
    ends: (length in steps, terminated, truncated) of each finished episode. step_s, reset_s: seconds of each call.
    warned: what the guard warned of. reuses: whether the environment hands out the same array again and again.
    """

    obs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    firsts: list[dict[str, np.ndarray]] = field(default_factory=list)
    ends: list[tuple[int, bool, bool]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    reset_s: list[float] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    reuses: bool = False

    def add(self, obs: dict[str, np.ndarray]) -> None:
        """Remember an observation."""
        for name, value in obs.items():
            self.obs.setdefault(name, []).append(value)


def play(env: Guard, *, steps: int, seed: int, timeout_s: float) -> tuple[Play, EnvironmentFault | None]:
    """Play `steps` random steps; episode k is reset with seed + k.

    Returns: what was seen, and the fault that ended it early or None.
    """
    seen, sample = Play(), action_sampler(env, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            while len(seen.rewards) < steps:
                _episode(env, seen, sample, steps, seed + len(seen.firsts), timeout_s)
            fault = None
        except EnvironmentFault as error:
            fault = error
    seen.warned = list(dict.fromkeys(str(warning.message) for warning in caught))
    return seen, fault


def _episode(env: Guard, seen: Play, sample: Callable[[], np.ndarray], steps: int, seed: int, timeout_s: float) -> None:
    began = time.perf_counter()
    with deadline(timeout_s, f"{env.env_id}: reset()"):
        obs, _ = env.reset(seed=seed)
    seen.reset_s.append(time.perf_counter() - began)
    seen.firsts.append(obs)
    seen.add(obs)
    length, over = 0, False
    while not over and len(seen.rewards) < steps:
        action = sample()
        began = time.perf_counter()
        with deadline(timeout_s, f"{env.env_id}: step()"):
            obs, reward, terminated, truncated, _ = env.step(action)
        seen.step_s.append(time.perf_counter() - began)
        seen.add(obs)
        seen.rewards.append(reward)
        seen.actions.append(action)
        length, over = length + 1, terminated or truncated
        if over:
            seen.ends.append((length, terminated, truncated))


def trace(env: Guard, seed: int, actions: Sequence[np.ndarray]) -> list[Moment]:
    """The episode of `seed` under these actions: its reset and its steps, as far as it lasts.

    Raises: EnvironmentFault.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `play` has told them
        moments = [Moment(env.reset(seed=seed)[0], 0.0, False, False)]
        for action in actions:
            moments.append(Moment(*env.step(action)[:4]))
            if moments[-1].terminated or moments[-1].truncated:
                break
    return moments


def first_difference(one: Sequence[Moment], two: Sequence[Moment]) -> tuple[int, str] | None:
    """Step (0: the reset) and name of the first thing in which two traces differ; None where they are the same."""
    for step, (a, b) in enumerate(zip(one, two, strict=False)):
        for name, value in a.obs.items():
            if not np.array_equal(value, b.obs[name]):
                return step, f"observation {name!r}"
        for name in ("reward", "terminated", "truncated"):
            if getattr(a, name) != getattr(b, name):
                return step, name
    return None if len(one) == len(two) else (min(len(one), len(two)), "length")


def action_sampler(env: Guard, seed: int) -> Callable[[], np.ndarray]:
    """Draws random actions of the environment in the toolkit's encoding, always the same ones for a seed."""
    space, codec = env.action_space, ActionCodec(env.action_space)
    space.seed(seed)
    return lambda: codec.encode(space.sample())


def extreme_actions(env: Guard) -> Iterator[tuple[str, np.ndarray]]:
    """(name, encoded action) of every choice, or of the middle and both ends of every dimension of a Box."""
    spec = env.action_spec
    if spec.kind != "continuous":
        offset = 0
        for element, classes in enumerate(spec.classes):
            for choice in range(classes):
                action = np.zeros(spec.size, np.float32)
                starts = np.cumsum((0, *spec.classes[:-1]))
                action[starts] = 1.0
                action[offset] = 0.0
                action[offset + choice] = 1.0
                yield (f"choice {choice}" if len(spec.classes) == 1 else f"choice {choice} of {element}"), action
            offset += classes
        return
    yield "the middle", np.zeros(spec.size, np.float32)
    for dimension in range(spec.size):
        for end, value in (("low", -1.0), ("high", 1.0)):
            action = np.zeros(spec.size, np.float32)
            action[dimension] = value
            yield f"dimension {dimension} {end}", action


def hands_out_one_array(env: Guard, seed: int) -> bool:
    """Whether the environment itself returns the same array object at two steps."""
    if not isinstance(env.env.observation_space, spaces.Box):
        return False
    env.env.reset(seed=seed)
    action = env.env.action_space.sample()
    first = env.env.step(action)
    if first[2] or first[3]:
        return False
    return first[0] is env.env.step(action)[0]


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise EnvironmentFault where the block takes longer. Interrupts Python, not a library that hangs in C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise EnvironmentFault(f"{what} did not return within {seconds:g} s")

    try:
        before = signal.signal(signal.SIGALRM, stop)
    except ValueError:  # not the main thread: nothing can be interrupted from here
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
