"""How good a world model is on episodes of its own environment: what it expected many steps ahead and what came."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.recordings import record_episodes
from envs.options import EnvOptions
from worldmodels.seeding import derive, forked
from worldmodels.types import Batch, State, cat_states
from worldmodels.uncertainty import realised
from worldmodels.uncertainty.forecast import forecast, readout

HORIZONS = (1, 5, 10, 20, 30)
"""Steps ahead that a table shows."""
EPISODES, STEPS, HORIZON, STRIDE = 10, 200, 30, 4
"""Episodes of policy and chance each, their length at most, steps dreamt, steps between the starts of dreams."""
SAMPLES = 8
"""Dreams from each start; their mean is the prediction."""


@dataclass(frozen=True)
class ModelQuality:
    """Errors at 1 .. H steps ahead without looking, each (H,), NaN where no episode went so far.

    observation: root mean square, in standard deviations of the observation (of the latent without vectors). latent:
    root mean square, in units of the latent. reward: mean absolute. continuation: mean nats of the flag. expected: the
    same four as the model itself expected them, before it saw what came: the observation as the ensemble's forecast
    says (missing without one), latent and reward as if one more dream were what comes, the entropy of the flag. Where
    errors are larger, the model is surer than it should be. reward_spread: standard deviation of the rewards. starts:
    dreams compared at each horizon. imagined, real: (n,) sums of reward over the H steps of each whole dream.
    """

    observation: np.ndarray
    latent: np.ndarray
    reward: np.ndarray
    continuation: np.ndarray
    expected: dict[str, np.ndarray]
    reward_spread: float
    starts: np.ndarray
    imagined: np.ndarray
    real: np.ndarray

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Steps ahead, then observation, latent, reward and end of the episode: what came (what was expected)."""
        reached = [h for h in HORIZONS if h <= len(self.starts) and self.starts[h - 1]]
        return [(str(h), *(self._cell(name, h - 1) for name in ERRORS)) for h in reached]  # type: ignore[misc]

    def returns(self) -> str:
        """Imagined against realised return, in words."""
        if not len(self.real):
            return f"no episode went on for {len(self.starts)} steps"
        apart = np.abs(self.imagined - self.real).mean()
        return (
            f"{self.imagined.mean():,.3f} imagined, {self.real.mean():,.3f} realised, {apart:,.3f} apart: means over "
            f"{len(self.real)} dreams of {len(self.starts)} steps"
        )

    def table(self) -> str:
        """The errors as lines for people."""
        lines = [("steps ahead", "observation", "latent", "reward", "continuation, nats"), *self.rows()]
        text = ["".join(f"{cell:<20}" for cell in line).rstrip() for line in lines]
        return "\n".join([*text, f"{'return':<20}{self.returns()}"])

    def _cell(self, name: str, at: int) -> str:
        own = self.expected.get(name)
        return f"{_short(getattr(self, name)[at])} ({'-' if own is None else _short(own[at])})"


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 1_000 else f"{value:.2e}"


ERRORS = ("observation", "latent", "reward", "continuation")


def model_quality(
    agent: Agent, env_options: EnvOptions | None = None, *, seed: int = 60_000, horizon: int = HORIZON
) -> ModelQuality:
    """Dream along actions that were taken, from every `STRIDE`-th step of episodes that the model has not seen.

    Half of the episodes are the policy's, half are chance's. Nothing of the agent changes.
    Raises: ConfigError, EnvironmentFault: as `agents.evaluate.evaluate`.
    """
    env_options = env_options or agent.env_options
    batches = [
        record_episodes(agent, env_options, who, episodes=EPISODES, steps=STEPS, seed=seed)
        for who in ("policy", "random")
    ]
    with forked(derive(seed, "quality")), torch.no_grad():
        parts = [_compare(agent, batch.to(agent.world_model.device), horizon) for batch in batches]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # (N, H) each
    valid = columns.pop("valid")
    whole = valid.all(1)
    imagined, real = (columns.pop(name)[whole].sum(1).numpy() for name in ("imagined", "real"))
    rewards = torch.cat([batch.reward[batch.mask] for batch in batches])
    means = {name: _masked(values, valid) for name, values in columns.items()}
    for name in means:
        if name.endswith(("observation", "latent")):
            means[name] = np.sqrt(means[name])
    return ModelQuality(
        **{name: means[name] for name in ERRORS},
        expected={name: means[f"expected {name}"] for name in ERRORS if f"expected {name}" in means},
        reward_spread=float(rewards.std(correction=0)),
        starts=valid.sum(0).numpy(),
        imagined=imagined,
        real=real,
    )


