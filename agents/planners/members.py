"""Trajectory sampling: imagined rollouts led by the members of an ensemble (Chua et al. 2018, section 5)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from worldmodels.dynamics import Members
from worldmodels.errors import ConfigError
from worldmodels.types import Rollout, State, stack_states
from worldmodels.world_model import WorldModel


def member_imagine(
    world_model: WorldModel, *, every_step: bool, uncertainty: bool = False, sample: bool = True
) -> Callable[[State, Tensor, int], Rollout]:
    """`imagine(state (N, ...), plan (N, H, A), H)` in which each row follows one member and not the temporal prior.

    Row n follows member n modulo K to its end (TS-infinity), so that neighbouring rows, which are the particles of one
    plan, follow different members; with `every_step` the rows are dealt anew at each step (TS1). sample: draw each
    latent instead of taking the mode of the member's prediction.

    Raises: ConfigError: the model has no ensemble.
    """
    ensemble = world_model.ensemble
    if ensemble is None:
        raise ConfigError("agent.planner.members asks for an ensemble: set world_model.ensemble.members=5")

    draw = ensemble.family.sample if sample else ensemble.family.mode

    def imagine(state: State, plan: Tensor, horizon: int) -> Rollout:
        states = [state]
        for t in range(horizon):
            context, cache = world_model.temporal_prior.advance(states[-1], plan[:, t])
            raw = _led(ensemble, context, world_model.temporal_prior.previous(context), deal=every_step)
            states.append(State(context, draw(raw), cache))
        whole = stack_states(states)  # (N, H+1, ...)
        reached = whole.features[:, 1:]
        reward = world_model.reward(reached).mean
        rollout = Rollout(
            whole, plan, reward, world_model.continuation(reached).probs, torch.full_like(reward, torch.nan)
        )
        if not uncertainty:
            return rollout
        return replace(rollout, **world_model.uncertainty(whole.index((slice(None), slice(-1))), plan)._asdict())

    return imagine


def _led(ensemble: Members, context: Tensor, previous: Tensor, *, deal: bool) -> Tensor:
    """Raw parameters (N, P) of the next latent by the member that leads each row: contexts (N, D), latents (N, Z)."""
    rows, members = context.shape[0], ensemble.members
    order = torch.randperm(rows, device=context.device) if deal else None
    spare = -rows % members  # rows that fill the last round and are thrown away
    grouped = [
        torch.cat([x if order is None else x[order], x[:1].expand(spare, -1)])
        .unflatten(0, (-1, members))
        .transpose(0, 1)
        for x in (context, previous)
    ]  # (K, N / K, ...)
    raw = ensemble.each(*grouped).transpose(0, 1).flatten(0, 1)[:rows]
    return raw if order is None else torch.empty_like(raw).index_copy(0, order, raw)
