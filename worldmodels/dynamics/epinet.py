"""An epinet: one network that is asked with K different indices, behind the same interface as an ensemble of K."""

import torch
from torch import Tensor, nn

from worldmodels.dynamics.ensemble import PRIOR_UNITS, initial_rows, perceptrons, sees
from worldmodels.nets import mlp
from worldmodels.types import LatentFamily

INDEX = 8
"""Dimensions of the index, and number of fixed random functions in its prior."""


class Epinet(nn.Module):
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
        super().__init__()
        self.family, self.members, self.prior_scale, self.keep = family, members, prior_scale, keep
        self.trunk = mlp(context, units, max(layers, 1), norm=norm)
        self.base = mlp(units, units, 0, family.parameters, norm=norm, scale=0.1)
        self.difference = mlp(units + INDEX, PRIOR_UNITS, 1, family.parameters * INDEX, norm=norm, scale=0.1)
        self.prior_sizes = [context, PRIOR_UNITS, family.width]
        self.register_buffer("prior_weights", initial_rows(INDEX, self.prior_sizes, scale=1.0))
        self.register_buffer("indices", torch.randn(members, INDEX))  # (K, I)

    def forward(self, context: Tensor, previous: Tensor) -> Tensor:
        """Contexts (..., D) and the latents (..., Z) that they were advanced from -> raw parameters (K, ..., P)."""
        flat = context.reshape(-1, context.shape[-1])  # (N, D)
        raw = self._predict(flat.unsqueeze(0), previous.reshape(len(flat), previous.shape[-1]))
        return raw.reshape(self.members, *context.shape[:-1], -1)

    def each(self, context: Tensor, previous: Tensor) -> Tensor:
        """Every member in contexts of its own: (K, N, D) and (K, N, Z) -> raw parameters (K, N, P)."""
        return self._predict(context, previous)

    def sees(self, rows: Tensor) -> Tensor:
        """Which member is trained on which transition (...) -> (K, ...) bool; see `sees` in `ensemble`."""
        return sees(rows, self.members, self.keep)

    def _predict(self, x: Tensor, previous: Tensor) -> Tensor:
        """Inputs (1, N, D), shared, or (K, N, D) -> (K, N, P)."""
        count, width = x.shape[1], self.family.width
        phi = self.trunk(x)  # (1 or K, N, U)
        index = self.indices[:, None].expand(-1, count, -1)  # (K, N, I)
        inputs = torch.cat([phi.detach().expand(self.members, -1, -1), index], -1)
        directions = self.difference(inputs).unflatten(-1, (-1, INDEX))  # (K, N, P, I)
        raw = self.base(phi) + (directions * index.unsqueeze(2)).sum(-1)
        if self.prior_scale == 0:
            return self.family.shift(raw, previous)
        functions = perceptrons(self.prior_weights, self.prior_sizes, x.flatten(0, 1).expand(INDEX, -1, -1), norm=False)
        functions = functions.view(INDEX, x.shape[0], count, width)  # (I, 1 or K, N, Z)
        weights = self.indices.t()[:, :, None, None] / INDEX**0.5  # (I, K, 1, 1)
        prior = self.prior_scale * (functions * weights).sum(0)  # (K, N, Z)
        return self.family.shift(raw, previous + prior) if self.family.ordered else raw + prior
