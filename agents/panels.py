"""Drawing dreams and episodes: pictures left or above, curves with a moving cursor. Numbers in, frames out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.dream import Dream, Recording
from envs.frames import to_rgb
from worldmodels.specs import ObsSpec

MAX_CURVES = 6
"""Observation dimensions shown at most; more could not be read."""
REALITY, DREAM, SHADE = "#1a1a1a", "#c2410c", "#f1efe9"
_DPI = 100
_EPISODE = (7.6, 3.6)  # inches: smaller than a dream, since an episode may have a thousand frames
_SMALL = 96  # images up to this side are enlarged with sharp pixels
_FADE = 0.72  # how much of the future is washed out


def dream_frames(dreamt: Dream, obs_specs: Mapping[str, ObsSpec], *, title: str, frame_stack: int = 1) -> np.ndarray:
    """Return one frame (H, W, 3) for every observation: (T+1, H, W, 3) uint8.

    Args:
        dreamt: what is drawn.
        obs_specs: of its observations.
        title: the environment's name.
        frame_stack: observations joined along the channels of an image; the newest is drawn.
    """
    image = next((name for name, spec in obs_specs.items() if spec.kind == "image"), None)
    if image is not None:
        truth, imagined = (to_rgb(obs[image], frame_stack) for obs in (dreamt.recording.obs, dreamt.obs))
        distance = np.abs(truth.astype(np.int16) - imagined).astype(np.uint8)
        pictures = {"reality": truth, "dream": imagined, "difference": distance}
    else:
        frames = dreamt.recording.frames
        pictures = {"reality": frames} if frames is not None else {}
    count, seen = len(dreamt.recording), dreamt.context
    head = f"{title}: {seen} observations seen, {count + 1 - seen} steps dreamt"
    return _film(head, pictures, _curves(dreamt, obs_specs), count, seen=seen)


def episode_frames(recording: Recording, *, title: str) -> np.ndarray:
    """Return one frame (H, W, 3) for every observation of an episode: (T+1, H, W, 3) uint8.

    The return so far, the reward, and where the recording has them the uncertainties are drawn in.
    """
    after = np.arange(1, len(recording) + 1)
    returns = np.cumsum(recording.reward, dtype=np.float64)
    rows = [("return", _line(after, returns)), ("reward", _line(after, recording.reward))]
    if recording.epistemic is not None and recording.aleatoric is not None:
        rows.append(("uncertainty\n(nats)", _uncertainty(after, recording.aleatoric, recording.epistemic)))
    pictures = {} if recording.frames is None else {"": recording.frames}
    total = returns[-1] if len(returns) else 0.0
    return _film(f"{title}: return {total:,.2f} in {len(recording)} steps", pictures, rows, len(recording))


Curves = list[tuple[str, Any]]
"""(label, function that draws into an axis) for every row of curves."""


def _film(
    head: str, pictures: Mapping[str, np.ndarray], curves: Curves, count: int, *, seen: int | None = None
) -> np.ndarray:
    """Return (count + 1, H, W, 3) uint8: the same drawing with the pictures of each step, the future washed out."""
    figure, places, axes = _layout(head, pictures, curves, count, seen)
    canvas = _canvas(figure)
    boxes = [_box(axis, canvas.shape[0]) for axis in places]
    plots = [_box(axis, canvas.shape[0]) for axis in axes]
    left, right = axes[-1].transData.transform([[0, 0], [count, 0]])[:, 0]
    frames = np.repeat(canvas[None], count + 1, axis=0)
    for t, frame in enumerate(frames):
        for (top, bottom, start, end), picture in zip(boxes, pictures.values(), strict=True):
            frame[top:bottom, start:end] = _fit(picture[t], bottom - top, end - start)
        column = round(left + (right - left) * t / max(1, count))
        for top, bottom, _, end in plots:
            future = frame[top:bottom, column + 1 : end]
            future[:] = (255 * _FADE + future * (1 - _FADE)).astype(np.uint8)
            frame[top:bottom, column : column + 2] = 90
    return frames


def _layout(
    head: str, pictures: Mapping[str, np.ndarray], curves: Curves, count: int, seen: int | None
) -> tuple[Any, list[Any], list[Any]]:
    """Return a figure with everything that does not move, the axes of the pictures and those of the curves."""
    from matplotlib.figure import Figure

    several = len(pictures) > 1
    size = (9.6, 6.2 if several else max(4.2, 0.86 * len(curves) + 0.8)) if seen is not None else _EPISODE
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    figure.suptitle(head, fontsize=11, x=0.5, y=0.985)
    if several:  # pictures in a row, the curves below
        above = figure.add_gridspec(1, len(pictures), left=0.03, right=0.97, top=0.9, bottom=0.42, wspace=0.04)
        below = figure.add_gridspec(len(curves), 1, left=0.14, right=0.97, top=0.36, bottom=0.09, hspace=0.28)
    else:
        above = figure.add_gridspec(1, 1, left=0.03, right=0.36, top=0.9, bottom=0.09)
        below = figure.add_gridspec(
            len(curves), 1, left=0.48 if pictures else 0.14, right=0.97, top=0.9, bottom=0.09, hspace=0.28
        )
    places = []
    for column, (name, picture) in enumerate(pictures.items()):
        height, width = picture.shape[1:3]
        axis = figure.add_subplot(above[column])
        axis.set_aspect("equal")
        axis.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(name, fontsize=10, color=DREAM if name == "dream" else REALITY)
        places.append(axis)
    axes: list[Any] = []
    for row, (name, draw) in enumerate(curves):
        axis = figure.add_subplot(below[row], sharex=axes[0] if axes else None)
        if seen is not None:
            axis.axvspan(0, seen - 1, color=SHADE, linewidth=0)
        draw(axis)
        axis.annotate(name, (0, 0.5), (-38, 0), "axes fraction", "offset points", fontsize=8, ha="right", va="center")
        axis.tick_params(labelsize=7, labelbottom=row == len(curves) - 1, length=2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.locator_params(axis="y", nbins=3)
        axes.append(axis)
    axes[0].set_xlim(0, max(1, count))
    axes[-1].set_xlabel("step", fontsize=8)
    if seen is not None:
        axes[0].plot([], [], color=REALITY, label="reality")
        axes[0].plot([], [], color=DREAM, label="dream, 90 % of dreams")
        axes[0].axvspan(np.nan, np.nan, color=SHADE, label="seen")
        axes[0].legend(
            fontsize=7, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, borderaxespad=0.2
        )
    return figure, places, axes


def _curves(dreamt: Dream, obs_specs: Mapping[str, ObsSpec]) -> Curves:
    rows: Curves = []
    count = len(dreamt.recording) + 1
    for name in dreamt.low:
        truth = dreamt.recording.obs[name].reshape(count, -1)  # (T+1, n)
        shown, low, high = (values[name].reshape(count, -1) for values in (dreamt.obs, dreamt.low, dreamt.high))
        for k in range(truth.shape[1]):
            label = f"{name}[{k}]" if truth.shape[1] > 1 else name
            rows.append((label, _tracer(np.arange(count), truth[:, k], shown[:, k], low[:, k], high[:, k])))
    rows = rows[:MAX_CURVES]
    after = np.arange(1, count)  # a reward belongs to the observation that was reached
    rows.append(
        ("reward", _tracer(after, dreamt.recording.reward, dreamt.reward, dreamt.reward_low, dreamt.reward_high))
    )
    rows.append(("uncertainty\n(nats)", _uncertainty(after, dreamt.aleatoric, dreamt.epistemic)))
    return rows


def _tracer(steps: np.ndarray, truth: np.ndarray, shown: np.ndarray, low: np.ndarray, high: np.ndarray) -> Any:  # noqa: ANN401
    def draw(axis: Any) -> None:  # noqa: ANN401
        axis.fill_between(steps, low, high, color=DREAM, alpha=0.22, linewidth=0)
        axis.plot(steps, truth, color=REALITY, linewidth=1.2)
        axis.plot(steps, shown, color=DREAM, linewidth=1.1)

    return draw


def _line(steps: np.ndarray, values: np.ndarray) -> Any:  # noqa: ANN401
    return lambda axis: axis.plot(steps, values, color=REALITY, linewidth=1.2)


def _uncertainty(steps: np.ndarray, aleatoric: np.ndarray, epistemic: np.ndarray | None) -> Any:  # noqa: ANN401
    def draw(axis: Any) -> None:  # noqa: ANN401
        axis.plot(steps, aleatoric, color="#7c3aed", linewidth=1.1, label="aleatoric")
        if epistemic is not None:
            axis.plot(steps, epistemic, color="#0f766e", linewidth=1.1, label="epistemic")
        axis.legend(fontsize=7, loc="upper left", frameon=False, borderaxespad=0.1)

    return draw


def _canvas(figure: Any) -> np.ndarray:  # noqa: ANN401
    """Return the drawn figure (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _box(axis: Any, height: int) -> tuple[int, int, int, int]:  # noqa: ANN401
    """Return top, bottom, left, right of an axis in pixels, rows counted from the top."""
    extent = axis.get_window_extent()
    return round(height - extent.y1), round(height - extent.y0), round(extent.x0), round(extent.x1)


def _fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    sharp = max(picture.shape[:2]) <= _SMALL
    kind = Image.Resampling.NEAREST if sharp else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((width, height), kind))
