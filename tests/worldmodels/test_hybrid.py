"""Hybrid decisions: the joint density, its weight per dimension, and decisions that know how odd their input is."""

from math import log, pi

import pytest
import torch

from worldmodels.hybrid import Decider, Hybrid, Separate, fit


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def blobs(n):
    """Two classes of points (n, 2) around (-2, 0) and (2, 0)."""
    y = torch.randint(2, (n,))
    return torch.stack([4.0 * y - 2, torch.zeros(n)], 1) + 0.5 * torch.randn(n, 2), y


def trained(model):
    fit(model, *blobs(1000), steps=250, rate=2e-2)
    return model, Decider(model, blobs(999)[0])


@pytest.fixture(scope="module")
def hybrid():
    torch.manual_seed(0)
    return trained(Hybrid(2, 2, transforms=4, units=16))


def test_loss_is_the_sum_written_out_with_the_weight_per_dimension():
    model, (x, y) = Hybrid(2, 3, weight=0.5), blobs(20)
    model.density.fit_moments(x)
    written = -(model.log_choice(x, y) + 0.25 * model.log_prob(x)[0]).mean()
    torch.testing.assert_close(model.loss(x, y), written)
    plain = Hybrid(2, 3, weight=0.0)
    torch.testing.assert_close(plain.loss(x, y), -plain.log_choice(x, y).mean())


def test_joint_sums_and_integrates_to_one(hybrid):
    model, _ = hybrid
    x, y = torch.linspace(-7, 7, 500), torch.linspace(-5, 5, 400)
    grid = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1).flatten(0, 1)
    joint = sum((model.log_choice(grid, torch.full((len(grid),), c)) + model.log_prob(grid)[0]).exp() for c in (0, 1))
    assert (joint.sum() * (x[1] - x[0]) * (y[1] - y[0])).item() == pytest.approx(1.0, abs=0.02)


def test_density_comes_close_to_the_truth(hybrid):
    model, _ = hybrid
    x, _ = blobs(2000)
    parts = [-0.5 * ((x - torch.tensor([c, 0.0])) / 0.5).square().sum(-1) - log(2 * pi * 0.25) for c in (-2.0, 2.0)]
    exact = (torch.logsumexp(torch.stack(parts), 0) - log(2)).mean().item()
    assert exact - 1.0 < model.log_prob(x)[0].mean().item() < exact + 0.05


def test_decide_is_sure_of_its_class_far_away_and_says_that_the_input_is_odd(hybrid):
    model, decider = hybrid
    x, y = blobs(500)
    nominal = decider.decide(x)
    assert (nominal.choice == y).float().mean() > 0.98
    assert 0.3 < nominal.p_value.mean() < 0.7
    far = decider.decide(torch.tensor([[8.0, 6.0], [-9.0, 5.0]]))
    assert (far.probability > 0.9).all() and (far.p_value < 0.01).all()
    choice, probability = model.best(x)
    assert torch.equal(choice, nominal.choice) and torch.equal(probability, nominal.probability)


def test_p_values_of_nominal_inputs_are_uniform(hybrid):
    _, decider = hybrid
    p = decider.decide(blobs(2000)[0]).p_value
    for level in (0.1, 0.5, 0.9):
        assert abs((p <= level).float().mean().item() - level) < 0.05


def test_separate_models_share_nothing():
    model, decider = trained(Separate(2, 2, transforms=4, flow_units=16, units=16))
    x, y = blobs(500)
    assert (decider.decide(x).choice == y).float().mean() > 0.98
    density, labels = model.log_prob(x)[0].sum(), model.log_choice(x, y).sum()
    parameters = list(model.parameters())
    first = torch.autograd.grad(density, parameters, allow_unused=True)
    second = torch.autograd.grad(labels, parameters, allow_unused=True)
    assert all((a is None) != (b is None) for a, b in zip(first, second, strict=True))


def test_a_real_choice_is_a_linear_gaussian_of_the_features():
    x = torch.randn(800, 3)
    y = torch.stack([x.sum(1), -x[:, 0]], 1) + 0.1 * torch.randn(800, 2)
    model = Hybrid(3, 2, choice="real", transforms=2, units=16)
    fit(model, x, y, steps=300, rate=2e-2)
    decision = Decider(model, x).decide(x[:100])
    assert (decision.choice - y[:100]).square().mean().sqrt() < 0.3
    torch.testing.assert_close(decision.probability.log(), model.log_choice(x[:100], decision.choice).detach())
