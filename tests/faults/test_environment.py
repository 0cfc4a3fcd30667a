"""What a faulty environment does to training: rows 30 to 44 of the table of faults, each provoked here.

A row counts when its fault ends in an error that says what happened, or is mended, and nothing of it is ever stored.
"""

import os
import select
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st

from envs import EnvOptions, Guard, VectorEnv, decode_action, encode_action, make_env
from tests.envs.tools import Scripted, collect, faulty, random_action, still
from worldmodels.errors import EnvironmentFault

BOTH = pytest.mark.parametrize("workers", [0, 1])


def ended(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether a process, which need not be a child, ends within the timeout."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(handle)


def reaped(pid: int) -> bool:
    """Whether nothing is left of a process, not even a zombie."""
    return not Path(f"/proc/{pid}").exists()


def pids(vector: VectorEnv) -> list[int]:
    return [worker.process.pid for worker in vector._copies._workers]


def run_to_end(vector: VectorEnv, seeds: list[int]) -> None:
    """One episode of every copy, all stepped together."""
    indices = list(range(len(seeds)))
    vector.reset(indices, seeds)
    while indices:
        result = vector.step(indices, still(vector.action_spec, len(indices)))
        over = result.terminated | result.truncated
        indices = [index for index, ended in zip(indices, over, strict=True) if not ended]


# Row 30: step or reset raises.


@BOTH
@pytest.mark.parametrize("copy", [0, 2])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_30_an_exception_keeps_its_text_and_says_where(step, copy, workers):
    vector = VectorEnv(faulty("raises", at=step, seed=7, workers=workers), 3)
    seeds = [1, 2, 3]
    seeds[copy] = 7
    with pytest.raises(EnvironmentFault) as caught:
        run_to_end(vector, seeds)
    text, name = str(caught.value), "worker" if workers else "environment"
    assert text.startswith(f"{name} {copy}: worldmodels/Faulty-v0: {'step' if step else 'reset'}() raised ValueError")
    assert f"the simulator broke at step {step}" in text and f"[seed 7, step {step}]" in text
    trace = "".join(traceback.format_exception(caught.value))
    assert "envs/faulty.py" in trace and "_misbehave" in trace


@BOTH
@pytest.mark.parametrize("step", [0, 1, 4])
def test_30_a_restart_drops_only_the_open_episode(step, workers):
    with VectorEnv(faulty("raises", at=step, seed=5, length=6, workers=workers, restarts=1), 2) as vector:
        if step == 0:  # the same seed again in a fresh environment: a fault of the seed stays one
            with pytest.raises(EnvironmentFault, match="broke at step 0"):
                collect(vector, 10)
            return
        episodes = collect(vector, 10)
        assert len(episodes) == 9 and all(len(rows) == 6 for rows in episodes)
        assert all((row[0][1], row[4][1]) == (time, time + 1) for rows in episodes for time, row in enumerate(rows))
        assert sorted(vector.restarts_left) == [0, 1]


@BOTH
def test_30_when_the_restarts_are_spent_the_fault_is_raised(workers):
    vector = VectorEnv(faulty("raises", at=2, workers=workers, restarts=2), 1)
    with pytest.raises(EnvironmentFault, match="broke at step 2"):
        collect(vector, 10)
    assert vector.restarts_left == [0]


# Row 31: the environment hangs.


@pytest.mark.parametrize("fault", ["hangs", "stops"])
@pytest.mark.parametrize("step", [0, 3])
def test_31_a_hanging_worker_is_named_and_everything_is_killed(step, fault):
    vector = VectorEnv(faulty(fault, at=step, seed=7, workers=1, timeout_s=0.5), 3)
    processes = pids(vector)
    with pytest.raises(EnvironmentFault) as caught:
        run_to_end(vector, [1, 2, 7])
    method = "step" if step else "reset"
    assert str(caught.value) == (f"worker 2 silent for 0.5 s in {method} (worldmodels/Faulty-v0, seed 7, step {step})")
    assert all(reaped(pid) for pid in processes)


def test_31_a_worker_that_hangs_in_close_is_killed():
    vector = VectorEnv(faulty("hangs_in_close", workers=1, timeout_s=0.5), 2)
    processes = pids(vector)
    with pytest.raises(EnvironmentFault, match=r"worker 0 silent for 0\.5 s in close"):
        vector.close()
    assert all(reaped(pid) for pid in processes)


def test_31_a_hanging_worker_can_be_replaced():
    with VectorEnv(faulty("hangs", seed=3, workers=1, timeout_s=0.5, restarts=1, length=5), 2) as vector:
        assert len(collect(vector, 6)) == 5


def test_31_no_worker_outlives_a_killed_parent():
    code = """
        import numpy as np
        from envs import EnvOptions, VectorEnv
        if __name__ == "__main__":
            kwargs = {"fault": "hangs", "at": 1, "seed": 1}
            vector = VectorEnv(EnvOptions(id="worldmodels/Faulty-v0", kwargs=kwargs, workers=1, timeout_s=600), 2)
            vector.reset([0, 1], [0, 1])
            print(*(worker.process.pid for worker in vector._copies._workers), flush=True)
            vector.step([0, 1], np.eye(2, dtype=np.float32))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        processes = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(processes) == 2 and all(ended(pid) for pid in processes)


def test_31_a_program_that_forgets_to_close_still_ends(tmp_path):
    code = """
        import os, signal
        from envs import EnvOptions, VectorEnv
        if __name__ == "__main__":
            vector = VectorEnv(EnvOptions(id="worldmodels/Faulty-v0", workers=1), 2)
            pids = [worker.process.pid for worker in vector._copies._workers]
            print(*pids, flush=True)
            os.kill(pids[0], signal.SIGSTOP)  # deaf to SIGTERM
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert all(ended(int(pid)) for pid in done.stdout.split())


# Row 32: a worker is killed.


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize(("fault", "how"), [("dies", "with SIGKILL"), ("exits", "with exit code 3")])
def test_32_a_worker_that_dies_is_named_with_its_signal(step, fault, how):
    vector = VectorEnv(faulty(fault, at=step, seed=7, workers=1), 2)
    processes = pids(vector)
    with pytest.raises(EnvironmentFault) as caught:
        run_to_end(vector, [1, 7])
    assert str(caught.value) == f"worker 1 died {how} (worldmodels/Faulty-v0, seed 7, step {step})"
    assert all(reaped(pid) for pid in processes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_32_every_idle_worker_that_is_killed_is_named(number):
    with VectorEnv(faulty(workers=1, restarts=50, length=4), 4) as vector:
        for copy in (0, 3, 1, 2, 2):
            vector.reset([0, 1, 2, 3], [0, 1, 2, 3])
            worker = vector._copies._workers[copy]
            os.kill(worker.process.pid, number)
            worker.process.join()
            dead = worker.process
            result = vector.step([0, 1, 2, 3], still(vector.action_spec, 4))
            assert result.dropped.tolist() == [index == copy for index in range(4)]
            assert (result.obs["obs"][:, 1] == ~result.dropped).all() and vector._copies._workers[copy].process != dead
        os.kill(pids(vector)[1], number)
        vector.restarts_left[:] = [0] * 4
        with pytest.raises(EnvironmentFault, match=f"worker 1 died with {signal.Signals(number).name}"):
            vector.reset([0, 1], [0, 1])


def test_32_nothing_is_left_in_shared_memory():
    before = set(os.listdir("/dev/shm"))
    vector = VectorEnv(faulty("dies", workers=1), 2)
    with pytest.raises(EnvironmentFault, match="SIGKILL"):
        run_to_end(vector, [1, 2])
    assert set(os.listdir("/dev/shm")) <= before


# Row 33: NaN and infinity.


@BOTH
@pytest.mark.parametrize("fault", ["nan_obs", "inf_obs", "nan_reward", "inf_reward"])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_33_numbers_that_are_none_stop_or_end_the_episode(fault, step, workers):
    options = faulty(fault, at=step, seed=3, length=4, workers=workers)
    with pytest.raises(EnvironmentFault, match=rf"returned (reward )?(nan|inf).*\[seed 3, step {step}\]"):
        collect(VectorEnv(options, 2), 6)
    with VectorEnv(EnvOptions(**{**vars(options), "non_finite": "truncate"}), 2) as vector:
        episodes = collect(vector, 6)
    assert sorted(len(rows) for rows in episodes) == sorted([4] * 5 + [step - 1])
    stored = np.concatenate([np.concatenate([row[0], [row[1]], row[4]]) for rows in episodes for row in rows])
    assert np.isfinite(stored).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 16, 17, 500])
