"""How a command ends: exit codes for mistakes and signals, one line instead of a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from worldmodels.errors import WorldModelsError

USER_ERROR = 2


def guarded(command: Callable[[], int], *, debug: bool = False) -> int:
    """Run `command` and return its exit code, with failures and signals as `main` describes them."""
    signals = _Signals()
    with signals:
        try:
            code = command()
            sys.stdout.flush()
            return code
        except WorldModelsError as error:
            if debug:
                raise
            print(f"wm: {error}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt as stop:
            print(f"wm: {_interrupted(stop)}", file=sys.stderr)
            return 128 + signals.number
        except BrokenPipeError:  # whoever read the output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
            return 128 + signal.SIGPIPE


def _interrupted(stop: KeyboardInterrupt) -> str:
    step, barrier = getattr(stop, "step", None), getattr(stop, "barrier", None)
    if step is None or barrier is None:
        return "interrupted"
    return f"interrupted at {step:,}, resumes from {barrier:,}"


class _Signals:
    """Turns the first Ctrl-C or SIGTERM into KeyboardInterrupt; the second ends the process at once."""

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._stop)
            except ValueError:  # not the main thread: whoever owns that one handles signals
                return

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(128 + number)
        self.number = signal.Signals(number)
        raise KeyboardInterrupt
