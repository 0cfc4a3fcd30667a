"""Which method is better, over runs and tasks: rliable's aggregates with intervals, as a table and as plain data.

The intervals are ours: rliable 1.2 draws its resamples from numpy's global state and ignores the seed it is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from agents.scores import RunScore
from agents.statistics import iqm, stratified_interval
from worldmodels.errors import ConfigError

RESAMPLES = 2_000
"""Bootstrap resamples of the probability of improvement."""
UNNAMED = "task"

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class MethodSummary:
    """One method over all its runs. interval: 95 % stratified bootstrap interval of the IQM over runs, None for one."""

    method: str
    runs: int
    mean: float
    median: float
    iqm: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    tasks: environment ids. scores: method -> (runs, tasks). raw where there is one task, else normalised by `ranges`,
    task -> (score that counts 0, score that counts 1). improvement: (X, Y) -> probability that a run of X beats one of
    Y on a task, with its interval. sources: method -> what its scores are, in words. warning: one line where scores are
    means of different numbers of episodes, else None.
    """

    tasks: list[str]
    scores: dict[str, np.ndarray]
    ranges: dict[str, tuple[float, float]]
    summaries: list[MethodSummary]
    improvement: dict[tuple[str, str], tuple[float, Interval]]
    sources: dict[str, str]
    warning: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "tasks": self.tasks,
            "ranges": {task: list(ends) for task, ends in self.ranges.items()},
            "methods": [vars(s) | {"scores": self.scores[s.method].tolist()} for s in self.summaries],
            "probability_of_improvement": [
                {"better": x, "worse": y, "probability": p, "interval": interval}
                for (x, y), (p, interval) in self.improvement.items()
            ],
            "sources": self.sources,
            "warning": self.warning,
        }

    def table(self) -> str:
        """Return the comparison as lines for people."""
        width = max(len("method"), *(len(s.method) for s in self.summaries))
        unit = f"return on {self.tasks[0]}" if not self.ranges else "normalised score over " + ", ".join(self.tasks)
        lines = [unit, f"{'method':<{width}}  runs        mean      median         IQM   95 % interval of the IQM"]
        for s in self.summaries:
            row = f"{s.method:<{width}}  {s.runs:>4}  {s.mean:>10,.2f}  {s.median:>10,.2f}  {s.iqm:>10,.2f}"
            lines.append(f"{row}   {_interval(s.interval)}")
        for (x, y), (p, interval) in self.improvement.items():
            lines.append(f"P({x} > {y}) = {p:.2f}, 95 % interval {_interval(interval)}")
        lines += [f"score 0 and 1 on {task}: {low:,.4g} and {high:,.4g}" for task, (low, high) in self.ranges.items()]
        lines += [f"score of {method}: {source}" for method, source in self.sources.items()]
        lines += [] if self.warning is None else [f"warning: {self.warning}"]
        return "\n".join(lines)


def compare(
    runs: Sequence[RunScore], *, ranges: Mapping[str, tuple[float, float]] | None = None, seed: int = 0
) -> Comparison:
    """Compare methods by their runs (Agarwal et al. 2021): IQM, stratified bootstrap, probability of improvement.

    Args:
        runs: at least one; runs of a method on a task differ in their seed.
        ranges: task -> (score that counts 0, score that counts 1). Several tasks without it: the lowest and the highest
            score of all runs compared.
        seed: of the bootstrap.
    Raises: ConfigError: a method lacks a task or has more runs on one task than on another, or tasks are not named.
    """
    from rliable import metrics

    tasks, table = _arrange(runs)
    raw = {method: np.array([by_task[task] for task in tasks]).T for method, by_task in table.items()}
    used = _ranges(tasks, raw, dict(ranges or {}))
    low = np.array([used.get(task, (0.0, 1.0))[0] for task in tasks])
    high = np.array([used.get(task, (0.0, 1.0))[1] for task in tasks])
    scores = {method: (values - low) / (high - low) for method, values in raw.items()}  # (runs, tasks)
    summaries = []
    for method, values in scores.items():
        middle, inner = float(metrics.aggregate_median(values)), float(metrics.aggregate_iqm(values))
        interval = stratified_interval(list(values.T), iqm, seed=seed) if len(values) > 1 else None
        summaries.append(MethodSummary(method, len(values), float(values.mean()), middle, inner, interval))
    improvement = {}
    for x, y in combinations(scores, 2):
        pair = (scores[x], scores[y])
        interval = _improvement_interval(*pair, seed) if min(map(len, pair)) > 1 else None
        improvement[x, y] = (float(metrics.probability_of_improvement(*pair)), interval)
    sources = {method: ", ".join(dict.fromkeys(r.source for r in runs if r.method == method)) for method in scores}
    return Comparison(tasks, scores, used, summaries, improvement, sources, _uneven(runs))


