"""Sensor faults and changed physics: each does what its formula says, when and where it was told, and nothing else."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import (
    ActionRepeat,
    AtariScreen,
    ChangedPhysics,
    FastRender,
    FrameStack,
    MaskVelocity,
    SensorFault,
    sources,
)
from envs.faults import FAULTS, drift, drop, freeze, miscalibration, noise, offset
from envs.pixels import Pixels
from tests.envs.tools import Scripted
from worldmodels.errors import EnvironmentFault

CHANGES = [
    *(("CartPole-v1", name) for name in ("gravity", "mass", "pole_mass", "length", "action_gain")),
    *(("Pendulum-v1", name) for name in ("gravity", "mass", "length", "action_gain")),
    *(("MountainCar-v0", name) for name in ("gravity", "action_gain")),
    ("MountainCarContinuous-v0", "action_gain"),
    *(("Reacher-v5", name) for name in ("mass", "action_gain")),
    *(("dm_control/reacher-easy-v0", name) for name in ("mass", "action_gain")),
]


def readings(env, *, steps=6, seed=3):
    """Observations (steps + 1, n) of one episode with the same actions, and where a fault acted."""
    obs, info = env.reset(seed=seed)
    rows, flags = [obs], [info.get("sensor_fault")]
    for t in range(steps):
        obs, _, _, _, info = env.step(t % 2)
        rows.append(obs)
        flags.append(info.get("sensor_fault"))
    return np.stack(rows), flags


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (drop(), lambda x: 0 * x),
        (drop(7.0), lambda x: 0 * x + 7),
        (drop(chance=0.0), lambda x: x),
        (freeze(), lambda x: 0 * x + x[2]),
        (drift(0.5), lambda x: x + 0.5 * (np.arange(7) - 2)[:, None]),
        (offset(-2.0), lambda x: x - 2),
        (miscalibration(1.5), lambda x: 1.5 * x),
    ],
)
def test_a_fault_is_its_formula_from_its_step_on_and_on_its_dimensions(fault, expected):
    true, _ = readings(gymnasium.make("CartPole-v1"))
    seen, flags = readings(SensorFault(gymnasium.make("CartPole-v1"), fault, start=3, dimensions=[0, 2]))
    assert flags == [False] * 3 + [True] * 4
    assert (seen[:3] == true[:3]).all() and (seen[:, [1, 3]] == true[:, [1, 3]]).all()
    np.testing.assert_allclose(seen[3:, [0, 2]], expected(true[:, [0, 2]].astype(float))[3:], rtol=1e-6)


def test_a_frozen_sensor_repeats_its_first_value_where_the_fault_is_there_from_the_start():
    seen, _ = readings(SensorFault(gymnasium.make("CartPole-v1"), freeze()))
    assert (seen == seen[0]).all()


def test_noise_has_its_spread_and_depends_on_the_seed_alone():
    still = spaces.Box(-1, 1, (500,), np.float32)
    env = SensorFault(Scripted(still, [(np.zeros(500, np.float32), 0.0, False, False, {})] * 40), noise(0.3))
    first, _ = env.reset(seed=1)
    rows = np.stack([env.step(0)[0] for _ in range(20)])
    assert rows.std() == pytest.approx(0.3, rel=0.03) and abs(rows.mean()) < 0.01
    assert abs(np.corrcoef(rows[0], rows[1])[0, 1]) < 0.2
    again, _ = env.reset(seed=1)
    assert (again == first).all() and (env.step(0)[0] == rows[0]).all()
    other, _ = env.reset(seed=2)
    assert not (other == first).all()


def test_faults_add_up_and_the_next_episode_starts_sound():
    env = SensorFault(gymnasium.make("CartPole-v1"), offset(1.0), start=2, dimensions=[0])
    both, flags = readings(SensorFault(env, miscalibration(2.0), start=4, dimensions=[0]))
    true, _ = readings(gymnasium.make("CartPole-v1"))
    np.testing.assert_allclose(both[:, 0], true[:, 0] * ([1] * 4 + [2] * 3) + ([0] * 2 + [1] * 2 + [2] * 3), rtol=1e-6)
    assert flags == [False] * 2 + [True] * 5
    assert (readings(env)[0][:2] == true[:2]).all()


def test_whole_numbers_saturate_and_keep_their_shape():
    space = spaces.Box(0, 255, (12, 10, 3), np.uint8)
    image = np.full(space.shape, 250, np.uint8)
    env = SensorFault(Scripted(space, reset=(image, {})), offset(9.6), dimensions=[0, 5])
    seen, _ = env.reset(seed=0)
    assert seen.dtype == np.uint8 and env.observation_space == space and space.contains(seen)
    assert (seen.reshape(-1)[[0, 5]] == 255).all() and (seen == 250).sum() == image.size - 2


@pytest.mark.filterwarnings("ignore:.*(infinity|unwrapped version|Box action space).*")
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_both_checkers_pass(env_id, name):
    fault = FAULTS[name]() if name in ("drop", "freeze") else FAULTS[name](0.1)
    env = SensorFault(gymnasium.make(env_id), fault, start=1)
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env, warn=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -1}, "start is -1"),
        ({"dimensions": [4]}, "expected indices below 4"),
        ({"dimensions": 1}, "expected indices below 4, a list"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(EnvironmentFault, match=message):
        SensorFault(gymnasium.make("CartPole-v1"), drop(), **arguments)
    with pytest.raises(EnvironmentFault, match="Box of numbers"):
        SensorFault(gymnasium.make("FrozenLake-v1"), drop())


def make(env_id):
    spec = sources.find_spec(env_id)
    return sources.mend(gymnasium.make(env_id), spec)


def episode(env, *, options=None, steps=20):
    obs, info = env.reset(seed=5, options=options)
    rows = [np.concatenate([np.ravel(v) for v in obs.values()]) if isinstance(obs, dict) else obs]
    env.action_space.seed(1)
    for _ in range(steps):
        obs = env.step(env.action_space.sample())[0]
        rows.append(np.concatenate([np.ravel(v) for v in obs.values()]) if isinstance(obs, dict) else obs)
    return np.stack(rows), info


@pytest.mark.filterwarnings("ignore:.*(deprecated|Overriding environment).*")
@pytest.mark.parametrize(("env_id", "name"), CHANGES)
def test_changed_physics_changes_what_happens_and_a_plain_reset_takes_it_back(env_id, name):
    plain, _ = episode(make(env_id))
    env = ChangedPhysics(make(env_id))
    assert (episode(env)[0] == plain).all()
    changed, info = episode(env, options={"physics": {name: 2.0}})
    assert info["physics"] == {name: 2.0} and not (changed == plain).all()
    assert (changed[0] == plain[0]).all() or "acher" in env_id  # the start is the same, what follows is not
    again, info = episode(env)
    assert (again == plain).all() and info["physics"] == {}
    always = ChangedPhysics(make(env_id), **{name: 2.0})
    assert (episode(always)[0] == changed).all()


@pytest.mark.parametrize(("env_id", "push"), [("CartPole-v1", 1), ("Pendulum-v1", np.array([1.0], np.float32))])
def test_twice_the_action_gain_doubles_what_the_action_does(env_id, push):
    """The same state, pushed and pushed the other way: half the difference is what the action alone does."""

    def effect(env, options):
        after = []
        for sign in (1, -1):
            env.reset(seed=5, options=options)
            env.step(push if sign > 0 else (0 if env_id == "CartPole-v1" else -push))
            after.append(np.array(env.unwrapped.state)[[1] if env_id == "Pendulum-v1" else [1, 3]])
        return (after[0] - after[1]) / 2

    env = ChangedPhysics(gymnasium.make(env_id))
    doubled = effect(env, {"physics": {"action_gain": 2.0}})
    np.testing.assert_allclose(doubled, 2 * effect(env, {}), rtol=1e-5)


def test_what_cannot_be_changed_is_refused_by_name():
    env = ChangedPhysics(gymnasium.make("CartPole-v1"))
    with pytest.raises(EnvironmentFault, match="has no 'wind', only gravity, mass"):
        env.reset(options={"physics": {"wind": 2.0}})
    with pytest.raises(EnvironmentFault, match="gravity is -1.0, expected a factor above 0"):
        ChangedPhysics(gymnasium.make("CartPole-v1"), gravity=-1.0)
    with pytest.raises(EnvironmentFault, match="not FrozenLakeEnv"):
        ChangedPhysics(gymnasium.make("FrozenLake-v1"))


@pytest.mark.filterwarnings("ignore:.*(infinity|unwrapped version|Box action space).*")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_both_checkers_pass_with_changed_physics(env_id):
    env = ChangedPhysics(gymnasium.make(env_id), gravity=1.3)
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env, warn=False)


@pytest.mark.filterwarnings("ignore:.*(infinity|unwrapped version|Box action space).*")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("wrap", [MaskVelocity, partial(ActionRepeat, repeat=2), partial(FrameStack, size=3)])
def test_the_other_wrappers_pass_both_checkers_alone(env_id, wrap):
    env = wrap(gymnasium.make(env_id))
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env, warn=False)


@pytest.mark.filterwarnings("ignore:.*(unwrapped version|Box action space|precision lowered|infinity|out of date).*")
@pytest.mark.parametrize(
    ("env_id", "kwargs", "wrap"),
    [
        ("CartPole-v1", {"render_mode": "rgb_array"}, partial(Pixels, size=32, grayscale=True)),
        ("ALE/Pong-v5", {"frameskip": 1, "obs_type": "grayscale", "repeat_action_probability": 0}, AtariScreen),
        ("dm_control/cartpole-swingup-v0", {}, FastRender),
    ],
)
def test_wrappers_of_images_pass_both_checkers_alone(env_id, kwargs, wrap):
    spec = sources.find_spec(env_id)
    env = wrap(sources.mend(gymnasium.make(env_id, **kwargs), spec))
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env, warn=False)