def test_33_every_element_of_every_array_is_looked_at(size, value):
    space = spaces.Dict(a=spaces.Box(-np.inf, np.inf, (size,)), b=spaces.Box(-1, 1, (size,), np.float64))
    for key in ("a", "b"):
        for where in {0, size // 2, size - 1}:
            bad = {"a": np.zeros(size, np.float32), "b": np.zeros(size)}
            bad[key][where] = value
            good = ({"a": np.zeros(size, np.float32), "b": np.zeros(size)}, {})
            env = Guard(Scripted(space, [(bad, 0.0, False, False, {})], good), "Test-v0")
            env.reset()
            with pytest.raises(EnvironmentFault, match=rf"{key}\[{where}\]"):
                env.step(still(env.action_spec))


def test_33_at_reset_there_is_nothing_to_end():
    for mode in ("error", "truncate"):
        options = faulty("nan_obs", at=0)
        with pytest.raises(EnvironmentFault, match=r"reset\(\) returned nan at obs\[2\]"):
            make_env(EnvOptions(**{**vars(options), "non_finite": mode})).reset(seed=0)


# Rows 34, 35: shapes and dtypes (the whole table stands in tests/envs/test_guard.py).


@pytest.mark.parametrize("step", [0, 1, 5])
def test_34_a_wrong_shape_is_found_at_the_first_offence(step):
    env = make_env(faulty("wrong_shape", at=step))
    method = "step" if step else "reset"
    with pytest.raises(EnvironmentFault) as caught:
        env.reset(seed=7)
        for _ in range(5):
            env.step(still(env.action_spec))
    assert f"{method}() returned shape (5,), declared (4,) [seed 7, step {step}]" in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "outcome"),
    [("float32", "same"), ("float64", "noted"), ("float16", "noted"), ("int32", "noted"), ("bool", "noted")]
    + [("complex64", "error"), ("object", "error"), ("U4", "error")],
)
def test_35_safe_casts_are_noted_and_unsafe_ones_refused(dtype, outcome):
    env = make_env(faulty("wrong_dtype", at=2, dtype=dtype))
    env.reset(seed=7)
    env.step(still(env.action_spec))
    if outcome == "error":
        with pytest.raises(EnvironmentFault, match=r"dtype .*, declared float32.*step 2"):
            env.step(still(env.action_spec))
    else:
        obs = env.step(still(env.action_spec))[0]["obs"]
        assert obs.dtype == np.float32 and len(env.notes) == (outcome == "noted")


