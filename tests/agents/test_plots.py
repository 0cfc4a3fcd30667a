"""The learning curve: a readable picture of what metrics.jsonl holds, or a sentence about what it lacks."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from agents.compare import compare
from agents.plots import _draw_improvement, learning_curve
from agents.scores import RunScore
from worldmodels.errors import CheckpointError


def write(run, lines):
    (run / "metrics.jsonl").write_text("".join(json.dumps({"wall_s": 0.0, **line}) + "\n" for line in lines))


def evaluation(step, value):
    return {"step": step, "evaluation/iqm": value, "evaluation/iqm_low": value - 5, "evaluation/iqm_high": value + 5}


def ink(path):
    """Share of blue pixels (evaluation) and of grey ones (training)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return ((blue - red) > 100).mean(), ((abs(red - 154) < 8) & (abs(blue - 177) < 8) & (green > red)).mean()


def test_evaluations_and_training_episodes_are_drawn(tmp_path):
    training = [{"step": 10 * k, "train/return": float(k)} for k in range(100)]
    write(tmp_path, training + [evaluation(200 * k, 20.0 * k) for k in range(5)])
    path = learning_curve(tmp_path)
    assert path == tmp_path / "learning_curve.png"
    blue, grey = ink(path)
    assert blue > 0.0005 and grey > 0.0005
    write(tmp_path, training)
    blue, grey = ink(learning_curve(tmp_path))
    assert blue == 0 and grey > 0.0005
    write(tmp_path, [evaluation(100, 3.0)])
    blue, grey = ink(learning_curve(tmp_path))
    assert blue > 0.0001 and grey < 0.0001


def test_the_last_evaluation_alone_is_a_curve(tmp_path):
    final = {f"final/{name}": value for name, value in (("iqm", 3.0), ("iqm_low", 2.0), ("iqm_high", 5.0))}
    write(tmp_path, [{"step": 9, **final}])
    pixels = np.asarray(Image.open(learning_curve(tmp_path)).convert("RGB")).astype(int)
    assert ((abs(pixels - [194, 65, 12]) < 12).all(-1)).sum() > 100


def test_lines_without_returns_or_with_null_are_passed_over(tmp_path):
    write(tmp_path, [{"step": 1, "train/return": None}, {"step": 2, "loss": 3.0}, {"step": 3, "train/return": 1.0}])
    assert learning_curve(tmp_path).is_file()


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": 1.0}], [{"step": 1, "train/return": None}]])
def test_nothing_to_draw_is_said(tmp_path, lines):
    write(tmp_path, lines)
    with pytest.raises(CheckpointError, match="no return yet"):
        learning_curve(tmp_path)
    assert not (tmp_path / "learning_curve.png").exists()


def test_probabilities_of_improvement_are_drawn_with_their_intervals():
    scores = {"a": (1.0, 5.0, 9.0), "b": (2.0, 3.0), "c": (7.0,)}
    found = compare([RunScore(m, "T-v0", v, [], "made up") for m, values in scores.items() for v in values])
    axis = Figure().add_subplot()
    _draw_improvement(axis, found)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a > b", "a > c", "b > c"]
    drawn = [list(line.get_xdata()) for line in axis.lines]
    (low, high), point = drawn[0], drawn[1]
    assert point == [pytest.approx(4 / 6)] and (low, high) == found.improvement["a", "b"][1]
    assert drawn[2:4] == [[pytest.approx(1 / 3)], [0.0]], "one run has no interval"
