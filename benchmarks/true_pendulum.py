"""Pendulum's own equations in place of a world model: what a policy learns, or a plan is worth, without its errors."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from agents.actor_critic import ActorCritic
from agents.learner import Descent, apply_gradients
from agents.options import ActorCriticOptions
from envs.spaces import ActionCodec, obs_specs
from worldmodels.types import Rollout, State

STEP, MAX_SPEED, MAX_TORQUE = 0.05, 8.0, 2.0
GRAVITY, GAIN = 15.0, 3.0
"""3 g / 2 l and 3 / m l^2 of gymnasium's Pendulum-v1."""


def advance(z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """One step of Pendulum-v1.

    Args: z: (B, 3), cosine, sine, and speed as a share of its largest. action: (B, 1) in [-1, 1].
    Returns: z after it (B, 3), and the reward (B,) of state and torque before it.
    """
    angle, speed, torque = torch.atan2(z[:, 1], z[:, 0]), MAX_SPEED * z[:, 2], MAX_TORQUE * action[:, 0].clamp(-1, 1)
    reward = -(angle.square() + 0.1 * speed.square() + 0.001 * torque.square())
    speed = (speed + STEP * (GRAVITY * z[:, 1] + GAIN * torque)).clamp(-MAX_SPEED, MAX_SPEED)
    angle = angle + STEP * speed
    return torch.stack([angle.cos(), angle.sin(), speed / MAX_SPEED], -1), reward


def imagine(start: State, policy: Callable[[Tensor], Tensor] | Tensor, horizon: int) -> Rollout:
    """As `WorldModel.imagine`, from `start` (B, ...) with an empty context: the truth, `horizon` steps of it."""
    z, states, actions, rewards = start.z, [start.z], [], []
    for t in range(horizon):
        actions.append(policy[:, t] if isinstance(policy, Tensor) else policy(z))
        z, reward = advance(z, actions[-1])
        states.append(z)
        rewards.append(reward)
    reward = torch.stack(rewards, 1)  # (B, H)
    path = torch.stack(states, 1)  # (B, H+1, 3)
    ones = torch.ones_like(reward)
    return Rollout(State(path[..., :0], path), torch.stack(actions, 1), reward, ones, ones)


class TruePolicy:
    """Acts in Pendulum by the averaged actor of `policy`, from the observation alone."""

    train_steps = 0

    def __init__(self, policy: ActorCritic, env: Any) -> None:  # noqa: ANN401 - a gymnasium environment
        self.policy = policy
        self.obs_specs: Mapping[str, Any] = obs_specs(env.observation_space)
        self.action_spec = ActionCodec(env.action_space).spec

    def initial_carry(self, batch: int) -> None:  # noqa: ARG002
        """Nothing is remembered."""

    def act(
        self, obs: Mapping[str, np.ndarray], carry: None, is_first: np.ndarray, *, deterministic: bool  # noqa: ARG002
    ) -> tuple[np.ndarray, None]:  # fmt: skip
        """The actor's most probable action (n, 1)."""
        with torch.no_grad():
            return self.policy.average_actor.mode(latents(obs["obs"])).numpy(), None


def latents(obs: np.ndarray) -> Tensor:
    """Observations of Pendulum (..., 3) as `advance` takes them."""
    return torch.from_numpy(obs.astype(np.float32)) / torch.tensor([1.0, 1.0, MAX_SPEED])


def learn(
    episodes: Iterable[Mapping[str, Any]], env: Any, options: ActorCriticOptions, *, updates: int, seed: int  # noqa: ANN401
) -> TruePolicy:  # fmt: skip
    """The policy of the toolkit after so many updates in true rollouts from the states of `episodes`."""
    torch.manual_seed(seed)
    z = latents(np.concatenate([episode["obs"]["obs"] for episode in episodes]))  # (N, 3)
    policy = ActorCritic(z.shape[-1], ActionCodec(env.action_space).spec, options)
    actor, critic = (
        Adam(policy.actor.parameters(), options.actor_rate),
        Adam(policy.critic.parameters(), options.critic_rate),
    )
    for _ in range(updates):
        chosen = z[torch.randint(len(z), (options.starts,))]
        losses = policy.losses(imagine, State(chosen[:, :0], chosen))
        _, fault = apply_gradients(
            Descent(losses.actor, actor, options.clip, policy.actor),
            Descent(losses.critic, critic, options.clip, policy.critic),
        )
        assert fault is None, fault
        policy.follow()
        policy.widen(losses.value_scale)
    return TruePolicy(policy, env)
