"""Members that are one and the same are flagged; members that merely agree about data are not."""

import pytest
import torch

from worldmodels.build import build_ensemble
from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.options import EnsembleOptions
from worldmodels.uncertainty import IDENTICAL, decompose, member_difference


def members(**changes):
    torch.manual_seed(0)
    options = EnsembleOptions(**({"members": 4, "units": 8} | changes))
    return build_ensemble(options, GaussianFamily(3), 6)


@pytest.mark.parametrize("family", [GaussianFamily(3), CategoricalFamily(2, 3)])
@pytest.mark.parametrize("kind", ["ensemble", "epinet"])
def test_fresh_members_differ_on_noise_and_asking_draws_no_number(kind, family):
    ensemble = build_ensemble(EnsembleOptions(kind=kind, units=8), family, 6)
    before = torch.get_rng_state()
    assert member_difference(ensemble, 6) > 0.02
    assert torch.equal(before, torch.get_rng_state())


def test_members_of_the_same_seed_are_flagged_even_if_only_two_of_them():
    ensemble = members(prior_scale=0.0)
    assert member_difference(ensemble, 6) > IDENTICAL
    with torch.no_grad():
        ensemble.weights[3] = ensemble.weights[1]
    assert member_difference(ensemble, 6) < IDENTICAL
    with torch.no_grad():
        ensemble.weights.copy_(ensemble.weights[:1].expand_as(ensemble.weights))
    context = torch.randn(7, 6)
    said = decompose(ensemble.family, ensemble(context, torch.zeros(7, 3)))
    torch.testing.assert_close(said.epistemic, torch.zeros(7), rtol=0, atol=1e-6)


def test_prior_functions_alone_keep_members_of_the_same_weights_apart():
    ensemble = members(prior_scale=0.3)
    with torch.no_grad():
        ensemble.weights.copy_(ensemble.weights[:1].expand_as(ensemble.weights))
    assert member_difference(ensemble, 6) > IDENTICAL
    assert member_difference(members(members=1), 6) == 1.0
