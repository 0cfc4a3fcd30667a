"""How well a finished run did, read from what it left: this project's folders and what other libraries write.

Read are `evaluation.json` and `metrics.jsonl` of this project, `metrics.jsonl` of others, Stable-Baselines3's Monitor
files and TensorBoard's event files. Everything is read as text or as TensorBoard's records; nothing is executed.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import ConfigError

CURVE_NAMES = (
    "evaluation/mean", "eval/mean_reward", "rollout/ep_rew_mean", "episode/score", "episode_reward", "eval/return",
    "return", "train/return",
)  # fmt: skip
"""Names that returns are logged under, ours and other libraries'; the first that a run has is taken."""
STEP_NAMES = ("step", "steps", "env_step", "total_timesteps", "_step")
TAIL = 10
"""Points of a learning curve whose mean is the score, where a run has no final evaluation."""
EPISODES = 100
"""Episodes of a Monitor file whose mean is the score, as in Stable-Baselines3's `ep_rew_mean`."""

Curve = list[tuple[int, float]]
Found = tuple[str | None, float, Curve, str, int | None]
"""Task, score, curve, source and episodes, as in `RunScore`."""


@dataclass(frozen=True)
class RunScore:
    """One run of one method on one task.

    method: its name in the comparison. task: environment id, or None where the files do not say. score: a return.
    curve: (environment steps, return) in order, empty where none was logged. source: what the score is, in words.
    episodes: evaluation episodes that it is the mean of; None where it is something else.
    """

    method: str
    task: str | None
    score: float
    curve: Curve
    source: str
    episodes: int | None = None


def read_run(argument: str, *, metric: str | None = None) -> RunScore:
    """Read one `[METHOD=]PATH` of `wm compare`.

    Without METHOD= the method is the folder's name without a seed at its end: `runs/mine-seed3` is a run of `mine`.

    Args:
        argument: a folder, a `metrics.jsonl`, a `*.monitor.csv` or an event file of TensorBoard.
        metric: the name that returns are logged under, where it is none of CURVE_NAMES.
    Raises: ConfigError: no such path, or nothing in it that says how the run did.
    """
    method, equals, place = argument.partition("=")
    path = Path(place if equals else argument).expanduser()
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    name = path.resolve().name if path.is_dir() else path.resolve().parent.name
    method = method if equals else re.sub(r"(?<=.)[-_. ]?(seed|s)?[-_. ]?\d+$", "", name)
    try:
        task, score, curve, source, episodes = _read(path, metric)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return RunScore(method, task, score, curve, source, episodes)


def _read(path: Path, metric: str | None) -> Found:
    readers: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("metrics.jsonl", lambda files: _from_lines(files[-1], metric)),
        ("*monitor.csv", _from_monitor),
        ("*tfevents*", lambda files: _from_events(files, metric)),
    )
    if path.is_dir() and (path / "evaluation.json").is_file() and metric is None:
        return _from_evaluation(path)
    for pattern, reader in readers:
        files = [path] if path.is_file() and path.match(pattern) else []
        if path.is_dir():
            files = [file for file in sorted(path.rglob(pattern)) if file.is_file()]
        if files:
            return reader(files)
    raise ConfigError(
        f"{path}: no evaluation.json, metrics.jsonl, *monitor.csv or TensorBoard events in it; train it to the end or "
        "name another folder"
    )


def _from_evaluation(run: Path) -> Found:
    """A run folder of this project that has been evaluated."""
    with (run / "evaluation.json").open(encoding="utf-8") as file:
        evaluation = json.load(file)
    score = evaluation.get("mean") if isinstance(evaluation, dict) else None
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise ConfigError(f"{run / 'evaluation.json'}: holds no mean return; write it anew by `wm evaluate {run}`")
    lines = run / "metrics.jsonl"
    curve = _curve(_lines(lines), None, lines) if lines.is_file() else []
    episodes = evaluation.get("episodes")
    measured = "one evaluation episode" if episodes == 1 else f"mean of {episodes} evaluation episodes"
    return evaluation.get("env_id"), float(score), curve, measured, episodes if isinstance(episodes, int) else None


def _from_lines(file: Path, metric: str | None) -> Found:
    """A metrics.jsonl: one JSON object with a step a line."""
    return _tail(None, _curve(_lines(file), metric, file))


def _from_monitor(files: list[Path]) -> Found:
    """Stable-Baselines3's Monitor: a comment line of JSON, then r (return), l (length), t (seconds) an episode."""
    episodes: list[tuple[float, float, int]] = []
    task = None
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            first = stream.readline()
            if not first.startswith("#"):
                raise ConfigError(f"{file}: expected a Monitor file, its first line is no comment of JSON")
            header = json.loads(first[1:])
            task = header.get("env_id") or task
            start = float(header.get("t_start", 0.0))
            for row in csv.DictReader(stream):
                if not all(_number(row.get(name)) for name in ("r", "l", "t")):
                    continue  # the line that the process died in
                episodes.append((start + float(row["t"]), float(row["r"]), int(float(row["l"]))))
    if not episodes:
        raise ConfigError(f"{files[0].parent}: the Monitor files hold no episode")
    episodes.sort()
    steps = np.cumsum([length for _, _, length in episodes]).tolist()
    curve = [(int(step), result) for step, (_, result, _) in zip(steps, episodes, strict=True)]
    last = [result for _, result, _ in episodes[-EPISODES:]]
    return task, float(np.mean(last)), curve, f"mean of the last {len(last)} training episodes", None


def _from_events(files: list[Path], metric: str | None) -> Found:
    """TensorBoard's event files of one folder."""
    from agents.log import read_events

    folder = files[0].parent
    curves = read_events(folder)
    return _tail(None, curves[_choose(curves, metric, folder)])


def _curve(lines: list[dict[str, Any]], metric: str | None, file: Path) -> Curve:
    names = {name: None for line in lines for name, value in line.items() if _number(value)}
    name = _choose(names, metric, file)
    step = next((step for step in STEP_NAMES if step in names), None)
    if step is None:
        raise ConfigError(f"{file}: no line has a step (looked for {', '.join(STEP_NAMES)})")
    return [(int(line[step]), float(line[name])) for line in lines if _number(line.get(name)) and step in line]


def _choose(names: Iterable[str], metric: str | None, place: Path) -> str:
    names = list(names)
    name = next((name for name in ([metric] if metric else CURVE_NAMES) if name in names), None)
    if name is None:
        found = ", ".join(sorted(names)[:12]) or "nothing"
        wanted = metric or "name that returns are known by"
        raise ConfigError(f"{place}: has no {wanted}; name it by --metric (found: {found})")
    return name


def _lines(file: Path) -> list[dict[str, Any]]:
    lines = []
    with file.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the process died while it wrote this line
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def _tail(task: str | None, curve: Curve) -> Found:
    last = [value for _, value in curve[-TAIL:]]
    return task, float(np.mean(last)), curve, f"mean of the last {len(last)} logged returns", None


def _number(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
