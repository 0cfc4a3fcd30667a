"""The cross-entropy method: fit to the elite, again and again (Rubinstein 1999; Chua et al. 2018)."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from agents.planners.plans import PlanFamily
from agents.planners.search import Found, Score, elite_weights, refine


@dataclass(frozen=True)
class CEM:
    """Every iteration fits the belief to the `elites` best of `samples` candidates; the belief's mode is carried out.

    momentum: share of the old belief that a fit keeps.
    """

    family: PlanFamily
    samples: int = 350
    iterations: int = 5
    elites: int = 35
    momentum: float = 0.1

    @property
    def kept(self) -> int:
        """The next search begins with the belief alone."""
        return 0

    def __call__(self, score: Score, belief: Tensor, extra: Tensor) -> Found:
        """See `Search`."""
        weigh = partial(elite_weights, count=self.elites)
        found = refine(
            score,
            self.family,
            belief,
            extra,
            weigh=weigh,
            samples=self.samples,
            iterations=self.iterations,
            momentum=self.momentum,
        )
        return found._replace(plan=self.family.mode(found.belief))
