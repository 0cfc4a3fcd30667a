"""Decoders: the likelihood of every observation kind against torch's own, and the weight of images."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from tests.contracts.tools import OBS, random_obs, small_model, small_options
from worldmodels.distributions.gaussian import squash
from worldmodels.distributions.image import image_to_float
from worldmodels.options import TrunkOptions


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def features_of(model, *lead):
    return torch.randn(*lead, model.features_size)


@pytest.mark.parametrize("kind", OBS)
def test_log_prob_is_summed_over_features_and_keeps_the_leading_axes(kind):
    model = small_model(obs=OBS[kind])
    features, obs = features_of(model, 2, 3), random_obs(OBS[kind], 2, 3)
    total, weighted = model.decoder.log_prob(features, obs)
    assert total.shape == weighted.shape == (2, 3) and torch.isfinite(total).all()
    one, _ = model.decoder.log_prob(features[1, 2], {name: value[1, 2] for name, value in obs.items()})
    torch.testing.assert_close(one, total[1, 2], rtol=1e-4, atol=1e-3)
    likelihoods = model.decoder(features)
    assert set(likelihoods) == set(OBS[kind])
    for name, likelihood in likelihoods.items():
        assert likelihood.batch_shape == (2, 3), name


def test_vector_likelihood_is_a_normal_in_squashed_space_with_its_jacobian():
    model = small_model()
    model.fit_standardizer({"obs": torch.randn(100, 3) * 7 + 2})
    features, x = features_of(model, 4), torch.randn(4, 3).mul(7).requires_grad_()
    normal = model.decoder(features)["obs"]
    center, spread = model.standardizer.moments("obs")
    u = squash(x, center, spread)
    (slope,) = torch.autograd.grad(u.sum(), x, retain_graph=True)
    expected = (Normal(normal.mean_u, normal.std_u).log_prob(u) + slope.log()).sum(-1)
    torch.testing.assert_close(model.decoder.log_prob(features, {"obs": x})[0], expected)


def test_discrete_binary_and_image_likelihoods_are_torchs():
    mixed = OBS["mixed"] | {"dials": OBS["multi_discrete"]["obs"]}
    model = small_model(obs=mixed)
    features, obs = features_of(model, 4), random_obs(mixed, 4)
    likelihoods = model.decoder(features)
    gear = Categorical(logits=likelihoods["gear"].log_probs[0]).log_prob(obs["gear"])
    dials = sum(
        Categorical(logits=logits).log_prob(obs["dials"][:, i])
        for i, logits in enumerate(likelihoods["dials"].log_probs)
    )
    lamps = Bernoulli(logits=likelihoods["lamps"].base_dist.logits).log_prob(obs["lamps"].float()).sum(-1)
    camera = likelihoods["camera"]
    pixels = Normal(camera.mean_u, camera.std_u).log_prob(image_to_float(obs["camera"])).sum((-3, -2, -1))
    vectors = sum(likelihoods[name].log_prob(obs[name]) for name in ("body/joints", "speed"))
    total, _ = model.decoder.log_prob(features, obs)
    torch.testing.assert_close(total, gear + dials + lamps + pixels + vectors, rtol=1e-4, atol=1e-3)


def test_image_weight_changes_what_is_trained_and_never_what_is_reported():
    options = small_options(trunk=TrunkOptions(units=8, layers=1, depth=2, image_weight=0.25))
    model = small_model(options, OBS["mixed"])
    features, obs = features_of(model, 3), random_obs(OBS["mixed"], 3)
    total, weighted = model.decoder.log_prob(features, obs)
    pixels = model.decoder(features)["camera"].log_prob(obs["camera"])
    torch.testing.assert_close(weighted, total - 0.75 * pixels, rtol=1e-4, atol=1e-3)


def test_learned_scales_cannot_fall_below_their_floor():
    model = small_model(small_options(trunk=TrunkOptions(units=8, layers=1, depth=2, min_scale=0.2)), OBS["mixed"])
    with torch.no_grad():
        for scale in model.decoder.log_scale.values():
            scale.fill_(-1e3)
    likelihoods = model.decoder(features_of(model, 2))
    assert likelihoods["speed"].std_u.unique().item() == pytest.approx(0.2)
    assert likelihoods["camera"].std_u.item() == pytest.approx(0.2)
