"""The still VAE: bounds against the exact likelihood of probabilistic PCA, sampling, statistics, likelihood regret."""

from math import log, pi

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from worldmodels.errors import ConfigError
from worldmodels.specs import ObsSpec
from worldmodels.uncertainty.metrics import auroc
from worldmodels.vae import StillVAE, fit, likelihood_regret

VECTOR = ObsSpec("vector", (3,))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def line(n):
    """Points near a line: x = w z + noise, whose density is known."""
    return torch.randn(n, 1) * torch.tensor([1.0, -1.0, 0.5]) + 0.3 * torch.randn(n, 3)


def exact(x):
    w = torch.tensor([[1.0], [-1.0], [0.5]])
    covariance = w @ w.T + 0.09 * torch.eye(3)
    return -0.5 * ((x @ torch.linalg.inv(covariance) * x).sum(-1) + torch.logdet(covariance) + 3 * log(2 * pi))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    vae = StillVAE(VECTOR, latent=2, units=32)
    fit(vae, line(2000), steps=400)
    return vae


def test_bounds_stand_below_the_exact_likelihood_and_more_samples_come_closer(trained):
    x = line(400)
    truth = exact(x).mean().item()
    elbo = -trained.loss(x).item()
    many, kind = trained.log_prob(x, samples=100)
    assert kind == "bound"
    assert elbo < many.mean().item() < truth + 0.05
    assert truth - elbo < 1.0


def test_samples_have_the_kind_of_x(trained):
    assert trained.sample(7).shape == (7, 3) and trained.sample(7).dtype == torch.float32
    image = StillVAE(ObsSpec("image", (10, 12, 1)), latent=3, units=8, depth=2).sample(2)
    assert image.shape == (2, 10, 12, 1) and image.dtype == torch.uint8


def test_statistics_are_the_parts_of_the_bound(trained):
    x = line(50)
    statistics = trained.statistics(x)
    assert statistics.shape == (50, 4)
    raw = trained.posterior(x)
    torch.testing.assert_close(statistics[:, 2], trained.family.entropy(raw))
    torch.testing.assert_close(statistics[:, 3].exp(), trained.latent(x).norm(dim=-1))


def test_regret_is_positive_and_larger_where_the_encoder_was_never_trained(trained):
    nominal, odd = line(60), torch.tensor([4.0, 4.0, 4.0]) + 0.3 * torch.randn(60, 3)
    before = [p.clone() for p in trained.parameters()]
    a, b = likelihood_regret(trained, nominal, steps=30), likelihood_regret(trained, odd, steps=30)
    assert all(torch.equal(p, q) for p, q in zip(before, trained.parameters(), strict=True))
    assert all(p.requires_grad for p in trained.parameters())
    assert (a >= 0).all() and b.median() > a.median() + 0.1


def test_regret_is_a_function_of_its_arguments_alone(trained):
    x, found = line(20), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(likelihood_regret(trained, x, steps=5))
        assert torch.initial_seed() == seed
    assert torch.equal(*found)


def test_a_regret_that_fails_leaves_the_model_as_it_was(trained):
    for p in list(trained.parameters())[:2]:
        p.requires_grad_(False)
    before = [p.requires_grad for p in trained.parameters()]
    with pytest.raises(RuntimeError):
        likelihood_regret(trained, torch.zeros(4, 5), steps=5)  # rows of another width
    assert [p.requires_grad for p in trained.parameters()] == before and any(before)
    trained.requires_grad_(True)


@pytest.mark.parametrize("spec", [ObsSpec("image", (8, 8, 1)), ObsSpec("discrete", (), (3,))])
def test_what_it_cannot_model_is_refused(spec):
    with pytest.raises(ConfigError, match="expected a vector or an image of at least 10x10, got"):
        StillVAE(spec)


def digits():
    """Digits of 16x16 grey pixels (N, 16, 16, 1) uint8, and their labels."""
    data = load_digits()
    images = np.kron(data.images, np.ones((2, 2))) * (255 / 16)
    return torch.from_numpy(images.round().astype(np.uint8)).unsqueeze(-1), torch.from_numpy(data.target)


def test_a_short_fit_to_digits_raises_the_bound_and_tells_noise_from_digits():
    images, _ = digits()
    vae = StillVAE(ObsSpec("image", (16, 16, 1)), latent=8, units=32, depth=4)
    before = vae.loss(images[:200]).item()
    losses = fit(vae, images[:1000], steps=60)
    assert len(losses) == 60 and vae.loss(images[1000:1200]).item() < before - 50
    noise = torch.randint(256, (100, 16, 16, 1), dtype=torch.uint8)
    assert auroc(-vae.log_prob(images[1000:1100], samples=5)[0], -vae.log_prob(noise, samples=5)[0]) > 0.95
