"""Runs to Markdown tables: steps to solve, seconds, and whether a solved task stays solved."""

import math
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.results import LAST, Point, Run, Side, median_or_never, solved_at
from benchmarks.tasks import TASKS, Task

SIDES: tuple[Side, ...] = ("ours", "sb3")


def solve_table(runs: Sequence[Run]) -> str:
    """Return one row a task: bar, goal, and for both sides the median and every seed's steps and seconds to solve.

    `> n`: the run ended after n without having solved the task; such a run counts as slower than any that did.
    """
    head = ["task", "bar", "goal", "worldmodels: steps", "seconds", "Stable-Baselines3: steps", "seconds"]
    rows = []
    for task in TASKS.values():
        own = [run for run in runs if run.task == task.name]
        if own:
            cells = [cell for side in SIDES for cell in _solve_cells(task, [run for run in own if run.side == side])]
            rows.append([task.name, f"{task.bar:g}", f"{task.goal:,}", *cells])
    return _markdown(head, rows)


def detail_table(runs: Sequence[Run]) -> str:
    """Return one row a task and side: the last evaluations of each seed, time spent on evaluations, peak memory."""
    head = ["task", "agent", "seeds", f"mean of the last {LAST} evaluations", "trained", "evaluation", "peak memory"]
    rows = []
    for task in TASKS.values():
        for side in SIDES:
            own = _by_seed(run for run in runs if (run.task, run.side) == (task.name, side))
            if not own:
                continue
            last = [run.last_mean() for run in own]
            trained = [run.points[-1].trained_s if run.points else math.nan for run in own]
            length = max((run.points[-1].step for run in own if run.points), default=0)
            rows.append(
                [
                    task.name,
                    own[0].agent,
                    " ".join(str(run.seed) for run in own),
                    f"**{statistics.median(last):,.1f}** ({'; '.join(f'{value:,.1f}' for value in last)})",
                    f"{length:,} steps, {statistics.median(trained):,.0f} s",
                    f"{statistics.median(run.evaluation_s for run in own):,.0f} s",
                    f"{max(run.peak_bytes for run in own) / 1e6:,.0f} MB",
                ]
            )
    return _markdown(head, rows)


def run_line(run: Run) -> str:
    """Return one finished run as a line of text."""
    point = solved_at(run.points, TASKS[run.task].bar)
    steps = run.points[-1].step if run.points else 0
    solved = (
        f"not solved in {steps:,} steps" if point is None else f"solved at {point.step:,} ({point.trained_s:,.1f} s)"
    )
    return (
        f"{run.task}, {run.agent}, seed {run.seed}: {solved}; last {LAST} evaluations {run.last_mean():,.1f}; "
        f"evaluation took {run.evaluation_s:,.1f} s; {run.peak_bytes / 1e6:,.0f} MB"
    )


def _solve_cells(task: Task, runs: Sequence[Run]) -> tuple[str, str]:
    if not runs:
        return "-", "-"
    own = _by_seed(runs)
    solved = [solved_at(run.points, task.bar) for run in own]
    ends = [run.points[-1] if run.points else Point(0, 0.0, math.nan, 0.0) for run in own]
    name = "" if own[0].side == "ours" else f"{own[0].agent} "
    steps = _with_median([point and point.step for point in solved], [end.step for end in ends])
    seconds = _with_median([point and point.trained_s for point in solved], [end.trained_s for end in ends])
    return name + steps, seconds


def _with_median(values: Sequence[float | None], ends: Sequence[float]) -> str:
    """Median and all values as text; `> end` where a run ended without one."""
    each = [f"> {end:,.0f}" if value is None else f"{value:,.0f}" for value, end in zip(values, ends, strict=True)]
    median = median_or_never(values)
    if math.isinf(median):
        median_text = f"> {min(end for value, end in zip(values, ends, strict=True) if value is None):,.0f}"
    else:
        median_text = f"{median:,.0f}"
    return f"**{median_text}** ({'; '.join(each)})"


def _by_seed(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.seed)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
