"""The aggregates against rliable, scipy and closed forms."""

import numpy as np
import pytest
from rliable import metrics
from scipy import stats

from agents.statistics import bootstrap_interval, iqm, mean, stratified_interval


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 20, 100, 101])
def test_iqm_is_scipys_trimmed_mean_and_rliables_aggregate(count):
    values = np.random.default_rng(count).normal(size=count)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)
    assert iqm(values) == pytest.approx(metrics.aggregate_iqm(values[:, None]), abs=1e-12)


def test_iqm_of_twelve_values_by_hand():
    assert iqm([1000, 3, 4, 5, 6, 7, 8, -50, -60, -70, 900, 800]) == pytest.approx((3 + 4 + 5 + 6 + 7 + 8) / 6)


def test_iqm_works_along_the_last_axis():
    values = np.random.default_rng(0).normal(size=(3, 2, 9))
    expected = [[iqm(row) for row in block] for block in values]
    np.testing.assert_allclose(iqm(values), expected)


def test_interval_of_the_mean_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).exponential(size=40)
    low, high = bootstrap_interval(values, mean, seed=0)
    rng = np.random.default_rng(5)
    expected = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=rng).confidence_interval
    width = expected.high - expected.low
    assert abs(low - expected.low) < 0.03 * width
    assert abs(high - expected.high) < 0.03 * width


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for repeat in range(300):
        low, high = bootstrap_interval(rng.normal(3.0, 2.0, size=50), mean, seed=repeat, resamples=500)
        hits += low <= 3.0 <= high
    assert 0.90 <= hits / 300 <= 0.98  # 0.94 is expected at N = 50; the standard error is 0.014


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(3).normal(size=30)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_constant_values_have_no_width():
    assert bootstrap_interval([500.0] * 20, seed=0) == (500.0, 500.0)


def test_strata_keep_their_sizes():
    # Ten zeros and ten ones: resampled apart the mean is 1/2 in every resample, resampled together it varies.
    zeros, ones = np.zeros(10), np.ones(10)
    assert stratified_interval([zeros, ones], mean, seed=0) == (0.5, 0.5)
    low, high = bootstrap_interval(np.concatenate([zeros, ones]), mean, seed=0)
    assert low < 0.4 and high > 0.6


@pytest.mark.parametrize(("strata", "confidence"), [([], 0.95), ([[]], 0.95), ([[1.0], []], 0.95), ([[1.0]], 1.0)])
def test_nothing_to_resample_is_refused(strata, confidence):
    with pytest.raises(ValueError, match="expected|needs"):
        stratified_interval(strata, seed=0, confidence=confidence)
