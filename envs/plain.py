"""Gymnasium spaces as plain data and back, so that a saved agent needs no environment to take its observations."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.errors import CheckpointError

LARGEST = 2**24
"""Elements of a space that is read back: what lies in a run folder may not ask for any amount of memory."""
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")


def plain_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space of the kinds that the toolkit supports as JSON can hold it."""
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": {str(name): plain_space(inner) for name, inner in space.spaces.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multi_discrete", "n": space.nvec.tolist(), "start": np.asarray(space.start).tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "multi_binary", "shape": [int(n) for n in space.shape]}
    if isinstance(space, spaces.Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"kind": "box", "shape": list(space.shape), "dtype": np.dtype(space.dtype).name, **bounds}
    raise TypeError(f"{type(space).__name__} is not a space that the toolkit supports")


def space_of(plain: Any) -> spaces.Space[Any]:  # noqa: ANN401 - whatever a file held
    """The space that `plain_space` described. Raises CheckpointError for anything else."""
    try:
        return _space_of(plain)
    except (AttributeError, KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise CheckpointError(f"a space cannot be read back: {type(error).__name__}: {error}") from error


def _space_of(plain: Any) -> spaces.Space[Any]:  # noqa: ANN401
    kind = plain["kind"]
    if kind == "dict":
        return spaces.Dict({name: _space_of(inner) for name, inner in plain["spaces"].items()})
    if kind == "discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if kind == "multi_discrete":
        return spaces.MultiDiscrete(np.array(plain["n"]), start=np.array(plain["start"]))
    if kind == "multi_binary":
        return spaces.MultiBinary(_shape(plain["shape"]))
    if kind == "box" and plain["dtype"] in _DTYPES + _FLOATS:
        shape, dtype = _shape(plain["shape"]), np.dtype(plain["dtype"])
        low, high = (_array(plain[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    raise ValueError(f"unknown kind {kind!r}")


def _shape(shape: Any) -> tuple[int, ...]:  # noqa: ANN401
    shape = tuple(int(n) for n in shape)
    if min(shape, default=1) < 0 or math.prod(shape) > LARGEST:
        raise ValueError(f"shape {shape}")
    return shape


def _numbers(array: np.ndarray) -> Any:  # noqa: ANN401
    """One number where all are equal, else all of them; infinity as text, which JSON has no number for."""
    flat = [n if math.isfinite(n) else str(n) for n in array.reshape(-1).tolist()]
    return flat[0] if flat and len(set(flat)) == 1 else flat


def _array(numbers: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:  # noqa: ANN401
    values = numbers if isinstance(numbers, list) else [numbers] * math.prod(shape)
    return np.array([float(n) if isinstance(n, str) else n for n in values], dtype=dtype).reshape(shape)
