"""An acquisition as part of the reward: one mechanism, plus explores and minus is pessimism. Names to acquisitions."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from agents.acquisition.learned import (
    Count,
    Expected,
    Observed,
    RandomNetwork,
    RandomNetworkDistillation,
    observe,
)
from agents.acquisition.scores import disagreement, information_gain, jensen_renyi, sigma
from agents.acquisition.task import TaskAware
from agents.options import AcquisitionOptions
from agents.ranks import ALONE, Ranks
from worldmodels.dynamics import Members
from worldmodels.errors import ConfigError
from worldmodels.types import Acquisition, Batch, Policy, Rollout, State
from worldmodels.world_model import WorldModel

FOLLOW = 0.01
"""Fraction by which scale and threshold follow each batch."""
MIN_SCALE = 1e-8

Builder = Callable[[WorldModel, AcquisitionOptions], Acquisition]
_BUILDERS: dict[str, Builder] = {
    "disagreement": lambda model, options: disagreement,
    "sigma": lambda model, options: sigma,
    "information_gain": lambda model, options: information_gain,
    "jensen_renyi": lambda model, options: partial(jensen_renyi, family=_members(model).family),
    "task_aware": lambda model, options: TaskAware(
        model.family.width, width=options.width, horizon=options.task_horizon
    ),
    "surprise": lambda model, options: Expected(model.temporal_prior.context_size, "surprise"),
    "prediction_error": lambda model, options: Expected(model.temporal_prior.context_size, "error"),
    "rnd": lambda model, options: RandomNetworkDistillation(model.family.width),
    "count": lambda model, options: Count(model.family.width),
    "random_network": lambda model, options: RandomNetwork(model.family.width),
}
_OF_MEMBERS = ("disagreement", "sigma", "information_gain", "jensen_renyi", "task_aware")


class Lesson(NamedTuple):
    """What a bonus makes of real steps.

    loss: a scalar to minimise, or None. moved: name of a buffer -> what it becomes once that step was accepted.
    """

    loss: Tensor | None
    moved: dict[str, Tensor]


@runtime_checkable
class Learns(Protocol):
    """An acquisition that learns from real steps."""

    def learn(self, observed: Observed) -> Tensor | None:
        """A scalar to minimise, or None where there is nothing to descend."""
        ...


def register_acquisition(name: str) -> Callable[[Builder], Builder]:
    """Decorator: give a function (world model, options) -> acquisition a name for `agent.acquisition.name`.

    Raises: ConfigError: the name is taken.
    """
    if name in _BUILDERS or name == "none":
        raise ConfigError(f"acquisition {name!r}: there is one of this name already")

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return register


def _members(world_model: WorldModel) -> Members:
    """The ensemble, whose family is not the model's own where transitions are a flow."""
    assert world_model.ensemble is not None  # `build_acquisition` has looked
    return world_model.ensemble


