"""An epinet: one network that is asked with K different indices, behind the same interface as an ensemble of K."""

import torch
from torch import Tensor

from worldmodels.dynamics.ensemble import PRIOR_UNITS, Members, initial_rows, perceptrons
from worldmodels.nets import mlp
from worldmodels.types import LatentFamily

INDEX = 8
"""Dimensions of the index, and number of fixed random functions in its prior."""


class Epinet(Members):
    """f_k(x) = base(x) + e(sg phi(x), i_k) i_k + prior_scale p(x) i_k, for K fixed indices i_k (Osband et al. 2021).

    phi is the base's last hidden layer, e a small network and p fixed random functions. The base runs once for all
    members: less to learn than an ensemble has, faster where members are many, with less to tell them apart. Its
    gradient is shared, so there is nothing to clip member by member.

    Args: as `Ensemble`; units and layers (at least 1) are the base's.
    """

    prior_weights: Tensor
    indices: Tensor

    def __init__(
        self,
        family: LatentFamily,
        context: int,
        *,
        members: int,
        units: int,
        layers: int,
        prior_scale: float,
        keep: float,
        norm: bool,
    ) -> None:
        super().__init__(family, members, prior_scale, keep)
        self.trunk = mlp(context, units, max(layers, 1), norm=norm)
        self.base = mlp(units, units, 0, family.parameters, norm=norm, scale=0.1)
        self.difference = mlp(units + INDEX, PRIOR_UNITS, 1, family.parameters * INDEX, norm=norm, scale=0.1)
        self.prior_sizes = [context, PRIOR_UNITS, family.width]
        self.register_buffer("prior_weights", initial_rows(INDEX, self.prior_sizes, scale=1.0))
        self.register_buffer("indices", torch.randn(members, INDEX))  # (K, I)

    def each(self, context: Tensor, previous: Tensor) -> Tensor:
        """As `Members.each`; the base runs once where all members share their contexts."""
        count, width = context.shape[1], self.family.width
        phi = self.trunk(context)  # (1 or K, N, U)
        index = self.indices[:, None].expand(-1, count, -1)  # (K, N, I)
        inputs = torch.cat([phi.detach().expand(self.members, -1, -1), index], -1)
        directions = self.difference(inputs).unflatten(-1, (-1, INDEX))  # (K, N, P, I)
        raw = self.base(phi) + (directions * index.unsqueeze(2)).sum(-1)
        if self.prior_scale == 0:
            return self.family.shift(raw, previous)
        rows = context.flatten(0, 1).expand(INDEX, -1, -1)
        functions = perceptrons(self.prior_weights, self.prior_sizes, rows, norm=False)
        functions = functions.view(INDEX, context.shape[0], count, width)  # (I, 1 or K, N, Z)
        weights = self.indices.t()[:, :, None, None] / INDEX**0.5  # (I, K, 1, 1)
        prior = self.prior_scale * (functions * weights).sum(0)  # (K, N, Z)
        return self.shifted(raw, previous, prior)
