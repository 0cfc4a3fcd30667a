"""How well a score tells two groups apart or orders errors: ranks alone, so that no scale has to be right."""

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 of (N,), ties sharing the mean of theirs: float64 (N,)."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)  # sorted
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Probability that a score of `positive` (M,) exceeds one of `negative` (N,), ties counted half; one-sided.

    0.5 is chance; below it the score points the wrong way, and no one turns it round (Mann and Whitney 1947).
    """
    positive, negative = positive.flatten(), negative.flatten()
    total = ranks(torch.cat([positive, negative]))[: len(positive)].sum()
    wins = total - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of (N,) and (N,); 0 where one of them is constant, since it then orders nothing."""
    x, y = ranks(a.flatten()), ranks(b.flatten())
    x, y = x - x.mean(), y - y.mean()
    norm = x.norm() * y.norm()
    return float(x @ y / norm) if norm > 0 else 0.0
