"""Coverage and recalibration on errors whose distribution is known."""

import pytest
import torch

from tests.contracts.tools import small_model, small_options
from worldmodels.checkpoint import module_state, restore_module
from worldmodels.options import EnsembleOptions
from worldmodels.uncertainty import LEVELS, Calibration, Forecast, coverage, mace, standardised_errors


def forecasts(count, *, true_std, said_std=1.0, horizon=20):
    """Targets N(0, true_std^2), forecast as N(0, said_std^2)."""
    mean = torch.zeros(count, horizon, 2)
    forecast = Forecast(mean, torch.full_like(mean, 0.5 * said_std**2), torch.full_like(mean, 0.5 * said_std**2))
    return forecast, true_std * torch.randn(count, horizon, 2), torch.ones(count, horizon, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_right_forecast_covers_what_it_promises_before_any_fit():
    forecast, target, valid = forecasts(4000, true_std=1.0)
    covered = coverage(standardised_errors(forecast, target), valid, Calibration().widths)
    assert covered.shape == (20, len(LEVELS))
    assert (covered - torch.tensor(LEVELS)).abs().max() < 0.03 and mace(covered) < 0.01
    low, high = Calibration().interval(forecast, 0.9)
    torch.testing.assert_close(high[0, 0, 0], torch.tensor(1.6449), rtol=1e-3, atol=0)
    torch.testing.assert_close(low, -high)


def test_an_overconfident_forecast_is_seen_and_mended_horizon_by_horizon():
    growing = torch.linspace(1.0, 6.0, 20)[:, None]
    forecast, target, valid = forecasts(4000, true_std=growing)
    calibration = Calibration()
    before = coverage(standardised_errors(forecast, target), valid, calibration.widths)
    assert before[19, LEVELS.index(0.9)] < 0.3 and mace(before) > 0.2
    calibration.fit(*forecasts(500, true_std=growing))
    after = coverage(standardised_errors(forecast, target), valid, calibration.widths)
    assert (after[:, LEVELS.index(0.9)] - 0.9).abs().max() < 0.05 and mace(after) < 0.02
    torch.testing.assert_close(calibration.width(25, 0.9)[20:], calibration.width(20, 0.9)[-1].expand(5))


def test_rows_that_do_not_exist_count_nowhere():
    forecast, target, valid = forecasts(400, true_std=1.0)
    valid[100:] = False
    valid[:, 10:] = False
    spoiled = torch.where(valid.unsqueeze(-1), target, torch.full_like(target, 1e6))
    one, two = Calibration(), Calibration()
    one.fit(forecast, spoiled, valid)
    two.fit(Forecast(*(x[:100] for x in forecast)), target[:100], valid[:100])
    torch.testing.assert_close(one.widths, two.widths)
    torch.testing.assert_close(one.widths[10:], one.widths[9].expand(10, -1))
    covered = coverage(standardised_errors(forecast, spoiled), valid, one.widths)
    assert covered[10:].isnan().all() and not torch.tensor(mace(covered)).isnan()


def test_widths_travel_with_the_model():
    model, other = small_model(), small_model()
    model.calibration.fit(*forecasts(50, true_std=3.0))
    assert not other.calibration.fitted
    restore_module(other, module_state(model))
    assert other.calibration.fitted and torch.equal(other.calibration.widths, model.calibration.widths)
    assert small_model(small_options(ensemble=EnsembleOptions(members=0))).calibration is None
