"""A fault test that cannot fail is void: here each guard is taken away on purpose, and its test must fail.

The tests run in a forked process whose code is broken in one place; the last test runs all of them on sound code.
"""

import fcntl
import multiprocessing.forkserver
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import agents.learner
import agents.parts
import worldmodels.checkpoint
import worldmodels.files
import worldmodels.run_folder
from envs.conform import LeafCheck
from envs.spaces import ActionCodec
from worldmodels.replay import Replay

ROOT = Path(__file__).parents[2]
FAULTS = "tests/faults"


def one_leaf_is_left_out():
    real = agents.parts.optimizer_state

    def forgetful(optimizer):
        state = real(optimizer)
        tensors = {name: value for name, value in state["tensors"].items() if name != "0.exp_avg_sq"}
        return {"tensors": tensors, "json": {**state["json"], "slots": sorted(tensors)}}

    agents.parts.optimizer_state = forgetful
    agents.parts.restore_optimizer = lambda optimizer, state: None


def random_state_is_left_out():
    agents.parts.seeding.restore = lambda state: None


def write_without(flush: bool, swallow: type[BaseException] | tuple[()] = ()) -> Callable:
    """A write_file that lacks one thing."""

    def write_file(directory, name, data):
        temporary = directory / (worldmodels.files.TEMPORARY + name)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(descriptor, data)
            if flush:
                os.fsync(descriptor)
            os.close(descriptor)
            os.replace(temporary, directory / name)
            worldmodels.files.flush_directory(directory)
        except swallow:
            return

    return write_file


def use(write_file):
    for module in (worldmodels.checkpoint, worldmodels.run_folder):
        module.write_file = write_file


def names_come_before_the_data_is_on_the_disk():
    use(write_without(flush=False))


def a_permission_error_is_swallowed():
    use(write_without(flush=True, swallow=PermissionError))


def what_was_written_is_not_read_back():
    worldmodels.checkpoint._verify = lambda path, manifest: None


def hashes_are_not_compared():
    known = {}

    def digest(data):
        return known.setdefault(len(data), worldmodels.files.digest(data))

    worldmodels.checkpoint.digest = digest


def needed_segments_are_pruned():
    real = worldmodels.checkpoint.prune
    worldmodels.checkpoint.prune = lambda run, kept, segments: real(run, kept, set(list(segments)[1:]))


def the_lock_holds_nobody():
    fcntl.flock = lambda descriptor, operation: None


def everything_counts_as_finite():
    torch.isfinite = lambda tensor: torch.ones_like(tensor, dtype=torch.bool)


def observations_are_not_examined():
    LeafCheck._examine = lambda self, value: None


def arrays_are_not_copied():
    LeafCheck.__call__ = lambda self, value: value


def actions_are_not_checked():
    ActionCodec._check_shape = lambda self, action: None
    ActionCodec._index = lambda self, action, low, high: int(action[low:high].argmax())


def a_time_limit_counts_as_death():
    real = Replay.add

    def add(self, stream, action, reward, terminated, truncated, obs):
        real(self, stream, action, reward, terminated or truncated, truncated, obs)

    Replay.add = add


COMPLETE = "tests/faults/test_complete.py::test_"
CHECKPOINT = "tests/faults/test_checkpoint.py::test_"
ENVIRONMENT = "tests/faults/test_environment.py::test_"
BROKEN = {
    one_leaf_is_left_out: COMPLETE + "10_everything_that_a_run_changed_is_the_same_after_a_resume[default]",
    random_state_is_left_out: (
        "tests/faults/test_trainer.py::test_stopped_anywhere_and_resumed_equals_uninterrupted[collect-100]"
    ),
    names_come_before_the_data_is_on_the_disk: (
        CHECKPOINT + "every_file_is_on_the_disk_before_it_has_its_name_and_latest_comes_last"
    ),
    a_permission_error_is_swallowed: CHECKPOINT + "a_run_folder_that_cannot_be_written_is_an_error_at_the_start",
    what_was_written_is_not_read_back: (
        CHECKPOINT + "a_disk_that_stores_something_else_is_noticed_before_the_old_checkpoint_goes"
    ),
    hashes_are_not_compared: CHECKPOINT + "every_flipped_bit_is_detected",
    needed_segments_are_pruned: CHECKPOINT + "whatever_is_kept_can_be_loaded_and_nothing_else_stays",
    the_lock_holds_nobody: "tests/worldmodels/test_lock.py::test_a_second_process_is_told_who_holds_the_folder",
    everything_counts_as_finite: "tests/faults/test_numerics.py::test_bad_reward_is_named",
    observations_are_not_examined: ENVIRONMENT + "33_at_reset_there_is_nothing_to_end",
    arrays_are_not_copied: ENVIRONMENT + "37_stored_observations_do_not_change_afterwards",
    actions_are_not_checked: ENVIRONMENT + "42_no_bad_action_reaches_the_environment",
    a_time_limit_counts_as_death: "tests/worldmodels/test_replay.py::test_a_window_holds_exactly_what_was_added",
}
"""What is broken -> the test that must notice."""


def outcome(breaks: Callable[[], object], tests: list[str], log: Path) -> int:
    """Exit code of pytest on `tests`, in a forked process that was broken first: 0 passed, 1 failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
            for name in [name for name in os.environ if name.startswith("PYTEST_")]:
                del os.environ[name]
            multiprocessing.forkserver._forkserver.__init__()  # the parent's fork server is no child of this process
            os.chdir(ROOT)
            breaks()
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-n", "0", *tests]))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_without_its_guard_the_test_fails(breaks, tmp_path):
    log = tmp_path / "log"
    code = outcome(breaks, [BROKEN[breaks]], log)
    assert code == 1, log.read_text()[-3000:]
    assert "1 failed" in log.read_text() and "error" not in log.read_text().splitlines()[-1]


def test_with_every_guard_all_of_them_pass(tmp_path):
    log = tmp_path / "log"
    assert outcome(lambda: None, sorted(set(BROKEN.values())), log) == 0, log.read_text()[-3000:]
