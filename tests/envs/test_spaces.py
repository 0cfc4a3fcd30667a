"""Spaces to specs, observations and actions across the border."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envs import action_spec, decode_action, encode_action, encode_obs, obs_specs
from tests.envs.tools import random_action
from worldmodels.errors import EnvironmentFault
from worldmodels.specs import ActionSpec, ObsSpec


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Box(-1, 1, (3,)), ObsSpec("vector", (3,))),
        (spaces.Box(-np.inf, np.inf, (), np.float64), ObsSpec("vector", (1,))),
        (spaces.Box(-1, 1, (2, 3, 4)), ObsSpec("vector", (24,))),
        (spaces.Box(-5, 5, (2,), np.int32), ObsSpec("vector", (2,))),
        (spaces.Box(0, 255, (128,), np.uint8), ObsSpec("vector", (128,))),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), ObsSpec("vector", (147,))),
        (spaces.Box(0, 255, (64, 48, 3), np.uint8), ObsSpec("image", (64, 48, 3))),
        (spaces.Box(0, 255, (84, 84), np.uint8), ObsSpec("image", (84, 84, 1))),
        (spaces.Box(0, 255, (4, 84, 80), np.uint8), ObsSpec("image", (84, 80, 4))),
        (spaces.Box(0, 1, (10, 10, 4), bool), ObsSpec("image", (10, 10, 4))),
        (spaces.Box(0, 1, (10, 12), bool), ObsSpec("image", (10, 12, 1))),
        (spaces.Box(0, 1, (5,), bool), ObsSpec("multi_binary", (5,))),
        (spaces.MultiBinary((2, 3)), ObsSpec("multi_binary", (6,))),
        (spaces.Discrete(4, start=-2), ObsSpec("discrete", (), (4,))),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), ObsSpec("multi_discrete", (4,), (2, 3, 4, 5))),
    ],
)
def test_each_supported_observation_has_its_spec_and_encodes_to_it(space, spec):
    assert obs_specs(space) == {"obs": spec}
    space.seed(0)
    for _ in range(20):
        array = encode_obs(space, space.sample())["obs"]
        assert array.shape == spec.shape and array.dtype == spec.dtype
        if spec.classes:
            assert (array >= 0).all() and (array < np.array(spec.classes)).all()


def test_nested_dicts_join_their_names_and_keep_their_order():
    space = spaces.Dict(arm=spaces.Dict(angle=spaces.Box(-1, 1, (2,)), grip=spaces.Discrete(2)), t=spaces.Discrete(9))
    obs = {"arm": {"angle": np.array([0.5, -0.5], np.float32), "grip": 1}, "t": 7}
    encoded = encode_obs(space, obs)
    assert list(encoded) == list(obs_specs(space)) == ["arm/angle", "arm/grip", "t"]
    assert encoded["arm/angle"].tolist() == [0.5, -0.5] and encoded["arm/grip"] == 1 and encoded["t"] == 7


def test_two_keys_that_join_to_one_name_are_refused():
    space = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a/b": spaces.Discrete(2)})
    with pytest.raises(EnvironmentFault, match="same joined name"):
        obs_specs(space)


def test_shifted_and_transposed_values():
    assert encode_obs(spaces.Discrete(4, start=5), 7)["obs"] == 2
    shifted = spaces.MultiDiscrete([3, 3], start=[10, -1])
    assert encode_obs(shifted, np.array([12, -1]))["obs"].tolist() == [2, 0]
    frames = np.arange(4 * 20 * 30, dtype=np.uint32).reshape(4, 20, 30).astype(np.uint8)
    encoded = encode_obs(spaces.Box(0, 255, (4, 20, 30), np.uint8), frames)["obs"]
    assert encoded.shape == (20, 30, 4) and (encoded[3, 7] == frames[:, 3, 7]).all() and encoded.flags.c_contiguous
    grid = np.zeros((10, 10, 2), dtype=bool)
    grid[1, 2, 1] = True
    encoded = encode_obs(spaces.Box(0, 1, (10, 10, 2), bool), grid)["obs"]
    assert encoded[1, 2, 1] == 255 and encoded.sum() == 255


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,)),
        spaces.Box(-1, 1, (3,), np.float64),
        spaces.Box(0, 255, (64, 64, 3), np.uint8),
        spaces.Box(0, 255, (3, 64, 64), np.uint8),
        spaces.Box(0, 255, (64, 64), np.uint8),
        spaces.Box(0, 1, (10, 10, 4), bool),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
    ],
)
def test_encoded_observations_own_their_memory(space):
    obs = space.sample()
    assert not np.shares_memory(encode_obs(space, obs)["obs"], obs)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64]),
        hnp.array_shapes(max_dims=3, max_side=4),
        elements={"min_value": -100, "max_value": 100},
    )
)
def test_vectors_are_flattened_in_order(array):
    low, high = (-128, 127) if array.dtype == np.int8 else (-1000, 1000)
    encoded = encode_obs(spaces.Box(low, high, array.shape, array.dtype.type), array)["obs"]
    assert encoded.dtype == np.float32 and (encoded == array.astype(np.float32).reshape(-1)).all()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(0, 255, (210, 160, 3), np.uint8), "obs=pixels"),
        (spaces.Box(0, 1, (0,)), "empty"),
        (spaces.Dict(), "empty Dict"),
        (spaces.Text(5), "not supported"),
        (spaces.Dict(a=spaces.Tuple([spaces.Discrete(2)])), "'a' Tuple"),
    ],
)
def test_other_observations_are_refused_by_name(space, words):
    with pytest.raises(EnvironmentFault, match=words):
        obs_specs(space)


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Discrete(3, start=5), ActionSpec("discrete", (3,))),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), ActionSpec("multi_discrete", (2, 3))),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), ActionSpec("multi_discrete", (2, 3, 4, 5))),
        (spaces.MultiBinary(3), ActionSpec("multi_discrete", (2, 2, 2))),
        (spaces.Box(-2, 2, (1,)), ActionSpec("continuous", dimensions=1)),
        (spaces.Box(np.array([-1, 0]), np.array([3, 0.5]), dtype=np.float64), ActionSpec("continuous", dimensions=2)),
        (spaces.Box(-3, 9, (2, 2), np.int64), ActionSpec("continuous", dimensions=4)),
    ],
)
def test_actions_have_their_spec_and_come_back(space, spec):
    assert action_spec(space) == spec
    space.seed(1)
    generator = np.random.default_rng(1)
    for _ in range(50):
        chosen = space.sample()
        encoded = encode_action(space, chosen)
        assert encoded.shape == (spec.size,) and encoded.dtype == np.float32
        back = decode_action(space, encoded)
        assert space.contains(back) and np.allclose(back, chosen, rtol=1e-6, atol=1e-6)
        assert space.contains(decode_action(space, random_action(spec, generator)))
        if not isinstance(space, spaces.Box) or space.dtype.kind == "i":
            assert np.array_equal(back, chosen)


def test_an_action_outside_its_space_is_not_encoded():
    with pytest.raises(EnvironmentFault, match="outside the action space"):
        encode_action(spaces.Discrete(3), 3)
    with pytest.raises(EnvironmentFault, match="outside the action space"):
        encode_action(spaces.Box(-2, 2, (1,)), np.array([2.1], np.float32))


def test_the_actions_of_a_policy_with_rounding_errors_are_accepted():
    almost = np.array([1 - 1e-7, 1e-8], dtype=np.float32)
    assert decode_action(spaces.Discrete(2, start=4), almost) == 4
    over = np.array([np.nextafter(np.float32(1), np.float32(2))])
    assert decode_action(spaces.Box(-2, 2, (1,)), over) == 2