@pytest.mark.parametrize(("fault", "words"), [("list_obs", None), ("scalar_obs", r"shape \(\), declared \(4,\)")])
def test_35_lists_and_scalars(fault, words):
    env = make_env(faulty(fault, at=1))
    env.reset(seed=7)
    if words is None:
        assert env.step(still(env.action_spec))[0]["obs"].tolist() == [0, 1, 0, 0] and env.notes
    else:
        with pytest.raises(EnvironmentFault, match=words):
            env.step(still(env.action_spec))


# Row 36: a value outside the declared space.


@pytest.mark.parametrize("size", [4, 40])
def test_36_a_value_out_of_bounds_warns_once_and_is_not_changed(size):
    high = np.ones(size, dtype=np.float32)
    stray = high.copy()
    stray[3] = 2
    steps = [(stray, 0.0, False, False, {})] * 5
    env = Guard(Scripted(spaces.Box(-high, high), steps, (high, {})), "Test-v0")
    env.reset()
    with pytest.warns(UserWarning, match=r"returned 2\.0 at obs\[3\], declared -1\.0 to 1\.0") as caught:
        results = [env.step(still(env.action_spec))[0]["obs"] for _ in range(5)]
    assert len(caught) == 1 and all((obs == stray).all() for obs in results)


def test_36_strict_raises():
    options = EnvOptions(**{**vars(faulty("out_of_bounds", at=2)), "strict": True})
    env = make_env(options)
    env.reset(seed=7)
    env.step(still(env.action_spec))
    with pytest.raises(
        EnvironmentFault, match=r"returned 1000001\.0 at obs\[3\], declared 0\.0 to 1000000\.0 \[seed 7, step 2\]"
    ):
        env.step(still(env.action_spec))


