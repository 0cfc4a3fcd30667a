"""How good an agent is: whole episodes with given seeds to returns, their statistics and evaluation.json."""

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from agents.statistics import bootstrap_interval, iqm
from envs.options import EnvOptions
from envs.vector import VectorEnv
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.seeding import forked
from worldmodels.specs import in_words

EVALUATION_FILE = "evaluation.json"
EPISODE_LIMIT = 108_000
"""Simulator steps after which an episode is cut: 30 minutes at 60 a second (Machado et al. 2018, section 3.1)."""


class Actor(Protocol):
    """What is evaluated; `agents.agent.Agent` is one."""

    obs_specs: Mapping[str, Any]
    action_spec: Any
    train_steps: int

    def initial_carry(self, batch: int, /) -> Any:  # noqa: ANN401
        """Return what `act` carries from step to step, for `batch` environments."""
        ...

    def act(
        self,
        obs: dict[str, np.ndarray],
        carry: Any,  # noqa: ANN401
        is_first: np.ndarray,
        *,
        deterministic: bool,
    ) -> tuple[np.ndarray, Any]:
        """Return actions (n, A) for observations (n, ...); where is_first (n,) the carry starts anew."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Returns of `episodes` episodes, in order: episode k was reset with seed + k.

    lengths: in simulator steps. std: over episodes, with N in the denominator. iqm_ci95: 95 % percentile bootstrap
    interval of the interquartile mean over the episodes of this one agent. train_steps: simulator steps it had learned
    from.
    """

    env_id: str
    episodes: int
    seed: int
    returns: list[float]
    lengths: list[int]
    mean: float
    std: float
    iqm: float
    iqm_ci95: tuple[float, float]
    train_steps: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self) | {"iqm_ci95": list(self.iqm_ci95)}

    def metrics(self) -> dict[str, float]:
        """Return what is logged during training: `evaluation/mean`, `std`, `iqm`, `iqm_low`, `iqm_high`, `length`."""
        low, high = self.iqm_ci95
        values = {"mean": self.mean, "std": self.std, "iqm": self.iqm, "iqm_low": low, "iqm_high": high}
        values["length"] = float(np.mean(self.lengths))
        return {f"evaluation/{name}": value for name, value in values.items()}

    def table(self) -> str:
        """Return the result as a few lines for people."""
        low, high = self.iqm_ci95
        rows = {
            "environment": self.env_id,
            "trained for": f"{self.train_steps:,} steps",
            "episodes": f"{self.episodes} (seeds {self.seed} to {self.seed + self.episodes - 1})",
            "mean return": f"{self.mean:,.2f} (standard deviation {self.std:,.2f})",
            "interquartile mean": f"{self.iqm:,.2f} (95 % interval {low:,.2f} to {high:,.2f})",
            "lowest, highest": f"{min(self.returns):,.2f}, {max(self.returns):,.2f}",
            "mean length": f"{np.mean(self.lengths):,.1f} steps",
        }
        return "\n".join(f"{name:<20}{value}" for name, value in rows.items())


def evaluate(
    agent: Actor,
    env_options: EnvOptions,
    *,
    episodes: int,
    seed: int,
    num_envs: int,
    deterministic: bool = True,
    envs: VectorEnv | None = None,
) -> Evaluation:
    """Play whole episodes and return what they yielded; random numbers outside stay untouched.

    Args:
        agent: what acts.
        env_options: the environment; its own `num_envs` plays no part.
        episodes: how many; episode k is reset with seed + k, whichever environment plays it.
        seed: of the episodes, of a stochastic policy and of the bootstrap.
        num_envs: environments stepped together; the result of a deterministic policy does not depend on it.
        deterministic: whether the policy takes its most probable action.
        envs: environments made before from the same options, used and left open.
    Raises:
        ConfigError: the environment's observations or actions are not those that the agent was made for.
        EnvironmentFault: the environment broke its contract.
    """
    with nullcontext(envs) if envs is not None else VectorEnv(env_options, min(num_envs, episodes)) as vector:
        check_fit(agent, vector, env_options.id)
        with forked(seed), torch.inference_mode():
            returns, lengths = _play(agent, vector, episodes, seed, deterministic)
    return Evaluation(
        env_id=env_options.id,
        episodes=episodes,
        seed=seed,
        returns=returns.tolist(),
        lengths=lengths.tolist(),
        mean=float(returns.mean()),
        std=float(returns.std()),
        iqm=float(iqm(returns)),
        iqm_ci95=bootstrap_interval(returns, iqm, seed=seed),
        train_steps=agent.train_steps,
    )


