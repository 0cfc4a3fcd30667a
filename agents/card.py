"""The U-card: how far a model's uncertainty can be trusted, measured on episodes of its own environment."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.ood import ood_card
from agents.recordings import BEHAVIOURS, part, record_episodes
from envs.options import EnvOptions
from worldmodels.build import build_ensemble
from worldmodels.dynamics import Members
from worldmodels.errors import ConfigError
from worldmodels.options import WorldModelOptions
from worldmodels.seeding import derive, forked
from worldmodels.types import Batch, State
from worldmodels.uncertainty import (
    Calibration,
    OpenLoop,
    interval_report,
    join,
    known_noise,
    open_loop,
    realised,
    spearman_by_horizon,
)
from worldmodels.uncertainty.toy import CONTEXT, LATENT

EPISODES, STEPS = 8, 200
"""Episodes of each behaviour, and their length at most: half of them calibrate, half of them judge."""
CELLS, AXES = 12, 3
"""States are counted in cells: 12 a side along the first 3 principal axes of everything that was visited."""


def card(
    agent: Agent,
    env_options: EnvOptions | None = None,
    *,
    seed: int = 50_000,
    toy_steps: int = 3_000,
    alarm_steps: int = 1_000,
) -> dict:
    """Measure the uncertainty of an agent's world model. Nothing of the agent changes.

    gap_auroc, sigma_error: the run's ensemble, fitted anew on a toy with known noise (`uncertainty.toy`): how well what
    it has not seen is told from what is noisy, and the relative error of the noise that it learned.
    spearman_by_horizon: rank correlation of the forecast's uncertainty with its error, inside each horizon.
    coverage_90_by_horizon, mace: of intervals recalibrated on other episodes. imagined_minus_real: of the policy, as a
    share of its lead over chance. state_coverage_vs_random: cells visited by the noisy policy, by those of chance.
    ood: AUROC, FPR at 95 % detection and delay of the alarm on sensor faults and changed physics (`agents.ood`).

    Args: env_options: another environment than the agent's own. seed: of everything that is random; episodes are reset
    with it and the numbers that follow. toy_steps, alarm_steps: updates on the toy, and of what raises the alarm.
    Raises: ConfigError: the model has no ensemble. EnvironmentFault: the environment failed.
    """
    model, env_options = agent.world_model, env_options or agent.env_options
    if model.ensemble is None or model.calibration is None:
        raise ConfigError("the card needs a world model with an ensemble: train it with world_model.ensemble.members=5")
    episodes = {
        name: record_episodes(agent, env_options, name, episodes=EPISODES, steps=STEPS, seed=seed)
        for name in BEHAVIOURS
    }
    with forked(derive(seed, "card")):
        halves = [
            join([open_loop(model, part(batch, half).to(model.device)) for batch in episodes.values()])
            for half in (slice(0, EPISODES // 2), slice(EPISODES // 2, EPISODES))
        ]
        held_out, judged = halves
        covered, error = interval_report(judged, calibrated(held_out))
        toy = known_noise(toy_members(agent.options.world_model), steps=toy_steps, seed=derive(seed, "toy"))
        gap = imagined_minus_real(agent, episodes["policy"], episodes["random"])
    return {
        "gap_auroc": toy.gap_auroc,
        "sigma_error": toy.sigma_error,
        "spearman_by_horizon": spearman_by_horizon(judged),
        "coverage_90_by_horizon": covered,
        "mace": error,
        "ood": ood_card(agent, env_options, seed=seed, fit_steps=alarm_steps),
        "state_coverage_vs_random": state_coverage(agent, episodes["noisy"], episodes["random"]),
        "imagined_minus_real": gap,
    }


def calibrated(held_out: OpenLoop) -> Calibration:
    """Interval widths fitted to these forecasts."""
    calibration = Calibration().to(held_out.target.device)
    calibration.fit(held_out.forecast, held_out.target, held_out.valid)
    return calibration


def toy_members(options: WorldModelOptions) -> Callable[[], Members]:
    """The same configuration of members for the toy."""

    def build() -> Members:
        members = build_ensemble(options.ensemble, LATENT, CONTEXT)
        assert members is not None
        return members

    return build


def acting_rollout(agent: Agent, state: State, steps: int) -> tuple[Tensor, Tensor]:
    """Imagine what the agent does in evaluation, by its planner or its actor's best action, from `state` (B, ...).

    Returns: reward and continuation, (B, steps) each.
    """
    model, planner, sb3 = agent.world_model, agent.planner, agent.sb3
    if planner is None:
        best = agent.policy.average_actor.mode
        policy = best if sb3 is None else lambda features: sb3.act(features, deterministic=True)
        rollout = model.imagine(state, policy, steps)
        return rollout.reward, rollout.continuation
    memory, found = None, []
    for _ in range(steps):
        action, memory = planner.act(state, memory, deterministic=True)
        rollout = model.imagine(state, action.unsqueeze(1), 1)
        found.append((rollout.reward, rollout.continuation))
        state = rollout.states.index((slice(None), 1))
    reward, continuation = (torch.cat(column, 1) for column in zip(*found, strict=True))
    return reward, continuation


def calibrate(agent: Agent, env_options: EnvOptions | None = None, *, seed: int = 60_000) -> None:
    """Fit the widths of the model's intervals to fresh episodes; they then travel with `agent.save`.

    Raises: ConfigError: the model has no ensemble. EnvironmentFault: the environment failed.
    """
    model, env_options = agent.world_model, env_options or agent.env_options
    if model.calibration is None:
        raise ConfigError("intervals need a world model with an ensemble: train it with world_model.ensemble.members=5")
    episodes = [
        record_episodes(agent, env_options, name, episodes=EPISODES // 2, steps=STEPS, seed=seed) for name in BEHAVIOURS
    ]
    with forked(derive(seed, "calibrate")):
        held_out = join([open_loop(model, batch.to(model.device)) for batch in episodes])
    model.calibration.fit(held_out.forecast, held_out.target, held_out.valid)


@torch.no_grad()
def imagined_returns(agent: Agent, played: Batch, *, horizon: int = 50) -> tuple[Tensor, Tensor]:
    """What the policy imagines from the first observations of episodes that it played, and what it got.

    Returns: imagined and real return, (B,) each, over the first `horizon` steps or as many as there are.
    """
    model, steps = agent.world_model, min(horizon, played.reward.shape[1])
    states = model.infer(played.to(model.device), sample=False)
    reward, continuation = acting_rollout(agent, states.index((slice(None), 0)), steps)
    alive = torch.cat([torch.ones_like(continuation[:, :1]), continuation[:, :-1]], 1).cumprod(1)
    return (reward * alive).sum(1).cpu(), played.reward[:, :steps].sum(1).cpu()


def imagined_minus_real(agent: Agent, played: Batch, random: Batch, *, horizon: int = 50) -> float:
    """Mean imagined return of the policy minus its real one over the same steps from the same first observations.

    In units of the policy's real lead over chance; of the mean absolute reward a step where chance does as well.
    Positive: the policy has learned to exploit the model.
    """
    imagined, real = (returns.mean() for returns in imagined_returns(agent, played, horizon=horizon))
    steps = min(horizon, played.reward.shape[1])
    lead = (real - random.reward[:, :steps].sum(1).mean()).abs()
    floor = 0.05 * steps * played.reward.abs().mean()
    return float((imagined - real) / torch.maximum(lead, floor).clamp(min=1e-6))


def state_coverage(agent: Agent, visited: Batch, random: Batch) -> float:
    """Cells that the first visited by those that the second did, in as many steps each."""
    spaces = [_points(agent, batch) for batch in (visited, random)]
    count = min(len(points) for points in spaces)
    if count < 2:
        raise ConfigError("state coverage needs at least two visited states of each")
    spaces = [points[torch.linspace(0, len(points) - 1, count).long()] for points in spaces]
    together = torch.cat(spaces)
    centered = together - together.mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False)[2][:AXES]  # principal axes
    projected = centered @ axes.T  # (2 N, 3)
    low, high = projected.amin(0), projected.amax(0)
    cells = ((projected - low) / (high - low).clamp(min=1e-6) * CELLS).long().clamp(max=CELLS - 1)
    own, other = cells.split(count)
    return len(own.unique(dim=0)) / len(other.unique(dim=0))


def _points(agent: Agent, batch: Batch) -> Tensor:
    """Every real state of a batch, in the coordinates of forecasts (N, n)."""
    model, batch = agent.world_model, batch.to(agent.world_model.device)
    with torch.no_grad():
        states = model.infer(batch, sample=False)
        return realised(model, batch.obs, states)[batch.obs_mask].cpu()


def table(values: dict) -> str:
    """The card as lines for people."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            long = any(isinstance(v, dict) for v in value.values())  # then a line for each
            text = ("\n" + " " * 26 if long else "  ").join(f"{k}: {_number(v)}" for k, v in value.items())
        else:
            text = _number(value)
        lines.append(f"{name:<26}{text}")
    return "\n".join(lines)


def _number(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return " ".join(f"{k} {_number(v)}" for k, v in value.items())
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
