"""The monitor: what each score is, what moves it, and that none of them tells the time."""

from dataclasses import fields, replace

import pytest
import torch

from tests.contracts.tools import ACTIONS, small_model, small_options
from tests.identities.test_bound import windows
from worldmodels.errors import ConfigError
from worldmodels.likelihood import log_likelihood
from worldmodels.monitor import Monitor, member_log_prob
from worldmodels.specs import ObsSpec
from worldmodels.uncertainty import auroc, waic

SPECS = {"obs": ObsSpec("vector", (2,))}


@pytest.fixture(scope="module")
def fitted():
    """A monitor of an untrained flow model, fitted to a linear world; its predictor has all it needs all the same."""
    model = small_model(small_options(encoder="flow"), SPECS, ACTIONS["continuous"])
    return model, Monitor(model).fit(windows(60, 30, seed=1), steps=150)


def shifted(batch, change):
    """The same windows with other observations."""
    return replace(batch, obs={"obs": change(batch.obs["obs"].clone())})


def jump(obs):
    obs[:, 15:] += 3 * torch.randn(obs[:, 15:].shape, generator=torch.Generator().manual_seed(0))
    return obs


def after(score):
    return score[:, 16:].flatten()


@pytest.mark.parametrize("name", ["latent", "transition", "drift"])
def test_noise_that_begins_in_mid_episode_is_seen_by(fitted, name):
    _, monitor = fitted
    batch = windows(30, 30, seed=2)
    nominal, faulty = (getattr(monitor.scores(b), name) for b in (batch, shifted(batch, jump)))
    torch.testing.assert_close(nominal[:, :15], faulty[:, :15], equal_nan=True)
    assert auroc(after(nominal), after(faulty)) > 0.75


def test_scores_are_nan_exactly_where_there_is_nothing_to_score(fitted):
    _, monitor = fitted
    batch = windows(4, 30, seed=3)
    batch.obs_mask[0, 20:] = False
    batch.mask[0, 19:] = False
    scores = monitor.scores(batch)
    for field in fields(scores):
        missing = getattr(scores, field.name).isnan()
        expected = ~batch.obs_mask if field.name == "latent" else ~batch.obs_mask | batch.starts
        assert torch.equal(missing, expected), field.name


@pytest.mark.parametrize("name", ["latent", "transition"])
def test_no_score_of_a_step_depends_on_the_time_index(fitted, name):
    """The same two observations and action give the same score wherever in an episode they stand."""
    model, monitor = fitted
    batch = windows(20, 30, seed=4)
    late = getattr(monitor.scores(batch), name)
    obs, action = batch.obs["obs"], batch.action
    both = monitor.scores(
        replace(
            batch,
            obs={"obs": torch.cat([obs[:, 20:], obs[:, :20]], 1)},
            action=torch.cat([action[:, 20:], torch.zeros_like(action[:, :1]), action[:, :19]], 1),
        )
    )
    if name == "latent":
        torch.testing.assert_close(getattr(both, name)[:, :11], late[:, 20:])
    else:  # its input holds the model's guess too, which remembers: close, not equal
        assert torch.corrcoef(torch.stack([getattr(both, name)[:, 5:11].flatten(), late[:, 25:].flatten()]))[0, 1] > 0.8
    assert model is monitor.model


def test_surprise_of_a_bijection_is_its_exact_negative_log_likelihood_step_by_step(fitted):
    model, monitor = fitted
    batch = windows(5, 30, seed=5)
    nats = model.surprise(batch, sample=False)
    torch.testing.assert_close(-nats.sum(1), log_likelihood(model, batch)[0])
    torch.testing.assert_close(monitor.scores(batch).surprise[:, 1:], nats[:, 1:])


def test_surprise_of_a_vae_is_the_closed_form_kl():
    model = small_model(small_options(), SPECS, ACTIONS["continuous"])
    batch = windows(5, 6)
    states = model.infer(batch, sample=False)
    posterior = model.encoder.posterior(model.encoder.tokens(batch.obs), None)
    prior = model.temporal_prior.prior(states.context)
    torch.testing.assert_close(model.surprise(batch, sample=False)[:, 1:], model.family.kl(posterior, prior)[:, 1:])


def test_monitor_owns_no_parameter_of_the_model(fitted):
    model, monitor = fitted
    own = {id(p) for p in monitor.parameters()}
    assert own and not own & {id(p) for p in model.parameters()}


def test_waic_of_members_finds_what_no_member_foretold():
    model = small_model(small_options(), SPECS, ACTIONS["continuous"])
    batch = windows(30, 30, seed=2)
    model.fit_standardizer({"obs": batch.obs["obs"].flatten(0, 1)})
    nats = member_log_prob(model, batch)
    assert nats.shape == (model.ensemble.members, 30, 31)
    assert torch.equal(nats[0].isnan(), ~batch.obs_mask | batch.starts)
    states = model.infer(batch, sample=False)
    own = model.ensemble(states.context[:, 3], model.temporal_prior.previous(states.context[:, 3]))
    mean, std = model.family.moments(own[1])
    expected = torch.distributions.Normal(mean, std).log_prob(states.z[:, 3]).sum(-1)
    torch.testing.assert_close(nats[1, :, 3], expected)
    odd = waic(member_log_prob(model, shifted(batch, jump)))
    assert auroc(after(waic(nats)), after(odd)) > 0.75


def test_members_densities_need_members():
    model = small_model(small_options(encoder="flow"), SPECS, ACTIONS["continuous"])
    model.ensemble = None
    with pytest.raises(ConfigError, match="ensemble"):
        member_log_prob(model, windows(2, 5, seed=0))
