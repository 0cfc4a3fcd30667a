"""Scores against closed forms: the raw log-density fails where theory says so, and the others do not."""

from math import log, pi

import pytest
import torch
from scipy.stats import f as f_distribution

from worldmodels.uncertainty.density import FlowDensity
from worldmodels.uncertainty.metrics import auroc
from worldmodels.uncertainty.scores import (
    compressed_nats,
    input_complexity,
    likelihood_ratio,
    typicality,
    waic,
)

D = 100


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def standard(x):
    """log N(x; 0, 1), nats (N,)."""
    return -0.5 * (x.square() + log(2 * pi)).sum(-1)


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.1, 2.0])
def test_trap_log_density_alone_takes_the_inside_of_the_shell_for_nominal(scale):
    """AUROC of -log p is the F distribution's cdf at scale^2: below 1/2 whenever the intruder is simpler."""
    nominal, intruder = torch.randn(4000, D), scale * torch.randn(4000, D)
    raw = auroc(-standard(nominal), -standard(intruder))
    assert raw == pytest.approx(f_distribution.cdf(scale**2, D, D), abs=0.015)
    entropy = 0.5 * D * (1 + log(2 * pi))
    typical = auroc(typicality(standard(nominal), entropy), typicality(standard(intruder), entropy))
    if scale == 0.5:
        assert raw < 0.001 and typical > 0.999
    assert typical > 0.5


def test_waic_is_minus_mean_plus_variance_over_models():
    log_probs = torch.randn(5, 7)
    mean = log_probs.mean(0)
    torch.testing.assert_close(waic(log_probs), -(mean - ((log_probs - mean) ** 2).mean(0)))
    same = torch.randn(7).expand(5, 7)
    torch.testing.assert_close(waic(same), -same[0])


def test_likelihood_ratio_forgets_what_the_background_explains():
    """Half of x is background that is wilder in the intruder; the other half has another mean there."""
    background, content = torch.randn(2000, 40), torch.randn(2000, 4)
    odd_background, odd_content = 0.3 * torch.randn(2000, 40), torch.randn(2000, 4) + 2.5
    log_p = lambda b, c: standard(b) + standard(c)  # noqa: E731
    log_background = lambda b, c: standard(b) + standard(c / 5) - 4 * log(5)  # noqa: E731
    nominal, intruder = (background, content), (odd_background, odd_content)
    assert auroc(-log_p(*nominal), -log_p(*intruder)) < 0.3
    ratio = [likelihood_ratio(log_p(*x), log_background(*x)) for x in (nominal, intruder)]
    assert auroc(*ratio) > 0.95


def test_input_complexity_pays_for_what_a_compressor_finds_simple():
    plain = torch.full((3, 12, 12, 1), 7, dtype=torch.uint8)
    noise = torch.randint(256, (3, 12, 12, 1), dtype=torch.uint8)
    simple, rich = compressed_nats(plain), compressed_nats(noise)
    assert (simple < 200).all() and (rich > 144 * 8 * log(2) * 0.95).all()
    same = torch.full((3,), -10.0)
    assert (input_complexity(same, simple) > input_complexity(same, rich)).all()
    torch.testing.assert_close(input_complexity(same, simple), 10 - simple)


def banana(n):
    x = torch.randn(n)
    return torch.stack([x, 0.5 * (x.square() - 1) + torch.randn(n)], 1)


def test_flow_density_learns_a_density_whose_log_prob_is_exact():
    density = FlowDensity(2, kind="nsf").fit(banana(3000), steps=300, noise=0.02)
    log_p, kind = density.log_prob(banana(3000))
    assert kind == "exact"
    entropy = 1 + log(2 * pi)
    assert entropy - 0.05 < -log_p.mean().item() < entropy + 0.3  # the difference is KL(p || model) >= 0
    x, y = torch.linspace(-6, 6, 400), torch.linspace(-8, 20, 700)
    grid = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1).flatten(0, 1)
    total = density.log_prob(grid)[0].exp().sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert total.item() == pytest.approx(1.0, abs=0.02)
    samples = density.sample(4000)
    torch.testing.assert_close(samples.mean(0), torch.zeros(2), atol=0.2, rtol=0)
    assert density.score(torch.tensor([[0.0, 6.0]])) > density.score(torch.tensor([[0.0, -1.0]])) + 5
    torch.testing.assert_close(density.loss(grid), -density.log_prob(grid)[0].mean())


def test_second_stage_density_sees_a_pair_that_is_odd_though_neither_of_the_two_is():
    x = torch.randn(3000)
    nominal = torch.stack([x, x + 0.1 * torch.randn(3000)], 1)
    odd = torch.stack([torch.randn(500), torch.randn(500)], 1)
    density = FlowDensity(2).fit(nominal[:2000], steps=150)
    assert auroc(density.score(nominal[2000:]), density.score(odd)) > 0.9
    assert abs(auroc(nominal[:, 0], odd[:, 0]) - 0.5) < 0.05 and abs(auroc(nominal[:, 1], odd[:, 1]) - 0.5) < 0.05


def test_no_score_depends_on_the_order_in_which_things_were_seen():
    x, order = banana(300), torch.randperm(300)
    density = FlowDensity(2).fit(x, steps=20)
    for score in (density.score, lambda x: typicality(density.log_prob(x)[0], 2.0)):
        torch.testing.assert_close(score(x)[order], score(x[order]))
