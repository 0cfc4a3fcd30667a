"""Measures of trust on forecasts whose quality is known, and their known-bad controls."""

import pytest
import torch

from tests.contracts.tools import ACTIONS, VECTOR, random_obs, small_model, window
from worldmodels.uncertainty import (
    Calibration,
    Forecast,
    OpenLoop,
    interval_report,
    join,
    open_loop,
    pooled_spearman,
    spearman_by_horizon,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(count=2000, *, honest=True):
    """Errors that grow with the horizon and differ between starts; the forecast knows them, or only claims to."""
    std = torch.rand(count, 1, 1).add(0.1) * torch.linspace(1, 12, 20)[:, None]
    target = std * torch.randn(count, 20, 3)
    said = std if honest else std[torch.randperm(count)]
    zero = torch.zeros_like(target)
    forecast = Forecast(zero, said.square().expand_as(zero), zero + 1e-12)
    return OpenLoop(forecast, target, torch.ones(count, 20, dtype=torch.bool))


def test_an_honest_forecast_ranks_its_errors_inside_every_horizon():
    assert all(value > 0.6 for value in spearman_by_horizon(made()).values())


def test_a_step_counter_and_a_constant_are_worth_nothing_inside_a_horizon_though_the_counter_pools_well():
    result = made(honest=False)
    counter = torch.arange(20.0).expand(2000, 20)
    assert all(abs(value) < 0.1 for value in spearman_by_horizon(result).values())
    assert spearman_by_horizon(result, counter) == {"1": 0.0, "5": 0.0, "10": 0.0, "20": 0.0}
    assert pooled_spearman(result, counter) > 0.5
    assert pooled_spearman(result, torch.ones(2000, 20)) == 0.0


def test_a_horizon_that_few_reach_has_no_correlation():
    result = made(50)
    result.valid[10:, 9:] = False
    found = spearman_by_horizon(result)
    assert found["5"] is not None and found["10"] is None and found["20"] is None
    short = OpenLoop(Forecast(*(x[:, :6] for x in result.forecast)), result.target[:, :6], result.valid[:, :6])
    assert spearman_by_horizon(short)["10"] is None and spearman_by_horizon(short)["5"] == found["5"]


def test_intervals_are_reported_by_horizon():
    covered, error = interval_report(made(), Calibration())
    assert set(covered) == {"1", "5", "10", "20"}
    assert all(abs(value - 0.9) < 0.03 for value in covered.values()) and error < 0.02
    overconfident = made()
    shrunk = Forecast(overconfident.forecast.mean, *(0.01 * v for v in overconfident.forecast[1:]))
    covered, error = interval_report(OpenLoop(shrunk, *overconfident[1:]), Calibration())
    assert all(value < 0.2 for value in covered.values()) and error > 0.3
    assert len(join([made(10), made(20)]).target) == 30


def test_open_loop_follows_the_actions_from_every_start_and_stops_at_the_end():
    model = small_model()
    batch = window(steps=9, ends=(None, None, None), first=(True, True, True))
    batch.mask[1, 6:] = False
    batch.obs_mask[1, 7:] = False
    result = open_loop(model, batch, horizon=4, stride=3)
    places = [(b, t) for t in (0, 3, 6) for b in range(3) if batch.mask[b, t]]
    assert len(places) == len(result.target) == 8
    truth = model.standardizer("obs", batch.obs["obs"])
    for row, (b, t) in enumerate(places):
        end = 6 if b == 1 else 9
        assert result.valid[row].tolist() == [t + h < end for h in range(4)]
        for h in range(4):
            if t + h < end:
                assert torch.equal(result.target[row, h], truth[b, t + h + 1])
    assert result.score.shape == result.error.shape == (8, 4) and torch.isfinite(result.score).all()
    other = batch.obs["obs"].clone()
    other[:, 1:] = random_obs(VECTOR, 3, 9)["obs"]  # what comes after the first start is not seen by its forecast
    batch.obs["obs"] = other
    torch.manual_seed(1)
    again = open_loop(model, batch, horizon=4, stride=9)
    batch.obs["obs"] = torch.cat([other[:, :1], random_obs(VECTOR, 3, 9)["obs"]], 1)
    torch.manual_seed(1)
    torch.testing.assert_close(open_loop(model, batch, horizon=4, stride=9).forecast.mean, again.forecast.mean)
    assert ACTIONS["discrete"].size == batch.action.shape[-1]
