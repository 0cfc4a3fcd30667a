"""Gymnasium spaces to ObsSpec and ActionSpec, and arrays across that border: encoded once, decoded once.

Observations become a dict of named arrays (`obs` where the space is not a Dict), each owning its memory. Actions inside
the toolkit are float32 (A,): one-hot blocks for discrete kinds, [-1, 1] per dimension for a bounded Box.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.errors import EnvironmentFault
from worldmodels.specs import ActionSpec, ObsSpec

Element = Any
"""An element of a gymnasium space: a number, an array, or a dict of these."""

IMAGE_SIDES = (10, 128)
"""Smallest and largest height and width of an array that is taken for an image."""

IMAGE_CHANNELS = 16
"""Most channels of an image."""

ROUNDING = 1e-6
"""How far float32 arithmetic may carry an action over its bound; anything further is an error."""

SUPPORTED_OBS = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict (nested) of these"
SUPPORTED_ACTIONS = "Discrete, MultiDiscrete, MultiBinary and bounded Box"


@dataclass(frozen=True)
class Leaf:
    """One array of an observation: where it is found, how it is stored, and the space that describes it.

    encode: takes a numpy array (a number for Discrete) of the space's shape, returns a new array of spec's shape and
        dtype.
    """

    name: str
    path: tuple[Any, ...]
    space: spaces.Space[Any]
    spec: ObsSpec
    encode: Callable[[Any], np.ndarray]


def obs_leaves(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The named arrays of an observation space, in the space's own order.

    Raises: EnvironmentFault for a space that no encoder can take, naming it and what is supported.
    """
    leaves = tuple(_leaves(space, ()))
    names = [leaf.name for leaf in leaves]
    if len(set(names)) != len(names):
        raise EnvironmentFault(f"observation_space has two arrays of the same joined name among {names}: rename a key.")
    if not leaves:
        raise EnvironmentFault("observation_space is an empty Dict: it needs at least one array.")
    return leaves


def obs_specs(space: spaces.Space[Any]) -> dict[str, ObsSpec]:
    """Name -> ObsSpec of every array of an observation space. Raises EnvironmentFault as `obs_leaves` does."""
    return {leaf.name: leaf.spec for leaf in obs_leaves(space)}


def encode_obs(space: spaces.Space[Any], obs: Element) -> dict[str, np.ndarray]:
    """One observation of `space` as the toolkit stores it. Nothing is checked here (`envs.guard` does) or aliased."""
    return {leaf.name: leaf.encode(at(obs, leaf.path)) for leaf in obs_leaves(space)}


def action_spec(space: spaces.Space[Any]) -> ActionSpec:
    """The encoded action of an action space. Raises EnvironmentFault where it is unbounded or not supported."""
    return ActionCodec(space).spec


def decode_action(space: spaces.Space[Any], action: np.ndarray) -> Element:
    """float32 (A,) -> an element of `space`. Raises EnvironmentFault on NaN or a value out of range."""
    return ActionCodec(space).decode(action)


def encode_action(space: spaces.Space[Any], action: Element) -> np.ndarray:
    """An element of `space` -> float32 (A,): the inverse of `decode_action`."""
    return ActionCodec(space).encode(action)


def space_of_obs(specs: Mapping[str, ObsSpec]) -> spaces.Space[Any]:
    """A space whose observations are encoded ones: the space of the single array `obs`, or a Dict of them."""
    found = {name: _space_of(spec) for name, spec in specs.items()}
    return found["obs"] if list(found) == ["obs"] else spaces.Dict(found)


def space_of_action(spec: ActionSpec) -> spaces.Space[Any]:
    """The plain space of an encoded action: Discrete, MultiDiscrete, or a Box of [-1, 1]."""
    if spec.kind == "discrete":
        return spaces.Discrete(spec.classes[0])
    if spec.kind == "multi_discrete":
        return spaces.MultiDiscrete(list(spec.classes))
    return spaces.Box(-1.0, 1.0, (spec.size,), np.float32)


def encode_actions(spec: ActionSpec, actions: Element) -> np.ndarray:
    """n elements of `space_of_action(spec)` -> float32 (n, A), all at once.

    Raises: EnvironmentFault where one lies outside the space.
    """
    if spec.kind == "continuous":
        values = np.asarray(actions, dtype=np.float32).reshape(-1, spec.size)
        if not (np.abs(values) <= 1 + ROUNDING).all():  # false for NaN
            raise EnvironmentFault(f"actions {_brief(values)} are not within [-1, 1].")
        return values.clip(-1, 1)
    index = np.asarray(actions, dtype=np.int64).reshape(-1, len(spec.classes))  # (n, blocks)
    if not ((index >= 0) & (index < spec.classes)).all():
        raise EnvironmentFault(f"actions {_brief(index)} are outside the action space: below {spec.classes} expected.")
    encoded = np.zeros((len(index), spec.size), dtype=np.float32)
    np.put_along_axis(encoded, index + np.cumsum((0, *spec.classes[:-1])), 1.0, axis=1)
    return encoded