def _compare(agent: Agent, batch: Batch, horizon: int) -> dict[str, Tensor]:
    """Errors of every dream, name -> (N, H); `valid` (N, H) says where the episode went on."""
    model = agent.world_model
    states = model.infer(batch, sample=False)
    target = realised(model, batch.obs, states)
    start, ahead = _windows(states, batch, target, horizon)
    rollout = model.imagine(start.repeat(SAMPLES), ahead["action"].repeat(SAMPLES, 1, 1), horizon)
    dreamt = rollout.states.index((slice(None), slice(1, None)))  # (S * N, H)
    count = len(start.z)

    def each(values: Tensor) -> Tensor:
        return values.unflatten(0, (SAMPLES, count))  # (S, N, H, ...)

    seen = each(readout(model, dreamt)[0]).mean(0)
    latents, rewards, goes_on = each(dreamt.z), each(rollout.reward), each(rollout.continuation).mean(0)
    reward, ended = rewards.mean(0), ahead["terminated"].bool()
    odds = torch.stack([goes_on, 1 - goes_on]).clamp(min=1e-6)
    found = {
        "observation": (seen - ahead["target"]).square().mean(-1),
        "latent": (latents.mean(0) - ahead["z"]).square().mean(-1),
        "reward": (reward - ahead["reward"]).abs(),
        "continuation": -torch.where(ended, odds[1], odds[0]).log(),
        "expected latent": _to_the_others(latents).square().mean((0, -1)),
        "expected reward": _to_the_others(rewards).abs().mean(0),
        "expected continuation": -(odds * odds.log()).sum(0),
        "imagined": reward,
        "real": ahead["reward"],
        "valid": ahead["mask"].cumprod(1).bool(),
    }
    if model.ensemble is not None:
        found["expected observation"] = forecast(model, start, ahead["action"]).std.square().mean(-1)
    return {name: value.cpu() for name, value in found.items()}


def _to_the_others(dreams: Tensor) -> Tensor:
    """Each dream (S, ...) minus the mean of the others."""
    return (dreams - dreams.mean(0)) * SAMPLES / (SAMPLES - 1)


def _windows(states: State, batch: Batch, target: Tensor, horizon: int) -> tuple[State, dict[str, Tensor]]:
    """Starts (N, ...) and what followed each of them, name -> (N, H, ...), zero behind an episode's end."""
    columns = {
        "action": batch.action,
        "reward": batch.reward,
        "terminated": batch.terminated.float(),
        "mask": batch.mask.long(),
        "target": target[:, 1:],
        "z": states.z[:, 1:],
    }
    padded = {n: torch.cat([v, v.new_zeros(len(v), horizon, *v.shape[2:])], 1) for n, v in columns.items()}
    places = [(batch.mask[:, t], t) for t in range(0, batch.action.shape[1], STRIDE)]
    starts = [states.index(place) for place in places]
    ahead = {n: torch.cat([v[rows, t : t + horizon] for rows, t in places]) for n, v in padded.items()}
    return cat_states(starts), ahead


def _masked(values: Tensor, valid: Tensor) -> np.ndarray:
    """Mean over the starts (N, H) that reach each horizon -> (H,); NaN where none does."""
    return (torch.where(valid, values, 0).sum(0) / valid.sum(0)).numpy()
