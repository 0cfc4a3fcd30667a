"""What members predict, split into what the model does not know (epistemic) and what nobody can know (aleatoric)."""

import torch
from torch import Tensor

from worldmodels.types import LatentFamily, Uncertainty

MIN_VARIANCE = 1e-4
"""Smallest aleatoric variance that an information gain is divided by: latents are standardised, and a spread of 1 % of
them is as good as none. Without a floor the gain grows without bound where a noiseless step was learned well."""


def total_variance(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Law of total variance: variance of the members' means, and mean of their variances.

    Args: mean, std: (K, ..., Z) of K members.
    Returns: epistemic and aleatoric variance (..., Z); their sum is the variance of the members' mixture.
    """
    off = mean - mean.mean(0)  # `Tensor.var` over the first dimension takes many times as long
    return off.square().mean(0), std.square().mean(0)


def gaussian_information_gain(epistemic: Tensor, aleatoric: Tensor, floor: float = MIN_VARIANCE) -> Tensor:
    """1/2 sum log(1 + epistemic / max(aleatoric, floor)), nats (...): what one more observation would teach.

    Exact for a linear-Gaussian model, where the epistemic variance is that of the posterior's mean function
    (Sukhija et al. 2023, eq. 9).

    Args: epistemic, aleatoric: variances (..., Z).
    """
    return 0.5 * (epistemic / aleatoric.clamp(min=floor)).log1p().sum(-1)


def mutual_information(probs: Tensor) -> Tensor:
    """I(z'; member) = H(mean_k p_k) - mean_k H(p_k), nats (...), for independent one-hot blocks (Houlsby et al. 2011).

    Args: probs: (K, ..., Z), the probabilities of all blocks side by side.
    """
    mean = probs.mean(0)
    return torch.special.entr(mean).sum(-1) - torch.special.entr(probs).sum(-1).mean(0)


def decompose(family: LatentFamily, members: Tensor) -> Uncertainty:
    """The uncertainty of raw member parameters (K, ..., P) of one latent family."""
    mean, std = family.moments(members)
    epistemic, aleatoric = total_variance(mean, std)
    nats = gaussian_information_gain(epistemic, aleatoric) if family.ordered else mutual_information(mean)
    return Uncertainty(nats, family.entropy(members).mean(0), epistemic, aleatoric, members)
