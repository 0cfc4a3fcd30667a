"""One process per run folder. The kernel holds the lock, so a process that died, however it died, holds it no more."""

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from worldmodels.errors import CheckpointError
from worldmodels.files import write_error

_held: set[int] = set()


def _close_in_child() -> None:
    """Let go of the descriptors that a fork has copied: a worker that outlives its parent must not hold the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class RunLock:
    """Context manager that holds `run_dir` for this process; the file `.lock` in it names process and host.

    Raises:
        CheckpointError: at once, where another process (or another lock of this one) holds the folder, or the folder
            cannot be written.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / ".lock"
        self._descriptor = -1

    def __enter__(self) -> Self:
        while self._descriptor < 0:
            self._descriptor = self._attempt()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)
        _held.add(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor not in _held:  # this is a forked child: the parent holds the lock
            return
        _held.discard(descriptor)
        self.path.unlink(missing_ok=True)
        os.close(descriptor)

    def _attempt(self) -> int:
        """Return the descriptor of the locked file, or -1 where its holder removed it in the meantime."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(error, self.path.parent, 0) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise CheckpointError(
                f"run directory is in use by {holder}: {self.path.parent}. Wait for it, stop it, or choose another run="
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise write_error(error, self.path.parent, 0) from error
        if self._is_current(descriptor):
            return descriptor
        os.close(descriptor)
        return -1

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False
