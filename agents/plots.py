"""Pictures of runs: how returns grew, and methods side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.compare import Comparison, performance_profile
from agents.log import TRAIN_RETURN, read_metrics
from agents.scores import RunScore
from worldmodels.errors import CheckpointError

CURVE_FILE = "learning_curve.png"
_NAMES = ("iqm", "iqm_low", "iqm_high")


def learning_curve(run: str | Path) -> Path:
    """Draw the run's returns against simulator steps and return the picture, `RUN/learning_curve.png`.

    Dots are training episodes, the line is the interquartile mean of each evaluation with its 95 % interval, the
    diamond that of the last evaluation, of the agent that was kept.

    Raises: CheckpointError: metrics.jsonl holds no return yet, or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    run = Path(run)
    lines = read_metrics(run)
    training = _points(lines, TRAIN_RETURN)
    evaluation = _points(lines, *(f"evaluation/{name}" for name in _NAMES))
    final = _points(lines, *(f"final/{name}" for name in _NAMES))
    if not training and not evaluation and not final:
        raise CheckpointError(f"{run}: metrics.jsonl holds no return yet, there is no learning curve to draw")
    figure = Figure(figsize=(7.2, 4.2), dpi=150, facecolor="white", layout="constrained")
    axis = figure.subplots()
    if training:
        steps, returns = zip(*training, strict=True)
        axis.plot(steps, returns, ".", color="#9aa5b1", markersize=4, label="training episodes")
    if evaluation:
        steps, middle, low, high = zip(*evaluation, strict=True)
        axis.fill_between(steps, low, high, color="#1d4ed8", alpha=0.18, linewidth=0)
        axis.plot(steps, middle, color="#1d4ed8", marker="o", markersize=4, label="evaluation (IQM, 95 % interval)")
    for step, middle, low, high in final[-1:]:
        error = [[middle - low], [high - middle]]
        label = f"agent that was kept: {middle:,.4g}"
        axis.errorbar([step], [middle], yerr=error, fmt="D", color="#c2410c", markersize=6, capsize=4, label=label)
    _finish(axis, run)
    return _write(figure, run / CURVE_FILE)


def comparison_picture(comparison: Comparison, runs: Sequence[RunScore], file: str | Path) -> Path:
    """Draw methods side by side into `file` (PNG) and return it.

    From the left: interquartile mean of each method with its interval over runs; share of runs above each score; where
    runs logged any and there is one task, returns against environment steps, a thin line a run and a thick one for the
    median over a method's runs; where there are two methods or more, the probability of improvement of each pair.

    Raises: CheckpointError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    curves = [run for run in runs if run.curve] if len(comparison.tasks) == 1 else []
    colours = {s.method: f"C{index}" for index, s in enumerate(comparison.summaries)}
    unit = "normalised score" if comparison.ranges else f"return on {comparison.tasks[0]}"
    panels = 2 + bool(curves) + bool(comparison.improvement)
    figure = Figure(figsize=(4.6 * panels, 3.8), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(1, panels)
    for row, s in enumerate(reversed(comparison.summaries)):
        if s.interval is not None:
            axes[0].plot(
                s.interval, [row, row], color=colours[s.method], linewidth=7, alpha=0.35, solid_capstyle="butt"
            )
        axes[0].plot([s.iqm], [row], "o", color=colours[s.method], markersize=7)
    axes[0].set_yticks(range(len(colours)), [s.method for s in reversed(comparison.summaries)])
    axes[0].set_ylim(-0.6, len(colours) - 0.4)
    _dress(axes[0], f"{unit}, IQM and 95 % interval", "")
    thresholds, shares = performance_profile(comparison)
    for method, share in shares.items():
        axes[1].plot(thresholds, share, color=colours[method], label=method, linewidth=2)
    axes[1].legend(frameon=False, fontsize=8)
    _dress(axes[1], unit, "share of runs above")
    for run in curves:
        steps, returns = zip(*run.curve, strict=True)
        axes[2].plot(steps, returns, color=colours[run.method], linewidth=0.7, alpha=0.35)
    for method in dict.fromkeys(run.method for run in curves):
        steps, middle = _median_curve([run for run in curves if run.method == method])
        axes[2].plot(steps, middle, color=colours[method], linewidth=2)
    if curves:
        axes[2].xaxis.set_major_formatter("{x:,.0f}")
        _dress(axes[2], "environment steps", unit)
    if comparison.improvement:
        _draw_improvement(axes[-1], comparison)
    return _write(figure, Path(file))


def _draw_improvement(axis: Any, comparison: Comparison) -> None:  # noqa: ANN401
    """The probability that a run of one method beats one of the other, a row for each pair."""
    for row, (probability, interval) in enumerate(comparison.improvement.values()):
        if interval is not None:
            axis.plot(interval, [row, row], color="#6b7280", linewidth=7, alpha=0.35, solid_capstyle="butt")
        axis.plot([probability], [row], "o", color="#1a1a1a", markersize=7)
    axis.axvline(0.5, color="#9ca3af", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(comparison.improvement)), [f"{x} > {y}" for x, y in comparison.improvement])
    axis.set_ylim(len(comparison.improvement) - 0.4, -0.6)
    axis.set_xlim(-0.03, 1.03)
    _dress(axis, "probability of improvement", "")


def _median_curve(runs: Sequence[RunScore], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return the median return over runs at steps that all of them reached, between their logged points by lines."""
    first = max(run.curve[0][0] for run in runs)
    last = max(first, min(run.curve[-1][0] for run in runs))
    steps = np.linspace(first, last, points)
    logged = [np.array(run.curve, dtype=np.float64).T for run in runs]  # (2, points) each
    values = [np.interp(steps, at, returns) for at, returns in logged]
    return steps, np.median(values, axis=0)


def _dress(axis: Any, below: str, beside: str) -> None:  # noqa: ANN401 - matplotlib's axes
    axis.set_xlabel(below, fontsize=9)
    axis.set_ylabel(beside, fontsize=9)
    axis.grid(color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _write(figure: Any, path: Path) -> Path:  # noqa: ANN401 - matplotlib's figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    try:
        FigureCanvasAgg(figure).print_png(str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _points(lines: list[dict[str, Any]], *names: str) -> list[tuple[float, ...]]:
    """Return (step, value, ...) of every line that holds all `names` as numbers."""
    return [
        (line["step"], *(line[name] for name in names))
        for line in lines
        if all(isinstance(line.get(name), int | float) for name in names)
    ]


def _finish(axis: Any, run: Path) -> None:  # noqa: ANN401 - matplotlib's axes
    axis.set_title(run.resolve().name, fontsize=11)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlim(left=0)
    _dress(axis, "environment steps", "return")
    axis.legend(frameon=False, fontsize=9)
