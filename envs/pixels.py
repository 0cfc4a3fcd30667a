"""Images as observations: rendered frames or the environment's own screens, resized to a small square.

Nothing here is imported by a task that is learnt from its state: no renderer, no display, no OpenGL.
"""

import os
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.spaces import Element
from worldmodels.errors import EnvironmentFault

LUMINANCE = (19595, 38470, 7471)
"""Weights of red, green and blue in 1/65536 (ITU-R BT.601: 0.299, 0.587, 0.114)."""


class Pixels(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Replaces the observation with a uint8 image (size, size, 1 or 3)."""

    def __init__(self, env: gymnasium.Env, size: int, *, grayscale: bool) -> None:
        """The environment's own observation is taken where it is an image, a rendered frame elsewhere.

        Raises: EnvironmentFault where there is neither.
        """
        RecordConstructorArgs.__init__(self, size=size, grayscale=grayscale)
        gymnasium.ObservationWrapper.__init__(self, env)
        self._own = has_screen(env.observation_space)
        if not self._own and env.render_mode != "rgb_array":
            raise EnvironmentFault(
                "obs: pixels needs an environment that observes images, or whose metadata offers render_modes "
                f"'rgb_array' (made with render_mode {env.render_mode!r})."
            )
        self._size, self._gray = size, grayscale
        shape = (size, size, 1 if grayscale or (self._own and len(env.observation_space.shape or ()) == 2) else 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: Element) -> np.ndarray:
        """The image of this moment."""
        frame = observation if self._own else self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim not in (2, 3):
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise EnvironmentFault(f"render() returned {what}, expected uint8 (height, width, 3).")
        return resize(frame, self._size, grayscale=self._gray)


def has_screen(space: spaces.Space[Any]) -> bool:
    """Whether a space is that of uint8 images (height, width) or (height, width, 3)."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] == 3))
        and min(space.shape[:2]) >= 16
    )


def resize(frame: np.ndarray, size: int, *, grayscale: bool) -> np.ndarray:
    """Area average of a frame, uint8 (H, W) or (H, W, 3), as uint8 (size, size, C), C = 1 where it is grey."""
    from PIL import Image  # a third of a second that state tasks do not pay

    if frame.shape[:2] != (size, size):
        image = Image.fromarray(np.ascontiguousarray(frame))
        frame = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    if frame.ndim == 3 and grayscale:
        # In integers, so that no platform rounds differently.
        frame = ((frame.astype(np.uint32) @ np.array(LUMINANCE, dtype=np.uint32) + 32768) >> 16).astype(np.uint8)
    return frame[..., None] if frame.ndim == 2 else frame  # (size, size, C)


def prepare_headless() -> None:
    """Let pygame draw without a screen or a sound card. Does nothing where there is a display."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if is_headless():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def is_headless() -> bool:
    """Whether this is a Linux machine without a display."""
    return sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
