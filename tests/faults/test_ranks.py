"""A run of two processes through the command line: what it leaves, and that one that was killed leaves the same."""

import json
import os
import signal
from dataclasses import replace

import pytest

from agents.cli import main, train_run
from agents.log import read_metrics
from agents.stopping import guarded
from tests.faults.runs import at_call, fingerprint, kill_itself, measured
from tests.learning.tools import TINY, changed
from tests.processes import Group
from worldmodels.checkpoint import list_checkpoints, load
from worldmodels.saved import load_replay

pytestmark = pytest.mark.xdist_group("ranks")
OPTIONS = changed(TINY, "steps=160", "env.num_envs=2", "evaluation.every=80", "train.keep=3", "train.warmup_steps=40")


def run_of_two(run, *, resume=False, before=lambda rank: None, options=OPTIONS):
    """`wm train` in two processes; `before` is called in each of them first."""
    from agents.trainer import Trainer

    options = replace(options, run=str(run), resume=resume)

    def work(rank):
        Trainer._draw = lambda self, kept: None
        before(rank)
        return guarded(lambda: train_run(options))

    return Group(work, run.with_name(run.name + ".log"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    group = run_of_two(run)
    assert group.wait() == [0, 0], group.said(0) + group.said(1)
    assert group.said(1) == "" and "run folder" in group.said(0)
    return run


def test_a_run_of_two_processes_counts_the_steps_of_both_and_keeps_the_experience_of_both(whole):
    checkpoint = load(whole)
    counters, replay = checkpoint.parts["counters"]["json"], load_replay(whole)
    assert counters["step"] == len(replay) >= OPTIONS.steps and replay.streams == 4
    starts = [episode["obs"]["obs"][0].tolist() for episode in replay.iter_episodes()]
    assert (
        len({str(start) for start in starts}) == len(starts) == sum(checkpoint.parts["collector"]["json"]["episodes"])
    )
    prefixes = {name.partition("-")[0] for name in checkpoint.segments}
    assert prefixes == {"rank0", "rank1"} and checkpoint.parts["ranks"]["json"] == 2
    assert counters["updates"] > 20
    names = [name for line in read_metrics(whole) for name in line if name == "evaluation/mean"]
    assert len(names) == counters["evaluations"] >= 2
    assert json.loads((whole / "evaluation.json").read_text())["episodes"] == 2
    assert not (whole / ".lock").exists()


@pytest.mark.parametrize(("rank", "where", "count"), [(1, "update", 14), (0, "save", 130)])
def test_a_killed_run_of_two_processes_resumes_to_the_same_bytes(rank, where, count, whole, tmp_path):
    run = tmp_path / "run"

    def before(own):
        if own == rank:
            at_call(where, count, kill_itself(signal.SIGKILL))()

    group = run_of_two(run, before=before)
    codes = group.wait()
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 2
    assert group.said(1 - rank).splitlines()[-1].startswith("wm: one of the 2 processes of this run has ended")
    step = list_checkpoints(run)[-1].step
    assert 0 < step < list_checkpoints(whole)[-1].step
    again = run_of_two(run, resume=True)
    assert again.wait() == [0, 0], again.said(0) + again.said(1)
    assert f"resuming from step {step:,}" in again.said(0) and again.said(1) == ""
    assert fingerprint(run) == fingerprint(whole) and measured(run) == measured(whole)


def test_a_run_of_two_processes_does_not_go_on_with_another_number(whole, capfd):
    options = replace(OPTIONS, run=str(whole), resume=True)
    assert guarded(lambda: train_run(options)) == 2
    said = capfd.readouterr().err
    assert "trained by 2 processes, now there are 1: start it by torchrun with 2 processes" in said
    assert len(said.splitlines()) == 1


def test_a_sweep_under_torchrun_is_refused(monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setitem(os.environ, name, value)
    assert main(["train", "-m", "seed=0,1"]) == 2
    assert "torchrun" in capsys.readouterr().err
