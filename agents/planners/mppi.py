"""Model-predictive path integral control: fit to the elite by exponential weights (Williams et al. 2017).

In the form of Hansen et al. 2022: a Gaussian with a learned spread, weights among the elite alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.plans import PlanFamily
from agents.planners.search import Found, Score, refine


def exponential_weights(scores: Tensor, count: int, temperature: float) -> Tensor:
    """w_i proportional to exp((score_i - best) / temperature) for the `count` best of scores (B, N), 0 for the rest."""
    best = scores.topk(min(count, scores.shape[-1]), -1)
    return torch.zeros_like(scores).scatter_(-1, best.indices, (best.values / temperature).softmax(-1))


@dataclass(frozen=True)
class MPPI:
    """Every iteration fits the belief to the `elites` best candidates, weighted by exp(score / temperature).

    temperature: in units of the return.
    """

    family: PlanFamily
    samples: int = 512
    iterations: int = 6
    elites: int = 64
    temperature: float = 0.5
    momentum: float = 0.0

    @property
    def kept(self) -> int:
        """The next search begins with the belief alone."""
        return 0

    def __call__(self, score: Score, belief: Tensor, extra: Tensor) -> Found:
        """See `Search`."""
        found = refine(
            score,
            self.family,
            belief,
            extra,
            weigh=lambda scores: exponential_weights(scores, self.elites, self.temperature),
            samples=self.samples,
            iterations=self.iterations,
            momentum=self.momentum,
        )
        return found._replace(plan=self.family.mode(found.belief))
