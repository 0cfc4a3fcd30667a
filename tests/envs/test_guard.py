"""The guard: what passes is passed on unchanged, and the dtype table is the one that its file states."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import Guard
from tests.envs.tools import Scripted, still
from worldmodels.errors import EnvironmentFault

BOX = spaces.Box(-1, 1, (2,))
GOOD = np.array([0.5, -0.5], dtype=np.float32)


def guarded(observation_space=BOX, *steps, reset=None, action_space=None, **options) -> Guard:
    return Guard(Scripted(observation_space, steps, reset, action_space), "Test-v0", **options)


def step_of(space, obs, **options):
    """The guarded result of one step that returns `obs`."""
    env = guarded(space, (obs, 1.0, False, False, {}), **options)
    env.reset(seed=7)
    return env, env.step(still(env.action_spec))


def test_a_good_step_passes_unchanged():
    info = {"key": 1}
    env = guarded(BOX, (GOOD, 2, np.bool_(True), False, info))
    env.reset()
    obs, reward, terminated, truncated, passed = env.step(still(env.action_spec))
    assert obs["obs"].tolist() == GOOD.tolist() and type(reward) is float and reward == 2
    assert terminated is True and truncated is False and passed == info and not env.notes


def test_both_flags_are_kept():
    env = guarded(BOX, (GOOD, 0.0, True, True, {}))
    env.reset()
    assert env.step(still(env.action_spec))[2:4] == (True, True)


@pytest.mark.parametrize("reward", [1, 1.0, True, np.float32(1), np.int64(1), np.array(1.0), np.array([1.0])])
def test_numbers_of_every_kind_are_rewards(reward):
    env = guarded(BOX, (GOOD, reward, False, False, {}))
    env.reset()
    assert env.step(still(env.action_spec))[1] == 1.0


@pytest.mark.parametrize("reward", [None, "1", 1j, np.array([1.0, 2.0]), [1.0]])
def test_other_rewards_are_not(reward):
    env = guarded(BOX, (GOOD, reward, False, False, {}))
    env.reset()
    with pytest.raises(EnvironmentFault, match="a reward of type"):
        env.step(still(env.action_spec))


class Tensor:
    """Looks like a tensor of another library: numpy could convert it, silently and slowly."""

    def __array__(self, dtype=None, copy=None):
        return GOOD


TABLE = {
    "float32": (
        spaces.Box(-1, 1, (2,), np.float32),
        {"same": ["float32"], "noted": ["float16", "float64", "int8", "int64", "uint8", "bool", "list", "tuple"]},
    ),
    "float64": (
        spaces.Box(-1, 1, (2,), np.float64),
        {"same": ["float64"], "noted": ["float16", "float32", "int8", "int64", "uint8", "bool", "list", "tuple"]},
    ),
    "uint8": (
        spaces.Box(0, 255, (2,), np.uint8),
        {"same": ["uint8"], "noted": ["int8", "int64", "bool"]},
    ),
    "int64": (
        spaces.Box(-9, 9, (2,), np.int64),
        {"same": ["int64"], "noted": ["int8", "uint8", "bool"]},
    ),
    "bool": (
        spaces.Box(0, 1, (2,), bool),
        {"same": ["bool"], "noted": ["int8", "int64", "uint8"]},
    ),
    "multi_discrete": (
        spaces.MultiDiscrete([3, 3]),
        {"same": ["int64"], "noted": ["int8", "uint8", "bool"]},
    ),
    "multi_binary": (
        spaces.MultiBinary(2),
        {"same": ["int8"], "noted": ["int64", "uint8", "bool"]},
    ),
}
VALUES = {
    **{name: np.array([0, 1], dtype=name) for name in ("float16", "float32", "float64", "int8", "int64", "uint8")},
    **{name: np.array([0, 1], dtype=name) for name in ("bool", "complex64", "object", "U1")},
    **{"list": [0.0, 1.0], "tuple": (0.0, 1.0), "tensor": Tensor(), "None": None, "text": "01"},
}


@pytest.mark.parametrize("returned", VALUES)
@pytest.mark.parametrize("declared", TABLE)
def test_dtype_table(declared, returned):
    space, allowed = TABLE[declared]
    if returned in allowed["same"] or returned in allowed["noted"]:
        env, (obs, *_) = step_of(space, VALUES[returned], reset=(space.sample(), {}))
        assert obs["obs"].tolist() == [0, 1] and obs["obs"].dtype == env.obs_specs["obs"].dtype
        assert bool(env.notes) == (returned in allowed["noted"])
    else:
        with pytest.raises(EnvironmentFault, match="Test-v0: step\\(\\) returned .*declared"):
            step_of(space, VALUES[returned])


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(3, True), (np.int16(3), True), (np.array(3), True), (3.0, False), ("3", False), (np.array([3]), False)],
)
def test_discrete_observations_are_integers(value, accepted):
    space = spaces.Discrete(5, start=2)
    if accepted:
        assert step_of(space, value)[1][0]["obs"] == 1
    else:
        with pytest.raises(EnvironmentFault, match="declared an integer"):
            step_of(space, value)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 256])),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, -1])),
        (spaces.Box(0, 1, (2,), bool), np.array([0, 2])),
    ],
)
def test_integers_that_do_not_fit_are_not_cast(space, value):
    with pytest.raises(EnvironmentFault, match="lose values"):
        step_of(space, value)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(5), 5),
        (spaces.Discrete(5), -1),
        (spaces.MultiDiscrete([3, 3]), np.array([0, 3])),
        (spaces.MultiBinary(2), np.array([0, 2], dtype=np.int8)),
    ],
)
def test_a_class_that_does_not_exist_is_an_error(space, value):
    with pytest.raises(EnvironmentFault, match="returned"):
        step_of(space, value)


def test_a_safe_cast_is_noted_once():
    values = [(np.zeros(2), 0.0, False, False, {})] * 5
    env = guarded(BOX, *values, reset=(np.zeros(2), {}))
    env.reset()
    for _ in range(5):
        env.step(still(env.action_spec))
    assert env.notes == ["obs: ndarray of float64 cast to the declared float32"]


def test_a_number_too_large_for_float32_is_not_stored_as_infinity():
    wide = spaces.Box(-np.inf, np.inf, (20,), np.float64)
    for space, value in ((wide, np.full(20, 1e39)), (BOX, np.array([0, 1e39]))):
        with pytest.raises(EnvironmentFault, match="float32 expected"):
            step_of(space, value)


DICT = spaces.Dict(a=BOX, b=spaces.Dict(c=spaces.Discrete(2)))


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (GOOD, "ndarray for obs, declared a dict"),
        ({"a": GOOD}, r"keys \['a'\] for obs, declared \['a', 'b'\]"),
        ({"a": GOOD, "b": {"c": 1}, "d": 0}, r"keys \['a', 'b', 'd'\]"),
        ({"a": GOOD, "b": 1}, r"int for obs\['b'\], declared a dict"),
        ({"a": GOOD, "b": {"x": 1}}, r"keys \['x'\] for obs\['b'\]"),
        ({"a": GOOD[:1], "b": {"c": 1}}, r"shape \(1,\), declared \(2,\) for 'a'"),
        ({"a": GOOD, "b": {"c": 0.5}}, "for 'b/c'"),
    ],
)
def test_dict_observations_have_exactly_the_declared_keys(obs, words):
    with pytest.raises(EnvironmentFault, match=words):
        step_of(DICT, obs)


def test_dict_observations_come_out_flat():
    obs = step_of(DICT, {"b": {"c": 1}, "a": GOOD})[1][0]
    assert list(obs) == ["a", "b/c"] and obs["a"].tolist() == GOOD.tolist() and obs["b/c"] == 1


def test_an_error_names_the_wrappers():
    env = Scripted(BOX, [(np.zeros(3, np.float32), 0.0, False, False, {})], (GOOD, {}))
    env = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(env), 9)
    guard = Guard(env, "Test-v0")
    guard.reset(seed=7)
    with pytest.raises(EnvironmentFault) as caught:
        guard.step(still(guard.action_spec))
    assert str(caught.value) == (
        "Test-v0: step() returned shape (3,), declared (2,) [seed 7, step 1]. "
        "Fix observation_space or the environment. Wrappers applied: TimeLimit, OrderEnforcing."
    )
