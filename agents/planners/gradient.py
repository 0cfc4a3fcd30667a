"""Plans by gradient ascent through the world model, from several starts (Bharadhwaj et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.plans import CategoricalPlans, PlanFamily
from agents.planners.search import Found, Score, best_plans, ranked

BETAS = (0.9, 0.999)
"""How much of its moments Adam keeps with each step (Kingma and Ba 2015, algorithm 1)."""
EDGE = 0.999
"""Largest action that a start of the ascent may have: at 1 the squashing has no gradient."""


@dataclass(frozen=True)
class Gradient:
    """Adam on `samples` plans at once, drawn from the belief; the best plan that was seen is carried out.

    Continuous plans are tanh of what is optimised. Discrete ones are softmax of it on the way, and one-hot where they
    are scored for good. rate: of Adam. kept: plans that begin the next search, shifted by a step. std: of the belief
    that the next search draws its other starts from.
    """

    family: PlanFamily
    samples: int = 16
    iterations: int = 10
    rate: float = 0.1
    kept: int = 4

    def __call__(self, score: Score, belief: Tensor, extra: Tensor) -> Found:
        """See `Search`; the score has to be differentiable, and a gradient that is not finite counts as none."""
        discrete = isinstance(self.family, CategoricalPlans)
        starts = torch.cat([self.family.draw(belief, self.samples), extra, self.family.mode(belief).unsqueeze(1)], 1)
        best, best_scores = starts, torch.full(starts.shape[:2], -torch.inf, device=starts.device)
        with torch.enable_grad():
            raw = _unsquash(starts, discrete=discrete).requires_grad_()
            first, second = torch.zeros_like(raw), torch.zeros_like(raw)  # Adam's moments
            for step in range(1, self.iterations + 1):
                plans = self._plans(raw, soft=True)
                scores = score(plans)
                if not discrete:  # these are plans that can be carried out: the best on the way counts
                    better = torch.isfinite(scores) & (scores > best_scores)
                    best = torch.where(better[:, :, None, None], plans, best).detach()
                    best_scores = torch.where(better, scores, best_scores).detach()
                (gradient,) = torch.autograd.grad(torch.where(torch.isfinite(scores), scores, 0).sum(), raw)
                gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
                first = torch.lerp(first, gradient, 1 - BETAS[0])
                second = torch.lerp(second, gradient.square(), 1 - BETAS[1])
                root = (second / (1 - BETAS[1] ** step)).sqrt() + 1e-8
                raw = (raw.detach() + self.rate * first / (1 - BETAS[0] ** step) / root).requires_grad_()
        plans = torch.cat([best, self._plans(raw.detach(), soft=False)], 1)
        scores = ranked(score(plans).detach())
        best = best_plans(plans, scores, max(1, self.kept))
        centre = self.family.fit(best[:, :1], torch.ones(best.shape[0], 1, device=best.device))
        if discrete:
            return Found(best[:, 0], centre, best[:, : self.kept])
        spread = belief.chunk(2, -1)[1]  # the starts of the next search are as wide as those of this one
        return Found(best[:, 0], torch.cat([centre.chunk(2, -1)[0], spread], -1), best[:, : self.kept])

    def _plans(self, raw: Tensor, *, soft: bool) -> Tensor:
        if not isinstance(self.family, CategoricalPlans):
            return raw.tanh()
        probs = torch.cat([block.softmax(-1) for block in raw.split(self.family.classes, -1)], -1)
        return probs if soft else self.family.mode(probs)


def _unsquash(plans: Tensor, *, discrete: bool) -> Tensor:
    """What the optimiser moves: the inverse of the squashing, or logits that favour the action drawn."""
    return 2 * plans if discrete else plans.clamp(-EDGE, EDGE).atanh()
