"""What matters for the task: where good trajectories may go, and which of two policies is the better one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from agents.acquisition.scores import information_gain
from agents.ranks import ALONE, Ranks
from agents.returns import visit_weights
from worldmodels.dynamics import Members
from worldmodels.errors import ConfigError
from worldmodels.types import Rollout, State, stack_states
from worldmodels.world_model import WorldModel

POINTS = 256
"""Latents that stand for the trajectories of the members."""
STARTS = 16
"""Trajectories of each member."""

Act = Callable[[Tensor], Tensor]


def member_rollouts(world_model: WorldModel, start: State, policy: Act | Tensor, horizon: int) -> Rollout:
    """One rollout for each member from each start, every one in its own member's dynamics from first to last step.

    Args: start: (B, ...). policy: features (N, F) -> action (N, A), or plans (K B, H, A), member after member.
    Returns: a rollout of K B rows, member after member; what it is unsure of is left out.
    Raises: ConfigError: the model has no ensemble.
    """
    return led_rollouts(world_model, start.repeat(_members(world_model).members), policy, horizon)


def led_rollouts(world_model: WorldModel, state: State, policy: Act | Tensor, horizon: int) -> Rollout:
    """The same from states (K B, ...) of which the first B follow the first member, the next B the second, and so on.

    Raises: ConfigError: the model has no ensemble.
    """
    ensemble, prior = _members(world_model), world_model.temporal_prior
    family = ensemble.family
    states, actions, raws = [state], [], []
    for t in range(horizon):
        action = policy[:, t] if isinstance(policy, Tensor) else policy(state.features)
        context, cache = prior.advance(state, action)
        own = (x.unflatten(0, (ensemble.members, -1)) for x in (context, prior.previous(context)))  # (K, B, ...)
        raw = ensemble.each(*own).flatten(0, 1)  # (K B, P)
        state = State(context, family.moments(raw)[0] if family.ordered else family.sample(raw), cache)
        states.append(state)
        actions.append(action)
        raws.append(raw)
    whole = stack_states(states)
    reached = whole.features[:, 1:]
    continuation = world_model.continuation(reached).probs
    entropy = family.entropy(torch.stack(raws, 1))
    return Rollout(whole, torch.stack(actions, 1), world_model.reward(reached).mean, continuation, entropy)


def _members(world_model: WorldModel) -> Members:
    if world_model.ensemble is None:
        raise ConfigError("members to follow are needed: set world_model.ensemble.members=5")
    return world_model.ensemble


def member_returns(world_model: WorldModel, start: State, policy: Act, horizon: int, gamma: float) -> Tensor:
    """Discounted return of a policy by each member's own dynamics: (K, B)."""
    rollout = member_rollouts(world_model, start, policy, horizon)
    weight = visit_weights(gamma * rollout.continuation)
    return (weight * rollout.reward).sum(-1).unflatten(0, (-1, start.z.shape[0]))


def return_difference(returns: Sequence[Tensor]) -> Tensor:
    """Var_k[G_i - G_j]: how little is known about which of two policies is better (Lindner et al. 2021, eq. 3).

    Args: returns: of each of P policies, (K, ...) by member.
    Returns: (P, P, ...), zero on the diagonal. What all members agree on, and what shifts all returns alike, is no
        reason to look.
    """
    stacked = torch.stack(list(returns))  # (P, K, ...)
    return (stacked.unsqueeze(0) - stacked.unsqueeze(1)).var(2, correction=0)


class TaskAware(nn.Module):
    """Information gain where the members' own best trajectories go: information about the optimal trajectory.

    Each member is followed alone under the policy that is best so far (`refresh`), or along a plan that is best in its
    own dynamics (`follow`). A step counts by its distance to the nearest of these latents, exp(-d^2 / (2 width^2)) with
    d the root mean square over dimensions. A simple form, for ensembles, of conditioning on optimal trajectories (Mehta
    et al. 2022, eq. 4). Before anything was followed every place counts.
    """

    points: Tensor
    ready: Tensor

    def __init__(self, latent: int, *, width: float, horizon: int) -> None:
        super().__init__()
        self.width, self.horizon = width, horizon
        self.register_buffer("points", torch.zeros(POINTS, latent))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, rollout: Rollout) -> Tensor:
        """(B, H) nats."""
        z = rollout.states.z[:, 1:]
        distance = torch.cdist(z.flatten(0, 1), self.points).square().amin(-1) / z.shape[-1]
        near = (-0.5 * distance / self.width**2).exp().view(z.shape[:-1])
        return information_gain(rollout) * torch.where(self.ready, near, 1.0)

    @torch.no_grad()
    def refresh(self, world_model: WorldModel, policy: Act, start: State, ranks: Ranks = ALONE) -> None:
        """Follow every member from some of the states `start` (B, ...) under `policy`.

        ranks: processes that do so too; the points are then some of each, the same in all of them.
        """
        chosen = torch.randperm(start.z.shape[0], device=start.z.device)[:STARTS]
        rollout = member_rollouts(world_model, start.index(chosen), policy, self.horizon)
        visited = rollout.states.z.flatten(0, 1)
        points = visited[torch.randint(len(visited), (POINTS,), device=visited.device)]
        self.points.copy_(ranks.gather(points)[:: ranks.count])
        self.ready.fill_(True)

    @torch.no_grad()
    def follow(self, trajectories: Rollout) -> None:
        """Take the latents of these trajectories (N, H+1) for those that count; of more than POINTS every so many."""
        visited = trajectories.states.z.flatten(0, 1)
        self.points.copy_(visited[torch.arange(POINTS, device=visited.device) * len(visited) // POINTS])
        self.ready.fill_(True)
