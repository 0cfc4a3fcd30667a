"""Stands between code and the file system: counts what it does, and stops or fails it at any one operation."""

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMES = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
DIED = 77


@contextmanager
def watched(before: Callable[[int, str, tuple], None]) -> Iterator[None]:
    """Call before(number, name, arguments) ahead of every file operation, numbered from 0."""
    real = {name: getattr(os, name) for name in NAMES}
    count = 0

    def wrap(name):
        def operation(*args, **kwargs):
            nonlocal count
            number, count = count, count + 1
            before(number, name, args)
            return real[name](*args, **kwargs)

        return operation

    for name in NAMES:
        setattr(os, name, wrap(name))
    try:
        yield
    finally:
        for name in NAMES:
            setattr(os, name, real[name])


def trace(action: Callable[[], object]) -> list[tuple[str, tuple]]:
    """Return (name, arguments) of every file operation of `action`."""
    found = []
    with watched(lambda number, name, args: found.append((name, args))):
        action()
    return found


def die_before(k: int, action: Callable[[], object], *, torn: bool) -> int:
    """Run `action` in a forked child that ends without warning before operation k; return its exit status.

    torn: where operation k is a write, half of it reaches the file first.
    """
    write = os.write

    def stop(number, name, args):
        if number == k:
            if torn and name == "write":
                write(args[0], args[1][: len(args[1]) // 2])
            os._exit(DIED)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            with watched(stop):
                action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fail_at(k: int, action: Callable[[], object], number: int = errno.ENOSPC) -> None:
    """Run `action` with operation k raising OSError(number)."""

    def stop(count, name, args):
        if count == k:
            raise OSError(number, os.strerror(number))

    with watched(stop):
        action()
