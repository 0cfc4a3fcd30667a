"""What to ask: batches of transitions and of rewards that tell the most together, and questions that are made up.

A query may go to a simulator (what happens if I do this here?) or to a person (how good is this?).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.acquisition.pool import Selection
from agents.acquisition.scores import MIN_VARIANCE
from worldmodels.errors import ConfigError
from worldmodels.types import Acquisition, Rollout, State, stack_states
from worldmodels.world_model import WorldModel


def information_batch(mean: Tensor, noise: Tensor, size: int) -> Selection:
    """Greedy batch with the largest joint information 1/2 sum_d log det(1 + C_d / noise_d), nats.

    C_d (N, N) is the members' covariance of dimension d. A point adds 1/2 sum_d log(1 + c / noise), c the variance that
    the answers so far leave (Krause et al. 2008, for Gaussians); a copy of a chosen point adds little.

    Args: mean: (K, N, Z), what the members expect. noise: (N, Z), variance of an answer. size: points, at most N.
    Returns: the batch; the scores sum up to the joint information.
    """
    left, noise = mean - mean.mean(0), noise.clamp(min=1e-12)  # (K, N, Z): left^T left / K is the covariance
    free = torch.ones(mean.shape[1], dtype=torch.bool, device=mean.device)
    chosen, scores = [], []
    for _ in range(min(size, mean.shape[1])):
        added = 0.5 * (left.square().mean(0) / noise).log1p().sum(-1)  # (N,)
        score, index = torch.where(free, added, -torch.inf).max(0)
        free[index] = False
        chosen.append(index)
        scores.append(score)
        left = _after_answer(left, left[:, index], noise[index])
    return Selection(torch.stack(chosen), torch.stack(scores))


def transition_queries(world_model: WorldModel, states: State, action: Tensor, size: int) -> Selection:
    """Which of N transitions to try: those from which the dynamics' ensemble learns the most, together.

    Args: states: (N, ...). action: (N, A). size: queries.
    Raises: ConfigError: the model has no ensemble, or its latents are not Gaussian.
    """
    if not world_model.family.ordered:
        raise ConfigError("transition_queries: joint information is known for Gaussian latents: posterior=gaussian")
    known = world_model.uncertainty(states, action)
    mean, _ = world_model.family.moments(known.members)  # (K, N, Z)
    return information_batch(mean, known.aleatoric_variance.clamp(min=MIN_VARIANCE), size)


def reward_queries(answers: Tensor, quantity: Tensor, noise: float, size: int) -> Selection:
    """Which of N rewards to ask for, to know one number: each takes the most variance from what is still unknown.

    With `quantity` the difference of two policies' returns this asks only what matters for choosing between them
    (Lindner et al. 2021, algorithm 1, with members in place of a posterior); an answer on which the members disagree,
    and the quantity does not depend, is not asked for.

    Args: answers: (K, N), each member's rewards. quantity: (K,), each member's number. noise: variance of an answer.
    Returns: the batch; the scores are the variance that each answer takes away.
    """
    left, target = answers - answers.mean(0), quantity - quantity.mean()  # (K, N), (K,)
    free = torch.ones(answers.shape[1], dtype=torch.bool, device=answers.device)
    chosen, scores = [], []
    for _ in range(min(size, answers.shape[1])):
        covariance = (left * target.unsqueeze(1)).mean(0)  # (N,)
        taken = covariance.square() / (left.square().mean(0) + noise)
        score, index = torch.where(free, taken, -torch.inf).max(0)
        free[index] = False
        chosen.append(index)
        scores.append(score)
        both = torch.cat([left, target.unsqueeze(1)], 1).unsqueeze(-1)  # (K, N + 1, 1)
        both = _after_answer(both, left[:, index].unsqueeze(-1), torch.full((1,), noise)).squeeze(-1)
        left, target = both[:, :-1], both[:, -1]
    return Selection(torch.stack(chosen), torch.stack(scores))


@dataclass
class Synthesised:
    """Made-up trajectories to be shown to a person.

    rollout: (B, H), with its uncertainty. score: (B, H). obs: name -> (B, H+1, ...), what the decoder sees there.
    """

    rollout: Rollout
    score: Tensor
    obs: dict[str, Tensor]


def synthesise(
    world_model: WorldModel,
    start: State,
    acquisition: Acquisition,
    *,
    action_size: int,
    horizon: int,
    steps: int = 100,
    rate: float = 0.1,
    plausible: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> Synthesised:
    """Trajectories that score high and that the dynamics find likely, by gradient ascent in latent space.

    Free are the actions (through tanh) and the noise e_t of each latent, z_t = mean_t + std_t e_t; what is climbed is
    sum_t score_t - plausible |e_t|^2 / 2, so that a query does not leave what the model can imagine (Reddy et al. 2020,
    eq. 5). Each row's step is its own gradient at unit root mean square.

    Args: start: (B, ...). action_size: A. horizon: H. steps, rate: of the ascent; the rate falls to zero.
        plausible: weight of the noise's log-density. progress: called with the mean score at each step.
    Raises: ConfigError: the latents are not Gaussian.
    """
    if not world_model.family.ordered:
        raise ConfigError("synthesise: latents that can be moved a little are needed: world_model.posterior=gaussian")
    batch, width = start.z.shape[0], world_model.family.width
    pre_action, noise = start.z.new_zeros(batch, horizon, action_size), start.z.new_zeros(batch, horizon, width)
    pre_action = pre_action + 0.01 * torch.randn_like(pre_action)  # all still is a point without a gradient
    for step in range(steps):
        leaves = [pre_action.requires_grad_(), noise.requires_grad_()]
        score = acquisition(_unroll(world_model, start, *leaves))
        total = score.sum() - plausible * 0.5 * noise.square().sum()
        rise = rate * (1 - step / steps)
        moves = [rise * _unit(g) for g in torch.autograd.grad(total, leaves, materialize_grads=True)]
        pre_action, noise = (leaf.detach() + move for leaf, move in zip(leaves, moves, strict=True))
        if progress is not None:
            progress(float(score.detach().mean()))
    with torch.no_grad():
        rollout = _unroll(world_model, start, pre_action, noise)
        obs = {name: likelihood.mean for name, likelihood in world_model.decode(rollout.states).items()}
        return Synthesised(rollout, acquisition(rollout), obs)


def _unroll(world_model: WorldModel, start: State, pre_action: Tensor, noise: Tensor) -> Rollout:
    """The rollout of actions tanh(pre_action) (B, H, A) whose latents take the noise (B, H, Z)."""
    prior, family = world_model.temporal_prior, world_model.family
    states, raws = [start], []
    action = torch.tanh(pre_action)
    for t in range(action.shape[1]):
        context, cache = prior.advance(states[-1], action[:, t])
        raw = prior.prior(context)
        mean, std = family.moments(raw)
        states.append(State(context, mean + std * noise[:, t], cache))
        raws.append(raw)
    whole = stack_states(states)
    reached = whole.features[:, 1:]
    reward, continuation = world_model.reward(reached).mean, world_model.continuation(reached).probs
    if world_model.ensemble is None:
        return Rollout(whole, action, reward, continuation, family.entropy(torch.stack(raws, 1)))
    before = whole.index((slice(None), slice(-1)))
    return Rollout(whole, action, reward, continuation, **world_model.uncertainty(before, action)._asdict())


def _after_answer(left: Tensor, answered: Tensor, noise: Tensor) -> Tensor:
    """Square root of the covariance after one answer: left (K, N, Z), answered (K, Z), noise (Z,) -> (K, N, Z).

    left^T left / K loses c c^T / (v + noise), c the covariance with what was answered and v its variance (Potter's
    form of the Kalman update).
    """
    variance = answered.square().mean(0)  # (Z,)
    share = 1 - (noise / (variance + noise)).sqrt()
    slope = (left * answered.unsqueeze(1)).mean(0) / variance.clamp(min=1e-30)  # (N, Z)
    return left - share * slope * answered.unsqueeze(1)


def _unit(gradient: Tensor) -> Tensor:
    """Each row (B, ...) at root mean square 1; zero stays zero."""
    size = gradient.square().flatten(1).mean(1).sqrt().clamp(min=1e-12)
    return gradient / size.view(-1, *[1] * (gradient.dim() - 1))
