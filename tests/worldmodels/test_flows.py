"""Flows: inverses, log-determinants, densities that integrate to one, and likelihoods that are exact."""

from dataclasses import replace
from math import log, pi

import pytest
import torch
from torch import nn

from tests.contracts.tools import ACTIONS, small_model, small_options, window
from tests.identities.test_bound import A, B, LinearPrior, kalman, linear_model, raw, windows
from worldmodels.decoders import InverseDecoder
from worldmodels.distributions import FlowFamily, GaussianFamily
from worldmodels.encoders import FlowEncoder, Standardizer
from worldmodels.flows import KINDS, coupling_flow, parameter_count
from worldmodels.heads import ContinuationHead, TwoHotHead
from worldmodels.likelihood import log_likelihood
from worldmodels.options import FlowOptions, ObjectiveOptions
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.world_model import WorldModel

SIZES = {"transforms": 3, "units": 8, "layers": 1, "bins": 4}
FIRST = 1.0
STEP = 0.4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def moved(module: nn.Module, spread: float = 0.3) -> nn.Module:
    """The module with every parameter moved, so that it is far from where it started."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return module


def flow(kind, features=3, context=0, **changes):
    return moved(coupling_flow(features, context, kind=kind, **(SIZES | changes)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 2])
def test_inverse_and_log_determinant_are_autograds(kind, features, context):
    transform = flow(kind, features, context).double()
    x = 2 * torch.randn(20, features, dtype=torch.float64)
    c = torch.randn(20, context, dtype=torch.float64) if context else None
    z, log_volume = transform(c).call_and_ladj(x)
    torch.testing.assert_close(transform(c).inv(z), x)
    for i in range(5):
        own = c[i] if c is not None else None
        jacobian = torch.autograd.functional.jacobian(lambda x, own=own: transform(own)(x), x[i])
        torch.testing.assert_close(log_volume[i], torch.linalg.slogdet(jacobian).logabsdet)
    back = transform(c).inv.call_and_ladj(z)[1]
    torch.testing.assert_close(log_volume + back, torch.zeros_like(back))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_close_to_the_identity(kind):
    x = torch.randn(50, 4)
    z, log_volume = coupling_flow(4, 3, kind=kind, **SIZES)(torch.randn(50, 3)).call_and_ladj(x)
    assert (z - x).abs().max() < 0.5 and log_volume.abs().max() < 0.5


def test_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown kind 'glow'; known: nice, realnvp, nsf"):
        coupling_flow(2, kind="glow", **SIZES)


def test_parameter_count_counts_every_number():
    assert parameter_count(nn.Linear(3, 4)) == 16


def flow_encoder(noise=0.0, kind="realnvp"):
    specs = {"a": ObsSpec("vector", (2,)), "b": ObsSpec("vector", (1,))}
    standardizer = Standardizer(specs)
    standardizer.fit({"a": torch.randn(99, 2) * torch.tensor([3.0, 0.2]) + 1, "b": torch.randn(99, 1) - 4})
    return FlowEncoder(specs, standardizer, flow(kind), noise=noise)


@pytest.mark.parametrize("kind", KINDS)
def test_flow_encoders_log_volume_is_the_jacobian_from_observation_to_latent(kind):
    encoder = flow_encoder(kind=kind).double()
    obs = {"a": torch.randn(4, 2, dtype=torch.float64), "b": 9 * torch.randn(4, 1, dtype=torch.float64)}
    encoding = encoder.encode(encoder.tokens(obs))
    assert encoding.posterior is None

    def latent(x):
        return encoder.encode(encoder.tokens({"a": x[:2], "b": x[2:]})).z

    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(latent, torch.cat([obs["a"][i], obs["b"][i]]))
        torch.testing.assert_close(encoding.log_volume[i], torch.linalg.slogdet(jacobian).logabsdet)


def test_flow_encoder_decodes_what_it_encoded_and_noise_is_added_only_to_samples():
    encoder = flow_encoder(noise=0.1)
    obs = {"a": torch.randn(6, 7, 2), "b": torch.randn(6, 7, 1)}
    tokens = encoder.tokens(obs)
    quiet = encoder.encode(tokens, sample=False).z
    for name, likelihood in encoder.decode(quiet).items():
        torch.testing.assert_close(likelihood.mode, obs[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoder.encode(tokens, sample=False).z, quiet)
    noisy = encoder.transform().inv(encoder.encode(tokens).z) - tokens
    assert 0.08 < noisy.std() < 0.12


def flow_family(size=2, context=3):
    return FlowFamily(size, 0.02, flow("nsf", size, context), context)


def test_flow_family_with_a_straight_flow_is_the_gaussian_family():
    transform = coupling_flow(2, 3, kind="realnvp", **SIZES)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.zero_()
    family, gaussian = FlowFamily(2, 0.02, transform, 3), GaussianFamily(2, 0.02)
    raw_p, z = torch.randn(5, 7), torch.randn(5, 2)
    torch.testing.assert_close(family.log_prob(raw_p, z), gaussian.log_prob(raw_p[:, :4], z))
    torch.testing.assert_close(family.mode(raw_p), gaussian.mode(raw_p[:, :4]))
    torch.testing.assert_close(family.sharpen(raw_p)[:, :4], gaussian.sharpen(raw_p[:, :4]))
    torch.testing.assert_close(family.shift(raw_p, z)[:, :4], gaussian.shift(raw_p[:, :4], z))
    torch.testing.assert_close(family.shift(raw_p, z)[:, 4:], raw_p[:, 4:])


def test_flow_familys_density_integrates_to_one_and_is_its_distributions():
    family = flow_family()
    raw_p = torch.randn(7)
    mean, std = family.gaussian.moments(raw_p[:4])
    axis = torch.linspace(-12, 12, 700)
    cells = (torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1) * std + mean).flatten(0, 1)
    total = family.log_prob(raw_p, cells).exp().sum() * (axis[1] - axis[0]) ** 2 * std.prod()
    assert total.item() == pytest.approx(1.0, abs=2e-3)
    raw_p, z = torch.randn(9, 7), torch.randn(9, 2)
    distribution = family.distribution(raw_p)
    assert distribution.batch_shape == (9,) and distribution.event_shape == (2,)
    torch.testing.assert_close(distribution.log_prob(z), family.log_prob(raw_p, z), rtol=1e-4, atol=1e-4)


def test_flow_familys_samples_follow_its_density_and_carry_gradients():
    family = flow_family(1, 2)
    raw_p = torch.tensor([0.5, 2.0, 1.0, -1.0])
    samples = family.sample(raw_p.expand(40_000, -1)).squeeze(-1)
    mean, std = family.gaussian.moments(raw_p[:2])
    edges = (torch.linspace(-4, 4, 30) * std + mean).detach()
    counts = torch.histogram(samples.detach(), edges)[0] / len(samples)
    fine = torch.linspace(float(edges[0]), float(edges[-1]), 29 * 50 + 1)
    density = family.log_prob(raw_p.expand(len(fine), -1), fine[:, None]).exp()
    mass = torch.trapezoid(density.unfold(0, 51, 50), fine.unfold(0, 51, 50), dim=-1)
    assert (counts - mass).abs().max() < 0.01
    raw_p.requires_grad_()
    (gradient,) = torch.autograd.grad(family.sample(raw_p.expand(9, -1)).sum(), raw_p)
    assert (gradient != 0).all()


def test_flow_familys_entropy_and_kl_are_right_on_average():
    family = flow_family()
    raw_p, raw_q = torch.randn(2, 1, 7).expand(2, 30_000, 7)
    z = family.sample(raw_p)
    assert family.entropy(raw_p).mean().item() == pytest.approx(-family.log_prob(raw_p, z).mean().item(), abs=0.05)
    mean, std = family.moments(raw_p)  # of 64 samples each, 30,000 times
    torch.testing.assert_close(mean.mean(0), z.mean(0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(std.mean(0), z.std(0), rtol=0.05, atol=0.02)
    assert family.kl(raw_q, raw_p).mean() > 0
    assert family.kl(raw_p, raw_p).abs().max() < 1e-3


class ScannedLinearPrior(LinearPrior):
    """The linear prior over a whole window of a single episode."""

    def scan(self, z, action, starts):  # noqa: ARG002
        after = z[:, :-1] @ A.T.to(z.dtype) + action @ B.T.to(z.dtype)
        return torch.cat([torch.zeros_like(z[:, :1]), after], 1), None


def linear_flow_model() -> WorldModel:
    """z' = A z + B a + noise, and o the inverse of a bent flow of z: everything is known."""
    specs = {"obs": ObsSpec("vector", (2,))}
    family, standardizer = GaussianFamily(2), Standardizer(specs)
    marginal = MarginalPrior(family)
    with torch.no_grad():
        marginal.table.copy_(raw(torch.zeros(2, 2), FIRST))
    encoder = FlowEncoder(specs, standardizer, flow("realnvp", 2), noise=0.0)
    return WorldModel(
        obs_specs=specs,
        action_spec=ActionSpec("continuous", dimensions=2),
        encoder=encoder,
        family=family,
        temporal_prior=ScannedLinearPrior(),
        marginal=marginal,
        decoder=InverseDecoder(encoder.decode, latent=2),
        reward=TwoHotHead(4, units=4, layers=0, bins=5, limit=1.0, norm=False),
        continuation=ContinuationHead(4, units=4, layers=0, norm=False),
        standardizer=standardizer,
        objective=ObjectiveOptions(reward=0.0, continuation=0.0),
    )