def build_acquisition(options: AcquisitionOptions, world_model: WorldModel) -> Acquisition:
    """The acquisition of that name.

    Raises: ConfigError: no such name, or it needs an ensemble that the model does not have.
    """
    if options.name not in _BUILDERS:
        near = difflib.get_close_matches(options.name, _BUILDERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: none, {', '.join(_BUILDERS)}"
        raise ConfigError(f"agent.acquisition.name: unknown acquisition {options.name!r}{hint}")
    if options.name in _OF_MEMBERS and world_model.ensemble is None:
        raise ConfigError(
            f"agent.acquisition.name={options.name} asks members that can disagree: set world_model.ensemble.members=5"
        )
    return _BUILDERS[options.name](world_model, options)


def build_bonus(options: AcquisitionOptions, world_model: WorldModel) -> "Bonus | None":
    """The bonus that the options describe; None for `none`. Raises: ConfigError: see `build_acquisition`."""
    if options.name == "none":
        return None
    return Bonus(
        build_acquisition(options, world_model),
        weight=options.weight,
        reward=options.reward,
        normalize=options.normalize,
        center=options.center,
        quantile=options.quantile,
    )


class Bonus(nn.Module):
    """weight * (score - mean) / scale, to be added to `reward` times the imagined reward.

    scale: running standard deviation of the scores, or 1 without `normalize`, so that a weight means the same while
    the scores fade. mean: running mean of the scores with `center`, or 0: what every step scores teaches a critic
    nothing, and hides from it where more is to be had. quantile: imagined steps whose score exceeds this quantile of
    the scores of real ones are not trusted, nor is what follows them (1: all are); returns end before them with the
    value of the last trusted state.
    """

    scale: Tensor
    threshold: Tensor
    mean: Tensor | None

    def __init__(
        self,
        acquisition: Acquisition,
        *,
        weight: float,
        reward: float,
        normalize: bool,
        center: bool = False,
        quantile: float = 1.0,
    ) -> None:
        super().__init__()
        self.acquisition = acquisition
        self.weight, self.reward, self.normalize, self.quantile = weight, reward, normalize, quantile
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("threshold", torch.full((), torch.inf))
        self.register_buffer("mean", torch.zeros(()) if center else None)

    def forward(self, rollout: Rollout) -> Tensor:
        """What is added to the imagined reward, (B, H); the change of the reward's own weight is part of it."""
        return self._addition(rollout, self.acquisition(rollout))

    def apply_to(self, rollout: Rollout, ranks: Ranks = ALONE) -> tuple[Rollout, Tensor | None]:
        """The rollout with its new reward, and which steps are trusted: (B, H) bool, None for all. Moves the scale."""
        score = self.acquisition(rollout)  # (B, H)
        for name, value in self._moments(ranks.gather(score.detach())).items():
            getattr(self, name).copy_(value)
        trusted = None if self.quantile == 1 else self._trusted(score)
        return replace(rollout, reward=rollout.reward + self._addition(rollout, score)), trusted

    def trust(self, rollout: Rollout) -> Tensor:
        """Which steps are trusted, (B, H) bool: no score above the threshold so far."""
        return self._trusted(self.acquisition(rollout))

    def learn(
        self, world_model: WorldModel, states: State, batch: Batch, *, scale: bool = False, ranks: Ranks = ALONE
    ) -> Lesson | None:
        """Let the acquisition see real steps; what is to become of it, or None where there is nothing to learn.

        states: (B, T+1), the posterior states of `batch`. scale: let the scale follow the scores of these steps, for
        agents without a policy that imagines any.
        """
        acquisition, scale = self.acquisition, scale and (self.normalize or self.mean is not None)
        learner = self.acquisition if isinstance(self.acquisition, Learns) else None
        if not (scale or self.quantile < 1 or learner is not None):
            return None
        observed = observe(world_model, states, batch)
        moved: dict[str, Tensor] = {}
        if scale or self.quantile < 1:
            with torch.no_grad():
                score = ranks.gather(acquisition(observed.rollout)[observed.mask])
                if scale:
                    moved |= self._moments(score)
                if self.quantile < 1:
                    new = torch.quantile(score, self.quantile)
                    moved["threshold"] = self._followed(self.threshold, new, torch.isinf(self.threshold))
        return Lesson(None if learner is None else learner.learn(observed), moved)

    @torch.no_grad()
    def accept(self, moved: Mapping[str, Tensor]) -> str | None:
        """Move scale, mean and threshold to what a lesson says, or leave all and say what is not finite."""
        bad = [name for name, value in moved.items() if not bool(torch.isfinite(value))]
        if bad:
            return f"{bad[0]} of the acquisition's scores of real steps"
        for name, value in moved.items():
            getattr(self, name).copy_(value)
        return None

    def refresh(self, world_model: WorldModel, policy: Policy, start: State, ranks: Ranks = ALONE) -> None:
        """Let an acquisition that asks about the task follow the policy `policy` from `start` (B, ...)."""
        if isinstance(self.acquisition, TaskAware):
            self.acquisition.refresh(world_model, policy, start, ranks)

    def _trusted(self, score: Tensor) -> Tensor:
        return (score.detach() <= self.threshold).cummin(1).values

    def _addition(self, rollout: Rollout, score: Tensor) -> Tensor:
        known = self.scale.clamp(min=MIN_SCALE)
        scale = torch.where(self.scale > 0, known, 1.0) if self.normalize else 1.0
        score = score if self.mean is None else score - self.mean
        return self.weight * score / scale + (self.reward - 1) * rollout.reward

    def _moments(self, score: Tensor) -> dict[str, Tensor]:
        """What scale and mean become once they have followed these scores."""
        first = self.scale == 0
        moved = {"scale": self._followed(self.scale, score.std(), first)}
        return moved if self.mean is None else moved | {"mean": self._followed(self.mean, score.mean(), first)}

    @staticmethod
    def _followed(old: Tensor, new: Tensor, first: Tensor) -> Tensor:
        """A step of FOLLOW from `old` to `new`; all the way at the first time."""
        return torch.where(first, new, torch.lerp(old, new, FOLLOW))
