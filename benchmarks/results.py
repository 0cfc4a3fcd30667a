"""What one training run measured, when it counts as solved, and the file that collects runs. Standard library alone."""

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from worldmodels.errors import ConfigError

Side = Literal["ours", "sb3"]
IN_A_ROW = 3
"""Evaluations in a row that have to reach the bar: a single one above it is often luck."""
LAST = 10
"""Evaluations at the end of a run whose mean says whether a solved task stays solved."""


@dataclass(frozen=True)
class Point:
    """One evaluation: simulator steps so far, seconds of training so far (evaluations left out), mean return of the
    episodes, seconds that the evaluation took.
    """

    step: int
    trained_s: float
    mean: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One seed of one side on one task.

    agent: the algorithm's name. points: evaluations, in order of steps. peak_bytes: largest resident set of the run's
    own process. settings: everything that was set, as plain data. versions: library -> version.
    """

    task: str
    side: Side
    agent: str
    seed: int
    points: tuple[Point, ...]
    peak_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two runs the same measurement: task, side, seed."""
        return self.task, self.side, self.seed

    def last_mean(self, count: int = LAST) -> float:
        """Mean return of the last `count` evaluations, of all where there are fewer; NaN without any."""
        last = [point.mean for point in self.points[-count:]]
        return statistics.fmean(last) if last else math.nan

    @property
    def evaluation_s(self) -> float:
        """Seconds spent on evaluations in the whole run."""
        return sum(point.seconds for point in self.points)


def solved_at(points: Sequence[Point], bar: float, in_a_row: int = IN_A_ROW) -> Point | None:
    """Return the first of `in_a_row` consecutive evaluations that all reach `bar`, None where there are none such."""
    streak = 0
    for index, point in enumerate(points):
        streak = streak + 1 if point.mean >= bar else 0
        if streak == in_a_row:
            return points[index - in_a_row + 1]
    return None


def median_or_never(values: Iterable[float | None]) -> float:
    """Median where None stands for "never": infinity if the middle of the values is never reached."""
    return statistics.median([math.inf if value is None else value for value in values])


def load(file: str | Path) -> list[Run]:
    """Return the runs of a file, none where there is no such file.

    Raises: ConfigError: the file was not written by `save`.
    """
    file = Path(file)
    if not file.exists():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["runs"]
        return [Run(**row | {"points": tuple(Point(**point) for point in row["points"])}) for row in rows]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: expected the results that this benchmark writes ({error!r})") from error


def save(file: str | Path, runs: Iterable[Run]) -> None:
    """Write the runs, sorted, whole or not at all: an interrupted benchmark keeps what was finished."""
    file = Path(file)
    rows = [asdict(run) for run in sorted(runs, key=lambda run: run.key)]
    partial = file.with_name(file.name + ".partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps({"runs": rows}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


def merge(groups: Iterable[Iterable[Run]]) -> list[Run]:
    """Return the runs of all groups.

    Raises: ConfigError: the same task, side and seed twice with different numbers. Which of them would count is not
        for a program to choose.
    """
    found: dict[tuple[str, str, int], Run] = {}
    for run in (run for group in groups for run in group):
        if found.setdefault(run.key, run) != run:
            raise ConfigError(f"two different runs of {run.task}, {run.side}, seed {run.seed}: merge only one of them")
    return list(found.values())
