"""Rows of a benchmark in a file of lines: what was measured is kept as soon as it is there, and not measured again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.statistics import bootstrap_interval, iqm

Row = dict[str, Any]


def load_rows(file: Path | None) -> list[Row]:
    """Return the rows of a file, none where there is no file; a last line that was cut off is left out."""
    if file is None or not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def append_row(file: Path | None, row: Row) -> None:
    """Add one row to the file."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose values are the wanted ones."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def with_interval(values: Sequence[float], form: str = ".0f") -> str:
    """Interquartile mean with its 95 % bootstrap interval and the median, `never` where the middle is infinite."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return "-"
    if not np.isfinite(array).all():
        median = np.median(array)
        reached = f"{int(np.isfinite(array).sum())} of {len(array)} reach it"
        return f"median {median:{form}}, {reached}" if np.isfinite(median) else f"never at the median, {reached}"
    low, high = bootstrap_interval(array, seed=0)
    return f"{float(iqm(array)):{form}} [{low:{form}}, {high:{form}}], median {np.median(array):{form}}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
