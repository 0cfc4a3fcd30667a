"""Spaces survive as JSON, and what is no space, or would take too much memory, is refused."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from envs.plain import plain_space, space_of
from worldmodels.errors import CheckpointError

SPACES = [
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
    spaces.Box(np.array([-0.1, -2.0], np.float32), np.array([0.3, np.inf], np.float32)),
    spaces.Box(-1.5, 2.5, (2, 3), np.float64),
    spaces.Box(0, 255, (64, 64, 3), np.uint8),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-2),
    spaces.MultiDiscrete([3, 4], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary((2, 3)),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"x": spaces.Box(0, 1, (2,), np.float32)})}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_from_json(space):
    back = space_of(json.loads(json.dumps(plain_space(space), allow_nan=False)))
    assert back == space and type(back) is type(space) and back.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(back.spaces) == list(space.spaces)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        {"kind": "python/object"},
        {"kind": "discrete", "n": -1, "start": 0},
        {"kind": "box", "shape": [10**6, 10**6], "dtype": "float32", "low": 0.0, "high": 1.0},
        {"kind": "box", "shape": [3], "dtype": "object", "low": 0.0, "high": 1.0},
        {"kind": "box", "shape": [3], "dtype": "float32", "low": [0.0], "high": 1.0},
        {"kind": "multi_binary", "shape": [2**40]},
        {"kind": "dict", "spaces": 3},
    ],
)
def test_anything_else_is_refused(plain):
    with pytest.raises(CheckpointError, match="a space cannot be read back"):
        space_of(plain)


def test_an_unsupported_space_is_named():
    with pytest.raises(TypeError, match="Tuple"):
        plain_space(spaces.Tuple([spaces.Discrete(2)]))
