"""A Gaussian squashed by tanh into [-1, 1], for continuous actions."""

from math import log

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from worldmodels.distributions.gaussian import LOG_2PI

EDGE = 1 - 1e-6
"""Largest magnitude whose inverse tanh is taken."""


class TanhNormal(Distribution):
    """tanh(mean + std * noise), event shape (A,) (Haarnoja et al. 2018, appendix C)."""

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean_u, self.std_u = mean, std
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised actions (*sample_shape, ..., A)."""
        noise = torch.randn(*sample_shape, *self.mean_u.shape, dtype=self.mean_u.dtype, device=self.mean_u.device)
        return torch.tanh(self.mean_u + self.std_u * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats (...) of actions (..., A)."""
        return self._log_prob_u(torch.atanh(value.clamp(-EDGE, EDGE)))

    def entropy(self) -> Tensor:
        """One-sample estimate of the entropy in nats (...), reparameterised: no closed form exists."""
        return -self._log_prob_u(self.mean_u + self.std_u * torch.randn_like(self.mean_u))

    def _log_prob_u(self, u: Tensor) -> Tensor:
        log_normal = -0.5 * (((u - self.mean_u) / self.std_u).square() + LOG_2PI) - self.std_u.log()
        return (log_normal - 2 * (log(2) - u - F.softplus(-2 * u))).sum(-1)  # minus log |d tanh / du|

    @property
    def mode(self) -> Tensor:
        """tanh of the mean (..., A)."""
        return torch.tanh(self.mean_u)