# Row 37: the environment reuses its array.


@BOTH
def test_37_stored_observations_do_not_change_afterwards(workers):
    with VectorEnv(faulty("reuses_array", length=6, workers=workers), 2) as vector:
        episodes = collect(vector, 6)
    for rows in episodes:
        assert [(row[0][1], row[4][1]) for row in rows] == [(time, time + 1) for time in range(6)]
    env = make_env(faulty("reuses_array"))
    kept = [env.reset(seed=0)[0]["obs"]] + [env.step(still(env.action_spec))[0]["obs"] for _ in range(4)]
    assert [obs[1] for obs in kept] == [0, 1, 2, 3, 4]


# Row 38: the contract of step and reset.


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("four_tuple", r"\(obs, reward, terminated, truncated, info\)"),
        ("int_flags", r"terminated of type int \(0\), expected bool"),
        ("none_flags", r"terminated of type NoneType"),
        ("info_none", r"info of type NoneType, expected dict"),
        ("text_reward", r"a reward of type str, expected a number"),
    ],
)
def test_38_each_violation_is_named(fault, words, wrap):
    options = faulty(fault, at=2)
    env = make_env(EnvOptions(**{**vars(options), "max_episode_steps": 50}) if wrap else options)
    env.reset(seed=7)
    env.step(still(env.action_spec))
    with pytest.raises(EnvironmentFault, match=rf"worldmodels/Faulty-v0: step\(\).*{words}") as caught:
        env.step(still(env.action_spec))
    assert "[seed 7, step 2]" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"), [("four_tuple", r"a tuple of 3, expected \(obs, info\)"), ("info_none", "info")]
)
def test_38_reset_too(fault, words):
    with pytest.raises(EnvironmentFault, match=rf"reset\(\) returned .*{words}"):
        make_env(faulty(fault, at=0)).reset(seed=7)


def test_38_steps_outside_an_episode():
    env = make_env(faulty(length=1))
    with pytest.raises(EnvironmentFault, match=r"step\(\) was called before reset\(\)"):
        env.step(still(env.action_spec))
    env.reset(seed=7)
    env.step(still(env.action_spec))
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match=r"step\(\) was called after the episode ended"):
            env.step(still(env.action_spec))
    env.reset(seed=8)
    env.step(still(env.action_spec))


# Row 39: environments that reset themselves.


@BOTH
@pytest.mark.parametrize("fault", ["none", "resets_next_step", "resets_same_step"])
def test_39_no_stored_transition_crosses_a_reset(fault, workers):
    lengths, copies, stored = ((3,), (2,), 0) if workers else ((1, 2, 3, 4, 5), (1, 2, 3, 4), 0)
    for length in lengths:
        for num_envs in copies:
            with VectorEnv(faulty(fault, length=length, workers=workers), num_envs) as vector:
                episodes = collect(vector, 40 if workers else 570)
            for rows in episodes:
                assert len({row[0][0] for row in rows} | {row[4][0] for row in rows}) == 1, "two episodes in one"
                assert [(row[0][1], row[4][1], row[2]) for row in rows] == [
                    (time, time + 1, time + 1 == length) for time in range(length)
                ]
                stored += len(rows)
            assert len(episodes) == (40 if workers else 570)
    assert workers or stored == 570 * 15 * 4  # three faults: above 10^5 together


def test_39_an_autoreset_wrapper_is_refused():
    env = gymnasium.wrappers.Autoreset(gymnasium.make("CartPole-v1"))
    with pytest.raises(EnvironmentFault, match="remove the Autoreset wrapper"):
        Guard(env, "CartPole-v1")


