"""Names to parts: every option reaches its part, and what does not fit is refused by name."""

from dataclasses import replace

import pytest
import torch

from tests.contracts.tools import ACTIONS, OBS, VECTOR, small_options
from worldmodels.build import build_world_model
from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.errors import ConfigError
from worldmodels.options import HeadOptions, RecurrentOptions, TransformerOptions, TrunkOptions
from worldmodels.specs import ObsSpec


def build(options, obs=VECTOR, action=ACTIONS["discrete"]):
    torch.manual_seed(0)
    return build_world_model(options, obs, action)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"posterior": "gausian"}, "world_model.posterior: unknown part 'gausian'; known: categorical, gaussian"),
        ({"temporal_prior": "lstm"}, "world_model.temporal_prior: unknown part 'lstm'"),
        ({"encoder": "flo"}, "world_model.encoder: unknown part 'flo'"),
        ({"recurrent": RecurrentOptions(deter=10, blocks=4)}, "deter 10 does not divide into 4 blocks"),
        ({"transformer": TransformerOptions(width=10, heads=4)}, "width 10 does not divide into 4 heads"),
        (
            {"temporal_prior": "state_space", "posterior_sees_context": True},
            "posterior_sees_context: expected false with world_model.temporal_prior=state_space",
        ),
        (
            {"temporal_prior": "transformer", "posterior_sees_context": True},
            "posterior_sees_context: expected false with world_model.temporal_prior=transformer",
        ),
    ],
)
def test_unknown_part_or_impossible_size_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(replace(small_options(), **changes))


@pytest.mark.parametrize(
    ("changes", "obs", "message"),
    [
        ({"encoder": "flow"}, "mixed", "expected vector observations alone, got camera .image., gear .discrete.*vae"),
        ({"encoder": "flow"}, "grey 10x10", "world_model.encoder=flow: expected vector observations alone, got obs"),
        ({"encoder": "flow", "posterior": "categorical"}, "vector", "expected gaussian with world_model.encoder=flow"),
        ({"encoder": "flow", "posterior_sees_context": True}, "vector", "posterior_sees_context: expected false"),
        ({"transition": "flow", "posterior": "categorical"}, "vector", "world_model.transition=flow: expected"),
    ],
)
def test_a_flow_is_refused_where_no_bijection_of_real_vectors_serves(changes, obs, message):
    with pytest.raises(ConfigError, match=message):
        build(replace(small_options(), **changes), OBS[obs])


def test_the_flow_encoders_latent_is_as_wide_as_the_observations():
    model = build(small_options(encoder="flow"), {"a": ObsSpec("vector", (3,)), "b/c": ObsSpec("vector", (2,))})
    assert model.family.width == 5 and model.family.min_std == small_options().gaussian.min_std


def test_sizes_and_names_reach_their_parts():
    model = build(small_options(posterior_sees_context=True, heads=HeadOptions(units=7, layers=2, bins=31, limit=5.0)))
    assert isinstance(model.family, GaussianFamily) and model.family.width == 4
    assert model.temporal_prior.context_size == 8 + 4 + 4
    assert model.features_size == 16 + 4
    assert model.encoder.sees_context
    assert len(model.reward.bins) == 31 and model.reward.bins[-1].item() == pytest.approx(torch.e**5 - 1, rel=1e-4)
    categorical = build(small_options("categorical"))
    assert isinstance(categorical.family, CategoricalFamily) and not categorical.encoder.sees_context
    assert categorical.family.unimix == small_options().categorical.unimix


def test_one_family_object_serves_posterior_temporal_and_marginal_prior():
    model = build(small_options())
    assert model.family is model.encoder.family is model.temporal_prior.family is model.marginal.family


def test_norm_off_means_no_normalisation_in_perceptrons():
    kinds = {type(module) for module in build(small_options(norm=False)).modules()}
    assert torch.nn.LayerNorm not in kinds
    assert torch.nn.LayerNorm in {type(module) for module in build(small_options()).modules()}


def test_same_seed_same_model():
    one, two = build(small_options(), OBS["mixed"]), build(small_options(), OBS["mixed"])
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_image_depth_and_scale_floor_reach_the_image_parts():
    options = small_options(trunk=TrunkOptions(units=8, layers=1, depth=4, min_scale=0.3, image_weight=2.0))
    model = build(options, OBS["rgb 17x23"])
    assert model.encoder.trunk.images["0"].layers[0].out_channels == 4
    assert model.decoder.min_scale == 0.3 and model.decoder.image_weight == 2.0
