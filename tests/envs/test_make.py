"""Every preset is built, reproducible from its seed alone, and opens nothing that it does not need."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import EnvOptions, make_env
from envs.pixels import resize
from tests.envs.tools import PRESETS, Scripted, play, preset, random_action, still
from worldmodels.errors import EnvironmentFault

NEEDS_GL = {name for name in PRESETS if name.startswith("dmc-") and name.endswith("-pixels")}


@pytest.fixture(scope="module")
def has_gl():
    code = "from mujoco.egl import GLContext; GLContext(64, 64).make_current()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def same(left, right):
    return (
        len(left) == len(right)
        and all(a[1:] == b[1:] for a, b in zip(left, right, strict=True))
        and all((a[0][name] == b[0][name]).all() for a, b in zip(left, right, strict=True) for name in a[0])
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_built_and_an_episode_depends_on_its_seed_alone(name, has_gl):
    if name in NEEDS_GL and not has_gl:
        pytest.skip("no OpenGL here")
    steps = 4 if name in NEEDS_GL else 25
    with make_env(preset(name)) as env:
        first = play(env, seed=3, steps=steps)
        for key, spec in env.obs_specs.items():
            array = first[-1][0][key]
            assert array.shape == spec.shape and array.dtype == spec.dtype
            assert spec.kind != "image" or 0 < array.mean() < 255
        play(env, seed=4, steps=steps, action_seed=1)  # another history
        assert same(first, play(env, seed=3, steps=steps))
        assert not same(first, play(env, seed=5, steps=steps)) and not env.notes
    with make_env(preset(name)) as other:
        assert same(first, play(other, seed=3, steps=steps))


def run_python(code: str, *, warnings: str = "error", **environment: str) -> str:
    """Output of a fresh interpreter that has nothing of this process's display settings."""
    kept = {key: value for key, value in os.environ.items() if key not in ("SDL_VIDEODRIVER", "MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", code], env={**kept, **environment}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


IMPORTED = """
import os, sys
from envs import EnvOptions, make_env
env = make_env(EnvOptions(id={id!r}))
env.reset(seed=0)
print([name for name in {modules} if name in sys.modules], os.environ.get("MUJOCO_GL"), "SDL_VIDEODRIVER" in os.environ)
"""


def test_a_state_task_opens_no_display():
    modules = ["pygame", "OpenGL", "PIL", "dm_control", "minatar", "ale_py", "torch", "matplotlib"]
    assert run_python(IMPORTED.format(id="CartPole-v1", modules=modules)).split() == ["[]", "None", "False"]


@pytest.mark.parametrize("setting", [None, "egl"])
def test_a_dm_control_state_task_opens_no_opengl_and_leaves_the_users_choice_alone(setting):
    code = IMPORTED.format(id="dm_control/cartpole-swingup-v0", modules=["OpenGL", "mujoco.egl", "torch"])
    environment = {} if setting is None else {"MUJOCO_GL": setting}
    assert run_python(code, **environment).split() == ["[]", str(setting), "False"]


def test_a_dm_control_task_can_be_drawn_after_one_that_was_not(has_gl):
    if not has_gl:
        pytest.skip("no OpenGL here")
    code = """
from envs import EnvOptions, make_env
options = EnvOptions(id="dm_control/cartpole-swingup-v0")
make_env(options).reset(seed=0)
env = make_env(options, render=True)
env.reset(seed=0)
print(env.render().shape)
"""
    assert run_python(code).strip() == "(240, 240, 3)"


def test_importing_envs_is_light():
    heavy = ("torch", "stable_baselines3", "pygame", "mujoco", "matplotlib")
    code = f"import sys, envs, envs.options; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "mountaincar-continuous", "breakout"])
def test_render_is_for_films_of_state_tasks(name):
    with make_env(preset(name), render=True) as env:
        env.reset(seed=0)
        frame = env.render()
        assert isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
        assert env.obs_specs == make_env(preset(name)).obs_specs


def test_pixels_options():
    options = dict(id="CartPole-v1", obs="pixels", image_size=32)
    assert make_env(EnvOptions(**options)).obs_specs["obs"].shape == (32, 32, 3)
    assert make_env(EnvOptions(**options, grayscale=True)).obs_specs["obs"].shape == (32, 32, 1)
    env = make_env(EnvOptions(**options, grayscale=True, frame_stack=3))
    assert env.obs_specs["obs"].shape == (32, 32, 3)
    first = env.reset(seed=0)[0]["obs"]
    assert (first[..., 0] == first[..., 1]).all() and (first[..., 1] == first[..., 2]).all()
    rows = [first, *(env.step(still(env.action_spec))[0]["obs"] for _ in range(6))]
    for before, after in zip(rows, rows[1:], strict=False):
        assert (after[..., :2] == before[..., 1:]).all()
    assert (rows[-1][..., 2] != first[..., 2]).any()


def test_minatars_sticky_action_does_not_survive_a_reset():
    with make_env(preset("breakout")) as env:
        for seed in range(5):
            env.reset(seed=seed)
            assert env.unwrapped.game.last_action == 0
            for _ in range(3):  # sticky itself: one step in ten repeats what was there
                env.step(np.array([0, 1, 0], dtype=np.float32))
            assert env.unwrapped.game.last_action == 1


def test_an_environment_that_was_not_opened_for_drawing_says_so():
    with make_env(EnvOptions()) as env:
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="render"), pytest.raises(EnvironmentFault, match="render_mode is None"):
            env.render()


