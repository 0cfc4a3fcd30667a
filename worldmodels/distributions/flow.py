"""A latent family with a flow inside: a Gaussian whose standardised noise is bent by a conditional bijection."""

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Independent, Normal, TransformedDistribution
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyTransform

from worldmodels.distributions.gaussian import LOG_2PI, GaussianFamily

MOMENT_SAMPLES = 64
"""Samples that the mean and the spread are estimated from."""


class FlowFamily:
    """z = mean + std g_c(e), e ~ N(0, 1); raw = [mean, s, c] with c (..., C) what the bijection g is conditioned on.

    The flow starts near the identity and the family near a `GaussianFamily`. It has parameters of its own, in `module`,
    which belongs to whoever holds the family; entropy and KL have no closed form and are one-sample estimates.
    """

    ordered = True

    def __init__(self, size: int, min_std: float, transform: LazyTransform, context: int) -> None:
        self.gaussian = GaussianFamily(size, min_std)
        self.width = size
        self.context = context
        self.parameters = self.gaussian.parameters + context
        self.module = transform

    def sharpen(self, raw: Tensor) -> Tensor:
        """Raw parameters whose spread starts near its floor."""
        gaussian, context = self._split(raw)
        return torch.cat([self.gaussian.sharpen(gaussian), context], -1)

    def shift(self, raw: Tensor, z: Tensor) -> Tensor:
        """The same shape around `z` (..., Z) plus the mean."""
        gaussian, context = self._split(raw)
        return torch.cat([self.gaussian.shift(gaussian, z), context], -1)

    def sample(self, raw: Tensor) -> Tensor:
        """Reparameterised sample (..., Z)."""
        return self._place(raw, torch.randn(*raw.shape[:-1], self.width, dtype=raw.dtype, device=raw.device))

    def mode(self, raw: Tensor) -> Tensor:
        """Where the middle of the noise goes (..., Z): the mode of a Gaussian, near it for a bent one."""
        return self._place(raw, torch.zeros(*raw.shape[:-1], self.width, dtype=raw.dtype, device=raw.device))

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (..., Z) of `MOMENT_SAMPLES` samples: there is no closed form."""
        samples = self.sample(raw.expand(MOMENT_SAMPLES, *raw.shape))
        return samples.mean(0), samples.std(0)

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        """log N(g^-1(r)) + log |det dg^-1/dr| - sum log std, r = (z - mean) / std; nats (...)."""
        gaussian, context = self._split(raw)
        mean, std = self.gaussian.moments(gaussian)
        noise, log_volume = self.module(context).call_and_ladj((z - mean) / std)
        return -0.5 * (noise.square() + LOG_2PI).sum(-1) + log_volume - std.log().sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        """One-sample estimate -log p(z), z ~ p, in nats (...), reparameterised."""
        gaussian, context = self._split(raw)
        _, std = self.gaussian.moments(gaussian)
        noise = torch.randn(*raw.shape[:-1], self.width, dtype=raw.dtype, device=raw.device)
        _, log_volume = self.module(context).inv.call_and_ladj(noise)
        return 0.5 * (noise.square() + LOG_2PI).sum(-1) + log_volume + std.log().sum(-1)

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """One-sample estimate log q(z) - log p(z), z ~ q, in nats (...)."""
        z = self.sample(raw_q)
        return self.log_prob(raw_q, z) - self.log_prob(raw_p, z)

    def distribution(self, raw: Tensor) -> Distribution:
        """zuko's `NormalizingFlow`, moved and scaled, of event shape (Z,)."""
        gaussian, context = self._split(raw)
        mean, std = self.gaussian.moments(gaussian)
        base = Independent(Normal(torch.zeros_like(mean), torch.ones_like(std), validate_args=False), 1)
        place = AffineTransform(mean, std, event_dim=1)
        return TransformedDistribution(NormalizingFlow(self.module(context), base), place, validate_args=False)

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw[..., : self.gaussian.parameters], raw[..., self.gaussian.parameters :]

    def _place(self, raw: Tensor, noise: Tensor) -> Tensor:
        gaussian, context = self._split(raw)
        mean, std = self.gaussian.moments(gaussian)
        return mean + std * self.module(context).inv(noise)
