"""A planner acts: it searches a plan at every step, carries out its first action and remembers the rest."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from agents.planners.objective import Objective
from agents.planners.search import Search
from worldmodels.types import State


class PlanMemory(NamedTuple):
    """What a planner takes from step to step. belief: (B, H, P). kept: (B, E, H, A); both already shifted by a step."""

    belief: Tensor
    kept: Tensor


Proposals = Callable[[State, int], Tensor]
"""States (B, ...), H -> plans (B, M, H, A) that a policy would carry out."""


class Planner:
    """Decides by searching over plans, from where the last search ended.

    search: the optimiser. objective: what a plan is worth. horizon: H. proposals: further candidates. noise: added to
    actions that explore (a standard deviation, or the chance of a uniform action). curiosity: what a plan is worth
    while exploring, where that is something else. scouts: proposals of the same kind while exploring alone; what they
    found on the way may change what `curiosity` is after.
    """

    def __init__(
        self,
        search: Search,
        objective: Objective,
        *,
        horizon: int,
        proposals: Proposals | None = None,
        noise: float = 0.0,
        curiosity: Objective | None = None,
        scouts: Proposals | None = None,
    ) -> None:
        self.search, self.objective, self.horizon = search, objective, horizon
        self.proposals, self.noise = proposals, noise
        self.curiosity, self.scouts = curiosity or objective, scouts

    def act(
        self, state: State, memory: PlanMemory | None, *, deterministic: bool, is_first: Tensor | None = None
    ) -> tuple[Tensor, PlanMemory]:
        """Actions (B, A) for states (B, ...), and what to remember.

        Args: memory: of the step before; None at the first. deterministic: carry out the plan as it was found; else
            explore, with noise and curiosity. is_first: (B,) bool, where an episode begins and nothing is remembered.
        Raises: NonFiniteError: no plan has a finite score.
        """
        with torch.inference_mode(False), torch.no_grad():  # evaluation forbids gradients, which some searches need
            state = state.map(torch.clone)
            belief, extra = self._begin(state, memory, is_first)
            if self.proposals is not None:
                extra = torch.cat([extra, self.proposals(state, self.horizon)], 1)
            if self.scouts is not None and not deterministic:
                extra = torch.cat([extra, self.scouts(state, self.horizon)], 1)
            objective = self.objective if deterministic else self.curiosity
            found = self.search(objective.of(state), belief, extra)
            action = found.plan[:, 0]
            if not deterministic and self.noise > 0:
                action = self.search.family.explore(action, self.noise)
            return action, self._shifted(found.belief, found.kept)

    def _begin(self, state: State, memory: PlanMemory | None, is_first: Tensor | None) -> tuple[Tensor, Tensor]:
        """The belief and the candidates (B, E, H, A) to begin with; whether memory is None changes no random number."""
        family, batch = self.search.family, state.z.shape[0]
        fresh = family.initial(batch, self.horizon, state.z.device)
        if memory is None or (is_first is not None and bool(is_first.all())):
            return fresh, family.draw(fresh, self.search.kept)
        belief, kept = memory.belief.clone(), memory.kept.clone()
        if is_first is None or not bool(is_first.any()):
            return belief, kept
        drawn = family.draw(fresh, self.search.kept)
        rows = is_first[:, None, None]
        return torch.where(rows, fresh, belief), torch.where(rows.unsqueeze(-1), drawn, kept)

    def _shifted(self, belief: Tensor, kept: Tensor) -> PlanMemory:
        """One step further: the last action of each plan is unknown again."""
        family = self.search.family
        last = family.initial(belief.shape[0], 1, belief.device)
        end = family.draw(last, kept.shape[1])  # (B, E, 1, A)
        return PlanMemory(torch.cat([belief[:, 1:], last], 1), torch.cat([kept[:, :, 1:], end], 2))
