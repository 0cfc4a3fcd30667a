"""Heads: zero at the start, bounded by their bins, the mean over what is real."""

import pytest
import torch

from worldmodels.heads import ContinuationHead, ScalarHead, TwoHotHead, masked_mean


def test_reward_is_exactly_zero_and_continuation_one_half_before_training():
    torch.manual_seed(0)
    features = torch.randn(4, 3, 6)
    reward = TwoHotHead(6, units=8, layers=2, bins=255, limit=20.0, norm=True)(features)
    assert reward.batch_shape == (4, 3) and reward.mean.abs().max() == 0
    continuation = ContinuationHead(6, units=8, layers=1, norm=True)(features)
    assert continuation.batch_shape == (4, 3) and (continuation.probs == 0.5).all()


def test_trap_reward_logits_are_not_the_reward():
    torch.manual_seed(0)
    head = TwoHotHead(2, units=4, layers=0, bins=21, limit=3.0, norm=False)
    with torch.no_grad():
        head.net[-1].bias.zero_()[15] = 50.0
    features = torch.zeros(1, 2)
    assert head(features).mean.item() == pytest.approx(head.bins[15].item(), rel=1e-5)
    assert head(features).mean.shape == (1,)


@pytest.mark.parametrize("target", [-300.0, -1.5, 0.0, 0.3, 25_000.0])
def test_reward_head_learns_any_scale(target):
    torch.manual_seed(0)
    head = TwoHotHead(2, units=4, layers=0, bins=255, limit=20.0, norm=False)
    features, values = torch.ones(1, 2), torch.tensor([target])
    optimizer = torch.optim.Adam(head.parameters(), 0.3)
    for _ in range(150):
        optimizer.zero_grad()
        (-head(features).log_prob(values)).mean().backward()
        optimizer.step()
    assert head(features).mean.item() == pytest.approx(target, rel=0.02, abs=0.02)


def test_scalar_head_is_zero_at_first_and_minimises_squared_error_in_units_of_its_scale():
    torch.manual_seed(0)
    head = ScalarHead(2, units=4, layers=1, norm=False, scale=100.0)
    features, values = torch.randn(5, 2), torch.randn(5) * 100
    assert head(features).mean.abs().max() == 0
    constant = head(features).log_prob(torch.zeros(5))
    torch.testing.assert_close(head(features).log_prob(values) - constant, -0.5 * (values / 100).square())


def test_scalar_head_widens_without_changing_what_it_predicts():
    torch.manual_seed(0)
    head = ScalarHead(2, units=4, layers=1, norm=False, scale=2.0)
    features = torch.randn(5, 2)
    with torch.no_grad():
        head.net[-1].weight.normal_()
        head.net[-1].bias.normal_()
    before = head(features).mean
    head.widen(torch.tensor(50.0))
    assert head.scale == 50
    torch.testing.assert_close(head(features).mean, before)
    for smaller in (3.0, torch.nan, torch.inf):
        head.widen(torch.tensor(smaller))
        assert head.scale == 50
    torch.testing.assert_close(head(features).mean, before)


def test_masked_mean_is_the_mean_over_what_is_real_and_ignores_even_nan_elsewhere():
    nats = torch.tensor([[1.0, torch.nan], [3.0, torch.inf]])
    mask = torch.tensor([[True, False], [True, False]])
    assert masked_mean(nats, mask).item() == 2
    assert masked_mean(nats, torch.zeros_like(mask)).item() == 0
