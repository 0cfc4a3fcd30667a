"""Epistemic and aleatoric uncertainty against closed forms, samples and slow sums."""

import pytest
import torch

from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.uncertainty import (
    MIN_VARIANCE,
    decompose,
    gaussian_information_gain,
    mutual_information,
    total_variance,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_two_variances_add_up_to_that_of_the_mixture():
    mean, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    epistemic, aleatoric = total_variance(mean, std)
    samples = (mean + std * torch.randn(400_000, 5, 3)).flatten(0, 1)
    torch.testing.assert_close(epistemic + aleatoric, samples.var(0), rtol=0.01, atol=0.0)


def test_information_gain_is_that_of_a_linear_gaussian_model():
    """y = w x + noise, w ~ N(0, S): I(y; w) = H(w) - H(w | y), from the posterior's covariance."""
    x, covariance, noise = torch.randn(4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64), 0.3
    covariance = covariance @ covariance.T + torch.eye(4)
    posterior = torch.linalg.inv(torch.linalg.inv(covariance) + torch.outer(x, x) / noise**2)
    exact = 0.5 * (torch.logdet(covariance) - torch.logdet(posterior))
    epistemic = (x @ covariance @ x).unsqueeze(0)
    torch.testing.assert_close(gaussian_information_gain(epistemic, torch.full_like(epistemic, noise**2)), exact)


def test_members_drawn_from_that_model_give_the_same_gain():
    x, noise = torch.randn(4), 0.3
    members = GaussianFamily(1, min_std=noise)
    w = torch.randn(20_000, 4)  # w ~ N(0, 1)
    raw = torch.stack([w @ x, torch.full((20_000,), -100.0)], -1)  # spread at its floor
    said = decompose(members, raw)
    torch.testing.assert_close(said.epistemic, 0.5 * torch.log1p(x @ x / noise**2), rtol=0.02, atol=0.0)
    torch.testing.assert_close(said.aleatoric, torch.distributions.Normal(0.0, noise).entropy(), rtol=1e-4, atol=0.0)


def test_variance_floor_bounds_the_gain_where_no_noise_was_learned():
    epistemic = torch.full((1,), 1e-2)
    floored = gaussian_information_gain(epistemic, torch.zeros(1))
    assert torch.isfinite(floored) and torch.equal(
        floored, gaussian_information_gain(epistemic, torch.full((1,), MIN_VARIANCE))
    )
    above = torch.full((1,), 10 * MIN_VARIANCE)
    assert gaussian_information_gain(epistemic, above) < floored
    assert gaussian_information_gain(torch.zeros(1), torch.zeros(1)) == 0


def test_mutual_information_is_the_sum_over_the_joint_table():
    family = CategoricalFamily(2, 3, unimix=0.0)
    raw = 2 * torch.randn(4, 7, 6)
    probs = family.probs(raw)  # (K, N, G, C)
    joint = probs / 4  # p(member, class)
    expected = (joint * (joint / (joint.sum(0, keepdim=True) / 4)).log()).sum((0, 2, 3))
    said = decompose(family, raw)
    torch.testing.assert_close(said.epistemic, expected)
    torch.testing.assert_close(mutual_information(probs.flatten(-2)), expected)
    assert (said.epistemic > 0).all() and (said.epistemic < 2 * torch.tensor(3.0).log()).all()
    torch.testing.assert_close(said.aleatoric, family.entropy(raw).mean(0))
    assert mutual_information(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("family", [GaussianFamily(3), CategoricalFamily(2, 3)])
def test_members_that_agree_leave_nothing_epistemic(family):
    raw = torch.randn(1, 7, family.parameters).expand(5, 7, family.parameters)
    said = decompose(family, raw)
    torch.testing.assert_close(said.epistemic, torch.zeros(7), rtol=0, atol=1e-6)
    torch.testing.assert_close(said.aleatoric, family.entropy(raw[0]))
