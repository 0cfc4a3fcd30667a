"""Scores of imagined steps that need nothing but the rollout: pure functions, (Rollout) -> (B, H)."""

from torch import Tensor

from worldmodels import uncertainty
from worldmodels.distributions import CategoricalFamily
from worldmodels.errors import ConfigError
from worldmodels.types import LatentFamily, Rollout
from worldmodels.uncertainty import MIN_VARIANCE


def disagreement(rollout: Rollout) -> Tensor:
    """mean_d Var_k mu_kd, variance of the members' means in squared units of the latent (Pathak et al. 2019, eq. 1)."""
    return _known(rollout.epistemic_variance).mean(-1)


def sigma(rollout: Rollout) -> Tensor:
    """sqrt(mean_d Var_k mu_kd): the same in units of the latent. Its gradient is finite where all members agree."""
    return (disagreement(rollout) + 1e-12).sqrt()


def information_gain(rollout: Rollout) -> Tensor:
    """What the step would teach about the dynamics, nats: 1/2 sum_d log(1 + epistemic / aleatoric) of Gaussian latents.

    Mutual information of the next latent and the member for categorical ones. Noise that all members expect scores
    nothing (Sukhija et al. 2023, eq. 9).
    """
    return _known(rollout.epistemic)


def jensen_renyi(rollout: Rollout, family: LatentFamily) -> Tensor:
    """H_2[mean_k p_k] - mean_k H_2[p_k], H_2 = -log integral p^2: nats (Shyam et al. 2019, eq. 7).

    Members (K, B, H, P) of Gaussian or categorical latents; the closed form costs K^2.
    """
    members = _known(rollout.members)
    if isinstance(family, CategoricalFamily):
        probs = family.probs(members)  # (K, B, H, G, C)
        mixture = -probs.mean(0).square().sum(-1).log()
        return (mixture - (-probs.square().sum(-1).log()).mean(0)).sum(-1)
    mean, std = family.moments(members)  # (K, B, H, Z)
    return uncertainty.jensen_renyi(mean, std.clamp(min=MIN_VARIANCE**0.5))


def upper_confidence(rollout: Rollout, beta: float) -> Tensor:
    """reward + beta sigma: the most that the step may be worth."""
    return rollout.reward + beta * sigma(rollout)


def pessimism(rollout: Rollout, penalty: float) -> Tensor:
    """reward - penalty sigma: the least that the step may be worth (Yu et al. 2020, eq. 7, with members' means)."""
    return rollout.reward - penalty * sigma(rollout)


def _known(value: Tensor | None) -> Tensor:
    if value is None:
        raise ConfigError(
            "this acquisition needs members that can disagree: set world_model.ensemble.members=5, and imagine with "
            "uncertainty=True"
        )
    return value