def test_gymnasiums_mujoco_is_drawn_without_a_display(has_gl):
    if not has_gl:
        pytest.skip("no OpenGL here")
    code = """
from envs import EnvOptions, make_env
print(make_env(EnvOptions(id="Hopper-v5", obs="pixels")).reset(seed=0)[0]["obs"].mean() > 0)
"""
    assert run_python(code, warnings="default").strip() == "True"


def test_resizing_is_an_area_average():
    frame = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    expected = frame.reshape(32, 3, 32, 2, 3).mean((1, 3))
    assert np.abs(resize(frame, 32, grayscale=False) - expected).max() <= 1
    gray = resize(frame, 32, grayscale=True)
    assert gray.shape == (32, 32, 1) and np.abs(gray[..., 0] - expected @ [0.299, 0.587, 0.114]).max() <= 2
    assert (resize(np.full((64, 64, 3), 255, np.uint8), 64, grayscale=True) == 255).all()


def test_frame_stack_of_a_vector_joins_the_oldest_first():
    env = make_env(EnvOptions(id="worldmodels/Counting-v0", kwargs={"longest": 1}, frame_stack=2))
    assert env.obs_specs["obs"].shape == (6,)
    first = env.reset(seed=2)[0]["obs"]
    second = env.step(still(env.action_spec))[0]["obs"]
    assert first[1] == first[4] == 0 and second[:3].tolist() == first[3:].tolist() and second[4] == 1


def test_mask_velocity_keeps_positions_and_angles():
    for name, full, kept in (("cartpole", "cartpole", [0, 2]), ("pendulum", "pendulum", [0, 1])):
        hidden, seen = play(make_env(preset(f"{name}-no-velocity")), 1), play(make_env(preset(full)), 1)
        assert len(hidden) == len(seen)
        assert all((a[0]["obs"] == b[0]["obs"][kept]).all() for a, b in zip(hidden, seen, strict=True))


@pytest.mark.parametrize("repeat", [1, 2, 3, 7])
def test_action_repeat_sums_rewards_and_counts_simulator_steps(repeat):
    options = EnvOptions(id="worldmodels/Counting-v0", action_repeat=repeat, max_episode_steps=10)
    for seed in range(8):
        plain = make_env(EnvOptions(id="worldmodels/Counting-v0", max_episode_steps=10))
        env = make_env(options)
        obs = env.reset(seed=seed)[0]["obs"]
        reference = [(plain.reset(seed=seed)[0], 0.0)]
        while len(reference) == 1 or not over:  # noqa: F821
            plain_obs, reward, *flags, _ = plain.step(still(plain.action_spec))
            reference.append((plain_obs, reward))
            over = any(flags)
        taken, over = 0, False
        while not over:
            obs, reward, terminated, truncated, info = env.step(still(env.action_spec))
            steps = info.get("simulator_steps", 1)
            assert reward == sum(row[1] for row in reference[taken + 1 : taken + 1 + steps])
            taken += steps
            assert (obs["obs"] == reference[taken][0]["obs"]).all()
            over = terminated or truncated
            assert steps == repeat or over
        assert taken == len(reference) - 1 and [terminated, truncated] == flags


@pytest.mark.parametrize(
    ("env_id", "steps"), [("CartPole-v1", 3), ("Pendulum-v1", 200), ("dm_control/cartpole-swingup-v0", 1000)]
)
def test_time_limits_arrive_as_truncated(env_id, steps):
    options = EnvOptions(id=env_id, max_episode_steps=3 if env_id == "CartPole-v1" else None)
    with make_env(options) as env:
        rows = play(env, seed=0, steps=2000)
    assert len(rows) == steps + 1 and rows[-1][2:] == (False, True)


