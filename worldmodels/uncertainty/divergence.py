"""Divergences between members in closed form: an alternative to the information gain where spreads differ too."""

from math import log, pi

from torch import Tensor


def jensen_renyi(mean: Tensor, std: Tensor) -> Tensor:
    """Jensen-Renyi divergence of order 2 of K diagonal Gaussians, nats (...) (Wang et al. 2009; Shyam et al. 2019).

    H2(mixture) - mean_k H2(p_k), with H2(p) = -log int p^2. The integral of a product of Gaussians is a Gaussian of the
    difference of their means: int p_i p_j = N(mean_i; mean_j, var_i + var_j). All sums run in log space.

    Args: mean, std: (K, ..., Z).
    """
    members = mean.shape[0]
    variance = std.square()
    difference = mean.unsqueeze(0) - mean.unsqueeze(1)  # (K, K, ..., Z)
    together = variance.unsqueeze(0) + variance.unsqueeze(1)
    log_overlap = -0.5 * (difference.square() / together + together.log() + log(2 * pi)).sum(-1)  # (K, K, ...)
    mixture = 2 * log(members) - log_overlap.flatten(0, 1).logsumexp(0)
    alone = 0.5 * (variance.log() + log(4 * pi)).sum(-1).mean(0)
    return mixture - alone
