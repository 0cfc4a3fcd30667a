"""Rows 1 and 3: a run that is killed or stopped at any moment, and resumed, ends with the bytes of one that was not."""

import random
import signal
import time
from typing import Any, NamedTuple

import pytest

from tests.faults.runs import OPTIONS, Child, at_call, barrier, fingerprint, kill_itself, measured
from tests.learning.tools import tiny_run
from worldmodels.checkpoint import list_checkpoints, load
from worldmodels.run_folder import never_saved

pytestmark = pytest.mark.xdist_group("kill")


class Reference(NamedTuple):
    """An uninterrupted run: what it left, the seconds it took, and how often each place was passed."""

    fingerprint: dict[str, Any]
    metrics: list[dict[str, Any]]
    seconds: float
    calls: dict[str, int]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    child = Child(run, resume=False)
    assert child.wait() == 0, child.said()
    seconds = time.monotonic() - began
    found = fingerprint(run)
    updates = load(run).parts["counters"]["json"]["updates"]
    calls = {"collect": found["step"] // OPTIONS.env.num_envs, "update": updates, "save": 60}
    return Reference(found, measured(run), seconds, calls)


def check_resumes(run, whole, logged=True):
    """Resume to the end from where the run says that it will, and compare everything with the uninterrupted run."""
    resume, begun, step = (run / "config.yaml").exists(), never_saved(run), barrier(run)
    child = Child(run, resume=resume)
    assert child.wait() == 0, child.said()
    expected = "run folder" if not resume else "starting at step 0" if begun else f"resuming from step {step:,}\n"
    assert expected in child.said()
    assert fingerprint(run) == whole.fingerprint
    if logged:
        assert measured(run) == whole.metrics


def kill_by_the_clock(run, whole, rng):
    """SIGKILL at a moment that is uniform in the time that a run takes."""
    for _ in range(20):
        child = Child(run, resume=False)
        if child.stop(signal.SIGKILL, rng.uniform(0, whole.seconds)) == -signal.SIGKILL:
            return
        run = run.with_name(run.name + "+")  # it was faster this time and is finished: again
    pytest.fail("every run was finished before it was killed")


def kill_by_the_step(run, whole, rng):
    """SIGKILL ahead of a step that is uniform in the steps of a run."""
    count = rng.randint(1, whole.calls["collect"])
    child = Child(run, resume=False, before=at_call("collect", count, kill_itself(signal.SIGKILL)))
    assert child.wait() == -signal.SIGKILL, child.said()


def killed(folder, whole, how, seed):
    run = folder / f"{how.__name__} {seed}"
    how(run, whole, random.Random(seed))
    run = max(folder.glob(f"{run.name}*[0-9+]"), key=lambda path: len(path.name), default=run)
    check_resumes(run, whole)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", [kill_by_the_clock, kill_by_the_step])
def test_1_a_run_that_is_killed_ends_like_one_that_was_not(how, seed, whole, tmp_path):
    killed(tmp_path, whole, how, 100 + seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("how", [kill_by_the_clock, kill_by_the_step])
def test_1_fifty_kills(how, seed, whole, tmp_path):
    killed(tmp_path, whole, how, seed)


def stopped(folder, whole, where, number, seed):
    run = folder / "run"
    count = random.Random(seed).randint(1, whole.calls[where])
    child = Child(run, resume=False, before=at_call(where, count, kill_itself(number)))
    assert child.wait() == 128 + number, child.said()
    step = barrier(run) or 0
    assert f"resumes from {step:,}\n" in child.said() and "Traceback" not in child.said()
    check_resumes(run, whole)


@pytest.mark.parametrize(("where", "number"), [("update", signal.SIGTERM), ("save", signal.SIGINT)])
def test_3_a_signal_stops_cleanly(where, number, whole, tmp_path):
    stopped(tmp_path, whole, where, number, 100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["collect", "update", "save"])
def test_3_thirty_signals(where, number, seed, whole, tmp_path):
    stopped(tmp_path, whole, where, number, seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_3_the_second_signal_ends_it_at_once_and_it_resumes_all_the_same(number, whole, tmp_path):
    run = tmp_path / "run"
    child = Child(run, resume=False, before=at_call("update", 9, kill_itself(number, number)))
    assert child.wait() == 128 + number
    assert "resumes from" not in child.said()
    check_resumes(run, whole)


def test_1_the_first_checkpoint_is_written_at_step_0_before_any_collection(tmp_path):
    run = tmp_path / "run"
    child = Child(run, resume=False, before=at_call("collect", 1, kill_itself(signal.SIGKILL)))
    assert child.wait() == -signal.SIGKILL
    assert [entry.step for entry in list_checkpoints(run)] == [0]
    with tiny_run(tmp_path / "fresh", options=OPTIONS) as (trainer, _):
        trainer.restore(load(run).parts)
        assert trainer.step == 0 and trainer.replay.rows == 0 and trainer.learner.updates == 0


@pytest.mark.parametrize("count", [1, 2, 12])
def test_1_killed_before_the_first_checkpoint_was_whole_a_run_begins_again_and_says_so(count, whole, tmp_path):
    run = tmp_path / "run"
    child = Child(run, resume=False, before=at_call("save", count, kill_itself(signal.SIGKILL)))
    assert child.wait() == -signal.SIGKILL
    if count > 1:
        assert (run / "config.yaml").exists() and never_saved(run)
    check_resumes(run, whole)
