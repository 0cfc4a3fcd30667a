"""Files that are there whole or not at all, and are never followed out of their folder.

A file is written under a temporary name, flushed to the disk, renamed, and its folder is flushed: after a crash at any
moment the final name holds either nothing or every byte.
"""

import errno
import hashlib
import os
import re
import stat
from pathlib import Path

from worldmodels.errors import CheckpointError

TEMPORARY = ".tmp-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def checked_name(name: object) -> str:
    """Return `name` if it is one plain file name; raise CheckpointError if it could lead anywhere else."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(f"file name leaves the checkpoint: {str(name)[:80]!r}")
    return name


def write_file(directory: Path, name: str, data: bytes) -> None:
    """Write `data` to `directory/name`, durably and all at once.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = directory / (TEMPORARY + checked_name(name))
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / name)
        flush_directory(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(error, directory, len(data)) from error


def write_error(error: OSError, directory: Path, size: int) -> CheckpointError:
    """Return the error to raise when `size` bytes could not be written into `directory`."""
    if error.errno in _FULL:
        needed = f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size:,} bytes"
        return CheckpointError(f"no space left in {directory}: needed {needed}")
    return CheckpointError(f"cannot write to {directory}: {error.strerror} (errno {error.errno})")


def flush_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(directory: Path, name: str, limit: int) -> bytes:
    """Return the bytes of the plain file `directory/name`.

    Raises:
        CheckpointError: the name leaves the folder, or the file is a link, no plain file, missing, or larger than
            `limit` bytes (nothing is read then).
    """
    path = directory / checked_name(name)
    if directory.is_symlink():
        raise CheckpointError(f"file name leaves the checkpoint: {directory} is a symbolic link")
    if path.is_symlink():
        raise CheckpointError(f"file name leaves the checkpoint: {path} is a symbolic link")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a plain file")
            if status.st_size > limit:
                raise CheckpointError(f"{path} is {status.st_size:,} bytes, expected at most {limit:,}")
            return file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
