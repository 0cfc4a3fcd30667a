"""An actor and a critic that learn from imagined rollouts alone (Hafner et al. 2019, 2023)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from agents.options import ActorCriticOptions
from agents.ranks import ALONE, Ranks
from agents.returns import lambda_return, percentile_range, visit_weights
from worldmodels.distributions import StraightThroughCategoricals, TanhNormal, mix_uniform, sample_one_hot
from worldmodels.heads import ScalarHead, TwoHotHead
from worldmodels.nets import mlp, operand
from worldmodels.specs import ActionSpec
from worldmodels.types import Rollout, State

if TYPE_CHECKING:
    from agents.acquisition import Bonus

UNIMIX = 0.01
"""Share of uniform mixed into discrete policies, so that no action's probability is zero."""
MIN_STD, MAX_STD = 0.05, 1.5
"""Range of a continuous policy's standard deviation before the squashing."""
MIN_RANGE = 1.0
"""Returns are divided by their range only where it exceeds this: small returns are not blown up."""
MIN_RATE = 1e-3
"""Smallest 1 - gamma that the size of discounted sums is estimated with."""

Imagine = Callable[[State, Callable[[Tensor], Tensor], int], Rollout]


class Actor(nn.Module):
    """Features (..., F) -> distribution over encoded actions (..., A)."""

    def __init__(self, features: int, spec: ActionSpec, *, hidden: int, layers: int, norm: bool) -> None:
        super().__init__()
        self.spec = spec
        outputs = 2 * spec.size if spec.kind == "continuous" else spec.size
        self.net = mlp(features, hidden, layers, outputs, norm=norm, scale=0.01)

    def forward(self, features: Tensor) -> Distribution:
        """The policy in the state with these features."""
        raw = self.net(features)
        if self.spec.kind != "continuous":
            return StraightThroughCategoricals(raw, self.spec.classes, unimix=UNIMIX)
        mean, s = raw.chunk(2, -1)
        return TanhNormal(mean, torch.add(MIN_STD, torch.sigmoid(s), alpha=MAX_STD - MIN_STD))

    def sample(self, features: Tensor) -> Tensor:
        """An action (..., A), reparameterised or straight-through. The hot path: no distribution object is built."""
        raw = self.net(features)
        if self.spec.kind == "continuous":
            mean, s = raw.chunk(2, -1)
            std = torch.add(MIN_STD, torch.sigmoid(s), alpha=MAX_STD - MIN_STD)
            return torch.tanh(torch.addcmul(mean, std, torch.randn_like(mean)))
        blocks = []
        for block in raw.split(self.spec.classes, -1):
            probs = mix_uniform(block.softmax(-1), UNIMIX)
            one_hot = sample_one_hot(probs.detach())
            blocks.append(one_hot + (probs - probs.detach()) if probs.requires_grad else one_hot)
        return torch.cat(blocks, -1) if len(blocks) > 1 else blocks[0]

    def mode(self, features: Tensor) -> Tensor:
        """The action to take without exploration (..., A)."""
        return self(features).mode


@dataclass
class PolicyLosses:
    """Scalars to minimise, and what to log. value_scale: scalar, what `widen` takes once the losses were used."""

    actor: Tensor
    critic: Tensor
    value_scale: Tensor
    metrics: dict[str, Tensor]


