"""Dreams: a world model stepped like an environment, all copies as one batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.errors import ConfigError, NonFiniteError
from worldmodels.replay import Replay
from worldmodels.seeding import TorchStream, generator
from worldmodels.types import Batch, Rollout, State
from worldmodels.world_model import WorldModel

Bonus = Callable[[Rollout], Tensor]
"""An acquisition function: a rollout of B states and H steps -> one score per step (B, H)."""
WINDOW = 32
"""Transitions of the windows whose states dreams begin from."""


@dataclass(frozen=True)
class DreamStep:
    """What one step of B dreams returns.

    reward: (B,), with the bonus. terminated, truncated: (B,) bool. details: name -> (B,): `model_reward` without the
    bonus, `continuation`, `aleatoric` in nats, from an ensemble `epistemic` in nats, and `bonus` where there is one.
    """

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    details: dict[str, Tensor]


class Dreams:
    """B latent states that each go their own way. What is random comes from a stream of its own, seeded by `seed`.

    A step is `WorldModel.imagine` over a horizon of one: the reward is the head's mean, the end is drawn from the
    continuation head. Nothing restarts by itself.

    states: (B, ...), the states reached. age: (B,) steps since each began.
    """

    def __init__(
        self,
        world_model: WorldModel,
        batch: int,
        *,
        horizon: int | None,
        starts: State | None = None,
        bonus: Bonus | None = None,
        bonus_weight: float = 1.0,
        epistemic_limit: float | None = None,
        uncertainty: bool = True,
        seed: int,
    ) -> None:
        """Begin B dreams.

        Args:
            world_model: read, never changed.
            batch: B.
            horizon: steps after which a dream is truncated; None: never.
            starts: states (N, ...) to begin from, drawn uniformly; None: the marginal prior of an episode's start.
            bonus: is multiplied by `bonus_weight` and added to the reward; a negative weight makes it a penalty.
            bonus_weight: see there.
            epistemic_limit: nats of epistemic uncertainty above which a dream is truncated.
            uncertainty: whether the ensemble, where there is one, is asked at every step; a limit or bonus needs that.
            seed: of everything that is random.

        Raises: ConfigError: the model has no ensemble and the limit asks for one, or there is nothing to start from.
        """
        self.world_model, self.batch, self.horizon = world_model, batch, horizon
        self.bonus, self.bonus_weight, self.epistemic_limit = bonus, bonus_weight, epistemic_limit
        self.uncertainty = uncertainty or bonus is not None or epistemic_limit is not None
        if batch < 1 or (horizon is not None and horizon < 1):
            raise ConfigError(f"a dream needs at least one copy and one step, got {batch} and a horizon of {horizon}")
        if epistemic_limit is not None and world_model.ensemble is None:
            raise ConfigError(
                "truncation by uncertainty needs a world model with an ensemble, and this one has none: train it with "
                "world_model.ensemble.members=5"
            )
        if starts is not None and starts.z.shape[0] == 0:
            raise ConfigError("a dream needs states to begin from, got none")
        self.starts = starts
        self.stream = TorchStream(seed, world_model.device)
        self.age = torch.zeros(batch, dtype=torch.long, device=world_model.device)
        self.reset()

    @torch.no_grad()
    def reset(self, where: Tensor | None = None) -> None:
        """Begin anew, everywhere or where `where` (B,) is True."""
        count = self.batch if where is None else int(where.sum())
        with self.stream:
            fresh = self._draw(count)
        if where is None:
            self.states = fresh
            self.age.zero_()
        else:
            self.states = self.states.replaced(where, fresh)
            self.age[where] = 0

    @torch.no_grad()
    def step(self, action: Tensor) -> DreamStep:
        """Take `action` (B, A), encoded, in every dream.

        Raises: NonFiniteError: the model predicts what is not a number.
        """
        with self.stream:
            rollout = self.world_model.imagine(self.states, action.unsqueeze(1), 1, uncertainty=self.uncertainty)
            uniform = torch.rand(self.batch, device=action.device)
        self.states = rollout.states.index((slice(None), 1))
        self.age += 1
        reward, continuation = rollout.reward[:, 0], rollout.continuation[:, 0]  # (B,)
        details = {"model_reward": reward, "continuation": continuation, "aleatoric": rollout.aleatoric[:, 0]}
        if rollout.epistemic is not None:
            details["epistemic"] = rollout.epistemic[:, 0]
        if self.bonus is not None:
            details["bonus"] = self.bonus(rollout)[:, 0]
            reward = reward + self.bonus_weight * details["bonus"]
        if not bool(torch.isfinite(reward + self.states.z.sum(-1)).all()):
            raise NonFiniteError("the dream left the numbers: a state or a reward of the world model is not finite")
        terminated = uniform >= continuation
        truncated = torch.zeros_like(terminated) if self.horizon is None else self.age >= self.horizon
        if self.epistemic_limit is not None:
            truncated = truncated | (details["epistemic"] > self.epistemic_limit)
        return DreamStep(reward, terminated, truncated & ~terminated, details)

    def _draw(self, count: int) -> State:
        if self.starts is None:
            return self.world_model.dream_start(count)
        return self.starts.index(torch.randint(len(self.starts.z), (count,), device=self.starts.z.device))


@torch.no_grad()
def replay_starts(world_model: WorldModel, replay: Replay, count: int, *, seed: int) -> State:
    """About `count` posterior states (N, ...) of windows drawn from a replay, none of them after an episode's end.

    Raises: ReplayError: the replay holds no window.
    """
    batch = _windows(world_model, replay, count, seed)
    with TorchStream(seed, world_model.device):
        states = world_model.infer(batch)
    return states.index(batch.alive)


@torch.no_grad()
def epistemic_quantile(world_model: WorldModel, replay: Replay, quantile: float, *, count: int, seed: int) -> float:
    """The quantile of the model's epistemic uncertainty (nats) over about `count` transitions of a replay.

    Raises: ConfigError: the model has no ensemble. ReplayError: the replay holds no window.
    """
    batch = _windows(world_model, replay, count, seed)
    with TorchStream(seed, world_model.device):
        states = world_model.infer(batch)
        before = states.index((slice(None), slice(-1)))
        epistemic = world_model.uncertainty(before, batch.action).epistemic  # (B, T)
    return float(torch.quantile(epistemic[batch.mask], quantile))


def _windows(world_model: WorldModel, replay: Replay, count: int, seed: int) -> Batch:
    """Windows of a replay with about `count` observations."""
    length = min(WINDOW, replay.longest - 1)
    rows = max(1, -(-count // (length + 1)))
    return replay.sample(rows, length, generator(seed, "dream")).to(world_model.device)
