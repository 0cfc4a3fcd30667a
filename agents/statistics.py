"""Aggregates of returns and how sure they are: means that outliers do not move, bootstrap intervals. Numpy alone."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval then vary by about 1 % of its width between seeds."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Values (..., N) -> one number per leading index (...)."""


def mean(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Mean over the last axis: (..., N) -> (...)."""
    return np.asarray(values, dtype=np.float64).mean(-1)


def iqm(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Interquartile mean over the last axis: the mean of what is left without the lowest and the highest quarter.

    As in Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", section 4.3:
    of N values floor(N / 4) are cut at each end.

    Args: values: (..., N), N >= 1.
    Returns: (...).
    """
    values = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = values.shape[-1]
    cut = count // 4
    return values[..., cut : count - cut].mean(-1)


def bootstrap_interval(
    values: np.ndarray | Sequence[float],
    statistic: Statistic = iqm,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over episodes of one run (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (N,) values that are exchangeable.
        statistic: works along the last axis.
        seed: of the resampling; the same seed gives the same interval.
        confidence: in (0, 1).
        resamples: how many samples of N values are drawn with replacement.
    Returns: lower and upper end.
    """
    return stratified_interval([values], statistic, seed=seed, confidence=confidence, resamples=resamples)


def stratified_interval(
    strata: Sequence[np.ndarray | Sequence[float]],
    statistic: Statistic = iqm,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over several runs or tasks, resampled within each of them.

    Args:
        strata: arrays (N_i,); each keeps its number of values in every resample (Agarwal et al. 2021, section 4.1).
        statistic, seed, confidence, resamples: as in `bootstrap_interval`.
    Returns: lower and upper end.
    Raises: ValueError: a stratum without values, or a confidence outside (0, 1).
    """
    arrays = [np.asarray(values, dtype=np.float64).reshape(-1) for values in strata]
    if not arrays or any(array.size == 0 for array in arrays):
        raise ValueError("a bootstrap interval needs at least one value in every stratum")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    rng = np.random.default_rng(seed)
    drawn = [array[rng.integers(array.size, size=(resamples, array.size))] for array in arrays]  # (R, N_i) each
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=-1)), [tail, 100 - tail])
    return float(low), float(high)
