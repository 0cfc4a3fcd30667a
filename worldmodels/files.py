"""Files that are there whole or not at all, and are never followed out of their folder.

A file is written under a temporary name, flushed to the disk, renamed, and its folder is flushed: after a crash at any
moment the final name holds either nothing or every byte.
"""

import errno
import hashlib
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

from worldmodels.errors import CheckpointError
from worldmodels.memory import available_bytes

TEMPORARY = ".tmp-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_LARGE = 2**26  # bytes; asking for the available memory costs a tenth of a millisecond
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
        OSError: the disk is full or the folder cannot be written; nothing is left behind. See `write_error`.
    """
    temporary = directory / (TEMPORARY + checked_name(name))
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, directory / name)
        flush_directory(directory)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
            `limit` bytes or than the memory that is available (nothing is read then).
    """
    with _open_plain(directory, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CheckpointError(f"{directory / name} is {size:,} bytes, expected at most {limit:,}")
        _check_memory(directory / name, size)
        try:
            return file.read(size)
        except OSError as error:
            raise CheckpointError(f"{directory / name} cannot be read: {error.strerror}") from error


def measure(directory: Path, name: str) -> tuple[int, str]:
    """Return size and SHA-256 of the plain file `directory/name`; raises as `read_file` does."""
    with _open_plain(directory, name) as file:
        _check_memory(directory / name, os.fstat(file.fileno()).st_size)
        try:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{directory / name} cannot be read: {error.strerror}") from error


def size_of(directory: Path, name: str) -> int:
    """Return the size of the plain file `directory/name` in bytes; raises as `read_file` does."""
    with _open_plain(directory, name) as file:
        return os.fstat(file.fileno()).st_size


def _check_memory(path: Path, size: int) -> None:
    """Refuse a file that could not be held in memory; a sparse file of a terabyte costs an attacker nothing."""
    if size > _LARGE and size > available_bytes():
        raise CheckpointError(f"{path} is {size:,} bytes, more than the memory that is available")


def _open_plain(directory: Path, name: str) -> BufferedReader:
    path = directory / checked_name(name)
    for part in (directory, path):
        if part.is_symlink():
            raise CheckpointError(f"file name leaves the checkpoint: {part} is a symbolic link")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is not a plain file")
    return os.fdopen(descriptor, "rb")
