"""A toy whose noise is known: does an ensemble tell what it has not seen from what is random?

    z' = z + 0.3 tanh(W [z, a]) + sigma(z) noise,   4 dimensions, sigma(z) = 0.01 to 1 along the first of them

The data are dense where the noise is large (z_0 < -0.5), absent in a gap (0.5 < z_0 < 1), and even elsewhere. Epistemic
uncertainty has to be larger in the gap than in the dense noise; total variance and the error of a prediction are larger
in the noise, which is why a curious agent that follows them never leaves it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, log, pi

import torch
from torch import Tensor

from worldmodels.distributions import GaussianFamily
from worldmodels.dynamics import Members
from worldmodels.types import Uncertainty
from worldmodels.uncertainty.decomposition import decompose
from worldmodels.uncertainty.metrics import auroc

SIZE, ACTION = 4, 1
MIN_SIGMA, MAX_SIGMA = 0.01, 1.0
BETAS = (0.9, 0.999)
NOISY, GAP = (-1.5, -0.5), (0.5, 1.0)
CONTEXT = SIZE + ACTION
LATENT = GaussianFamily(SIZE, min_std=0.005)
"""The latent of the toy's ensembles: its floor lies below the smallest noise."""


@dataclass(frozen=True)
class Transitions:
    """N transitions of the toy. context: (N, 5), z and a. target: (N, 4), z'. sigma: (N,), true noise."""

    context: Tensor
    target: Tensor
    sigma: Tensor


def true_sigma(first: Tensor) -> Tensor:
    """Noise at z_0 = `first` (...): 1 up to -0.5, falling as exp to 0.01 at 0.5 and above."""
    share = (0.5 - first).clamp(0.0, 1.0)
    return torch.exp(log(MIN_SIGMA) + share * (log(MAX_SIGMA) - log(MIN_SIGMA)))


def draw(count: int, low: float, high: float, generator: torch.Generator) -> Transitions:
    """`count` transitions with z_0 uniform in [low, high], the rest uniform in [-1, 1]."""
    context = 2 * torch.rand(count, CONTEXT, generator=generator) - 1
    context[:, 0] = low + (high - low) * torch.rand(count, generator=generator)
    weights = torch.linspace(-1.5, 1.5, CONTEXT * SIZE).sin().view(CONTEXT, SIZE)
    mean = context[:, :SIZE] + 0.3 * torch.tanh(context @ weights)
    sigma = true_sigma(context[:, 0])
    target = mean + sigma.unsqueeze(-1) * torch.randn(count, SIZE, generator=generator)
    return Transitions(context, target, sigma)


