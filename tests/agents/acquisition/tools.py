"""Random tables of log-probabilities with seeds of their own."""

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_log_probs(points, members, classes, *, seed=0, sharpness=2.0):
    """Log-probabilities (N, K, C)."""
    logits = sharpness * torch.randn(points, members, classes, generator=generator(seed))
    return logits.log_softmax(-1)
