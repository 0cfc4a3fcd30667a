"""What a plan is worth: the return that the world model imagines for it, with a bonus and a value at its end."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.search import Score
from agents.returns import visit_weights
from worldmodels.errors import ConfigError
from worldmodels.types import Rollout, State

Imagine = Callable[[State, Tensor, int], Rollout]
"""States (N, ...), plans (N, H, A), H -> rollout."""


def plan_return(rollout: Rollout, gamma: float, value: Tensor | None = None, bonus: Tensor | None = None) -> Tensor:
    """sum_t w_t (r_t + bonus_t) + w_H value, with w_0 = 1 and w_{t+1} = w_t gamma continuation_t.

    Args: rollout: of N plans. value: (N,), of the last state. bonus: (N, H).
    Returns: (N,).
    """
    discount = gamma * rollout.continuation  # (N, H)
    weight = visit_weights(discount)
    reward = rollout.reward if bonus is None else rollout.reward + bonus
    total = (weight * reward).sum(-1)
    return total if value is None else total + weight[:, -1] * discount[:, -1] * value


def trusted_return(
    rollout: Rollout, gamma: float, value: Tensor, trusted: Tensor, bonus: Tensor | None = None
) -> Tensor:
    """sum_{t < n} w_t (r_t + bonus_t) + w_n value_n, n the number of trusted steps: `plan_return` where all H are.

    Args: rollout: of N plans. value: (N, H+1), of every state. trusted: (N, H) bool, False from some step on.
    Returns: (N,).
    """
    weight = torch.cat([torch.ones_like(value[:, :1]), gamma * rollout.continuation], 1).cumprod(1)  # (N, H+1)
    reward = rollout.reward if bonus is None else rollout.reward + bonus
    last = trusted.sum(1, keepdim=True)  # (N, 1)
    return torch.where(trusted, weight[:, :-1] * reward, 0).sum(-1) + (weight * value).gather(1, last).squeeze(1)


@dataclass(frozen=True)
class Objective:
    """Scores plans in imagination.

    imagine: the world model. gamma: discount. value: features (..., F) -> (...), where a plan ends; None for nothing.
    bonus: rollout -> (N, H), added to the reward, weight included: plus explores, minus is pessimism. particles:
    rollouts for each plan, whose mean counts. trust: rollout -> (N, H) bool; a plan's return ends before the first
    step that is not trusted, with the value of the state there.

    Raises: ConfigError: `trust` without `value`.
    """

    imagine: Imagine
    gamma: float
    value: Callable[[Tensor], Tensor] | None = None
    bonus: Callable[[Rollout], Tensor] | None = None
    particles: int = 1
    trust: Callable[[Rollout], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.trust is not None and self.value is None:
            raise ConfigError("a plan that ends where it is not trusted needs a value of the state there: pass `value`")

    def of(self, state: State) -> Score:
        """The score of plans that begin in `state` (B, ...)."""

        def score(plans: Tensor) -> Tensor:
            batch, count, horizon, size = plans.shape
            rows = count * self.particles
            start = state.map(lambda x: x.repeat_interleave(rows, 0))  # (B * rows, ...), neighbours alike
            flat = plans.unsqueeze(2).expand(-1, -1, self.particles, -1, -1).reshape(batch * rows, horizon, size)
            rollout = self.imagine(start, flat, horizon)
            return self._worth(rollout).view(batch, count, self.particles).mean(-1)

        return score

    def _worth(self, rollout: Rollout) -> Tensor:
        bonus, features = None if self.bonus is None else self.bonus(rollout), rollout.states.features
        if self.value is None:
            return plan_return(rollout, self.gamma, None, bonus)
        if self.trust is not None:
            return trusted_return(rollout, self.gamma, self.value(features), self.trust(rollout), bonus)
        return plan_return(rollout, self.gamma, self.value(features[:, -1]), bonus)
