"""Many environments, in this process and in others: the same numbers, and only those that are named move."""

import os
import subprocess
import sys

import numpy as np
import pytest

from envs import EnvOptions, VectorEnv, make_env
from tests.envs.tools import collect, faulty, play, preset, random_action, still
from tests.source import ROOT
from worldmodels.errors import EnvironmentFault

WORKERS = pytest.mark.parametrize("workers", [0, 1])


@WORKERS
@pytest.mark.parametrize("name", ["cartpole", "pendulum", "dmc-reacher-easy"])
def test_the_copies_do_what_a_single_environment_does(name, workers):
    options = preset(name)
    single = [play(make_env(options), seed, steps=12, action_seed=5) for seed in (3, 4)]
    with VectorEnv(EnvOptions(**{**vars(options), "workers": workers}), 2) as vector:
        generator = np.random.default_rng(5)
        rows = [vector.reset([1, 0], [4, 3])]
        for time in range(1, min(map(len, single))):
            action = random_action(vector.action_spec, generator)
            result = vector.step([0, 1], np.stack([action, action]))
            for row in (0, 1):
                obs, reward, terminated, truncated = single[row][time]
                assert all((result.obs[key][row] == obs[key]).all() for key in obs)
                assert result.reward[row] == np.float32(reward)
                assert (result.terminated[row], result.truncated[row]) == (terminated, truncated)
            assert result.steps.tolist() == [options.action_repeat] * 2
        assert all((rows[0][key][::-1][0] == single[0][0][0][key]).all() for key in rows[0])


@WORKERS
def test_only_the_named_environments_are_stepped(workers):
    with VectorEnv(faulty(workers=workers, length=100), 3) as vector:
        first = vector.reset([0, 1, 2], [0, 0, 0])["obs"]
        assert first.shape == (3, 4) and first[:, 1].tolist() == [0, 0, 0]
        assert vector.step([2], still(vector.action_spec, 1)).obs["obs"][:, 1].tolist() == [1]
        assert vector.step([2, 0], still(vector.action_spec, 2)).obs["obs"][:, 1].tolist() == [2, 1]
        assert vector.reset([2], [0])["obs"][0, :2].tolist() == [1, 0]
        result = vector.step([0, 1, 2], still(vector.action_spec, 3))
        assert result.obs["obs"][:, 1].tolist() == [2, 1, 1] and result.obs["obs"][:, 0].tolist() == [0, 0, 1]


@WORKERS
def test_the_dtypes_and_shapes_of_a_result(workers):
    with VectorEnv(EnvOptions(id="CartPole-v1", workers=workers), 2) as vector:
        vector.reset([0, 1], [0, 1])
        result = vector.step([0, 1], still(vector.action_spec, 2))
        assert result.obs["obs"].shape == (2, 4) and result.obs["obs"].dtype == np.float32
        for name, dtype in (("reward", "float32"), ("steps", "int64"), ("terminated", "bool"), ("truncated", "bool")):
            array = getattr(result, name)
            assert array.shape == (2,) and array.dtype == dtype
        assert not result.discarded.any() and not result.dropped.any()
        assert vector.num_envs == 2 and vector.env_id == "CartPole-v1"


@WORKERS
def test_results_do_not_share_memory(workers):
    with VectorEnv(faulty("reuses_array", workers=workers), 1) as vector:
        kept = [vector.reset([0], [0])["obs"]]
        kept += [vector.step([0], still(vector.action_spec, 1)).obs["obs"] for _ in range(5)]
        assert [array[0, 1] for array in kept] == [0, 1, 2, 3, 4, 5]


@WORKERS
def test_render(workers):
    with VectorEnv(EnvOptions(id="CartPole-v1", workers=workers), 1, render=True) as vector:
        vector.reset([0], [0])
        frame = vector.render(0)
        assert frame.shape == (400, 600, 3) and frame.dtype == np.uint8


@WORKERS
def test_a_mistake_in_the_options_is_named_at_once(workers):
    with pytest.raises(EnvironmentFault, match="could not be made with kwargs {'colour': 1}"):
        VectorEnv(EnvOptions(kwargs={"colour": 1}, workers=workers), 2)
    with pytest.raises(EnvironmentFault, match="Nearest: CartPole-v1"):
        VectorEnv(EnvOptions(id="CartPol-v1", workers=workers), 2)


@WORKERS
@pytest.mark.parametrize("num_envs", [1, 3])
def test_collecting_keeps_whole_episodes(num_envs, workers):
    with VectorEnv(EnvOptions(id="worldmodels/Counting-v0", workers=workers), num_envs) as vector:
        episodes = collect(vector, 20)
    assert sorted(int(rows[0][0][0]) for rows in episodes) == list(range(20))
    for rows in episodes:
        assert [int(row[0][1]) for row in rows] == list(range(len(rows)))
        assert all((row[4] == after[0]).all() for row, after in zip(rows, rows[1:], strict=False))
        assert [row[2] or row[3] for row in rows] == [False] * (len(rows) - 1) + [True]


def test_a_worker_that_was_interrupted_does_not_answer_the_next_question():
    vector = VectorEnv(faulty(workers=1), 1)
    try:
        vector.reset([0], [0])
        vector._copies._workers[0].send("step", still(vector.action_spec))  # as if Ctrl-C came before its answer
        with pytest.raises(EnvironmentFault, match="was interrupted"):
            vector.step([0], still(vector.action_spec, 1))
    finally:
        vector.close()
    with pytest.raises(EnvironmentFault, match="is closed"):
        vector.step([0], still(vector.action_spec, 1))


def test_a_second_error_while_closing_is_a_warning_and_the_first_is_raised(monkeypatch):
    vector = VectorEnv(faulty("raises", at=1), 1)
    vector.reset([0], [7])

    def close():
        raise RuntimeError("the door is stuck")

    monkeypatch.setattr(vector._copies._envs[0], "close", close)
    with pytest.warns(UserWarning, match="door is stuck"), pytest.raises(EnvironmentFault, match="broke at step 1"):
        vector.step([0], still(vector.action_spec, 1))


def test_zero_environments_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        VectorEnv(EnvOptions(), 0)


COUNTS = """
import os
import gymnasium
import numpy as np


class Threads(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-9, 99, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([os.environ.get("OMP_NUM_THREADS", -1)]), {}


gymnasium.register("Threads-v0", entry_point="counts:Threads")
"""
ASKS = """
import os
import counts
from envs import EnvOptions, VectorEnv

if __name__ == "__main__":
    with VectorEnv(EnvOptions(id="Threads-v0", workers=1), 2) as envs:
        print(*envs.reset([0, 1], [0, 1])["obs"].ravel().tolist(), os.environ.get("OMP_NUM_THREADS"))
"""


@pytest.mark.parametrize(("given", "said"), [({}, "1.0 1.0 None"), ({"OMP_NUM_THREADS": "3"}, "3.0 3.0 3")])
def test_a_worker_computes_with_one_thread_unless_it_was_told_otherwise(given, said, tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS)
    (tmp_path / "asks.py").write_text(ASKS)
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, str(tmp_path / "asks.py")]
    ended = subprocess.run(command, env=plain | paths | given, capture_output=True, text=True, check=False, timeout=120)
    assert ended.stdout.strip() == said, ended.stderr