def training_set(count: int, generator: torch.Generator) -> Transitions:
    """Half of the data in the dense noise, the rest on both sides of the gap, none in it."""
    parts = [
        draw(count // 2, *NOISY, generator),
        draw(count // 3, NOISY[1], GAP[0], generator),
        draw(count // 6, GAP[1], 1.5, generator),
    ]
    columns = zip(*((part.context, part.target, part.sigma) for part in parts), strict=True)
    return Transitions(*(torch.cat(column) for column in columns))


def fit(
    ensemble: Members,
    data: Transitions,
    *,
    steps: int,
    generator: torch.Generator,
    batch: int = 256,
    rate: float = 3e-3,
) -> None:
    """Maximise each member's likelihood of the transitions that it sees, by Adam with a rate that decays to zero.

    A constant rate would leave the noise of the last batches in every member, and epistemic variance with it.
    """
    parameters = list(ensemble.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    seen = ensemble.sees(torch.arange(len(data.sigma)))  # (K, N)
    for step in range(steps):
        rows = torch.randint(len(data.sigma), (batch,), generator=generator)
        members = ensemble(data.context[rows], data.context[rows, :SIZE])  # (K, N, P)
        nats = -LATENT.log_prob(members, data.target[rows])
        loss = torch.where(seen[:, rows], nats, 0).mean(1).sum()
        decayed = rate * (1 + cos(pi * step / steps)) / 2
        for p, gradient, moment in zip(parameters, torch.autograd.grad(loss, parameters), moments, strict=True):
            _adam(p, gradient, moment, decayed, step + 1)


@torch.no_grad()
def _adam(parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) in place: a toy's parameters are nobody else's to train."""
    for moment, value, beta in zip(moments, (gradient, gradient.square()), BETAS, strict=True):
        moment.lerp_(value, 1 - beta)
    first, second = (moment / (1 - beta**step) for moment, beta in zip(moments, BETAS, strict=True))
    parameter.sub_(rate * first / (second.sqrt() + 1e-8))


@torch.no_grad()
def ask(ensemble: Members, data: Transitions) -> Uncertainty:
    """What the ensemble says about the transitions, without looking at where they led."""
    return decompose(LATENT, ensemble(data.context, data.context[:, :SIZE]))


@dataclass(frozen=True)
class ToyResult:
    """What an ensemble made of the toy.

    gap_auroc: of epistemic nats, gap against dense noise. sigma_error: mean relative error of the learned noise where
    data are dense. total_auroc, error_auroc: the same question to total variance and to the squared error of the
    prediction, which have to fail.
    """

    gap_auroc: float
    sigma_error: float
    total_auroc: float
    error_auroc: float


def known_noise(build: Callable[[], Members], *, count: int = 12_000, steps: int = 2_000, seed: int = 0) -> ToyResult:
    """Fit the members that `build` makes for `LATENT` and contexts of `CONTEXT`; ask them at 1,000 points a region."""
    generator = torch.Generator().manual_seed(seed)
    ensemble = build()
    fit(ensemble, training_set(count, generator), steps=steps, generator=generator)
    gap, noisy = draw(1000, *GAP, generator), draw(1000, *NOISY, generator)
    said = {"gap": ask(ensemble, gap), "noisy": ask(ensemble, noisy)}
    total = {k: (v.epistemic_variance + v.aleatoric_variance).sum(-1) for k, v in said.items()}
    error = {
        name: (LATENT.mode(said[name].members).mean(0) - data.target).square().sum(-1)
        for name, data in (("gap", gap), ("noisy", noisy))
    }
    dense = [draw(1000, *NOISY, generator), draw(1000, NOISY[1], GAP[0], generator)]
    ratio = torch.cat([ask(ensemble, data).aleatoric_variance.sqrt() / data.sigma.unsqueeze(-1) for data in dense])
    return ToyResult(
        gap_auroc=auroc(said["noisy"].epistemic, said["gap"].epistemic),
        sigma_error=float((ratio - 1).abs().mean()),
        total_auroc=auroc(total["noisy"], total["gap"]),
        error_auroc=auroc(error["noisy"], error["gap"]),
    )


VISITS = (10, 32, 100, 316, 1_000, 3_162, 10_000)
_CORNER, _SPREAD, _NOISE = 1.0, 0.02, 0.3


def visit_slope(build: Callable[[], Members], *, steps: int = 3_000, seed: int = 0) -> float:
    """Slope of log epistemic variance against log visits; the mean of n noisy values has -1.

    Seven places far from each other are visited 10 to 10,000 times, with the same noise, and learned at once.
    """
    generator = torch.Generator().manual_seed(seed)
    places = _CORNER * (2 * torch.randint(2, (len(VISITS), CONTEXT), generator=generator).float() - 1)
    for place in range(1, len(VISITS)):  # no place twice
        while (places[:place] == places[place]).all(1).any():
            places[place] = _CORNER * (2 * torch.randint(2, (CONTEXT,), generator=generator).float() - 1)
    context = places.repeat_interleave(torch.tensor(VISITS), 0)
    context = context + _SPREAD * torch.randn(context.shape, generator=generator)
    target = context[:, :SIZE] + _NOISE * torch.randn(len(context), SIZE, generator=generator)
    ensemble = build()
    data = Transitions(context, target, torch.full((len(context),), _NOISE))
    fit(ensemble, data, steps=steps, generator=generator)
    said = ask(ensemble, Transitions(places, places[:, :SIZE], data.sigma[: len(VISITS)]))
    x, y = torch.tensor(VISITS).log(), said.epistemic_variance.mean(-1).log()
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / x.square().sum())