def test_a_time_limit_at_the_moment_of_death_keeps_both_flags():
    with make_env(EnvOptions(id="worldmodels/ProbeConstant-v0", max_episode_steps=1)) as env:
        env.reset(seed=0)
        assert env.step(still(env.action_spec))[2:4] == (True, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "CartPol-v1"}, "unknown environment id 'CartPol-v1'. Nearest: CartPole-v1"),
        ({"id": "MinAtar/Breakut-v1"}, "MinAtar/Breakout-v1"),
        ({"id": "dm_control/walker-walks-v0"}, "dm_control/walker-walk-v0"),
        ({"id": "Qqqqqqqqqq-v0"}, "--import"),
        ({"id": "no_such_module:X-v0"}, "'no_such_module' cannot be imported"),
        ({"wrappers": ["mask_velocty"]}, "CartPole-v1: unknown wrapper 'mask_velocty'; did you mean 'mask_velocity'"),
        ({"wrappers": ["atari"]}, "CartPole-v1: the atari wrapper needs"),
        ({"wrappers": ["fast_render"]}, "CartPole-v1: fast_render is for dm_control"),
        ({"id": "Acrobot-v1", "wrappers": ["mask_velocity"]}, "does not know the velocities of AcrobotEnv"),
        ({"kwargs": {"colour": 1}}, "CartPole-v1: could not be made with kwargs {'colour': 1}"),
        ({"id": "worldmodels/Counting-v0", "obs": "pixels"}, "worldmodels/Counting-v0: obs: pixels needs"),
        ({"id": "ALE/Pong-v5"}, "ALE/Pong-v5: observation_space 'obs' is an image of .*obs=pixels"),
        ({"id": "dm_control/cartpole-swingup-v0", "frame_stack": 2}, "frame_stack needs a Box"),
    ],
)
def test_mistakes_are_named_when_the_environment_is_made(options, words):
    with pytest.raises(EnvironmentFault, match=words):
        make_env(EnvOptions(**options))


def test_an_environment_without_pictures_is_not_drawn():
    with pytest.raises(EnvironmentFault, match="cannot be drawn"):
        make_env(EnvOptions(id="worldmodels/Counting-v0"), render=True)


@pytest.mark.parametrize(("module", "env_id", "extra"), [("minatar", "MinAtar/Breakout-v1", "minatar")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(module, env_id, extra):
    code = f"""
import sys
sys.modules[{module!r}] = None
from envs import EnvOptions, make_env
from worldmodels.errors import EnvironmentFault
try:
    make_env(EnvOptions(id={env_id!r}))
except EnvironmentFault as fault:
    print(fault)
"""
    assert f"pip install 'worldmodels[{extra}]'" in run_python(code)


def test_an_id_may_name_the_module_that_registers_it(tmp_path, monkeypatch):
    (tmp_path / "my_environments.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with make_env(EnvOptions(id="my_environments:Mine-v0")) as env:
        assert env.env_id == "my_environments:Mine-v0" and len(play(env, seed=0)) == 6
    gymnasium.registry.pop("Mine-v0")


def test_the_environments_own_screen_is_used_where_it_has_one():
    class Screen(Scripted):
        metadata = {"render_modes": []}

        def __init__(self):
            frame = np.tile(np.arange(128, dtype=np.uint8)[:, None], (1, 64))
            super().__init__(spaces.Box(0, 255, (128, 64), np.uint8), reset=(frame, {}))

    gymnasium.register("Screen-v0", entry_point=Screen)
    with make_env(EnvOptions(id="Screen-v0", obs="pixels")) as env:
        obs = env.reset(seed=0)[0]["obs"]
    assert obs.shape == (64, 64, 1) and (obs[:, 0, 0] // 2 == np.arange(64)).all()
    gymnasium.registry.pop("Screen-v0")


def test_atari_frames_are_pooled_and_skipped():
    with make_env(preset("pong")) as env:
        generator = np.random.default_rng(0)
        env.reset(seed=0)
        before = env.unwrapped.ale.getEpisodeFrameNumber()
        assert 1 <= before <= 30
        info = env.step(random_action(env.action_spec, generator))[4]
        assert info["simulator_steps"] == 4 and env.unwrapped.ale.getEpisodeFrameNumber() == before + 4


def test_fast_render_draws_the_same_scene_without_shadows(has_gl):
    if not has_gl:
        pytest.skip("no OpenGL here")
    options = dict(id="dm_control/cartpole-swingup-v0", obs="pixels")
    plain = make_env(EnvOptions(**options)).reset(seed=0)[0]["obs"].astype(int)
    fast = make_env(EnvOptions(**options, wrappers=["fast_render"])).reset(seed=0)[0]["obs"].astype(int)
    assert 0 < np.abs(plain - fast).mean() < 20
