"""Multi-step uncertainty, the re-encoding residual and surprise against versions written out."""

import pytest
import torch

from tests.contracts.tools import OBS, random_obs, small_model, small_options, still, window
from worldmodels.errors import ConfigError
from worldmodels.options import EnsembleOptions
from worldmodels.types import State
from worldmodels.uncertainty import forecast, realised, reencoding_residual, spearman
from worldmodels.uncertainty.forecast import readout

FAMILIES = ["gaussian", "categorical"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plans(count, horizon):
    return torch.eye(4)[torch.randint(4, (count, horizon))]


def quiet(model):
    """Members and prior without noise: a trajectory is then a function of its start."""
    if model.family.ordered:
        model.family.moments = lambda raw: (raw.chunk(2, -1)[0], torch.zeros_like(raw.chunk(2, -1)[1]))
    return still(model)


@pytest.mark.parametrize("kind", ["ensemble", "epinet"])
@pytest.mark.parametrize("posterior", FAMILIES)
def test_every_member_follows_its_own_trajectory(posterior, kind):
    options = small_options(posterior, ensemble=EnsembleOptions(members=3, units=8, kind=kind))
    model = quiet(small_model(options))
    start, plan = model.infer(window()).flatten(), plans(14, 5)
    means = []
    for k in range(4):
        state, own = start, []
        for t in range(5):
            context, _ = model.temporal_prior.advance(state, plan[:, t])
            raw = model.temporal_prior.prior(context)  # the last one
            if k < 3:
                raw = model.ensemble(context, model.temporal_prior.previous(context))[k]
            state = State(context, model.family.mode(raw))
            own.append(model.decode(state)["obs"].mean_u)
        means.append(torch.stack(own, 1))
    expected = torch.stack(means)  # (K + 1, B, H, n)
    said = forecast(model, start, plan, samples=2)
    torch.testing.assert_close(said.mean, expected.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said.epistemic, expected.var(0, correction=0), rtol=1e-3, atol=1e-6)
    noise = readout(model, start)[1]
    torch.testing.assert_close(said.aleatoric, noise.square().expand_as(said.aleatoric))


def test_shared_noise_is_not_disagreement():
    """Identical members, noisy steps: no variance between them, and the noise within."""
    model = small_model()
    model.ensemble.prior_scale = 0.0
    with torch.no_grad():
        model.ensemble.weights.copy_(model.ensemble.weights[:1].expand_as(model.ensemble.weights))
    model.temporal_prior.prior = lambda context: model.ensemble(context, model.temporal_prior.previous(context))[0]
    said = forecast(model, model.infer(window()).flatten(), plans(14, 6))
    torch.testing.assert_close(said.epistemic, torch.zeros_like(said.epistemic), rtol=0, atol=1e-9)
    noise = readout(model, model.infer(window()))[1].square()
    assert (said.aleatoric > noise).all()


def test_noise_does_not_move_the_mean_of_what_is_linear():
    """One step of a member is linear in its noise, and so is this read-out: two samples give the mean exactly."""
    model = small_model()
    model.decode = lambda states: {}  # forecasts are then about the latent itself
    start, plan = model.infer(window()).flatten(), plans(14, 1)
    context, _ = model.temporal_prior.advance(start, plan[:, 0])
    members = model.ensemble(context, model.temporal_prior.previous(context))
    mean, std = model.family.moments(torch.cat([members, model.temporal_prior.prior(context).unsqueeze(0)]))
    said = forecast(model, start, plan, samples=2)
    torch.testing.assert_close(said.mean[:, 0], mean.mean(0), rtol=1e-4, atol=1e-5)
    many = forecast(model, start, plan, samples=4000)
    torch.testing.assert_close(many.aleatoric[:, 0], std.square().mean(0), rtol=0.1, atol=1e-4)
    assert forecast(model, start, plan, samples=3).mean.shape == said.mean.shape


def test_trap_no_score_is_the_time_index():
    """Within one step ahead starts are ordered by what they are; a counter of steps orders nothing there."""
    model = small_model(small_options(ensemble=EnsembleOptions(members=4, units=8)))
    said = forecast(model, model.infer(window(ends=(None,) * 8, first=(True,) * 8)).flatten(), plans(56, 6))
    score = said.std.norm(dim=-1)  # (B, H)
    for h in range(6):
        assert score[:, h].std() > 1e-4
        assert spearman(torch.full((56,), float(h)), score[:, h]) == 0.0
    rollout = model.imagine(State(torch.zeros(2, model.temporal_prior.context_size), torch.zeros(2, 4)),
                            torch.zeros(2, 1, 4), 1, uncertainty=True)  # fmt: skip
    later = model.imagine(rollout.states.index((slice(None), 0)), torch.zeros(2, 3, 4), 3, uncertainty=True)
    torch.testing.assert_close(later.epistemic[:, 0], rollout.epistemic[:, 0])


def test_what_came_is_read_as_the_forecast_is():
    model = small_model(obs=OBS["mixed"])
    obs = random_obs(OBS["mixed"], 5, 3)
    states = State(torch.zeros(5, 3, model.temporal_prior.context_size), torch.randn(5, 3, 4))
    expected = torch.cat([model.standardizer(name, obs[name]) for name in ("body/joints", "speed")], -1)
    assert torch.equal(realised(model, obs, states), expected)
    mean, noise = readout(model, states)
    assert mean.shape == (5, 3, 3) and noise.shape == (3,)
    images = small_model(obs=OBS["grey 10x10"])
    states = State(torch.zeros(5, 3, images.temporal_prior.context_size), torch.randn(5, 3, 4))
    assert torch.equal(realised(images, {}, states), states.z) and torch.equal(readout(images, states)[0], states.z)


def test_a_transition_that_is_a_flow_is_no_member():
    model = small_model(small_options(transition="flow"))
    model.decode = lambda states: {}  # forecasts are then about the latent itself
    start, plan = model.infer(window()).flatten(), plans(14, 1)
    context, _ = model.temporal_prior.advance(start, plan[:, 0])
    mean, _ = model.ensemble.family.moments(model.ensemble(context, model.temporal_prior.previous(context)))
    said = forecast(model, start, plan)
    torch.testing.assert_close(said.mean[:, 0], mean.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said.epistemic[:, 0], mean.var(0, correction=0), rtol=1e-3, atol=1e-6)


def test_without_an_ensemble_there_is_no_forecast():
    model = small_model(small_options(ensemble=EnsembleOptions(members=0)))
    with pytest.raises(ConfigError, match="no ensemble"):
        forecast(model, model.infer(window()).flatten(), plans(14, 2))


@pytest.mark.parametrize("name", OBS)
def test_reencoding_residual_is_the_way_through_the_observation_and_back(name):
    model = small_model(obs=OBS[name])
    states = State(torch.zeros(6, model.temporal_prior.context_size), 3 * torch.randn(6, 4))
    residual = reencoding_residual(model, states, OBS[name])
    assert residual.shape == (6,) and torch.isfinite(residual).all()
    if name == "vector":
        seen = {"obs": model.decode(states)["obs"].mode}
        mode = model.encoder.encode(model.encoder.tokens(seen), sample=False).z
        torch.testing.assert_close(residual, (mode - states.z).norm(dim=-1))


@pytest.mark.parametrize("posterior", FAMILIES)
def test_surprise_is_the_divergence_from_what_was_expected(posterior):
    model = still(small_model(small_options(posterior)))
    batch = window(ends=(None, 2), first=(True, False))
    batch.obs_mask[0, 6] = False
    said = model.surprise(batch)
    tokens = model.encoder.tokens(batch.obs)
    states = model.infer(batch)
    q = model.encoder.posterior(tokens, states.context)
    for b, t in [(0, 0), (0, 3), (1, 0), (1, 3), (1, 5)]:
        start = t == 0 or bool(batch.is_first[b, t])
        first = model.marginal.table[int(batch.is_first[b, t])]
        p = first if start else model.temporal_prior.prior(states.context[b, t])
        torch.testing.assert_close(said[b, t], model.family.kl(q[b, t], p), rtol=1e-4, atol=1e-5)
    assert said[0, 6] == 0 and not said.requires_grad
