"""One process per run folder; a process that died holds nothing."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from worldmodels.errors import CheckpointError
from worldmodels.lock import RunLock

HOLD = """
import sys
from worldmodels.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_folder(holder, tmp_path):
    text = f"run directory is in use by pid {holder.pid} on host {socket.gethostname()}: {tmp_path}"
    with pytest.raises(CheckpointError, match=f"^{re.escape(text)}"), RunLock(tmp_path):
        pass
    holder.communicate("", timeout=30)
    with RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    assert (tmp_path / ".lock").exists()
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"pid {os.getpid()} on host {socket.gethostname()}\n"
    assert not (tmp_path / ".lock").exists()


def test_a_worker_that_outlives_its_parent_holds_nothing(tmp_path):
    code = HOLD.replace(
        'print("held", flush=True)',
        'import os\n    child = os.fork()\n    os.write(1, b"held\\n" if child else b"child\\n")',
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert sorted([process.stdout.readline(), process.stdout.readline()]) == ["child\n", "held\n"]
        process.kill()  # the child lives on until its input ends
        process.wait(timeout=30)
        with RunLock(tmp_path):
            process.stdin.close()
            assert process.stdout.read() == ""  # the child ended, and left the lock file of this process alone
            assert (tmp_path / ".lock").exists()


def test_one_process_cannot_hold_it_twice(tmp_path):
    with RunLock(tmp_path), pytest.raises(CheckpointError, match="in use by pid"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


def test_it_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path):
        pass


def test_a_lock_file_that_its_holder_has_just_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    first, flock = RunLock(tmp_path).__enter__(), fcntl.flock

    def late(descriptor, operation):  # the second process has opened the file; before it locks, the first one leaves
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(None, None, None)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(CheckpointError, match="in use by"):
            RunLock(tmp_path).__enter__()


def test_never_two_at_a_time(tmp_path):
    inside, worst, entered = [], [], []

    def compete():
        for _ in range(300):
            try:
                with RunLock(tmp_path):
                    inside.append(1)
                    worst.append(len(inside))
                    inside.pop()
                    entered.append(1)
            except CheckpointError:
                continue

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(worst) == {1} and len(entered) > 50


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write to .*missing: No such file or directory \(errno 2\)"):
        RunLock(tmp_path / "missing").__enter__()


def test_locking_loads_no_torch():
    code = "import sys, worldmodels.lock, worldmodels.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
