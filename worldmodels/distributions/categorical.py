"""Vectors of one-hot categoricals with straight-through gradients, for latents, observations and actions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F


def sample_one_hot(probs: Tensor) -> Tensor:
    """One-hot samples of probabilities (..., C), by one uniform each and the inverse of the cumulative sum."""
    cumulative = probs.cumsum(-1)
    uniform = torch.rand(*probs.shape[:-1], 1, dtype=probs.dtype, device=probs.device) * cumulative[..., -1:]
    index = (cumulative <= uniform).sum(-1, keepdim=True).clamp_(max=probs.shape[-1] - 1)
    return torch.zeros_like(probs).scatter_(-1, index, 1.0)


def mix_uniform(probs: Tensor, share: float) -> Tensor:
    """(1 - share) of probabilities (..., C) and `share` of the uniform distribution."""
    return torch.add(share / probs.shape[-1], probs, alpha=1 - share)


class CategoricalFamily:
    """G categoricals of C classes each, mixed with 1 % uniform; z = flat one-hots (..., G * C), raw = logits."""

    def __init__(self, groups: int, classes: int, unimix: float = 0.01) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.width = self.parameters = groups * classes

    def probs(self, raw: Tensor) -> Tensor:
        """Logits (..., G * C) -> probabilities (..., G, C) after the uniform mix."""
        return mix_uniform(raw.unflatten(-1, (self.groups, self.classes)).softmax(-1), self.unimix)

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., G * C) -> probability of each class and its standard deviation, each (..., G * C)."""
        probs = self.probs(raw).flatten(-2)
        return probs, (probs * (1 - probs)).sqrt()

    ordered = False

    def sharpen(self, raw: Tensor) -> Tensor:
        """The logits themselves."""
        return raw

    def shift(self, raw: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """The logits themselves: classes have no neighbours to move to."""
        return raw

    def sample(self, raw: Tensor) -> Tensor:
        """One-hots (..., G * C), whose gradient is that of the probabilities."""
        probs = self.probs(raw)
        sample = sample_one_hot(probs.detach())
        if probs.requires_grad:
            sample = sample + (probs - probs.detach())
        return sample.flatten(-2)

    def mode(self, raw: Tensor) -> Tensor:
        """One-hots of the most probable classes (..., G * C)."""
        return F.one_hot(self.probs(raw).argmax(-1), self.classes).to(raw.dtype).flatten(-2)

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        """Log-probability in nats (...)."""
        return (self.probs(raw).log() * z.unflatten(-1, (self.groups, self.classes))).sum((-2, -1))

    def entropy(self, raw: Tensor) -> Tensor:
        """Nats (...), summed over the groups."""
        probs = self.probs(raw)
        return -(probs * probs.log()).sum((-2, -1))

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """KL(q || p) in nats (...), summed over the groups."""
        q, p = self.probs(raw_q), self.probs(raw_p)
        return (q * (q.log() - p.log())).sum((-2, -1))

    def distribution(self, raw: Tensor) -> Distribution:
        """`StraightThroughCategoricals` of event shape (G * C,)."""
        return StraightThroughCategoricals(self.probs(raw).log().flatten(-2), [self.classes] * self.groups)


class StraightThroughCategoricals(Distribution):
    """Independent one-hot blocks of `classes` values each, from logits (..., sum(classes)); event = flat one-hots."""

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, logits: Tensor, classes: Sequence[int], unimix: float = 0.0) -> None:
        self.classes = list(classes)
        blocks = logits.split(self.classes, -1) if len(self.classes) > 1 else [logits]
        if unimix:
            self.log_probs = [mix_uniform(block.softmax(-1), unimix).log() for block in blocks]
        else:
            self.log_probs = [block.log_softmax(-1) for block in blocks]
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """One-hots with the gradient of the probabilities."""
        blocks = []
        for log_probs in self.log_probs:
            probs = log_probs.exp().expand(*sample_shape, *log_probs.shape)
            sample = sample_one_hot(probs.detach())
            blocks.append(sample + (probs - probs.detach()) if probs.requires_grad else sample)
        return torch.cat(blocks, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats (...), of flat one-hots (..., sum(classes))."""
        pairs = zip(self.log_probs, value.split(self.classes, -1), strict=True)
        return torch.stack([(log_probs * block).sum(-1) for log_probs, block in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """Nats (...), summed over the blocks."""
        return -torch.stack([(b.exp() * b).sum(-1) for b in self.log_probs]).sum(0)

    @property
    def mode(self) -> Tensor:
        """Flat one-hots (..., sum(classes))."""
        return torch.cat([F.one_hot(b.argmax(-1), b.shape[-1]).to(b.dtype) for b in self.log_probs], -1)
