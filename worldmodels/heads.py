"""Heads on the features of a state: a two-hot scalar (reward, value) and the continuation."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from worldmodels.distributions import TwoHot, two_hot_bins
from worldmodels.nets import mlp


class TwoHotHead(nn.Module):
    """Features (..., F) -> `TwoHot` over symexp-spaced bins; predicts exactly zero at the start."""

    bins: Tensor

    def __init__(self, features: int, *, units: int, layers: int, bins: int, limit: float, norm: bool) -> None:
        super().__init__()
        self.net = mlp(features, units, layers, bins, norm=norm, scale=0.0)
        self.register_buffer("bins", two_hot_bins(bins, limit), persistent=False)

    def forward(self, features: Tensor) -> TwoHot:
        """(..., F) -> distribution of batch shape (...)."""
        return TwoHot(self.net(features), self.bins)


class ContinuationHead(nn.Module):
    """Features (..., F) -> Bernoulli of 1 - terminated. Discounting is not its business."""

    def __init__(self, features: int, *, units: int, layers: int, norm: bool) -> None:
        super().__init__()
        self.net = mlp(features, units, layers, 1, norm=norm, scale=0.0)

    def forward(self, features: Tensor) -> Bernoulli:
        """(..., F) -> distribution of batch shape (...)."""
        return Bernoulli(logits=self.net(features).squeeze(-1), validate_args=False)


def masked_mean(nats: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, T) over the places where `mask` (B, T) is True; 0 if there is none."""
    return torch.where(mask, nats, 0).sum() / mask.sum().clamp(min=1)
