"""The benchmark judges, keeps, merges and prints runs as docs/results.md says."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import sample_efficiency, single_run
from benchmarks.curves import median_curve
from benchmarks.results import Point, Run, load, median_or_never, merge, save, solved_at
from benchmarks.single_run import Spec, evaluation_points
from benchmarks.table import detail_table, solve_table
from benchmarks.tasks import TASKS
from worldmodels.errors import ConfigError


def points(*means, every=250):
    return tuple(Point((i + 1) * every, float(i + 1), mean, 0.5) for i, mean in enumerate(means))


def run(seed=100, *means, task="cartpole", side="ours", agent="worldmodels"):
    return Run(task=task, side=side, agent=agent, seed=seed, points=points(*means), peak_bytes=int(5e8))


@pytest.mark.parametrize(
    ("means", "step"),
    [
        ((475, 475, 475), 250),
        ((10, 480, 480, 10, 480, 490, 500, 10), 1250),  # two in a row, then a relapse
        ((500, 500, 474.9, 500, 500), None),
        ((500, 500), None),  # the run ended too soon to tell
        ((), None),
    ],
)
def test_solved_is_the_first_of_three_in_a_row(means, step):
    point = solved_at(points(*means), 475.0)
    assert (point and point.step) == step


def test_a_bar_below_zero_is_reached_from_below():
    point = solved_at(points(-900, -200, -190, -150), -200.0)
    assert point is not None and point.step == 500


def test_a_run_that_never_solves_counts_as_slowest():
    assert median_or_never([3.0, None, 1.0]) == 3.0
    assert median_or_never([None, None, 1.0]) == float("inf")


def test_training_time_leaves_evaluations_out():
    lines = [
        {"step": 250, "wall_s": 10.0, "evaluation/mean": 20.0, "evaluation/seconds": 2.0},
        {"step": 300, "wall_s": 11.0, "train/return": 9.0},
        {"step": 500, "wall_s": 20.0, "evaluation/mean": 30.0, "evaluation/seconds": 3.0},
        {"step": 500, "wall_s": 30.0, "final/mean": 30.0},
    ]
    assert evaluation_points(lines) == (Point(250, 8.0, 20.0, 2.0), Point(500, 15.0, 30.0, 3.0))


def test_the_mean_at_the_end_is_of_ten_evaluations():
    assert run(100, *[0.0] * 5, *range(10)).last_mean() == 4.5


def test_runs_come_back_from_their_file_as_they_were(tmp_path):
    runs = [run(101, 1.0, 2.0), replace(run(100, 3.0), settings={"a": [1, {"b": None}]})]
    save(tmp_path / "new" / "runs.json", runs)
    assert load(tmp_path / "new" / "runs.json") == [runs[1], runs[0]]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["runs.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": [{"task": "cartpole"}]}', '{"runs": 3}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "runs.json").write_text(text)
    with pytest.raises(ConfigError, match="runs.json"):
        load(tmp_path / "runs.json")


def test_merging_keeps_every_run_once_and_refuses_a_contradiction():
    own, other = run(100, 1.0), run(100, 2.0, side="sb3", agent="PPO")
    assert merge([[own], [own, other]]) == [own, other]
    with pytest.raises(ConfigError, match="cartpole, ours, seed 100"):
        merge([[own], [run(100, 1.5)]])


def test_the_table_shows_median_all_seeds_and_what_was_not_solved():
    runs = [
        run(102, 0, 0, 500, 500, 500),
        run(100, 500, 500, 500, 0, 0),
        run(101, 0, 0, 0, 0, 500),
        run(100, 0, 0, 0, 0, 0, side="sb3", agent="PPO"),
    ]
    row = solve_table(runs).splitlines()[-1].split(" | ")
    assert row[0] == "| cartpole" and row[1] == "475"
    assert row[3] == "**750** (250; > 1,250; 750)"
    assert row[4] == "**3** (1; > 5; 3)"
    assert row[5] == "PPO **> 1,250** (> 1,250)"
    details = detail_table(runs).splitlines()
    assert "| 100 101 102 | **300.0** (300.0; 100.0; 300.0) |" in details[2]
    assert details[3].startswith("| cartpole | PPO | 100 |") and "500 MB" in details[3]


def test_the_median_curve_meets_seeds_that_were_evaluated_some_steps_apart():
    late = Run(task="cartpole", side="ours", agent="a", seed=1, points=(), peak_bytes=0)
    late = replace(late, points=(Point(300, 0.0, 3.0, 0.0), Point(500, 0.0, 5.0, 0.0)))
    steps, median = median_curve([run(100, 1.0, 3.0), late], 100)
    np.testing.assert_array_equal(steps, [300, 400, 500])
    np.testing.assert_allclose(median, [(1.4 + 3) / 2, (2.2 + 4) / 2, (3 + 5) / 2])


def arguments(*words):
    return sample_efficiency._parser().parse_args(words)


def test_every_task_gets_its_first_seed_before_any_gets_its_second():
    specs = sample_efficiency.wanted(arguments())
    first = [(name, task.seeds[0]) for name, task in TASKS.items() for _ in range(2 if task.baseline else 1)]
    assert [(spec.task, spec.seed) for spec in specs[: len(first)]] == first
    assert len(specs) == sum(len(task.seeds) * (2 if task.baseline else 1) for task in TASKS.values())
    assert {spec.side for spec in sample_efficiency.wanted(arguments("--baselines-only"))} == {"sb3"}
    assert {spec.side for spec in sample_efficiency.wanted(arguments("--ours-only"))} == {"ours"}


def test_other_settings_are_for_our_runs_alone_and_reach_their_processes(tmp_path, monkeypatch):
    specs = sample_efficiency.wanted(arguments("--tasks", "cartpole", "--seeds", "1", "--set", "world_model=flow"))
    assert {spec.side: spec.overrides for spec in specs} == {"ours": ("world_model=flow",), "sb3": ()}
    assert specs[0].options().world_model.encoder == "flow"
    monkeypatch.setattr(
        "benchmarks.single_run.measure", lambda spec: replace(run(), settings={"overrides": spec.overrides})
    )
    monkeypatch.setattr("benchmarks.single_run.stop_on_sigterm", lambda: None)
    commands = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: commands.append(command))
    sample_efficiency.start(specs[0], tmp_path / "run")
    assert single_run.main(commands[0][3:]) == 0
    assert load(tmp_path / "run")[0].settings == {"overrides": ["world_model=flow"]}


def test_what_is_there_is_skipped_and_other_settings_are_refused():
    specs = [Spec(task="cartpole", side=side, seed=seed) for seed in (100, 101) for side in ("ours", "sb3")]
    there = [replace(run(spec.seed, 1.0, side=spec.side), settings=spec.settings()) for spec in specs[:3]]
    there = [Run(**row | {"points": ()}) for row in json.loads(json.dumps([vars(one) for one in there], default=str))]
    assert sample_efficiency.missing(specs, there) == specs[3:]
    with pytest.raises(ConfigError, match="cartpole, ours, seed 100"):
        sample_efficiency.missing([replace(specs[0], steps=600)], there)


def test_evaluation_episodes_are_alike_for_both_sides_and_apart_for_each_seed():
    specs = [Spec(task="cartpole", side="ours", seed=seed) for seed in (100, 101)]
    first, second = (spec.options().evaluation for spec in specs)
    used = first.episodes * (TASKS["cartpole"].baseline_steps // first.every)
    assert first.seed + used < second.seed
    assert first.num_envs == first.episodes == 20


def test_finished_runs_are_kept_when_a_later_one_fails(tmp_path, monkeypatch, capsys):
    import subprocess
    import sys

    def start(spec, out):
        if spec.seed == 100:
            save(out, [run(100, 1.0)])
        code = "" if spec.seed == 100 else "raise SystemExit('no luck')"
        with out.with_suffix(".log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)

    monkeypatch.setattr(sample_efficiency, "start", start)
    file = tmp_path / "runs.json"
    words = ["--tasks", "cartpole", "--ours-only", "--seeds", "100", "101", "--jobs", "2", "--json", str(file)]
    assert sample_efficiency.main(words) == 1
    assert load(file) == [run(100, 1.0)]
    assert "no luck" in capsys.readouterr().err


def test_merging_files_prints_one_table_and_runs_nothing(tmp_path, capsys):
    save(tmp_path / "a.json", [run(100, 500, 500, 500)])
    save(tmp_path / "b.json", [run(100, 500, 500, 500, side="sb3", agent="PPO")])
    assert sample_efficiency.main(["--merge", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "| cartpole | 475 | 1,500 | **250** (250) | **1** (1) | PPO **250** (250) |" in capsys.readouterr().out
    assert sample_efficiency.main(["--merge", str(tmp_path / "c.json")]) == 2


def test_sigterm_stops_the_runs_that_were_started_and_leaves_no_folder(tmp_path):
    """The child draws with SDL, which swallows SIGTERM unless the run catches it first."""
    import os
    import signal
    import subprocess
    import sys

    words = ["--tasks", "cartpole-pixels", "--steps", "100000", "--json", str(tmp_path / "runs.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sample_efficiency", *words],
        cwd=sample_efficiency.ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list(tmp_path.glob("benchmark-*/run/LATEST")):  # the environment exists, SDL is loaded
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped" in error
    assert not list(tmp_path.glob("benchmark-*"))
