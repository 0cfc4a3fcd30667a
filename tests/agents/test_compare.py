"""Comparisons: against rliable called by hand, from every kind of log, and through the command line."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from rliable import library, metrics
from stable_baselines3.common.monitor import Monitor

from agents.cli import main
from agents.compare import compare, performance_profile
from agents.log import Logger
from agents.scores import RunScore, read_run
from worldmodels.errors import ConfigError


def score(method, value, task="T-v0", curve=()):
    return RunScore(method, task, value, list(curve), "made up")


def finished_run(folder, returns, env_id="CartPole-v1", episodes=7):
    folder.mkdir(parents=True)
    with Logger(folder, tensorboard=False) as logger:
        for step, value in enumerate(returns, 1):
            logger.log(100 * step, {"evaluation/mean": value, "train/return": 1.0})
    evaluation = {"env_id": env_id, "episodes": episodes, "mean": float(returns[-1])}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def test_aggregates_and_intervals_are_those_of_rliable_called_by_hand():
    rng = np.random.default_rng(0)
    scores = {"a": rng.normal(0.4, 0.2, (6, 2)), "b": rng.normal(0.6, 0.2, (5, 2))}
    runs = [score(m, v, task) for m, s in scores.items() for row in s for task, v in zip(("A", "B"), row, strict=True)]
    found = compare(runs, ranges={"A": (0.0, 1.0), "B": (0.0, 1.0)}, seed=3)
    for summary in found.summaries:
        values = scores[summary.method]
        assert summary.iqm == pytest.approx(metrics.aggregate_iqm(values))
        assert summary.median == pytest.approx(metrics.aggregate_median(values))
        np.random.seed(0)  # rliable draws from the global state
        points, ends = library.get_interval_estimates(
            {"x": values}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2000
        )
        assert points["x"][0] == pytest.approx(summary.iqm)
        assert summary.interval == pytest.approx(tuple(ends["x"][:, 0]), abs=0.02)  # what resampling varies by
    probability, interval = found.improvement["a", "b"]
    assert probability == pytest.approx(metrics.probability_of_improvement(scores["a"], scores["b"]))
    _, ends = library.get_interval_estimates(
        {"x": [scores["a"], scores["b"]]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=500
    )
    assert interval == pytest.approx(tuple(ends["x"][:, 0]), abs=0.05)
    assert compare(runs, ranges=dict(found.ranges), seed=3).to_json() == found.to_json()


def test_probability_of_improvement_by_counting_pairs():
    found = compare([score("a", v) for v in (1.0, 5.0, 9.0)] + [score("b", v) for v in (2.0, 3.0)])
    assert found.improvement["a", "b"][0] == pytest.approx(4 / 6)


def test_profile_is_the_share_of_runs_above_each_threshold():
    found = compare([score("a", v) for v in (1.0, 2.0, 3.0, 4.0)])
    thresholds, shares = performance_profile(found, points=50)
    np.testing.assert_allclose(shares["a"], [(np.array([1, 2, 3, 4.0]) > t).mean() for t in thresholds])


def test_several_tasks_are_normalised_by_what_was_asked_or_by_the_runs():
    runs = [score("a", 10.0, "A"), score("a", 3.0, "B"), score("b", 20.0, "A"), score("b", 1.0, "B")]
    found = compare(runs)
    assert found.ranges == {"A": (10.0, 20.0), "B": (1.0, 3.0)}
    np.testing.assert_allclose(found.scores["a"], [[0.0, 1.0]])
    found = compare(runs, ranges={"A": (0.0, 40.0)})
    np.testing.assert_allclose(found.scores["b"], [[0.5, 0.0]])


def test_one_task_stays_in_its_own_units_and_one_run_has_no_interval():
    found = compare([score("a", 480.0), score("b", 20.0), score("b", 30.0)])
    assert [s.mean for s in found.summaries] == [480.0, 25.0]
    assert found.summaries[0].interval is None and found.summaries[1].interval is not None
    assert "none (one run)" in found.table()


@pytest.mark.parametrize(
    ("runs", "ranges", "message"),
    [
        ([score("a", 1.0, "A"), score("b", 1.0, "B")], {}, "a: expected as many runs on each task, got A: 1, B: 0"),
        ([score("a", 1.0, "A"), score("a", 1.0, "B"), score("b", 1.0, None)], {}, "do not say which environment"),
        ([score("a", 1.0, "A")], {"B": (0.0, 1.0)}, "--range B: no run is of that task"),
        ([score("a", 1.0, "A")], {"A": (1.0, 1.0)}, "expected LOW below HIGH"),
    ],
)
def test_what_cannot_be_compared_is_said(runs, ranges, message):
    with pytest.raises(ConfigError, match=message):
        compare(runs, ranges=ranges)


@pytest.mark.parametrize(
    ("name", "method"), [("mine-seed3", "mine"), ("mine_0", "mine"), ("ppo12", "ppo"), ("7", "7"), ("walk.s2", "walk")]
)
def test_runs_that_differ_in_a_number_are_runs_of_one_method(tmp_path, name, method):
    assert read_run(str(finished_run(tmp_path / name, [1.0]))).method == method


def test_a_run_of_ours_is_its_final_evaluation_and_its_curve(tmp_path):
    run = read_run(f"x={finished_run(tmp_path / 'r', [1.0, 2.0, 9.0])}")
    assert (run.method, run.task, run.score) == ("x", "CartPole-v1", 9.0)
    assert run.curve == [(100, 1.0), (200, 2.0), (300, 9.0)]
    assert run.source == "mean of 7 evaluation episodes"


def test_scores_of_a_few_episodes_beside_those_of_many_are_warned_of(tmp_path, capsys):
    many = [str(finished_run(tmp_path / f"many-seed{k}", [5.0], episodes=100)) for k in range(2)]
    few = [str(finished_run(tmp_path / f"few-seed{k}", [9.0], episodes=1)) for k in range(2)]
    assert main(["compare", *many, *few, "--json", str(tmp_path / "c.json")]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert line.startswith("warning: 2 of 4 scores are of 1 evaluation episode, others of up to 100")
    assert json.loads((tmp_path / "c.json").read_text())["warning"] in line
    for alike in (many, few):
        assert main(["compare", *alike]) == 0
        assert "warning" not in capsys.readouterr().out


def test_monitor_files_are_read_as_stable_baselines_writes_them(tmp_path):
    import gymnasium

    env = Monitor(gymnasium.make("CartPole-v1"), str(tmp_path / "log"))
    lengths = []
    for seed in range(3):
        env.reset(seed=seed)
        done, length = False, 0
        while not done:
            _, _, terminated, truncated, _ = env.step(0)
            done, length = terminated or truncated, length + 1
        lengths.append(length)
    env.close()
    run = read_run(f"ppo={tmp_path}")
    assert run.task == "CartPole-v1"
    assert run.score == pytest.approx(np.mean(lengths))
    assert run.curve == [(int(s), float(v)) for s, v in zip(np.cumsum(lengths), lengths, strict=True)]


def test_events_of_tensorboard_are_read_by_their_tag(tmp_path):
    with Logger(tmp_path) as logger:
        for step in range(1, 21):
            logger.log(step, {"rollout/ep_rew_mean": float(step), "my/return": -float(step)})
    (tmp_path / "metrics.jsonl").unlink()
    assert read_run(str(tmp_path)).score == pytest.approx(np.mean(range(11, 21)))
    assert read_run(str(tmp_path), metric="my/return").curve[4] == (5, -5.0)


def test_scalars_that_are_tensors_are_read_and_text_is_not(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("note", "hello", 0)
        for step in range(1, 41):
            writer.add_scalar("episode/score", float(step), 10 * step, new_style=True)
    run = read_run(f"theirs={tmp_path}")
    assert len(run.curve) == 40 and run.curve[3] == (40, 4.0) and run.score == pytest.approx(np.mean(range(31, 41)))


def test_metrics_of_another_library_are_read_line_by_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 8, "episode/score": 3.5}\n{"step": 16, "loss": 1}\n{"step": 24, "episode/score": 4.5}\n{"st'
    )
    run = read_run(f"dreamer={file}")
    assert run.curve == [(8, 3.5), (24, 4.5)] and run.score == 4.0 and run.task is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no evaluation.json, metrics.jsonl"),
        ({"metrics.jsonl": '{"step": 1, "loss": 2.0}\n'}, "name it by --metric"),
        ({"metrics.jsonl": '{"return": 2.0}\n'}, "no line has a step"),
        ({"evaluation.json": '{"mean": null}'}, "holds no mean return"),
        ({"evaluation.json": "{"}, "cannot be read"),
        ({"x.monitor.csv": "r,l,t\n1,1,1\n"}, "no comment of JSON"),
        ({"x.monitor.csv": '#{"t_start": 0}\nr,l,t\n'}, "hold no episode"),
    ],
)
def test_what_is_no_run_is_one_line_and_exit_code_2(tmp_path, capsys, content, message):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    assert main(["compare", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_output_that_nobody_reads_any_more_is_no_traceback(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "agents.cli", "compare", str(finished_run(tmp_path / "r", [1.0]))]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=plain)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_compare_through_the_command_line(tmp_path, capsys):
    runs = [str(finished_run(tmp_path / f"ours-seed{k}", [100.0, 480.0 + k])) for k in range(3)]
    runs += [str(finished_run(tmp_path / f"other-seed{k}", [20.0, 200.0 + k])) for k in range(3)]
    picture, numbers = tmp_path / "c.png", tmp_path / "c d.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["compare", *runs, "--out", str(picture), "--json", str(numbers)]) == 0
    out = capsys.readouterr().out
    assert "return on CartPole-v1" in out and "P(ours > other) = 1.00" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = json.loads(numbers.read_text())
    assert [m["method"] for m in data["methods"]] == ["ours", "other"]
    assert data["methods"][0]["mean"] == pytest.approx(481.0)
    assert main(["compare", *runs, "--range", "CartPole-v1=0:x"]) == 2
