"""Pictures of the page about a run: errors of dreams, what was expected of them, and each part of the card."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agents.quality import ERRORS, ModelQuality

COLUMNS, WIDTH, HEIGHT = 3, 10.0, 2.6
"""Plots side by side, width of a picture and height of a row in inches."""

Figure = Any
"""matplotlib's Figure."""


def quality_picture(quality: ModelQuality) -> bytes:
    """A PNG of the errors by horizon, and of imagined against realised return."""
    return _png(lambda figure: _draw_quality(figure, quality))


def card_picture(card: Mapping[str, Any]) -> bytes:
    """A PNG with a plot for each part of a card, as `agents.card.card` returns it."""
    return _png(lambda figure: _draw_card(figure, card))


def _draw_quality(figure: Figure, quality: ModelQuality) -> None:
    steps = np.arange(1, len(quality.starts) + 1)
    *errors, returns = _axes(figure, len(ERRORS) + 1)
    units = ("standard deviations", "units", "absolute", "nats")
    for axis, name, unit in zip(errors, ERRORS, units, strict=True):
        axis.plot(steps, getattr(quality, name), color="#1d4ed8", label="error")
        if name in quality.expected:
            axis.plot(steps, quality.expected[name], color="#c2410c", linestyle="--", label="expected by the model")
        if name == "reward":
            axis.axhline(quality.reward_spread, color="#9ca3af", linestyle=":", label="spread of rewards")
        axis.set_title(f"{name} ({unit})", fontsize=9)
        axis.set_xlabel("steps ahead", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=7)
    if len(quality.real):
        returns.plot(quality.real, quality.imagined, ".", color="#1d4ed8", markersize=3)
        ends = [min(quality.real.min(), quality.imagined.min()), max(quality.real.max(), quality.imagined.max())]
        returns.plot(ends, ends, color="#9ca3af", linewidth=1)
    returns.set_title("imagined against real return", fontsize=9)
    returns.set_xlabel("real", fontsize=8)
    returns.set_ylabel("imagined", fontsize=8)
    for axis in (*errors, returns):
        axis.spines[["top", "right"]].set_visible(False)


def _draw_card(figure: Figure, known: Mapping[str, Any]) -> None:
    """A plot for each part: bars, and dashed where good begins or ends."""
    drawn: list[tuple[str, dict[str, float], tuple[float, ...]]] = [
        (title, {title if name is None else name: known[key]}, lines)
        for key, title, name, lines in (
            ("gap_auroc", "new from noisy", "AUROC", (0.98,)),
            ("sigma_error", "learned noise", "relative error", (0.1,)),
            ("mace", "calibration error", "mean", (0.05,)),
            ("state_coverage_vs_random", "states visited", "x chance", (1.0,)),
            ("imagined_minus_real", "imagined minus real", "share of the lead", (-0.1, 0.1)),
        )
        if key in known
    ]
    for key, title, lines in (
        ("spearman_by_horizon", "rank correlation with the error", (0.6, 0.75)),
        ("coverage_90_by_horizon", "coverage of 90 % intervals", (0.85, 0.95)),
    ):
        found = {h: v for h, v in known.get(key, {}).items() if v is not None}
        drawn.append((title, {f"{h} ahead": v for h, v in found.items()}, lines))
    faults = {fault.replace("_", " "): v for fault, v in known.get("ood", {}).items() if isinstance(v, Mapping)}
    for key, title, lines in (
        ("auroc", "AUROC of faults", (0.95,)),
        ("fpr95", "false alarms at 95 %", (0.15,)),
        ("delay_steps", "delay, steps", ()),
    ):
        drawn.append((title, {f: v[key] for f, v in faults.items() if v.get(key) is not None}, lines))
    drawn = [(title, values, lines) for title, values, lines in drawn if values]
    for axis, (title, values, lines) in zip(_axes(figure, len(drawn)), drawn, strict=True):
        axis.barh(range(len(values)), list(values.values()), color="#1d4ed8", height=0.55)
        for line in lines:
            axis.axvline(line, color="#c2410c", linewidth=1, linestyle="--")
        axis.set_yticks(range(len(values)), list(values), fontsize=7)
        axis.set_ylim(max(len(values), 3) - 0.5, -0.5)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)


def _axes(figure: Figure, count: int) -> list[Any]:
    """`count` axes in rows, in a figure that is as high as they need."""
    rows = -(-count // COLUMNS)
    figure.set_size_inches(WIDTH, HEIGHT * rows)
    return [figure.add_subplot(rows, COLUMNS, place + 1) for place in range(count)]


def _png(draw: Callable[[Figure], None]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(dpi=110, facecolor="white", layout="constrained")
    draw(figure)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