def _space_of(spec: ObsSpec) -> spaces.Space[Any]:
    if spec.kind == "image":
        return spaces.Box(0, 255, spec.shape, np.uint8)
    if spec.kind == "discrete":
        return spaces.Discrete(spec.classes[0])
    if spec.kind == "multi_discrete":
        return spaces.MultiDiscrete(list(spec.classes))
    if spec.kind == "multi_binary":
        return spaces.MultiBinary(spec.shape[0])
    return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)


class ActionCodec:
    """Actions of one space across the border; built once, because the collector's inner loop decodes with it."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Read the space. Raises: EnvironmentFault where it is unbounded or not supported."""
        self.space = space
        if isinstance(space, spaces.Discrete):
            self.spec = ActionSpec("discrete", (int(space.n),))
            self.decode, self.encode = self._decode_discrete, self._encode_blocks
            self._start, self._one = np.array([space.start]), type(space.start)
        elif isinstance(space, spaces.MultiDiscrete):
            self.spec = ActionSpec("multi_discrete", tuple(int(n) for n in space.nvec.reshape(-1)))
            self.decode, self.encode = self._decode_blocks, self._encode_blocks
            self._start = np.asarray(space.start).reshape(-1)
        elif isinstance(space, spaces.MultiBinary):
            self.spec = ActionSpec("multi_discrete", (2,) * int(np.prod(space.shape)))
            self.decode, self.encode = self._decode_blocks, self._encode_blocks
            self._start = np.zeros(len(self.spec.classes), dtype=np.int64)
        elif isinstance(space, spaces.Box) and _kind(space) in "fiu":
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise EnvironmentFault(
                    "action_space is unbounded: wrap with gymnasium.wrappers.RescaleAction or ClipAction, "
                    f"or declare bounds (low {_brief(space.low)}, high {_brief(space.high)})."
                )
            self.spec = ActionSpec("continuous", dimensions=int(np.prod(space.shape)))
            self.decode, self.encode = self._decode_box, self._encode_box
            self._low, self._high = (b.astype(np.float64).reshape(-1) for b in (space.low, space.high))
            # Halved before they are added, so that bounds near the largest float do not overflow.
            self._middle, self._half = self._low / 2 + self._high / 2, self._high / 2 - self._low / 2
        else:
            raise EnvironmentFault(f"action_space {space} is not supported. Supported: {SUPPORTED_ACTIONS}.")
        if self.spec.size == 0:
            raise EnvironmentFault(f"action_space {space} is empty.")
        self._edges = np.cumsum((0, *self.spec.classes)).tolist()

    def _decode_discrete(self, action: np.ndarray) -> Element:
        values = action.tolist()
        if len(values) != self.spec.size or values.count(1.0) != 1 or values.count(0.0) != len(values) - 1:
            return self._one(self._index(action, 0, len(values)) + self._start[0])
        return self._one(values.index(1.0) + self._start[0])

    def _decode_blocks(self, action: np.ndarray) -> np.ndarray:
        index = [self._index(action, low, high) for low, high in zip(self._edges, self._edges[1:], strict=False)]
        return (np.array(index) + self._start).astype(self.space.dtype).reshape(self.space.shape)

    def _index(self, action: np.ndarray, low: int, high: int) -> int:
        """Index of the single 1 in action[low:high]."""
        self._check_shape(action)
        block = action[low:high]
        index = int(block.argmax())
        rest = np.abs(block).sum() - abs(block[index])
        if not (abs(block[index] - 1) <= ROUNDING and rest <= ROUNDING):  # false for NaN
            raise EnvironmentFault(f"action {_brief(action)} is not one-hot: one 1 and zeros in each block expected.")
        return index

    def _encode_blocks(self, action: Element) -> np.ndarray:
        index = np.asarray(action, dtype=np.int64).reshape(-1) - self._start
        encoded = np.zeros(self.spec.size, dtype=np.float32)
        for value, classes, edge in zip(index.tolist(), self.spec.classes, self._edges, strict=False):
            if not 0 <= value < classes:
                raise EnvironmentFault(f"action {action} is outside the action space {self.space}.")
            encoded[edge + value] = 1
        return encoded  # (A,)

    def _decode_box(self, action: np.ndarray) -> np.ndarray:
        self._check_shape(action)
        if not np.abs(action).max() <= 1 + ROUNDING:  # false for NaN
            raise EnvironmentFault(f"action {_brief(action)} is not within [-1, 1]: the environment was not stepped.")
        value = self._middle + self._half * action
        if _kind(self.space) in "iu":
            value = np.rint(value)
        value = np.minimum(np.maximum(value, self._low), self._high)
        return value.astype(self.space.dtype).reshape(self.space.shape)

    def _encode_box(self, action: Element) -> np.ndarray:
        value = np.asarray(action, dtype=np.float64).reshape(-1)
        safe = np.where(self._half == 0, 1.0, self._half)
        encoded = np.where(self._half == 0, 0.0, (value - self._middle) / safe)
        if encoded.shape != self._low.shape or not np.abs(encoded).max() <= 1 + ROUNDING:
            raise EnvironmentFault(f"action {_brief(value)} is outside the action space {self.space}.")
        return np.clip(encoded, -1, 1).astype(np.float32)  # (A,)

    def _check_shape(self, action: np.ndarray) -> None:
        if action.shape != (self.spec.size,):
            raise EnvironmentFault(f"action has shape {action.shape}, expected {(self.spec.size,)}.")


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, (*path, key))
        return
    name = "/".join(map(str, path)) or "obs"
    spec, encode = _encoder(space, name)
    if spec.width == 0:
        raise EnvironmentFault(f"observation_space {name!r} {space} is empty: it needs at least one element.")
    yield Leaf(name, path, space, spec, encode)


