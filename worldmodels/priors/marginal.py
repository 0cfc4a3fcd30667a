"""p(z_0 | is_first): one learned distribution where episodes begin, one where windows begin inside an episode."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from worldmodels.types import LatentFamily


class MarginalPrior(nn.Module):
    """A table of two raw parameter vectors, so that dreams drawn from it begin where episodes begin."""

    def __init__(self, family: LatentFamily) -> None:
        super().__init__()
        self.family = family
        self.table = nn.Parameter(torch.zeros(2, family.parameters))

    def parameters_of(self, is_first: Tensor) -> Tensor:
        """Bool (...) -> raw parameters (..., P)."""
        return self.table[is_first.long()]

    def forward(self, is_first: Tensor) -> Distribution:
        """Bool (...) -> p(z | is_first)."""
        return self.family.distribution(self.parameters_of(is_first))
