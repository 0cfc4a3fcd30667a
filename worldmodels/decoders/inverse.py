"""The decoder of a bijection: its inverse."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class InverseDecoder(nn.Module):
    """Observations from the latent alone; their likelihood term is 0, since the encoder's log-volume is all of it."""

    def __init__(self, decode: Callable[[Tensor], dict[str, Distribution]], *, latent: int) -> None:
        super().__init__()
        self.decode = decode
        self.latent = latent

    def forward(self, features: Tensor) -> dict[str, Distribution]:
        """(..., F) -> name -> Distribution of batch shape (...)."""
        return self.decode(features[..., -self.latent :])

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Zeros (...) and zeros (...)."""
        zero = torch.zeros(features.shape[:-1], device=features.device)
        return zero, zero
