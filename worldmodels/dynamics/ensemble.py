"""K heads of the temporal prior as one batched product: where they disagree, the model does not know."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from worldmodels.types import LatentFamily

PRIOR_UNITS = 32
"""Width of the fixed random networks: they have to differ from each other, not to fit anything."""


class Members(nn.Module, ABC):
    """K predictions of the next latent in one module: contexts (..., D) -> raw parameters (K, ..., P), by member.

    Args: family: the latent. members: K. prior_scale: of fixed random functions that are added to the predictions, in
        units of the predicted change (or of logits). keep: chance that a member is trained on a transition.
    """

    def __init__(self, family: LatentFamily, members: int, prior_scale: float, keep: float) -> None:
        super().__init__()
        self.family, self.members, self.prior_scale, self.keep = family, members, prior_scale, keep

    @abstractmethod
    def each(self, context: Tensor, previous: Tensor) -> Tensor:
        """Every member in contexts of its own: (K, N, D), or (1, N, D) for all, and latents (K, N, Z) or (N, Z).

        Returns: raw parameters (K, N, P).
        """
        ...

    def forward(self, context: Tensor, previous: Tensor) -> Tensor:
        """Contexts (..., D) and the latents (..., Z) that they were advanced from -> raw parameters (K, ..., P)."""
        flat = context.reshape(1, -1, context.shape[-1])  # (1, N, D)
        raw = self.each(flat, previous.reshape(flat.shape[1], previous.shape[-1]))
        return raw.reshape(self.members, *context.shape[:-1], -1)

    def sees(self, rows: Tensor) -> Tensor:
        """Which member is trained on which transition (...) -> (K, ...) bool; see the function `sees`."""
        return sees(rows, self.members, self.keep)

    def shifted(self, raw: Tensor, previous: Tensor, prior: Tensor) -> Tensor:
        """Raw predictions (K, N, P) from `previous`, with the random functions (K, N, Z) of the members."""
        if self.family.ordered:  # added to the mean: the spread is learned alone
            return self.family.shift(raw, previous + prior)
        return raw + prior


class Ensemble(Members):
    """K perceptrons p_k(z' | context) that share nothing, as one batched product.

    Members differ by their initial weights, by the transitions that they are trained on (`sees`) and by a fixed random
    function that each of them adds to its prediction (Osband et al. 2018), which data can cancel only where there are
    data. All weights of member k are row k of one parameter, and the gradient of each row is clipped by itself.

    Args:
        family: the latent. context: width D of its input. members: K. units, layers: size of each member.
        prior_scale: of the random functions, in units of the predicted change (or of logits). keep: chance that a
        member is trained on a transition. clip: largest norm of a member's gradient. norm: layer normalisation.
    """

    prior_weights: Tensor

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
        clip: float,
        norm: bool,
    ) -> None:
        super().__init__(family, members, prior_scale, keep)
        self.clip, self.norm = clip, norm
        self.sizes = [context, *[units] * layers, family.parameters]
        self.prior_sizes = [context, PRIOR_UNITS, family.width]
        self.weights = nn.Parameter(initial_rows(members, self.sizes, scale=0.1))  # (K, N)
        self.register_buffer("prior_weights", initial_rows(members, self.prior_sizes, scale=1.0))

    def each(self, context: Tensor, previous: Tensor) -> Tensor:
        """As `Members.each`; rows of contexts that all members share are one product with the weights of each."""
        x = context.expand(self.members, -1, -1)
        raw = perceptrons(ClipRows.apply(self.weights, self.clip), self.sizes, x, norm=self.norm)
        if self.prior_scale == 0:
            return self.family.shift(raw, previous)
        prior = self.prior_scale * perceptrons(self.prior_weights, self.prior_sizes, x, norm=False)
        return self.shifted(raw, previous, prior)


class ClipRows(torch.autograd.Function):
    """`ClipRows.apply(weights, clip)`: weights (K, N) themselves; the gradient of each row has at most norm `clip`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, clip: float) -> Tensor:  # noqa: ANN401
        """The weights."""
        ctx.clip = clip
        return weights.view_as(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """The gradient of each row, scaled down where it is too long; what is not finite stays so, and is found."""
        (gradient,) = gradients
        norm = gradient.norm(dim=-1, keepdim=True)  # (K, 1)
        return gradient * (ctx.clip / norm.clamp(min=ctx.clip)), None


def sees(rows: Tensor, members: int, keep: float) -> Tensor:
    """Bootstrap: which member is trained on which transition, True with chance `keep`.

    A pure function of the transition's number, so that it belongs to the same members for the whole run, also after a
    resume, and nothing has to be stored.

    Args: rows: (...) int64, numbers that name transitions. Returns: (K, ...) bool.
    """
    member = torch.arange(members, device=rows.device).view(-1, *[1] * rows.dim())
    mixed = _mix(_mix(rows) + member)  # (K, ...)
    return (mixed & (_UNIT - 1)) < int(keep * _UNIT)


_UNIT = 2**24


def _mix(x: Tensor) -> Tensor:
    """Spread the bits of int64 numbers (Steele et al. 2014, the finaliser of splitmix64); overflow wraps around."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x ^ ((x >> 31) & (2**33 - 1))


def initial_rows(members: int, sizes: Sequence[int], *, scale: float) -> Tensor:
    """Rows of initial weights (K, N), layer behind layer; biases of all but the last layer vary as the weights do."""
    parts = []
    for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        bound = 1 / sqrt(inputs)
        last = layer == len(sizes) - 2
        weight = torch.empty(members, inputs * outputs).uniform_(-bound, bound) * (scale if last else 1.0)
        bias = torch.zeros(members, outputs) if last else torch.empty(members, outputs).uniform_(-bound, bound)
        parts += [weight, bias]
    return torch.cat(parts, -1)


def perceptrons(weights: Tensor, sizes: Sequence[int], x: Tensor, *, norm: bool) -> Tensor:
    """K perceptrons at once: weights (K, N), x (K, M, D) -> (K, M, P)."""
    members, at = weights.shape[0], 0
    for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        size = prod((inputs, outputs))
        weight = weights[:, at : at + size].view(members, inputs, outputs)
        bias = weights[:, at + size : at + size + outputs].unsqueeze(1)  # (K, 1, outputs)
        at += size + outputs
        x = torch.baddbmm(bias, x, weight)
        if layer < len(sizes) - 2:
            x = F.silu(F.layer_norm(x, (outputs,)) if norm else x)
    return x.float() if x.dtype == torch.bfloat16 else x
