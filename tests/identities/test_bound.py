"""The evidence lower bound against the exact likelihood of a linear-Gaussian state-space model (Kalman 1960).

z' = A z + B a + N(0, P^2), o = C z + N(0, R^2): the world model's own loss with these as its parts and a posterior that
is learned. Whatever the posterior, its bound may not exceed log p(o_0 .. o_T | a) of any window.
"""

from collections.abc import Mapping
from math import log, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.tools import ACTIONS
from worldmodels.distributions import GaussianFamily
from worldmodels.encoders import Standardizer, Trunk, VAEEncoder
from worldmodels.heads import ContinuationHead, TwoHotHead
from worldmodels.options import ObjectiveOptions
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Batch, Carried, Encoding, State
from worldmodels.world_model import WorldModel

SPECS = {"obs": ObsSpec("vector", (2,))}
ACTION = ACTIONS["continuous"]
A = torch.tensor([[0.9, 0.2], [-0.2, 0.8]])
B = torch.tensor([[0.5, 0.0], [0.1, 0.4]])
C = torch.tensor([[1.0, 0.3], [-0.5, 0.8]])
START, PROCESS, NOISE = 1.0, 0.4, 0.3  # standard deviations of z_0, of a step, of an observation
STEPS = 6
FAMILY = GaussianFamily(2)


def raw(mean: Tensor, std: float) -> Tensor:
    """Raw parameters of N(mean, std^2)."""
    share = torch.tensor((std - FAMILY.min_std) / 2)
    return torch.cat([mean, (3 + 2 * torch.logit(share)).expand_as(mean)], -1)


class LinearPrior(nn.Module):
    """p(z' | z, a), with the mean as its context."""

    context_size, parallel = 2, False

    def initial(self, batch: int) -> Carried:
        return torch.zeros(batch, 2), None

    def advance(self, state: State, action: Tensor) -> Carried:
        return state.z @ A.T + action @ B.T, None

    def prior(self, context: Tensor) -> Tensor:
        return raw(context, PROCESS)


class LinearDecoder(nn.Module):
    """p(o | z)."""

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        error = (obs["obs"] - features[..., 2:] @ C.T) / NOISE
        nats = -0.5 * (error.square() + log(2 * pi) + 2 * log(NOISE)).sum(-1)
        return nats, nats


def linear_model(encoder: nn.Module | None = None) -> WorldModel:
    torch.manual_seed(0)
    standardizer = Standardizer(SPECS)
    trunk = Trunk(SPECS, standardizer, units=32, layers=1, depth=2, norm=False)
    marginal = MarginalPrior(FAMILY)
    with torch.no_grad():
        marginal.table.copy_(raw(torch.zeros(2, 2), START))
    return WorldModel(
        obs_specs=SPECS,
        action_spec=ActionSpec("continuous", dimensions=2),
        encoder=encoder or VAEEncoder(trunk, FAMILY, context=2, units=32, norm=False),
        family=FAMILY,
        temporal_prior=LinearPrior(),
        marginal=marginal,
        decoder=LinearDecoder(),
        reward=TwoHotHead(4, units=4, layers=0, bins=5, limit=1.0, norm=False),
        continuation=ContinuationHead(4, units=4, layers=0, norm=False),
        standardizer=standardizer,
        objective=ObjectiveOptions(free_nats=0.0, representation=1.0),
    )


