"""Out-of-distribution scores from log-densities: pure functions, each (N,) -> (N,), higher is more out of distribution.

A log-density alone is no alarm: simple data get more of it than the data a model was trained on. None of these looks at
when something was seen.
"""

import zlib
from math import log

import torch
from torch import Tensor


def typicality(log_prob: Tensor, entropy: Tensor | float) -> Tensor:
    """|-log p(x) - H|, H the mean of -log p on nominal data: too probable is as odd as too improbable.

    (Nalisnick et al. 2019, eq. 3, with a batch of one.)
    """
    return (-log_prob - entropy).abs()


def waic(log_probs: Tensor) -> Tensor:
    """-(mean_k log p_k - var_k log p_k) of K models, (K, ...) -> (...) (Choi et al. 2018, eq. 3)."""
    return -(log_probs.mean(0) - log_probs.var(0, correction=0))


def likelihood_ratio(log_prob: Tensor, background: Tensor) -> Tensor:
    """log p_background(x) - log p(x): what is explained by the background says nothing (Ren et al. 2019, eq. 5).

    background: log-densities of a model trained on perturbed data.
    """
    return background - log_prob


def input_complexity(log_prob: Tensor, code_length: Tensor) -> Tensor:
    """-log p(x) - L(x), L the length in nats that a general compressor needs (Serra et al. 2020, eq. 2)."""
    return -log_prob - code_length


def compressed_nats(images: Tensor) -> Tensor:
    """Length of each uint8 array (N, ...) in nats as zlib (level 9) writes it, (N,); row differences come first."""
    flat = torch.cat([images[:, :1], images[:, 1:] - images[:, :-1]], 1)  # uint8: differences wrap, and are undone
    return torch.tensor([8 * log(2) * len(zlib.compress(x.contiguous().numpy().tobytes(), 9)) for x in flat.cpu()])