class ActorCritic(nn.Module):
    """Actor, critic, their slow copies and the return's scale. Every state it needs is a buffer or a parameter."""

    return_range: Tensor

    def __init__(self, features: int, spec: ActionSpec, options: ActorCriticOptions) -> None:
        super().__init__()
        self.options = options
        self.actor = Actor(features, spec, hidden=options.hidden, layers=options.layers, norm=options.norm)
        self.critic = _critic(features, options)
        self.average_actor = deepcopy(self.actor).requires_grad_(False)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("return_range", torch.zeros(()))
        continuous = spec.kind == "continuous"
        self.through_dynamics = options.gradient == "dynamics" or (options.gradient == "auto" and continuous)

    def losses(
        self, imagine: Imagine, start: State, bonus: "Bonus | None" = None, ranks: Ranks = ALONE
    ) -> PolicyLosses:
        """Imagine from `start` (B, ...) and score the policy; no real reward or observation is seen.

        bonus: adds an acquisition to the reward, and may end returns where the model is too unsure. ranks: processes
        that imagine as many rollouts each; the return's range and the value's scale are those of all of them.
        """
        options = self.options
        trusted = None
        with torch.set_grad_enabled(self.through_dynamics):
            rollout = imagine(start, self.actor.sample, options.horizon)
            unshaped = rollout.reward.detach()
            if bonus is not None:
                rollout, trusted = bonus.apply_to(rollout, ranks)
        context, z = rollout.states.context, rollout.states.z  # (B, H+1, ...)
        with torch.set_grad_enabled(self.through_dynamics):
            discount = options.gamma * rollout.continuation  # (B, H)
            value = self.slow_critic(State(context[:, 1:], z[:, 1:]).features).mean
            lambda_ = options.lambda_ if trusted is None else options.lambda_ * _next(trusted)
            returns = lambda_return(rollout.reward, discount, value, lambda_)  # (B, H)
        target, weight = returns.detach(), visit_weights(discount.detach())
        if trusted is not None:
            weight = weight * trusted
        self._follow_range(ranks.gather(target))
        scale = self.return_range.clamp(min=MIN_RANGE)
        before = operand(State(context[:, :-1], z[:, :-1]).detach().features)  # where the actions were taken
        policy = self.actor(before)
        entropy = policy.entropy()
        estimate = self.critic(before)
        if self.through_dynamics:
            gain = returns / scale
        else:
            gain = policy.log_prob(rollout.action) * (target - estimate.mean.detach()) / scale
        actor = -(weight * (gain + options.entropy * entropy)).mean()
        critic = -(weight * estimate.log_prob(target)).mean()
        metrics = {
            "actor_loss": actor.detach(),
            "critic_loss": critic.detach(),
            "entropy": entropy.detach().mean(),
            "imagined_return": target[:, 0].mean(),
            "imagined_reward_max": unshaped.max(),
            "imagined_reward_min": unshaped.min(),
            "return_range": self.return_range.clone(),
        }
        squares, weights = ranks.sums((weight * rollout.reward.detach().square()).sum(), weight.sum())
        earned = (squares / weights.clamp(min=1)).sqrt()
        return PolicyLosses(actor, critic, earned / _spare(options.gamma), metrics)

    def widen(self, value_scale: Tensor) -> None:
        """Let the scalar critics' scale grow to what the rewards' root mean square, earned for ever, is worth."""
        for critic in (self.critic, self.slow_critic):
            if isinstance(critic, ScalarHead):
                critic.widen(value_scale)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the averaged actor and the slow critic towards the learned ones. Call once after each update."""
        for slow, fast, rate in (
            (self.average_actor, self.actor, self.options.actor_average),
            (self.slow_critic, self.critic, self.options.slow_critic),
        ):
            for own, target in zip(slow.parameters(), fast.parameters(), strict=True):
                own.lerp_(target, rate)

    @torch.no_grad()
    def _follow_range(self, returns: Tensor) -> None:
        new = percentile_range(returns)
        first = self.return_range == 0
        self.return_range.copy_(torch.where(first, new, torch.lerp(self.return_range, new, self.options.return_rate)))


def _critic(features: int, options: ActorCriticOptions) -> ScalarHead | TwoHotHead:
    units, layers, norm = options.hidden, options.layers, options.norm
    if options.critic == "scalar":
        return ScalarHead(features, units=units, layers=layers, norm=norm, scale=1 / _spare(options.gamma))
    return TwoHotHead(features, units=units, layers=layers, bins=options.bins, limit=options.limit, norm=norm)


def _spare(gamma: float) -> float:
    """1 - gamma, kept away from zero: its inverse is how many rewards a value sums up."""
    return max(1 - gamma, MIN_RATE)


def _next(trusted: Tensor) -> Tensor:
    """Whether the step after each is trusted too, 1 or 0: (B, H); after the last one the value takes over anyhow."""
    return torch.cat([trusted[:, 1:], trusted[:, -1:]], 1).float()
