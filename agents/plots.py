"""Pictures of a run: how its returns grew."""

from pathlib import Path
from typing import Any

from agents.log import TRAIN_RETURN, read_metrics
from worldmodels.errors import CheckpointError

CURVE_FILE = "learning_curve.png"
_NAMES = ("iqm", "iqm_low", "iqm_high")


def learning_curve(run: str | Path) -> Path:
    """Draw the run's returns against simulator steps and return the picture, `RUN/learning_curve.png`.

    Dots are training episodes, the line is the interquartile mean of each evaluation with its 95 % interval, the
    diamond that of the last evaluation, of the agent that was kept.

    Raises: CheckpointError: metrics.jsonl holds no return yet, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    path = run / CURVE_FILE
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
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlim(left=0)
    axis.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