@pytest.mark.parametrize("mode", list(gymnasium.vector.AutoresetMode))
def test_39_a_vector_environment_is_refused(mode):
    def build():
        return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=mode)

    gymnasium.register("Vector-v0", entry_point=build)
    try:
        with pytest.raises(EnvironmentFault, match="Vector-v0: could not be made"):
            make_env(EnvOptions(id="Vector-v0"))
    finally:
        gymnasium.registry.pop("Vector-v0")


# Row 40: a time limit is not death.


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(("ends", "value"), [("truncated", 10.0), ("terminated", None)])
def test_40_bootstrapping_from_the_flags_learns_the_right_value(ends, value, length):
    gamma, values = 0.9, {-1.0: 0.0, 1.0: 0.0}
    options = EnvOptions(id="worldmodels/TimeLimit-v0", kwargs={"ends": ends, "length": length if value else 1})
    with VectorEnv(options, 2) as vector:
        for rows in collect(vector, 400):
            for obs, reward, terminated, _, after in rows:
                values[obs[0]] = reward + gamma * (not terminated) * values[after[0]]
    expected = 1.0 if value is None else 1 / (1 - gamma)
    assert all(abs(found - expected) < 0.01 * expected for found in values.values())


def test_40_both_flags_survive():
    with VectorEnv(EnvOptions(id="worldmodels/ProbeConstant-v0", max_episode_steps=1), 1) as vector:
        vector.reset([0], [0])
        result = vector.step([0], still(vector.action_spec, 1))
    assert result.terminated.all() and result.truncated.all()


# Rows 41, 42: actions.


@st.composite
def boxes(draw, dtypes=(np.float32, np.float64)):
    """Bounded boxes: asymmetric, a range for each dimension, some without any width."""
    dtype = draw(st.sampled_from(dtypes))
    numbers = st.floats(-1e6, 1e6, width=32)
    pairs = draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
    low, high = (np.array([pick(pair) for pair in pairs], dtype=dtype) for pick in (min, max))
    return spaces.Box(low, high, dtype=dtype)


@given(boxes(), st.integers(0, 2**32 - 1))
def test_41_no_action_leaves_its_box_and_the_way_back_is_exact(space, seed):
    action = np.random.default_rng(seed).uniform(-1, 1, space.shape).astype(np.float32)
    for encoded in (action, np.sign(action), np.zeros_like(action)):
        decoded = decode_action(space, encoded)
        assert decoded.dtype == space.dtype and space.contains(decoded)
    largest = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float32)
    for chosen in (decode_action(space, action), space.low, space.high):
        back = decode_action(space, encode_action(space, chosen))
        assert (np.abs(back.astype(np.float64) - chosen) <= np.spacing(largest).astype(np.float64)).all()


@given(boxes((np.float64,)), st.integers(0, 2**32 - 1))
def test_41_the_round_trip_of_an_encoded_action_is_within_one_ulp(space, seed):
    half = space.high / 2 - space.low / 2
    assume((half > 1e-3).all())
    action = np.random.default_rng(seed).uniform(-1, 1, space.shape).astype(np.float32)
    back = encode_action(space, decode_action(space, action))
    ulp = np.maximum(
        np.spacing(np.abs(action)), np.spacing(np.abs(space.low + half) / half * 2.0**-28).astype(np.float32)
    )
    assert (np.abs(back - action) <= ulp).all()


def test_41_bounds_are_met_exactly():
    low, high = np.array([-2, 0, 5], np.float32), np.array([1, 0.1, 5], np.float32)
    space = spaces.Box(low, high)
    assert (decode_action(space, -np.ones(3, np.float32)) == low).all()
    assert (decode_action(space, np.ones(3, np.float32)) == high).all()
    assert encode_action(space, low).tolist() == [-1, -1, 0] and encode_action(space, high).tolist() == [1, 1, 0]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.int64])
def test_41_integer_boxes_come_back_exactly(dtype):
    space = spaces.Box(np.array([0, 3], dtype), np.array([100, 3], dtype), dtype=dtype)
    for number in range(101):
        chosen = np.array([number, 3], dtype)
        back = decode_action(space, encode_action(space, chosen))
        assert (back == chosen).all() and space.contains(back)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-1, np.inf), (-np.inf, 1)])
