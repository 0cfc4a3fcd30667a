"""What an agent imagines against what happened: one recorded episode and dreams that follow its actions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from agents.evaluate import Actor, check_fit
from envs.options import EnvOptions
from envs.vector import VectorEnv
from worldmodels.decoders import likeliest
from worldmodels.errors import EnvironmentFault
from worldmodels.seeding import forked
from worldmodels.specs import ObsSpec
from worldmodels.types import State, stack_states
from worldmodels.world_model import WorldModel

SAMPLES = 32
"""Dreams drawn for the band of what may happen; its ends are the 5 % and 95 % quantiles over them."""
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class Recording:
    """One episode, or its first T steps.

    obs: name -> (T+1, ...). action: (T, A). reward: (T,). frames: (T+1, H, W, 3) uint8, or None if not drawn.
    epistemic, aleatoric: (T,) nats, what the ensemble said before each step; None without one, or where nobody asked.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    frames: np.ndarray | None
    epistemic: np.ndarray | None = None
    aleatoric: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Dream:
    """An episode and what the model made of it: it saw the first `context` observations, the rest it dreamt.

    obs: name -> (T+1, ...): decoded posterior states, then one dream. low, high: vector name -> (T+1, n), the band over
    all dreams. reward, reward_low, reward_high: (T,), the predicted reward and its band. aleatoric, epistemic: (T,)
    nats, the mean over the dreams; epistemic is None for models without an ensemble. What belongs to the context is NaN
    in all of these but obs.
    """

    recording: Recording
    context: int
    obs: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    reward: np.ndarray
    reward_low: np.ndarray
    reward_high: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray | None


def record(
    agent: Actor,
    env_options: EnvOptions,
    *,
    steps: int,
    seed: int,
    deterministic: bool = True,
    draw: bool = True,
    ask: bool = False,
) -> Recording:
    """Play at most `steps` actions of the episode with this seed; random numbers outside stay untouched.

    draw: whether frames are rendered. ask: whether the agent's ensemble, where it has one, says how sure it is.
    Raises: ConfigError: the environment does not fit the agent. EnvironmentFault: the environment failed.
    """
    with forked(seed), torch.inference_mode(), VectorEnv(env_options, 1, render=draw) as envs:
        check_fit(agent, envs, env_options.id)
        obs = envs.reset([0], [seed])
        seen, frames = [obs], [envs.render(0)] if draw else []
        actions, rewards, unsure = [], [], []
        carry, is_first = agent.initial_carry(1), np.ones(1, dtype=bool)
        asked = getattr(agent, "world_model", None) if ask else None
        for _ in range(steps):
            action, carry = agent.act(obs, carry, is_first, deterministic=deterministic)
            result = envs.step([0], action)
            if result.dropped[0]:
                raise EnvironmentFault(
                    f"{env_options.id}: failed while it was filmed [seed {seed}, step {len(actions)}]"
                )
            if result.discarded[0]:
                break
            obs, is_first = result.obs, np.zeros(1, dtype=bool)
            seen.append(obs)
            actions.append(action[0])
            rewards.append(result.reward[0])
            if asked is not None and asked.ensemble is not None:
                said = asked.uncertainty(carry.state, carry.action)  # of the state that the action was taken in
                unsure.append((float(said.epistemic), float(said.aleatoric)))
            if draw:
                frames.append(envs.render(0))
            if result.terminated[0] or result.truncated[0]:
                break
    return Recording(
        {name: np.stack([step[name][0] for step in seen]) for name in seen[0]},
        np.asarray(actions, dtype=np.float32).reshape(len(actions), agent.action_spec.size),
        np.asarray(rewards, dtype=np.float32),
        np.stack(frames) if draw else None,
        *(np.array(column, dtype=np.float32) for column in zip(*unsure, strict=True)),
    )


def dream(
    world_model: WorldModel, obs_specs: Mapping[str, ObsSpec], recording: Recording, *, context: int, seed: int
) -> Dream:
    """Show the first `context` observations to the model, then let it dream along the recorded actions.

    Args:
        world_model, obs_specs: of the agent that was recorded.
        recording: at least 1 step.
        context: observations shown, at least 1; cut so that at least one step is dreamt.
        seed: of the dreams.
    """
    total = len(recording)
    context = min(context, total)
    with forked(seed), torch.inference_mode():
        device = world_model.device
        seen = _filtered(world_model, recording, context)  # (1, context)
        start = seen.index((slice(None), -1)).repeat(SAMPLES)  # (S, ...)
        plan = torch.from_numpy(recording.action[context - 1 :]).to(device)  # (H, A)
        rollout = world_model.imagine(start, plan.expand(SAMPLES, *plan.shape), total - context + 1, uncertainty=True)
        first = State(rollout.states.context[:1, 1:], rollout.states.z[:1, 1:])  # (1, H)
        shown = State(torch.cat([seen.context, first.context], 1), torch.cat([seen.z, first.z], 1))  # (1, T+1)
        likelihoods = world_model.decode(shown)
        shown_obs = {name: likeliest(likelihood, obs_specs[name])[0] for name, likelihood in likelihoods.items()}
        low, high = _bands(world_model, obs_specs, rollout.states, context)
    reward_low, reward_high = np.quantile(rollout.reward.cpu().numpy(), _QUANTILES, axis=0)  # (H,) each
    return Dream(
        recording=recording,
        context=context,
        obs=shown_obs,
        low=low,
        high=high,
        reward=_after(_mean(rollout.reward), context - 1),
        reward_low=_after(reward_low, context - 1),
        reward_high=_after(reward_high, context - 1),
        aleatoric=_after(_mean(rollout.aleatoric), context - 1),
        epistemic=None if rollout.epistemic is None else _after(_mean(rollout.epistemic), context - 1),
    )


def _filtered(world_model: WorldModel, recording: Recording, count: int) -> State:
    """Return the states (1, count) that the first `count` observations lead to, as the agent sees them when it acts."""
    device = world_model.device
    states, state, action = [], None, None
    for t in range(count):
        obs = {name: torch.from_numpy(value[t : t + 1]).to(device) for name, value in recording.obs.items()}
        is_first = torch.full((1,), t == 0, device=device)
        state = world_model.filter(state, action, obs, is_first, sample=False)
        action = torch.from_numpy(recording.action[t : t + 1]).to(device)
        states.append(state)
    return stack_states(states)


def _bands(
    world_model: WorldModel, obs_specs: Mapping[str, ObsSpec], states: State, context: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the quantiles over the dreams (S, H+1), name -> (T+1, n), NaN in the context. Images have none."""
    low, high = {}, {}
    if any(spec.kind == "image" for spec in obs_specs.values()):  # decoding every dream's images would take long
        return low, high
    for name, likelihood in world_model.decode(State(states.context[:, 1:], states.z[:, 1:])).items():
        values = likeliest(likelihood, obs_specs[name])  # (S, H, n)
        low[name], high[name] = (_after(ends, context) for ends in np.quantile(values, _QUANTILES, axis=0))
    return low, high


def _mean(values: torch.Tensor) -> np.ndarray:
    return values.mean(0).cpu().numpy()  # (S, H) -> (H,)


def _after(values: np.ndarray, steps: int) -> np.ndarray:
    """Return `values` (H, ...) behind `steps` rows of NaN."""
    return np.concatenate([np.full((steps, *values.shape[1:]), np.nan), values])
