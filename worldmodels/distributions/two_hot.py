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


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """(...) -> (..., count): weights on the two bins beside x whose mean is x; clipped to the outer bins."""
    x = x.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.contiguous(), right=True).clamp(1, len(bins) - 1)
    below = above - 1
    weight = (x - bins[below]) / (bins[above] - bins[below])
    target = torch.zeros(*x.shape, len(bins), dtype=x.dtype, device=x.device)
    target.scatter_(-1, below.unsqueeze(-1), (1 - weight).unsqueeze(-1))
    return target.scatter_(-1, above.unsqueeze(-1), weight.unsqueeze(-1))


class TwoHot(Distribution):
    """Categorical over symexp-spaced bins; `mean` is the prediction, `log_prob` the two-hot cross-entropy (nats)."""

    arg_constraints: dict = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.logits, self.bins = logits, bins
        super().__init__(logits.shape[:-1], torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected value (...). Summed from the centre outwards, so that equal logits give exactly zero."""
        weighted = self.logits.softmax(-1) * self.bins
        half = self.bins.shape[-1] // 2
        tail = weighted[..., -half:].flip(-1)
        centre = weighted[..., half : self.bins.shape[-1] - half].sum(-1)
        return centre + (weighted[..., :half] + tail).sum(-1)

    @property
    def mode(self) -> Tensor:
        """Same as `mean`."""
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """(...) -> nats (...)."""
        return (two_hot(value, self.bins) * self.logits.log_softmax(-1)).sum(-1)