def windows(count: int, steps: int = STEPS, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    action = noise(count, steps, 2).tanh()
    z = START * noise(count, 2)
    observations = [z @ C.T + NOISE * noise(count, 2)]
    for t in range(steps):
        z = z @ A.T + action[:, t] @ B.T + PROCESS * noise(count, 2)
        observations.append(z @ C.T + NOISE * noise(count, 2))
    first = torch.zeros(count, steps + 1, dtype=torch.bool)
    first[:, 0] = True
    no = torch.zeros(count, steps, dtype=torch.bool)
    return Batch(
        obs={"obs": torch.stack(observations, 1)},
        action=action,
        reward=torch.zeros(count, steps),
        terminated=no,
        truncated=no,
        mask=~no,
        is_first=first,
        obs_mask=torch.ones(count, steps + 1, dtype=torch.bool),
    )


def only(batch: Batch, row: int, copies: int) -> Batch:
    """One window, `copies` times."""
    repeat = lambda x: x[row : row + 1].expand(copies, *x.shape[1:])  # noqa: E731
    fields = ("action", "reward", "terminated", "truncated", "mask", "is_first", "obs_mask")
    return Batch({"obs": repeat(batch.obs["obs"])}, *(repeat(getattr(batch, name)) for name in fields))


def kalman(batch: Batch) -> Tensor:
    """log p(o_0 .. o_T | a) in nats of each window (B,), by the filter's innovations, in double precision."""
    a, b, c = A.double(), B.double(), C.double()
    obs, action = batch.obs["obs"].double(), batch.action.double()
    mean = torch.zeros(len(obs), 2, dtype=torch.float64)
    cov = START**2 * torch.eye(2, dtype=torch.float64)
    total = torch.zeros(len(obs), dtype=torch.float64)
    for t in range(obs.shape[1]):
        if t > 0:
            mean = mean @ a.T + action[:, t - 1] @ b.T
            cov = a @ cov @ a.T + PROCESS**2 * torch.eye(2)
        innovation = c @ cov @ c.T + NOISE**2 * torch.eye(2)
        total += torch.distributions.MultivariateNormal(mean @ c.T, innovation).log_prob(obs[:, t])
        gain = cov @ c.T @ innovation.inverse()
        mean = mean + (obs[:, t] - mean @ c.T) @ gain.T
        cov = cov - gain @ c @ cov
    return total


def joint(batch: Batch) -> Tensor:
    """The same by one big Gaussian over all observations: what the filter itself is tested against."""
    steps = batch.action.shape[1] + 1
    means, powers = [torch.zeros(len(batch.action), 2, dtype=torch.float64)], [torch.eye(2, dtype=torch.float64)]
    for t in range(steps - 1):
        means.append(means[-1] @ A.T.double() + batch.action[:, t].double() @ B.T.double())
        powers.append(A.double() @ powers[-1])
    cov = torch.zeros(2 * steps, 2 * steps, dtype=torch.float64)
    for s in range(steps):
        for t in range(steps):
            block = START**2 * powers[s] @ powers[t].T
            for k in range(1, min(s, t) + 1):
                block = block + PROCESS**2 * powers[s - k] @ powers[t - k].T
            cov[2 * s : 2 * s + 2, 2 * t : 2 * t + 2] = C.double() @ block @ C.T.double()
    cov += NOISE**2 * torch.eye(2 * steps)
    mean = torch.cat([m @ C.T.double() for m in means], -1)
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(batch.obs["obs"].double().flatten(1))


def gaps(model: WorldModel, batch: Batch, copies: int = 48, repeats: int = 6) -> tuple[Tensor, Tensor]:
    """Exact minus bound of each window in nats (B,), and the standard error of the bound."""
    bounds = torch.tensor(
        [[model.loss(only(batch, row, copies)).bound.item() for _ in range(repeats)] for row in range(len(batch.mask))]
    )
    bounds = bounds.double() * (batch.mask.shape[1] + 1)
    return kalman(batch) - bounds.mean(1), bounds.std(1) / sqrt(repeats)


def test_the_filter_agrees_with_one_big_gaussian():
    batch = windows(5)
    torch.testing.assert_close(kalman(batch), joint(batch))


def test_bound_is_below_the_exact_likelihood_in_every_window_and_the_gap_shrinks_with_training():
    model, held_out = linear_model(), windows(16, seed=99)
    with torch.no_grad():
        untrained, error = gaps(model, held_out)
    assert (untrained > -4 * error).all()
    optimizer = torch.optim.Adam(model.encoder.parameters(), 3e-3)
    means = [untrained.mean()]
    for k in range(250):
        loss = model.loss(windows(32, seed=1000 + k))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        if k + 1 in (80, 250):
            with torch.no_grad():
                gap, error = gaps(model, held_out)
            assert (gap > -4 * error - 1e-3).all()
            means.append(gap.mean())
    assert means[0] > 3 * means[1] > 3 * means[2], means
    # a posterior that cannot see later observations cannot be exact: 2 of the 23 nats at the start are left
    assert means[2] < 3, means


class ExactPosterior(nn.Module):
    """p(z | o) of a single observation, as an encoder. Its spread is not diagonal unless C is: here C is scaled."""

    sees_context = True

    def tokens(self, obs: Mapping[str, Tensor]) -> Tensor:
        return obs["obs"]

    def encode(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Encoding:
        precision = 1 / START**2 + (C * C).sum(0)[0] / NOISE**2
        parameters = raw(tokens @ C / NOISE**2 / precision, float(precision.rsqrt()))
        z = FAMILY.sample(parameters)
        return Encoding(z, -FAMILY.log_prob(parameters, z), parameters)


def test_bound_is_the_exact_likelihood_where_the_posterior_is_exact(monkeypatch):
    monkeypatch.setitem(
        globals(), "C", torch.tensor([[1.2, 0.0], [0.0, 1.2]]) @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    )
    batch = windows(3, steps=1)
    batch.mask[:], batch.is_first[:] = False, True  # two episodes of one observation each
    singles = torch.distributions.MultivariateNormal(
        torch.zeros(2), START**2 * C @ C.T + NOISE**2 * torch.eye(2)
    ).log_prob(batch.obs["obs"])
    model = linear_model(ExactPosterior())
    bound = model.loss(only(batch, 0, 4000)).bound
    assert bound.item() == pytest.approx(singles[0].mean().item(), abs=0.05)


def test_reported_bound_is_the_same_with_closed_form_and_one_sample_kl():
    model, batch = linear_model(), windows(4000, seed=5)
    with torch.no_grad():
        closed = model.loss(batch).bound.item()
        encode = model.encoder.encode
        model.encoder.encode = lambda *a, **k: encode(*a, **k)._replace(posterior=None)  # type: ignore[method-assign]
        estimated = model.loss(batch).bound.item()
    assert estimated == pytest.approx(closed, abs=0.05)
