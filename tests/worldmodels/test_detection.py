"""Measures of detection against slow and obvious ones: AUROC, false alarms, thresholds, p-values, CUSUM, delay."""

from math import inf, isnan

import pytest
import torch

from worldmodels.uncertainty.detection import (
    cusum,
    detection_delay,
    fpr_at_95,
    p_value,
    threshold_at,
    time_matched,
)
from worldmodels.uncertainty.metrics import auroc


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_fpr_at_95_is_that_of_the_threshold_that_95_percent_reach():
    shifted, nominal = torch.arange(100.0), torch.arange(-50.0, 50.0)
    assert fpr_at_95(nominal, shifted) == pytest.approx((nominal >= 5).double().mean().item())
    assert (shifted >= 5).double().mean() == 0.95


def test_what_only_tells_the_time_is_worth_half_once_steps_are_matched():
    clock = torch.arange(50.0).expand(20, 50)
    short = clock.clone()
    short[:, 10:] = torch.nan  # the fault ends every episode early
    nominal, shifted = -clock, -short
    assert (
        auroc(nominal.flatten(), shifted[:, :10].flatten()) > 0.85
    )  # pooled over steps, the clock looks like a detector
    matched, _ = time_matched(nominal, shifted)
    assert matched == pytest.approx(0.5)


def test_time_matched_is_the_mean_of_each_steps_auroc():
    nominal, shifted = torch.randn(30, 4), torch.randn(20, 4) + torch.tensor([0.0, 1.0, 2.0, 3.0])
    shifted[10:, 3] = torch.nan
    by_step = [auroc(nominal[:, t], shifted[: 20 if t < 3 else 10, t]) for t in range(4)]
    value, false = time_matched(nominal, shifted)
    assert value == pytest.approx((20 * sum(by_step[:3]) + 10 * by_step[3]) / 70)
    assert 0 < false < 1
    assert all(isnan(x) for x in time_matched(nominal, torch.full((2, 4), torch.nan)))


def test_threshold_and_p_value_keep_the_false_alarm_rate_they_state():
    rate, alarms, p_alarms = 0.05, [], []
    for _ in range(300):
        nominal, new = torch.randn(199), torch.randn(100)
        alarms.append((new > threshold_at(nominal, rate)).double().mean())
        p_alarms.append((p_value(nominal, new) <= rate).double().mean())
    assert abs(torch.stack(alarms).mean().item() - rate) < 0.005
    assert alarms == p_alarms


def test_a_rate_that_too_few_scores_cannot_set_is_refused():
    with pytest.raises(ValueError, match="100 nominal scores cannot set a rate of 0.001; expected at least 999"):
        threshold_at(torch.randn(100), 1e-3)
    assert threshold_at(torch.arange(999.0), 1e-3) == 998


def test_p_value_counts_what_is_at_least_as_high():
    assert p_value(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 9.0])).tolist() == pytest.approx(
        [1, 0.8, 0.2]
    )


def test_nan_and_nothing_have_no_order():
    for scores in (torch.tensor([]), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match="none that is NaN"):
            fpr_at_95(scores, torch.ones(3))


def test_cusum_is_pages_recursion():
    scores = torch.randn(3, 40)
    slow = []
    total = torch.zeros(3)
    for t in range(40):
        total = torch.maximum(torch.zeros(3), total + (scores[:, t] - 0.2) / 1.5 - 0.4)
        slow.append(total)
    torch.testing.assert_close(cusum(scores, 0.2, 1.5, allowance=0.4), torch.stack(slow, 1))


def test_windowed_cusum_is_the_largest_sum_of_at_most_that_many_steps():
    scores = torch.randn(2, 30)
    slow = [
        torch.stack([(scores[:, t - k : t + 1] - 0.1).sum(1) for k in range(min(5, t + 1))]).amax(0).clamp(min=0)
        for t in range(30)
    ]
    torch.testing.assert_close(cusum(scores, 0.0, 1.0, allowance=0.1, window=5), torch.stack(slow, 1))
    torch.testing.assert_close(
        cusum(scores, 0.0, 1.0, allowance=0.1, window=30), cusum(scores, 0.0, 1.0, allowance=0.1), rtol=1e-4, atol=1e-5
    )


def test_cusum_finds_a_shift_that_single_steps_do_not():
    nominal, shifted = torch.randn(200, 50), torch.randn(200, 50) + 0.4
    single = auroc(nominal[:, -1], shifted[:, -1])
    summed = auroc(cusum(nominal, 0, 1, window=50)[:, -1], cusum(shifted, 0, 1, allowance=0.2, window=50)[:, -1])
    assert single < 0.7 < 0.9 < summed


def test_delay_counts_from_the_onset_and_alarms_before_it_do_not_count():
    scores = torch.zeros(3, 10)
    scores[0, 2] = scores[0, 7] = scores[1, 5] = 2
    scores[2, 6:] = torch.nan
    assert detection_delay(scores, 1.0, onset=4).tolist() == [3, 1, inf]