def test_likelihood_of_a_linear_gaussian_world_seen_through_a_flow_is_exact():
    model, batch = linear_flow_model().double(), windows(40)
    batch = replace(batch, obs={"obs": batch.obs["obs"].double()}, action=batch.action.double())
    nats, kind = log_likelihood(model, batch)
    assert kind == "exact"
    tokens = model.encoder.tokens(batch.obs)
    z, log_volume = model.encoder.transform().call_and_ladj(tokens)
    log_volume = log_volume - (tokens.abs() / 5).sum(-1)  # squashing with centre 0 and spread 1
    mean = torch.cat([torch.zeros(40, 1, 2), z[:, :-1] @ A.T.double() + batch.action @ B.T.double()], 1)
    std = torch.tensor([FIRST] + [STEP] * batch.action.shape[1], dtype=torch.float64)[:, None]
    obvious = (-0.5 * ((z - mean) / std).square() - std.log() - 0.5 * log(2 * pi)).sum(-1) + log_volume
    torch.testing.assert_close(nats, obvious.sum(-1).detach(), rtol=1e-5, atol=1e-5)


def test_loss_of_a_bijection_is_its_exact_negative_log_likelihood():
    model, batch = linear_flow_model(), windows(40)
    output = model.loss(batch)
    exact = log_likelihood(model, batch)[0].sum() / batch.obs_mask.sum()
    torch.testing.assert_close(output.total.detach(), -exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.bound, exact, rtol=1e-4, atol=1e-4)
    assert output.terms["representation"] == 0


