"""What one array of an observation may look like: the dtype table, the declared shape and bounds, and finiteness.

| declared             | accepted as it is | cast, noted once                   | refused                        |
|----------------------|-------------------|------------------------------------|--------------------------------|
| Box of floats        | its dtype         | other floats, integers, bool       | complex, object, text, tensors |
| Box of integers      | its dtype         | integers and bool whose values fit | floats, values that do not fit |
| Box of bool          | bool              | integers 0 and 1                   | everything else                |
| MultiDiscrete/Binary | its dtype         | integers and bool whose values fit | floats and everything else     |
| Discrete             | int, np.integer   | integer arrays of shape ()         | floats and everything else     |

A list or a Python number counts as the array that numpy makes of it, and is noted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.spaces import Element, Leaf

SMALL = 16
"""Up to this many elements a Python loop is faster than numpy's calls."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Beyond it a finite float64 would be stored as infinity."""


class Broken(Exception):
    """What is wrong with one array, in words; the guard adds the environment, seed and step."""


class NonFinite(Broken):
    """NaN or infinity, or a number too large for float32."""


class LeafCheck:
    """Checks one array of an observation against its space and encodes it."""

    def __init__(self, leaf: Leaf, note: Callable[[str], None], stray: Callable[[str], None]) -> None:
        """Precompute what each call compares with.

        note: told of a safe cast. stray: told of a value outside the declared bounds, once an array.
        """
        self.leaf, self._note, self._stray, self._warned = leaf, note, stray, False
        space = leaf.space
        self._shape, self._dtype = space.shape or (), np.dtype(space.dtype or np.float32)
        self._low, self._high = _bounds(space)
        self._is_float = self._dtype.kind == "f"
        limits = np.iinfo(self._dtype) if self._dtype.kind in "iu" else None
        everything = limits is not None and (self._low == limits.min).all() and (self._high == limits.max).all()
        self._bounded = not everything and self._dtype.kind != "b"
        self._ranges = None
        if self._bounded and self._low.size <= SMALL:
            self._ranges = list(zip(self._low.reshape(-1).tolist(), self._high.reshape(-1).tolist(), strict=True))
        self._scalar = isinstance(space, spaces.Discrete)

    def __call__(self, value: Element) -> np.ndarray:
        """The encoded array, owning its memory. Raises: Broken, NonFinite."""
        if self._scalar:
            value = self._integer(value)
        elif type(value) is not np.ndarray or value.shape != self._shape or value.dtype != self._dtype:
            value = self._cast(value)
        if self._bounded and not self._inside(value):
            self._examine(np.asarray(value))
        return self.leaf.encode(value)

    def _inside(self, value: Element) -> bool:
        """Whether every element is finite and within its bounds. NaN compares false."""
        if self._ranges is None:
            return bool(((value >= self._low) & (value <= self._high)).all())
        elements = (value,) if self._scalar else value.reshape(-1).tolist()
        return all([low <= element <= high for element, (low, high) in zip(elements, self._ranges, strict=True)])

    def _examine(self, value: np.ndarray) -> None:
        """Say what is wrong with an array that is not inside; returns where it may be used all the same."""
        bad = ~(np.abs(value) <= _largest(value.dtype)) if self._is_float else np.zeros(value.shape, dtype=bool)
        if bad.any():
            where = _first(bad)
            raise NonFinite(f"{value[where]} at {self._at(where)} (finite numbers within float32 expected)")
        low, high = np.broadcast_to(self._low, value.shape), np.broadcast_to(self._high, value.shape)
        where = _first((value < low) | (value > high))
        message = f"{value[where]} at {self._at(where)}, declared {low[where]} to {high[where]}"
        if self._scalar or self.leaf.spec.kind in ("multi_discrete", "multi_binary"):
            raise Broken(f"{message}: a class that does not exist")
        if not self._warned:
            self._warned = True
            self._stray(message)

    def _integer(self, value: Element) -> int:
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iu":
            self._note(f"{self.leaf.name}: a 0-d array of {value.dtype} where an integer was declared")
            return int(value)
        raise Broken(f"{_name(value)} for {self.leaf.name!r}, declared an integer of {self.leaf.space}")

    def _cast(self, value: Element) -> np.ndarray:
        """The value as an array of the declared shape and dtype, where the table above allows it."""
        if not isinstance(value, (np.ndarray, np.generic, list, tuple, bool, int, float)):
            raise Broken(f"{_name(value)} for {self.leaf.name!r}, declared a numpy array of {self._dtype}")
        try:
            array = np.asarray(value)
        except ValueError as error:  # a list of lists of different lengths
            raise Broken(f"a list that is no array for {self.leaf.name!r}: {error}") from error
        if array.shape != self._shape:
            raise Broken(f"shape {array.shape}, declared {self._shape}{self._suffix()}")
        if not _castable(array, self._dtype):
            raise Broken(f"dtype {array.dtype}, declared {self._dtype}{self._suffix()}: the cast would lose values")
        if array.dtype != self._dtype or not isinstance(value, np.ndarray):
            self._note(f"{self.leaf.name}: {_name(value)} of {array.dtype} cast to the declared {self._dtype}")
        with np.errstate(over="ignore"):  # becomes infinity, which is refused by name
            return array.astype(self._dtype)

    def _suffix(self) -> str:
        return "" if self.leaf.name == "obs" else f" for {self.leaf.name!r}"

    def _at(self, where: tuple[int, ...]) -> str:
        return self.leaf.name + (f"[{', '.join(map(str, where))}]" if where else "")


def _bounds(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest allowed element, of the space's shape, none beyond float32."""
    if isinstance(space, spaces.Box):
        if space.dtype is not None and space.dtype.kind != "f":
            return space.low, space.high
        largest = _largest(space.low.dtype)
        return np.maximum(space.low, -largest), np.minimum(space.high, largest)
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
    return np.zeros(space.shape or (), dtype=np.int8), np.ones(space.shape or (), dtype=np.int8)


def _largest(dtype: np.dtype[Any]) -> float:
    """Largest finite number of a float dtype that float32 can hold."""
    return min(float(np.finfo(dtype).max), FLOAT32_MAX)


def _castable(array: np.ndarray, declared: np.dtype[Any]) -> bool:
    kind = array.dtype.kind
    if declared.kind == "f":
        return kind in "fiub"
    if declared.kind == "b":
        return kind == "b" or (kind in "iu" and bool(((array == 0) | (array == 1)).all()))
    if kind == "b":
        return True
    limits = np.iinfo(declared)
    return kind in "iu" and bool(((array >= limits.min) & (array <= limits.max)).all())


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(axis[0]) for axis in np.nonzero(mask)) if mask.ndim else ()


def _name(value: Element) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "numpy") else f"{kind.__module__}.{kind.__name__}"
