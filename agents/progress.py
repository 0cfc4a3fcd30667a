"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

LINE_EVERY_S = 10.0
"""Seconds between plain lines; an evaluation always gets one."""
_SHOWN = {"train/return": "return", "evaluation/mean": "evaluation"}


class Progress:
    """Shows the step, the newest returns, the speed and the time left.

    total: simulator steps of the whole run. step: where it begins. stream: where it is shown (standard error).
    """

    def __init__(self, total: int, *, step: int = 0, stream: TextIO | None = None) -> None:
        self.total = total
        self._stream = stream if stream is not None else sys.stderr
        self._shown: dict[str, float] = {}
        self._start = self._step = step
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("training", total=total, completed=step, text="", speed="")
            self._bar.start()

    def restart(self, step: int) -> None:
        """Go on from `step`; speed and time left are measured from here."""
        self._start = self._step = step
        self._began = self._last = time.monotonic()

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show `step` (simulator steps so far) and the returns among `metrics`."""
        new = {_SHOWN[name]: value for name, value in (metrics or {}).items() if name in _SHOWN}
        self._shown.update(new)
        self._step = max(step, self._step)
        now = time.monotonic()
        if self._bar is not None:
            text = "  ".join(part for part in (self._beyond(), self._returns()) if part)
            done = min(self._step, self.total)
            self._bar.update(self._task, completed=done, text=text, speed=self._speed(now - self._began))
        elif "evaluation" in new or now - self._last >= LINE_EVERY_S:
            self._last = now
            print(self.line(now - self._began), file=self._stream, flush=True)

    def line(self, seconds: float) -> str:
        """Return `step 1,000 of 5,000  return 35.2  212 steps/s  19 s left`, `seconds` after the start."""
        count = f"step {min(self._step, self.total):,} of {self.total:,}"
        parts = [count, self._beyond(), self._returns(), self._speed(seconds)]
        if self._start < self._step < self.total:
            left = seconds * (self.total - self._step) / (self._step - self._start)
            parts.append(f"{duration(left)} left")
        return "  ".join(part for part in parts if part)

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Take the bar down; what it showed last stays."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def _beyond(self) -> str:
        """What is played beyond the budget: every episode goes on to its end."""
        over = self._step - self.total
        return f"+{over:,} to finish" if over > 0 else ""

    def _speed(self, seconds: float) -> str:
        speed = (self._step - self._start) / seconds if seconds > 0 else 0.0
        return f"{speed:,.0f} steps/s" if speed >= 10 else f"{speed:.2g} steps/s" if speed > 0 else ""

    def _returns(self) -> str:
        return "  ".join(f"{name} {value:,.4g}" for name, value in self._shown.items())


def duration(seconds: float) -> str:
    """Return seconds as people say them: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _bar(stream: TextIO) -> Any:  # noqa: ANN401 - rich is loaded only where there is a terminal
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=Console(file=stream),
        refresh_per_second=4,
    )
