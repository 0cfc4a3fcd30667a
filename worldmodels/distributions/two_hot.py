"""A scalar as a categorical over bins that are uniform in symexp space (Hafner et al. 2023, section "Critic")."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from worldmodels.distributions.gaussian import symexp


def two_hot_bins(count: int, limit: float) -> Tensor:
    """Bin values (count,): symexp of `count` points evenly spaced on [-limit, limit]."""
    half = symexp(torch.linspace(-limit, 0, count // 2 + 1, dtype=torch.float64))
    bins = torch.cat([half, -half[:-1].flip(0)]) if count % 2 else symexp(torch.linspace(-limit, limit, count).double())
    return bins.float()


def neighbours(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """(...) -> the two bins beside x (..., 2) and their weights (..., 2) whose mean is x, clipped to the outer bins."""
    x = x.clamp(bins[0], bins[-1]).unsqueeze(-1)
    below = torch.searchsorted(bins, x, right=True).sub_(1).clamp_(0, len(bins) - 2)
    index = torch.cat([below, below + 1], -1)  # (..., 2)
    low, high = bins[index].split(1, -1)
    weight = (x - low) / (high - low)
    return index, torch.cat([1 - weight, weight], -1)


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """(...) -> (..., count): weights on the two bins beside x whose mean is x; clipped to the outer bins."""
    index, weights = neighbours(x, bins)
    return torch.zeros(*x.shape, len(bins), dtype=x.dtype, device=x.device).scatter_(-1, index, weights)


class TwoHot(Distribution):
    """Categorical over bins that mirror each other around 0, as those of `two_hot_bins` do.

    `mean` is the prediction, `log_prob` the two-hot cross-entropy in nats.
    """

    arg_constraints: dict = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.logits, self.bins = logits, bins
        super().__init__(logits.shape[:-1], torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected value (...). Bins mirror each other, so equal logits give exactly zero."""
        probs = self.logits.softmax(-1)
        half = self.bins.shape[-1] // 2
        return (probs[..., -half:] - probs[..., :half].flip(-1)) @ self.bins[-half:]

    @property
    def mode(self) -> Tensor:
        """Same as `mean`."""
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """(...) -> nats (...)."""
        index, weights = neighbours(value, self.bins)
        return (self.logits.log_softmax(-1).gather(-1, index) * weights).sum(-1)
