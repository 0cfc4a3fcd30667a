"""Heads on the features of a state: a scalar (reward, value) as two-hot or with squared error, and the continuation."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

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


class ScalarHead(nn.Module):
    """Features (..., F) -> N(scale * net, scale^2): squared error in units of `scale`; predicts zero at the start.

    A wider scale leaves every prediction as it is (van Hasselt et al. 2016, "Learning values across many orders of
    magnitude", proposition 1).
    """

    scale: Tensor

    def __init__(self, features: int, *, units: int, layers: int, norm: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.net = mlp(features, units, layers, 1, norm=norm, scale=0.0)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, features: Tensor) -> Normal:
        """(..., F) -> distribution of batch shape (...)."""
        mean = self.net(features).squeeze(-1) * self.scale
        return Normal(mean, self.scale.expand_as(mean), validate_args=False)

    @torch.no_grad()
    def widen(self, scale: Tensor) -> None:
        """Take `scale` (a scalar) where it is finite and larger than the one so far; predictions stay."""
        wider = torch.where(scale.isfinite(), scale.maximum(self.scale), self.scale)
        ratio = self.scale / wider
        last = self.net[-1]
        for parameter in last.parameters():
            parameter.mul_(ratio)
        self.scale.copy_(wider)


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
