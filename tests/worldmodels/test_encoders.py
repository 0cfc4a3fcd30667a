"""Encoders: what every observation kind becomes, the standardiser, the posterior and its log-volume."""

import pytest
import torch

from tests.contracts.tools import OBS, random_obs, small_model, small_options
from worldmodels.distributions.gaussian import squash
from worldmodels.encoders import Standardizer
from worldmodels.encoders.trunk import MIN_SPREAD, multi_one_hot
from worldmodels.specs import ObsSpec


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", OBS)
def test_trunk_takes_any_leading_axes_and_gives_the_width_it_says(kind):
    trunk = small_model(obs=OBS[kind]).encoder.trunk
    obs = random_obs(OBS[kind], 2, 3)
    features = trunk(obs)
    assert features.shape == (2, 3, trunk.width)
    one = trunk({name: value[1, 2] for name, value in obs.items()})
    torch.testing.assert_close(one, features[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", OBS)
def test_every_observation_reaches_the_posterior(kind):
    model = small_model(obs=OBS[kind])
    obs = random_obs(OBS[kind], 4)
    before = model.encoder.posterior(model.encoder.tokens(obs), None)
    for name, spec in OBS[kind].items():
        changed = dict(obs)
        changed[name] = (spec.classes[0] - 1 - obs[name]) if spec.kind == "discrete" else random_obs(OBS[kind], 4)[name]
        assert not torch.allclose(model.encoder.posterior(model.encoder.tokens(changed), None), before, atol=1e-6), name


def test_multi_one_hot_is_the_obvious_concatenation():
    assert multi_one_hot(torch.tensor([[2, 0]]), (3, 2)).tolist() == [[0, 0, 1, 1, 0]]


def test_standardizer_squashes_by_the_moments_it_was_fitted_to():
    specs = {"a/b": ObsSpec("vector", (2,)), "c.d": ObsSpec("vector", (1,)), "image": OBS["grey 10x10"]["obs"]}
    standardizer = Standardizer(specs)
    x = torch.randn(100, 2)
    torch.testing.assert_close(standardizer("a/b", x), squash(x, torch.zeros(2), torch.ones(2)))
    data = {"a/b": torch.randn(50, 4, 2) * torch.tensor([10.0, 0.0]) + 5, "c.d": torch.randn(200, 1)}
    standardizer.fit(data)
    center, spread = standardizer.moments("a/b")
    torch.testing.assert_close(center, data["a/b"].flatten(0, 1).mean(0))
    assert spread[0].item() == pytest.approx(data["a/b"][..., 0].std(correction=0).item(), rel=1e-5)
    assert spread[1].item() == pytest.approx(MIN_SPREAD)
    assert standardizer.image_moments("image")[1] == 1  # what was not fitted stays as it was


def test_an_image_is_standardised_by_the_mean_of_each_pixel_and_one_spread_and_its_likelihood_begins_there():
    model = small_model(obs=OBS["mixed"])
    shape = OBS["mixed"]["camera"].shape
    seen = torch.randint(100, 120, (150, *shape), dtype=torch.uint8)
    model.fit_standardizer({"camera": seen})
    scaled = seen.double() / 255 - 0.5
    centred = scaled - scaled.mean(0)
    standardised = model.standardizer.image("camera", seen)
    expected = (centred / centred.square().mean().sqrt()).float()
    torch.testing.assert_close(standardised.movedim(1, -1), expected, rtol=1e-4, atol=1e-5)
    stem = model.decoder.images[model.decoder.keys["camera"]]
    with torch.no_grad():
        stem.out.weight.zero_()
        stem.out.bias.zero_()
    mean = model.decoder(torch.randn(2, model.features_size))["camera"].mean_u
    torch.testing.assert_close(mean, scaled.mean(0).float().movedim(-1, 0).expand(2, -1, -1, -1))


def test_names_that_look_alike_do_not_share_moments():
    standardizer = Standardizer({"a.b": ObsSpec("vector", (1,)), "a_b": ObsSpec("vector", (1,))})
    standardizer.fit({"a.b": torch.full((9, 1), 7.0), "a_b": torch.full((9, 1), -7.0)})
    assert [standardizer.moments(name)[0].item() for name in ("a.b", "a_b")] == [7.0, -7.0]


@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_log_volume_is_minus_the_log_density_of_the_sample(posterior):
    model = small_model(small_options(posterior))
    tokens = model.encoder.tokens(random_obs(OBS["vector"], 5))
    encoding = model.encoder.encode(tokens)
    assert encoding.posterior is not None
    torch.testing.assert_close(encoding.log_volume, -model.family.log_prob(encoding.posterior, encoding.z))
    torch.testing.assert_close(
        model.encoder.encode(tokens, sample=False).z, model.family.mode(model.encoder.posterior(tokens, None))
    )


def test_context_is_read_only_where_the_posterior_sees_it():
    tokens_of = random_obs(OBS["vector"], 5)
    for sees in (True, False):
        model = small_model(small_options(posterior_sees_context=sees))
        tokens = model.encoder.tokens(tokens_of)
        size = model.temporal_prior.context_size
        one, two = (model.encoder.posterior(tokens, torch.randn(5, size)) for _ in range(2))
        assert torch.equal(one, two) is not sees


def test_an_untrained_gaussian_posterior_remembers_a_vector_through_its_identity_path():
    model = small_model(spread=0.0)
    obs = random_obs(OBS["vector"], 200)
    z = model.encoder.encode(model.encoder.tokens(obs), sample=False).z
    kept = torch.corrcoef(torch.stack([z[:, 1], model.standardizer("obs", obs["obs"])[:, 1]]))[0, 1]
    assert kept > 0.95


def test_encoding_and_imagining_never_run_the_decoder(monkeypatch):
    model = small_model()
    monkeypatch.setattr(type(model.decoder), "forward", lambda *_: pytest.fail("the decoder ran"))
    state = model.filter(None, None, random_obs(OBS["vector"], 2), torch.ones(2, dtype=torch.bool))
    monkeypatch.setattr(type(model.encoder), "tokens", lambda *_: pytest.fail("the encoder ran"))
    monkeypatch.setattr(type(model.encoder), "encode", lambda *_: pytest.fail("the encoder ran"))
    model.imagine(state, torch.zeros(2, 3, 4), 3)