def performance_profile(comparison: Comparison, points: int = 101) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Share of runs and tasks that score above each of `points` thresholds (Agarwal et al. 2021, section 4.2).

    Returns: thresholds (points,), and method -> shares (points,).
    """
    from rliable.library import score_distributions  # type: ignore[attr-defined]

    every = np.concatenate([values.ravel() for values in comparison.scores.values()])
    margin = 0.05 * max(float(np.ptp(every)), 1e-9)
    thresholds = np.linspace(every.min() - margin, every.max() + margin, points)
    return thresholds, {m: np.asarray(score_distributions(v, thresholds)) for m, v in comparison.scores.items()}


def _improvement_interval(x: np.ndarray, y: np.ndarray, seed: int) -> Interval:
    """95 % percentile interval of the probability of improvement; runs are resampled within each task, X and Y apart.

    x: (N, tasks). y: (M, tasks).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for own, other in zip(x.T, y.T, strict=True):
        wins = (own[:, None] > other) + 0.5 * (own[:, None] == other)  # (N, M)
        rows = rng.integers(len(own), size=(RESAMPLES, len(own), 1))
        columns = rng.integers(len(other), size=(RESAMPLES, 1, len(other)))
        total += wins[rows, columns].mean((1, 2))
    low, high = np.percentile(total / x.shape[1], [2.5, 97.5])
    return float(low), float(high)


def _arrange(runs: Sequence[RunScore]) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    """Return the tasks, and method -> task -> scores, complete and of equal length within each method."""
    named = sorted({run.task for run in runs if run.task is not None})
    if len(named) > 1 and any(run.task is None for run in runs):
        unnamed = ", ".join(dict.fromkeys(run.method for run in runs if run.task is None))
        raise ConfigError(
            f"{unnamed}: its files do not say which environment it ran in, and the other runs have several "
            f"({', '.join(named)}); compare one environment at a time"
        )
    tasks = named or [UNNAMED]
    table: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        table.setdefault(run.method, {}).setdefault(run.task or tasks[0], []).append(run.score)
    for method, by_task in table.items():
        counts = {task: len(by_task.get(task, [])) for task in tasks}
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{task}: {count}" for task, count in counts.items())
            raise ConfigError(f"{method}: expected as many runs on each task, got {listed}")
    return tasks, table


def _uneven(runs: Sequence[RunScore]) -> str | None:
    """What to know where some scores are means of fewer evaluation episodes than others."""
    counts = sorted({run.episodes for run in runs if run.episodes is not None})
    if len(counts) < 2:
        return None
    fewest = sum(run.episodes == counts[0] for run in runs)
    unit = "episode" if counts[0] == 1 else "episodes"
    return (
        f"{fewest} of {len(runs)} scores are of {counts[0]} evaluation {unit}, others of "
        f"up to {counts[-1]}: the fewer, the more chance is in them; `wm evaluate RUN --episodes {counts[-1]}` evens it"
    )


def _ranges(
    tasks: list[str], raw: Mapping[str, np.ndarray], given: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return the ranges to normalise by; none for one task, unless one was given."""
    unknown = sorted(set(given) - set(tasks))
    if unknown:
        raise ConfigError(f"--range {unknown[0]}: no run is of that task (tasks: {', '.join(tasks)})")
    for task, (low, high) in given.items():
        if not low < high:
            raise ConfigError(f"--range {task}={low:g}:{high:g}: expected LOW below HIGH")
    if len(tasks) == 1:
        return given
    for column, task in enumerate(tasks):
        values = np.concatenate([scores[:, column] for scores in raw.values()])
        low, high = float(values.min()), float(values.max())
        given.setdefault(task, (low, high if high > low else low + 1.0))
    return given


def _interval(interval: Interval) -> str:
    return f"{interval[0]:,.2f} to {interval[1]:,.2f}" if interval else "none (one run)"