def test_41_an_unbounded_action_space_is_refused_with_what_to_do(low, high):
    env = Scripted(spaces.Box(-1, 1, (2,)), action_space=spaces.Box(low, high, (2,)))
    with pytest.raises(EnvironmentFault, match="Test-v0: action_space is unbounded: wrap with .*RescaleAction"):
        Guard(env, "Test-v0")


@pytest.mark.parametrize(
    ("space", "bad"),
    [
        (spaces.Box(-2, 2, (2,)), [[np.nan, 0], [0, np.inf], [1.001, 0], [0, -2], [0], [[0, 0]]]),
        (spaces.Discrete(3), [[np.nan, 0, 1], [0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [0, 2, 0], [1, 0], [-1, 1, 1]]),
        (spaces.MultiDiscrete([2, 2]), [[1, 0, 0, 0], [1, 0, np.nan, 1], [1, 0, 1, 1], [1, 0, 1], [0, 1, 0.3, 0.7]]),
    ],
)
def test_42_no_bad_action_reaches_the_environment(space, bad):
    obs_space = spaces.Box(-1, 1, (2,))
    good = (np.zeros(2, np.float32), 0.0, False, False, {})
    scripted = Scripted(obs_space, [good] * 100, (np.zeros(2, np.float32), {}), space)
    env = Guard(scripted, "Test-v0")
    env.reset(seed=7)
    for action in bad:
        with pytest.raises(EnvironmentFault, match=r"Test-v0: action .*\[seed 7, step 1\]"):
            env.step(np.array(action, dtype=np.float32))
        env.reset(seed=7)
    assert scripted.actions == []
    env.step(random_action(env.action_spec, np.random.default_rng(0)))
    assert len(scripted.actions) == 1 and space.contains(scripted.actions[0])


# Row 43: spaces that nothing encodes.

UNSUPPORTED = [
    spaces.Text(5),
    spaces.Tuple([spaces.Discrete(2)]),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(spaces.Box(-1, 1, (2,)), None),
    spaces.OneOf([spaces.Discrete(2)]),
]
TOO_LARGE = spaces.Box(0, 255, (200, 200, 3), np.uint8)


@pytest.mark.parametrize(
    ("role", "space"),
    [("observation_space", space) for space in [*UNSUPPORTED, spaces.Dict(a=spaces.Text(5)), TOO_LARGE]]
    + [("action_space", space) for space in [*UNSUPPORTED, spaces.Dict(a=spaces.Discrete(2))]],
)
def test_43_an_unsupported_space_is_refused_when_the_environment_is_made(role, space):
    chosen = {"observation_space": spaces.Discrete(2), "action_space": spaces.Discrete(2), role: space}
    gymnasium.register("Odd-v0", entry_point=lambda: Scripted(**chosen))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(EnvironmentFault, match=rf"Odd-v0: {role} .*(Supported: |obs=pixels)"):
                make_env(EnvOptions(id="Odd-v0"))
    finally:
        gymnasium.registry.pop("Odd-v0")


# Row 44: shared memory and fork.

WITHOUT_SHARED_MEMORY = """
import os, sys
import numpy as np
from envs import EnvOptions, VectorEnv
if __name__ == "__main__":
    left = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    options = EnvOptions(id="CartPole-v1", obs="pixels", image_size=128, frame_stack=3, workers=1)
    with VectorEnv(options, 2) as vector:
        obs = vector.reset([0, 1], [0, 1])["obs"]
        result = vector.step([0, 1], np.eye(2, dtype=np.float32))
        shared = "multiprocessing.shared_memory" in sys.modules
        print(obs.nbytes > left, vector._copies._context.get_start_method(), shared)
"""


def test_44_workers_need_no_shared_memory_and_no_fork():
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, timeout=60).returncode:
        pytest.skip("no user namespaces here")
    command = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, WITHOUT_SHARED_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "forkserver", "False"]


def test_44_a_registration_that_cannot_be_sent_is_explained():
    gymnasium.register("Local-v0", entry_point=lambda: Scripted(spaces.Discrete(2)))
    try:
        with pytest.raises(EnvironmentFault, match="entry_point='module:Class', or use workers: 0"):
            VectorEnv(EnvOptions(id="Local-v0", workers=1), 1)
    finally:
        gymnasium.registry.pop("Local-v0")
