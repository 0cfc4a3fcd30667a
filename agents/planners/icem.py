"""iCEM: the cross-entropy method with coloured noise and elites that stay (Pinneri et al. 2020)."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from agents.planners.plans import PlanFamily
from agents.planners.search import Found, Score, elite_weights, refine


@dataclass(frozen=True)
class ICEM:
    """CEM whose noise is smooth in time, whose best candidates stay, and which carries out the best one it has seen.

    exponent: of the noise's power spectrum over the horizon. kept: candidates that stay for the next iteration and,
    shifted by a step, for the next search. decay: each iteration draws this many times fewer.
    """

    family: PlanFamily
    samples: int = 100
    iterations: int = 3
    elites: int = 10
    momentum: float = 0.1
    exponent: float = 2.0
    kept: int = 3
    decay: float = 1.25

    def __call__(self, score: Score, belief: Tensor, extra: Tensor) -> Found:
        """See `Search`."""
        return refine(
            score,
            self.family,
            belief,
            extra,
            weigh=partial(elite_weights, count=self.elites),
            samples=self.samples,
            iterations=self.iterations,
            momentum=self.momentum,
            exponent=self.exponent,
            kept=self.kept,
            decay=self.decay,
        )
