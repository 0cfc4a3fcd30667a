"""Which points of a pool to label: scores and batches from log-probabilities (N, K, C) or from latents (N, D).

N points of the pool, K members (samples of the classifier's posterior), C classes. Member k must be the same member for
every point: only then do two points' answers inform about each other. Everything here is a pure function, in nats.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

MAX_CONFIGURATIONS = 10_000
"""Joint answers that are enumerated; beyond it they are sampled."""
CHUNK = 1 << 22
"""Numbers in the largest intermediate tensor."""


class Selection(NamedTuple):
    """A batch in the order in which it was chosen.

    index: (size,) into the pool. score: (size,) nats, what each point added when it was chosen.
    """

    index: Tensor
    score: Tensor


def entropy(probs: Tensor) -> Tensor:
    """-sum p log p in nats, over the last axis: (..., C) -> (...); 0 log 0 = 0."""
    return -torch.special.xlogy(probs, probs).sum(-1)


def predictive_entropy(log_probs: Tensor) -> Tensor:
    """H[mean_k p], total uncertainty: noise counts too. (N, K, C) -> (N,) nats."""
    return entropy(log_probs.exp().mean(1))


def bald(log_probs: Tensor) -> Tensor:
    """H[mean_k p] - mean_k H[p]: what a label tells about the members (Houlsby et al. 2011, eq. 2).

    (N, K, C) -> (N,) nats, between 0 and log K.
    """
    probs = log_probs.exp()
    return entropy(probs.mean(1)) - entropy(probs).mean(1)


def batch_bald(
    log_probs: Tensor,
    size: int,
    *,
    generator: torch.Generator,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> Selection:
    """Greedy batch with the largest joint information I(y_1..y_size; member) (Kirsch et al. 2019, eq. 8-12).

    By the chain rule a point adds I(y; member | answers so far): BALD under the posterior over members that each joint
    answer of the chosen points leaves, averaged over these answers. They are enumerated while there are at most
    `max_configurations`, and drawn from the members in equal shares beyond. A copy of a chosen point adds only what its
    noise leaves open.

    Args: log_probs: (N, K, C). size: points to choose, at most N. generator: of the sampled answers.
    Returns: their indices; the scores sum up to the joint information.
    """
    probs = log_probs.double().exp()
    points, members, classes = probs.shape
    size = min(size, points)
    noise = entropy(probs).mean(1)  # (N,) mean_k H[y | member]
    free = torch.ones(points, dtype=torch.bool, device=probs.device)
    likelihood = probs.new_ones(1, members)  # (M, K) p(answers | member)
    chosen, scores, exact = [], [], True
    for _ in range(size):
        evidence = likelihood.mean(1, keepdim=True)  # (M, 1) p(answers)
        share = evidence.squeeze(1) if exact else torch.full_like(evidence.squeeze(1), 1 / len(evidence))
        added = _conditional_entropy(probs, likelihood / (members * evidence), share) - noise
        score, index = torch.where(free, added, -torch.inf).max(0)
        free[index] = False
        chosen.append(index)
        scores.append(score)
        exact = exact and len(likelihood) * classes <= max_configurations
        if exact:
            likelihood = (likelihood.unsqueeze(1) * probs[index].t()).flatten(0, 1)  # (M C, K)
            likelihood = likelihood[likelihood.mean(1) > 0]
        else:
            likelihood = _sampled_likelihood(probs[torch.stack(chosen)], max_configurations // members + 1, generator)
    return Selection(torch.stack(chosen), torch.stack(scores).clamp(min=0).to(log_probs.dtype))


def epig(log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """mean over targets of I(y; y*): what a label tells about predictions that matter (Bickford Smith et al. 2023).

    Args: log_probs: (N, K, C), the pool. target_log_probs: (M, K, C), under the same members, of inputs drawn as they
        will be met in use.
    Returns: (N,) nats.
    """
    probs, targets = log_probs.exp(), target_log_probs.exp()
    members, classes = targets.shape[1:]
    marginal, target_marginal = probs.mean(1), targets.mean(1)  # (N, C), (M, C)
    flat = targets.transpose(0, 1).flatten(1)  # (K, M C)
    step = max(1, CHUNK // (classes * flat.shape[1]))
    joint_entropy = [
        entropy((block.transpose(1, 2) @ flat / members).flatten(1))  # summed over classes and targets
        for block in probs.split(step)
    ]
    mean_joint = torch.cat(joint_entropy) / len(targets)
    return entropy(marginal) + entropy(target_marginal).mean() - mean_joint


def top(scores: Tensor, size: int) -> Selection:
    """The `size` highest of (N,) scores, each chosen as if the others were not."""
    score, index = scores.topk(min(size, len(scores)))
    return Selection(index, score)


def core_set(latents: Tensor, labelled: Tensor, size: int) -> Selection:
    """Greedy k-centres: the point farthest from all that are labelled or chosen (Sener and Savarese 2018, alg. 1).

    Args: latents: (N, D), the pool. labelled: (L, D); where L = 0 the first point is the one nearest the pool's mean.
    Returns: the batch; the scores are distances to the nearest centre, in units of the latent, never increasing.
    """
    if len(labelled):
        distance = torch.cdist(latents, labelled).amin(1)  # (N,)
    else:
        centre = (latents - latents.mean(0)).norm(dim=1)
        distance = centre.max() - centre
    chosen, scores = [], []
    for _ in range(min(size, len(latents))):
        score, index = distance.max(0)
        chosen.append(index)
        scores.append(score)
        reach = (latents - latents[index]).norm(dim=1)
        distance = reach if len(chosen) == 1 and not len(labelled) else torch.minimum(distance, reach)
        distance[index] = -torch.inf
    return Selection(torch.stack(chosen), torch.stack(scores))


def random_batch(points: int, size: int, generator: torch.Generator) -> Selection:
    """Uniform without replacement: the control that everything else must beat. Scores are log(1 / N) nats."""
    index = torch.randperm(points, generator=generator)[:size]
    return Selection(index, torch.full((len(index),), -log(points)))


def _conditional_entropy(probs: Tensor, posterior: Tensor, share: Tensor) -> Tensor:
    """Sum_m share_m H[sum_k posterior_mk p_nk]: (N, K, C), (M, K), (M,) -> (N,) nats."""
    step = max(1, CHUNK // (len(posterior) * probs.shape[2]))
    blocks = []
    for block in probs.split(step):
        answer = torch.einsum("mk,nkc->mnc", posterior, block)
        blocks.append(share @ entropy(answer))
    return torch.cat(blocks)


def _sampled_likelihood(probs: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """p(answers | member) (K * draws, K) of joint answers drawn from each member in turn; probs: (b, K, C).

    Every row is divided by its largest entry: what is used is the posterior over members, whatever the scale.
    """
    points, members = probs.shape[:2]
    answers = torch.multinomial(probs.flatten(0, 1), draws, replacement=True, generator=generator)
    answers = answers.unflatten(0, (points, members)).transpose(1, 2).flatten(1)  # (b, draws K)
    logs = [point[:, answer].t().log() for point, answer in zip(probs, answers, strict=True)]
    log_likelihood = torch.stack(logs).sum(0)  # (draws K, K)
    return (log_likelihood - log_likelihood.amax(1, keepdim=True)).exp()
