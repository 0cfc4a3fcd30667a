"""Small gymnasium wrappers: repeat an action, hide velocities, join frames, prepare an Atari screen."""

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.spaces import Element
from worldmodels.errors import EnvironmentFault

VELOCITIES = {"CartPoleEnv": (1, 3), "PendulumEnv": (2,), "Continuous_MountainCarEnv": (1,), "MountainCarEnv": (1,)}
"""Class name -> indices of the velocities in its observation."""

ATARI_NOOPS = 30
"""Most no-ops after a reset (Machado et al. 2018, "Revisiting the Arcade Learning Environment", section 2)."""


class ActionRepeat(gymnasium.Wrapper, RecordConstructorArgs):
    """Takes every action n times, or until the episode ends: rewards are summed, the last observation is returned.

    `info["simulator_steps"]` says how many steps were taken.
    """

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        """repeat: at least 1."""
        RecordConstructorArgs.__init__(self, repeat=repeat)
        gymnasium.Wrapper.__init__(self, env)
        self._repeat = repeat

    def step(self, action: Element) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Up to `repeat` steps of the wrapped environment."""
        obs, total, terminated, truncated, info = self.env.step(action)
        total, taken = float(total), 1
        while taken < self._repeat and not (terminated or truncated):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            taken += 1
        return obs, total, terminated, truncated, {**info, "simulator_steps": taken}


class MaskVelocity(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Leaves out the velocities of a classic-control observation, so that one observation is not the state."""

    def __init__(self, env: gymnasium.Env) -> None:
        """Raises: EnvironmentFault where it is not known which numbers are velocities."""
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        name = type(env.unwrapped).__name__
        if name not in VELOCITIES or not isinstance(env.observation_space, spaces.Box):
            raise EnvironmentFault(
                f"mask_velocity does not know the velocities of {name}; it knows {', '.join(VELOCITIES)}."
            )
        space = env.observation_space
        self._keep = np.array([i for i in range(space.shape[0]) if i not in VELOCITIES[name]])
        self.observation_space = spaces.Box(space.low[self._keep], space.high[self._keep], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """(n,) -> (n - velocities,)."""
        return observation[self._keep]


class FrameStack(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Joins the last n observations along their last axis, oldest first; an episode begins with n copies.

    An image (height, width) becomes (height, width, n), (height, width, C) becomes (height, width, n C), a vector (n,)
    becomes longer.
    """

    def __init__(self, env: gymnasium.Env, size: int) -> None:
        """Raises: EnvironmentFault where the observation is not a Box."""
        RecordConstructorArgs.__init__(self, size=size)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not space.shape:
            raise EnvironmentFault(f"frame_stack needs a Box observation with an axis to join, not {space}.")
        self._frames: deque[np.ndarray] = deque(maxlen=size)
        self._is_flat_image = len(space.shape) == 2
        self.observation_space = spaces.Box(
            self._join([space.low] * size), self._join([space.high] * size), dtype=space.dtype.type
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin with `size` copies of the first observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([np.array(obs)] * (self._frames.maxlen or 1))
        return self._join(list(self._frames)), info

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Join the newest observation with those before it."""
        self._frames.append(np.array(observation))  # environments may reuse their array
        return self._join(list(self._frames))

    def _join(self, frames: list[np.ndarray]) -> np.ndarray:
        return np.stack(frames, axis=-1) if self._is_flat_image else np.concatenate(frames, axis=-1)


class AtariScreen(gymnasium.Wrapper, RecordConstructorArgs):
    """Random no-ops after a reset, and the brighter of the last two screens, which hides flickering sprites.

    Frame skipping is `action_repeat`, outside this wrapper; losing a life does not end an episode. Follows Machado et
    al. (2018), section 5.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """Raises: EnvironmentFault where it is not an ALE environment of screens that skips no frames itself."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        space, skip = env.observation_space, getattr(env.unwrapped, "_frameskip", None)
        if skip != 1 or not isinstance(space, spaces.Box) or len(space.shape) < 2:
            raise EnvironmentFault(
                "the atari wrapper needs an ALE environment made with kwargs {frameskip: 1, obs_type: grayscale} "
                f"(or rgb), not frameskip {skip} and {space}."
            )
        self._previous: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and let it run for up to ATARI_NOOPS steps."""
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.env.unwrapped.np_random.integers(1, ATARI_NOOPS + 1))):
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        self._previous = np.array(obs)
        return obs, info

    def step(self, action: Element) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One frame."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        pooled = obs if self._previous is None else np.maximum(obs, self._previous)
        self._previous = np.array(obs)
        return pooled, reward, bool(terminated), bool(truncated), info


class FastRender(gymnasium.Wrapper, RecordConstructorArgs):
    """Draws a dm_control scene without shadows and antialiasing: six times as fast where OpenGL has no GPU.

    The images are not those of published results.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """Raises: EnvironmentFault where it is not a dm_control environment."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        physics = getattr(env.unwrapped, "physics", None)
        if physics is None:
            raise EnvironmentFault(f"fast_render is for dm_control environments, not {type(env.unwrapped).__name__}.")
        physics.model.vis.quality.shadowsize = 0
        physics.model.vis.quality.offsamples = 0


WRAPPERS: dict[str, Callable[[gymnasium.Env], gymnasium.Env]] = {
    "atari": AtariScreen,
    "fast_render": FastRender,
    "mask_velocity": MaskVelocity,
}
"""Names that `EnvOptions.wrappers` may contain."""