def _encoder(space: spaces.Space[Any], name: str) -> tuple[ObsSpec, Callable[[Any], np.ndarray]]:
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        spec = ObsSpec("discrete", (), (int(space.n),))
        return spec, lambda value: np.array(int(value) - start, dtype=np.int64)  # ()
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start, dtype=np.int64).reshape(-1)
        classes = tuple(int(n) for n in space.nvec.reshape(-1))
        spec = ObsSpec("multi_discrete", (len(classes),), classes)
        return spec, lambda value: np.asarray(value, dtype=np.int64).reshape(-1) - start  # (n,)
    size = int(np.prod(space.shape or ()))
    if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Box) and space.dtype == np.bool_):
        image = _image(space, 255) if isinstance(space, spaces.Box) else None
        return image or (ObsSpec("multi_binary", (size,)), lambda value: np.array(value, dtype=np.uint8).reshape(-1))
    if isinstance(space, spaces.Box) and _kind(space) in "fiu":
        image = _image(space, 1) if space.dtype == np.uint8 else None
        if image is None and space.dtype == np.uint8 and _too_large(space.shape):
            raise EnvironmentFault(
                f"observation_space {name!r} is an image of {space.shape}: images have sides of {IMAGE_SIDES[0]} to "
                f"{IMAGE_SIDES[1]} and up to {IMAGE_CHANNELS} channels. Set env.obs=pixels, which resizes it."
            )
        return image or (ObsSpec("vector", (size,)), _encode_vector)
    raise EnvironmentFault(f"observation_space {name!r} {space} is not supported. Supported: {SUPPORTED_OBS}.")


def _encode_vector(value: Element) -> np.ndarray:
    return np.array(value, dtype=np.float32).reshape(-1)  # (n,)


def _image(space: spaces.Box, scale: int) -> tuple[ObsSpec, Callable[[Any], np.ndarray]] | None:
    """Spec and encoder where the shape is that of an image (height, width[, channels]) or (channels, height, width)."""
    shape = space.shape
    if len(shape) == 2 and _is_side(*shape):
        return ObsSpec("image", (*shape, 1)), lambda value: _to_uint8(value, scale)[..., None]  # (H, W, 1)
    if len(shape) == 3 and _is_side(*shape[:2]) and shape[2] <= IMAGE_CHANNELS:
        return ObsSpec("image", shape), lambda value: _to_uint8(value, scale)  # (H, W, C)
    if len(shape) == 3 and _is_side(*shape[1:]) and shape[0] <= IMAGE_CHANNELS:
        spec = ObsSpec("image", (*shape[1:], shape[0]))
        return spec, lambda value: _to_uint8(np.moveaxis(np.asarray(value), 0, -1), scale)  # (H, W, C)
    return None


def _to_uint8(value: Element, scale: int) -> np.ndarray:
    image = np.array(value, dtype=np.uint8, order="C")
    return image if scale == 1 else image * np.uint8(scale)


def _is_side(height: int, width: int) -> bool:
    low, high = IMAGE_SIDES
    return low <= height <= high and low <= width <= high


def _too_large(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3) and min(shape[:2]) >= IMAGE_SIDES[0] and max(shape[:2]) > IMAGE_SIDES[1]


def at(obs: Element, path: tuple[Any, ...]) -> Element:
    """The part of a nested observation that the keys of `path` lead to."""
    for key in path:
        obs = obs[key]
    return obs


def _kind(space: spaces.Space[Any]) -> str:
    return "" if space.dtype is None else space.dtype.kind


def _brief(array: np.ndarray) -> str:
    return np.array2string(np.asarray(array), threshold=8, precision=6)
