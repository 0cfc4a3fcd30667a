"""Distributions over plans: what a search draws candidates from, and fits to the good ones.

A plan is a sequence of H encoded actions. Two families: Gaussians for continuous actions, categoricals for discrete
ones. A belief is the raw parameters of independent distributions, one for each of the H actions.
"""

from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from worldmodels.distributions import sample_one_hot
from worldmodels.specs import ActionSpec

UNIFORM_SHARE = 0.02
"""Share of the uniform distribution in every fitted categorical, so that no action becomes impossible."""


class PlanFamily(Protocol):
    """Beliefs (B, H, P) over plans (B, H, A), as pure functions."""

    size: int

    def initial(self, batch: int, horizon: int, device: torch.device | None = None) -> Tensor:
        """What is believed before anything is known: (B, H, P)."""
        ...

    def draw(self, belief: Tensor, count: int, exponent: float = 0.0) -> Tensor:
        """Candidates (B, N, H, A); exponent: of the noise's spectrum over the horizon, 0 for white."""
        ...

    def fit(self, plans: Tensor, weights: Tensor) -> Tensor:
        """The belief (B, H, P) of greatest likelihood for plans (B, N, H, A) with weights (B, N) that sum to 1."""
        ...

    def mode(self, belief: Tensor) -> Tensor:
        """The plan (B, H, A) that is believed in most."""
        ...

    def explore(self, action: Tensor, amount: float) -> Tensor:
        """Actions (B, A) with noise: a standard deviation, or the chance of a uniform action."""
        ...


class GaussianPlans:
    """Actions in [-1, 1]: belief = [mean, std]; candidates are clipped to the range.

    size: width A of an action. std: of the first belief. min_std: below which no fit goes.
    """

    def __init__(self, size: int, *, std: float = 0.5, min_std: float = 0.05) -> None:
        self.size, self.std, self.min_std = size, std, min_std

    def initial(self, batch: int, horizon: int, device: torch.device | None = None) -> Tensor:
        """Mean 0 and the first standard deviation: (B, H, 2A)."""
        mean = torch.zeros(batch, horizon, self.size, device=device)
        return torch.cat([mean, torch.full_like(mean, self.std)], -1)

    def draw(self, belief: Tensor, count: int, exponent: float = 0.0) -> Tensor:
        """Clipped Gaussian candidates (B, N, H, A)."""
        mean, std = belief.unsqueeze(1).chunk(2, -1)  # (B, 1, H, A)
        batch, horizon = belief.shape[:2]
        white = torch.randn(batch, count, self.size, horizon, device=belief.device)
        noise = colour(white, exponent).transpose(-1, -2)  # (B, N, H, A)
        return torch.addcmul(mean, std, noise).clamp(-1, 1)

    def fit(self, plans: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean and standard deviation (B, H, 2A)."""
        weights = weights[:, :, None, None]
        mean = (weights * plans).sum(1)  # (B, H, A)
        variance = (weights * (plans - mean.unsqueeze(1)).square()).sum(1)
        return torch.cat([mean, variance.sqrt().clamp(min=self.min_std)], -1)

    def mode(self, belief: Tensor) -> Tensor:
        """The mean (B, H, A)."""
        return belief.chunk(2, -1)[0].clamp(-1, 1)

    def explore(self, action: Tensor, amount: float) -> Tensor:
        """Gaussian noise with standard deviation `amount`, clipped: (B, A)."""
        return (action + amount * torch.randn_like(action)).clamp(-1, 1)


class CategoricalPlans:
    """One-hot actions: belief = probabilities (B, H, A), one block for each element. Noise has no colour here."""

    def __init__(self, classes: tuple[int, ...]) -> None:
        self.classes, self.size = classes, sum(classes)

    def initial(self, batch: int, horizon: int, device: torch.device | None = None) -> Tensor:
        """Uniform: (B, H, A)."""
        blocks = [torch.full((batch, horizon, n), 1 / n, device=device) for n in self.classes]
        return torch.cat(blocks, -1)

    def draw(self, belief: Tensor, count: int, exponent: float = 0.0) -> Tensor:  # noqa: ARG002 - of continuous noise
        """One-hot candidates (B, N, H, A)."""
        probs = belief.unsqueeze(1).expand(-1, count, -1, -1)
        return torch.cat([sample_one_hot(block) for block in probs.split(self.classes, -1)], -1)

    def fit(self, plans: Tensor, weights: Tensor) -> Tensor:
        """Weighted frequencies (B, H, A), mixed with a little of the uniform distribution."""
        frequency = torch.einsum("bn,bnha->bha", weights, plans)
        uniform = self.initial(1, 1, plans.device)
        return torch.lerp(frequency, uniform.expand_as(frequency), UNIFORM_SHARE)

    def mode(self, belief: Tensor) -> Tensor:
        """The most probable action of each block, one-hot: (B, H, A)."""
        blocks = [
            torch.zeros_like(b).scatter_(-1, b.argmax(-1, keepdim=True), 1.0) for b in belief.split(self.classes, -1)
        ]
        return torch.cat(blocks, -1)

    def explore(self, action: Tensor, amount: float) -> Tensor:
        """A uniform action instead, with chance `amount`: (B, A)."""
        uniform = self.draw(self.initial(action.shape[0], 1, action.device), 1)[:, 0, 0]
        return torch.where(torch.rand(action.shape[0], 1, device=action.device) < amount, uniform, action)


def plan_family(spec: ActionSpec, *, std: float, min_std: float) -> PlanFamily:
    """The family for these actions."""
    if spec.kind == "continuous":
        return GaussianPlans(spec.size, std=std, min_std=min_std)
    return CategoricalPlans(spec.classes)


def colour(white: Tensor, exponent: float) -> Tensor:
    """Give white noise (..., H) the power spectrum 1 / f^exponent over H steps; every entry keeps variance 1.

    The filter is circular, and the lowest frequency is that of one period in H steps (Timmer and Koenig 1995).
    """
    if exponent == 0 or white.shape[-1] == 1:
        return white
    return torch.fft.irfft(torch.fft.rfft(white) * _filter(white.shape[-1], exponent).to(white), n=white.shape[-1])


@cache
def _filter(horizon: int, exponent: float) -> Tensor:
    """Gains (H // 2 + 1,) whose mean square over all H frequencies is 1."""
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64).clamp(min=1 / horizon)
    gain = frequency ** (-exponent / 2)
    both = torch.cat([gain, gain[1 : (horizon + 1) // 2]])  # negative frequencies too
    return (gain / both.square().mean().sqrt()).float()