def check_fit(agent: Actor, env: Any, env_id: str) -> None:  # noqa: ANN401 - one environment or many
    """Raise ConfigError where the environment's observations or actions are not those of the agent."""
    for name, own, other in (
        ("observations", dict(agent.obs_specs), dict(env.obs_specs)),
        ("actions", agent.action_spec, env.action_spec),
    ):
        if own != other:
            raise ConfigError(f"{env_id}: its {name} are {in_words(other)}, the agent was trained with {in_words(own)}")


def write_evaluation(file: str | Path, evaluation: Evaluation, extra: Mapping[str, Any] | None = None) -> Path:
    """Write the evaluation as JSON, whole or not at all, and return the file.

    extra: more keys to write beside it, such as those of `agents.card.card`.
    Raises: CheckpointError: the file cannot be written.
    """
    return write_json(file, evaluation.to_json() | dict(extra or {}))


def kept_card(file: str | Path, evaluation: Evaluation) -> dict[str, Any]:
    """Return what an earlier evaluation in `file` says beside its returns, such as the keys of `agents.card.card`.

    It is about a model: empty where that evaluation is of another checkpoint than `evaluation`, or cannot be read.
    """
    try:
        earlier = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is damaged and about to be replaced
        return {}
    if not isinstance(earlier, dict) or earlier.get("train_steps") != evaluation.train_steps:
        return {}
    own = {field.name for field in fields(Evaluation)}
    return {key: value for key, value in earlier.items() if key not in own}


def write_json(file: str | Path, data: Mapping[str, Any]) -> Path:
    """Write plain data as JSON, whole or not at all, and return the file.

    Raises: CheckpointError: the file cannot be written.
    """
    file = Path(file)
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written: {error.strerror}") from error
    return file


def _play(
    agent: Actor, envs: VectorEnv, episodes: int, seed: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return returns (episodes,) and lengths (episodes,). An environment that ends takes the next episode."""
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    count = min(envs.num_envs, episodes)
    playing = np.arange(count)  # the episode of each environment; -1 where none is left
    waiting = count
    obs = envs.reset(range(count), [seed + k for k in range(count)])
    is_first = np.ones(count, dtype=bool)
    carry = agent.initial_carry(count)
    while (playing >= 0).any():
        action, carry = agent.act(obs, carry, is_first, deterministic=deterministic)
        index = np.flatnonzero(playing >= 0)
        result = envs.step(index.tolist(), action[index])
        episode = playing[index]
        returns[episode] += np.where(result.discarded, 0.0, result.reward)
        lengths[episode] += np.where(result.discarded, 0, result.steps)
        for name, value in result.obs.items():
            obs[name][index] = value
        is_first[:] = False
        again = index[result.dropped]  # the environment failed and was rebuilt: the same episode from its start
        returns[playing[again]] = lengths[playing[again]] = 0
        ended = index[~result.dropped & (result.terminated | result.truncated | (lengths[episode] >= EPISODE_LIMIT))]
        playing[ended] = -1
        fresh = ended[: episodes - waiting]
        playing[fresh] = np.arange(waiting, waiting + fresh.size)
        waiting += fresh.size
        begins = [*again.tolist(), *fresh.tolist()]
        if begins:
            for name, value in envs.reset(begins, [seed + int(k) for k in playing[begins]]).items():
                obs[name][begins] = value
            is_first[begins] = True
    return returns, lengths