@pytest.mark.parametrize("transition", ["same", "flow"])
def test_density_of_a_window_integrates_to_one(transition):
    specs = {"obs": ObsSpec("vector", (1,))}
    options = small_options(encoder="flow", transition=transition, flow=FlowOptions(units=4, context=2, noise=0.0))
    model = small_model(options, specs, ACTIONS["continuous"])
    axis = torch.linspace(-40, 40, 801)
    first, second = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    batch = window(specs, ACTIONS["continuous"], steps=1, ends=(None,), first=(True,))
    many = {k: v.expand(len(first), *v.shape[1:]) for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    grid = replace(batch, obs={"obs": torch.stack([first, second], 1).unsqueeze(-1)}, **many)
    total = log_likelihood(model, grid)[0].exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=0.01)


def test_importance_weighted_bound_rises_to_the_exact_likelihood():
    model, batch = linear_model(), windows(30)
    exact = kalman(batch).mean().item()
    torch.manual_seed(1)
    one, _ = log_likelihood(model, batch, samples=1)
    many, kind = log_likelihood(model, batch, samples=400, chunk=150)
    assert kind == "bound"
    assert one.mean().item() < many.mean().item() < exact + 0.3


def test_log_weight_averages_to_the_bound_and_is_zero_where_nothing_was_seen():
    model = small_model(small_options(objective=ObjectiveOptions(free_nats=0.0)))
    batch = window(ends=(None, None), first=(True, True))
    batch.obs_mask[:, 5:] = False
    torch.manual_seed(0)
    weights = torch.stack([model.log_weight(batch) for _ in range(400)])  # (S, B, T+1)
    assert weights[:, :, 5:].abs().max() == 0
    bound = torch.stack([model.loss(batch).bound for _ in range(400)]).mean()
    mean = weights.sum((1, 2)).mean() / batch.obs_mask.sum()
    assert mean.item() == pytest.approx(bound.item(), rel=0.05, abs=0.2)


def test_transition_flow_terms_are_the_sums_written_out():
    options = small_options(transition="flow", objective=ObjectiveOptions(free_nats=0.0))
    model, batch = small_model(options), window()
    torch.manual_seed(3)
    output = model.loss(batch)
    torch.manual_seed(3)
    encoding = model.encoder.encode(model.encoder.tokens(batch.obs))
    contexts, _ = model.temporal_prior.scan(encoding.z, batch.action, batch.starts)
    prior = torch.where(
        batch.starts.unsqueeze(-1), model.marginal.parameters_of(batch.is_first), model.temporal_prior.prior(contexts)
    )
    nats = -encoding.log_volume - model.family.log_prob(prior, encoding.z)
    follows = ~batch.starts & batch.obs_mask
    torch.testing.assert_close(output.terms["dynamics"], nats[follows].mean())
    torch.testing.assert_close(output.terms["representation"], nats[follows].mean())
