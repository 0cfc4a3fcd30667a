"""What every search over plans shares: how candidates are ranked, and the loop of draw, score, weigh and fit."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from agents.planners.plans import PlanFamily
from worldmodels.errors import NonFiniteError

Score = Callable[[Tensor], Tensor]
"""Plans (B, N, H, A) -> scores (B, N), higher is better."""
Weigh = Callable[[Tensor], Tensor]
"""Finite or -inf scores (B, N) -> weights (B, N) that sum to 1; what has -inf gets 0."""


class Found(NamedTuple):
    """What a search ends with.

    plan: (B, H, A), to be carried out. belief: (B, H, P), where it ended. kept: (B, E, H, A), good candidates to begin
    the next search with; E may be 0.
    """

    plan: Tensor
    belief: Tensor
    kept: Tensor


class Search(Protocol):
    """An optimiser of plans."""

    @property
    def family(self) -> PlanFamily:
        """What its candidates are drawn from."""
        ...

    @property
    def kept(self) -> int:
        """Candidates E in `Found.kept`."""
        ...

    def __call__(self, score: Score, belief: Tensor, extra: Tensor) -> Found:
        """Look for the plan with the best score, from `belief` (B, H, P) and candidates `extra` (B, M, H, A).

        Raises: NonFiniteError: no candidate of an environment has a finite score.
        """
        ...


def ranked(scores: Tensor) -> Tensor:
    """Scores (B, N) in which everything that is not finite is -inf: it ranks last, whatever it was meant to be.

    Raises: NonFiniteError: a row has nothing finite.
    """
    finite = torch.isfinite(scores)
    if not bool(finite.any(-1).all()):
        rows = (~finite.any(-1)).nonzero().flatten().tolist()
        raise NonFiniteError(
            f"every one of {scores.shape[-1]} plans has a score that is not finite (environments {rows}): "
            "the world model is broken; train it with a lower train.model_rate or load an earlier checkpoint"
        )
    return torch.where(finite, scores, -torch.inf)


def elite_weights(scores: Tensor, count: int) -> Tensor:
    """Equal weights (B, N) for the `count` best finite scores (B, N), 0 for the rest."""
    best = scores.topk(min(count, scores.shape[-1]), -1)
    chosen = torch.isfinite(best.values).to(scores.dtype)
    return torch.zeros_like(scores).scatter_(-1, best.indices, chosen / chosen.sum(-1, keepdim=True))


def best_plans(plans: Tensor, scores: Tensor, count: int) -> Tensor:
    """The `count` best of plans (B, N, H, A) by scores (B, N), best first: (B, count, H, A)."""
    index = scores.topk(count, -1).indices[:, :, None, None]
    return plans.gather(1, index.expand(-1, -1, *plans.shape[2:]))


def refine(
    score: Score,
    family: PlanFamily,
    belief: Tensor,
    extra: Tensor,
    *,
    weigh: Weigh,
    samples: int,
    iterations: int,
    momentum: float = 0.0,
    exponent: float = 0.0,
    kept: int = 0,
    decay: float = 1.0,
) -> Found:
    """Draw candidates, score them, fit the belief to the weighted ones, and again.

    Args:
        extra: candidates (B, M, H, A) that stay among those of every iteration.
        weigh: what makes one search differ from another. momentum: share of the old belief after a fit.
        exponent: of the noise's spectrum. kept: best candidates that stay for the next iteration. decay: every
        iteration draws this many times fewer candidates, but at least twice as many as are kept.
    Returns: plan: the best candidate of the last iteration, the belief's own mode among them.
    """
    chosen = extra[:, :0]
    plans = scores = chosen
    for iteration in range(iterations):
        count = max(2 * kept, 2, round(samples / decay**iteration))
        parts = [family.draw(belief, count, exponent), extra, chosen]
        if iteration == iterations - 1:
            parts.append(family.mode(belief).unsqueeze(1))
        plans = torch.cat(parts, 1)
        scores = ranked(score(plans))
        belief = torch.lerp(family.fit(plans, weigh(scores)), belief, momentum)
        chosen = best_plans(plans, scores, kept)
    return Found(best_plans(plans, scores, 1)[:, 0], belief, chosen)
