"""Attacks on what an agent sees: small changes of each observation, along the gradient, that change what it does."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent, Carry
from worldmodels.errors import ConfigError

Tamper = Callable[[dict[str, np.ndarray], Carry, np.ndarray], dict[str, np.ndarray]]
"""True observations name -> (n, ...), what the agent remembers, is_first (n,) -> what it is shown instead."""


def gradient_attack(
    agent: Agent, epsilon: float, spread: Tensor, *, steps: int = 1, stealth: float = 0.0, seed: int = 0
) -> Tamper:
    """FGSM with one step, PGD with several (Goodfellow et al. 2015; Madry et al. 2018), on the encoder's input.

    The attacker knows all of the agent. Each step of size 2 epsilon / steps (epsilon with one) lowers the probability
    of the action that the agent would have taken; the result stays within epsilon of the truth, from a start at random.

    Args: epsilon: in units of `spread` (n,), the standard deviation of each number. stealth: weight of staying near the
        latent that the model foretold, in the adaptive attack against a detector of odd transitions.
    Raises: ConfigError: the observation is not a single vector.
    """
    if [spec.kind for spec in agent.obs_specs.values()] != ["vector"]:
        raise ConfigError("gradient_attack: expected one vector observation; its numbers are what is changed")
    (name,) = agent.obs_specs
    generator = torch.Generator().manual_seed(seed)
    size, step = epsilon * spread, epsilon * spread * (1.0 if steps == 1 else 2.0 / steps)

    def tamper(obs: dict[str, np.ndarray], carry: Carry, is_first: np.ndarray) -> dict[str, np.ndarray]:
        truth, first = torch.from_numpy(obs[name]), torch.from_numpy(is_first)
        with torch.no_grad():
            wanted = _policy(agent, {name: truth}, carry, first)[0].mode
        shown = truth + size * (torch.rand(truth.shape, generator=generator) - 0.5) * (2 if steps > 1 else 0.2)
        for _ in range(steps):
            with torch.enable_grad():
                shown = shown.detach().requires_grad_()
                policy, oddness = _policy(agent, {name: shown}, carry, first)
                harm = -policy.log_prob(wanted) - stealth * oddness
                (gradient,) = torch.autograd.grad(harm.sum(), shown)
            shown = torch.clamp(shown.detach() + step * gradient.sign(), truth - size, truth + size)
        return {name: shown.float().numpy()}

    return tamper


def _policy(
    agent: Agent, obs: Mapping[str, Tensor], carry: Carry, first: Tensor
) -> tuple[torch.distributions.Distribution, Tensor]:
    """The policy at these observations, and how far the latent is from the one foretold: (n,), squared."""
    model = agent.world_model
    past = carry.state and carry.state.map(torch.clone)  # acting records no gradient; only copies can stand in one
    action = None if carry.action is None else carry.action.clone()
    state = model.filter(past, action, obs, first, sample=False)
    foretold = model.family.mode(model.temporal_prior.prior(state.context))
    oddness = torch.where(first, 0.0, (state.z - foretold).square().sum(-1))
    return agent.policy.average_actor(state.features), oddness
