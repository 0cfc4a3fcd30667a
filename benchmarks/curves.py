"""Learning curves of a benchmark: every seed thin, the median thick, ours and the baseline in one picture a task."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.results import Run
from benchmarks.table import SIDES
from benchmarks.tasks import TASKS, Task

COLOURS = {"ours": "#1d4ed8", "sb3": "#c2410c"}
LOGARITHMIC = 4
"""Steps are drawn on a logarithmic axis where one side's runs are this many times as long as the other's."""


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw `sample-efficiency-TASK.png` for every task that has runs and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for task in TASKS.values():
        own = [run for run in runs if run.task == task.name and run.points]
        if own:
            pictures.append(folder / f"sample-efficiency-{task.name}.png")
            _picture(task, own, pictures[-1])
    return pictures


def median_curve(runs: Sequence[Run], every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps (N,) and the median over seeds of the means there (N,), as far as the shortest run goes.

    Seeds are evaluated some steps apart where episodes or parallel environments do not divide the interval, so their
    means are interpolated to common steps.
    """
    first, last = max(run.points[0].step for run in runs), min(run.points[-1].step for run in runs)
    steps = np.arange(first, last + 1, every)
    means = [np.interp(steps, [p.step for p in run.points], [p.mean for p in run.points]) for run in runs]
    return steps, np.median(means, axis=0)


def _picture(task: Task, runs: Sequence[Run], path: Path) -> None:
    figure = Figure(figsize=(7.2, 4.2), dpi=150, facecolor="white", layout="constrained")
    axis = figure.subplots()
    for side in SIDES:
        own = [run for run in runs if run.side == side]
        for run in own:
            steps, means = [p.step for p in run.points], [p.mean for p in run.points]
            axis.plot(steps, means, color=COLOURS[side], linewidth=0.7, alpha=0.4)
        if own:
            label = f"{own[0].agent}, median of {len(own)} seeds"
            axis.plot(*median_curve(own, task.every), color=COLOURS[side], linewidth=2.2, label=label)
    axis.axhline(task.bar, color="#4b5563", linewidth=1, linestyle="--", label=f"bar {task.bar:g}")
    _finish(axis, task, runs)
    FigureCanvasAgg(figure).print_png(str(path))


def _finish(axis: Axes, task: Task, runs: Sequence[Run]) -> None:
    lengths = [max((run.points[-1].step for run in runs if run.side == side), default=0) for side in SIDES]
    if min(lengths) > 0 and max(lengths) / min(lengths) >= LOGARITHMIC:
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_title(task.name, fontsize=11)
    axis.set_xlabel("simulator steps")
    axis.set_ylabel("mean return of an evaluation")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
