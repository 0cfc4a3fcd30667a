"""What of a run travels in a checkpoint: every part of a trainer by name, and the way back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worldmodels import seeding
from worldmodels.checkpoint import module_state, optimizer_state, restore_module, restore_optimizer
from worldmodels.errors import CheckpointError
from worldmodels.saved import ACTING
from worldmodels.states import State

if TYPE_CHECKING:
    from agents.learner import Learner
    from agents.trainer import Trainer

COUNTERS = (
    "step",
    "collected",
    "barrier",
    "owed",
    "evaluations",
    "evaluated",
    "next_update",
    "next_log",
    "warm",
)
"""What a trainer counts."""
UPDATE_COUNTERS = ("updates", "skipped", "skipped_in_a_row")
"""What its learner counts."""
OPTIMIZERS = ("model_optimizer", "actor_optimizer", "critic_optimizer")
"""Its learner's optimisers, those that every kind of run has."""


def parts_of(trainer: "Trainer") -> dict[str, State]:
    """Every part, by name."""
    agent, learner = trainer.agent, trainer.learner
    counters = {name: getattr(trainer, name) for name in COUNTERS}
    counters |= {name: getattr(learner, name) for name in UPDATE_COUNTERS}
    return _bonus_parts(learner) | {
        "specs": agent.specs_state(),
        "world_model": module_state(agent.world_model),
        "policy": module_state(agent.policy),
        **({} if agent.sb3 is None else agent.sb3.parts()),
        **{name: optimizer_state(getattr(learner, name)) for name in OPTIMIZERS},
        "replay": trainer.replay.state(),
        "collector": trainer.collector.state(),
        "alarm": trainer.alarm.state(),
        "replay_rng": seeding.generator_state(trainer.replay_rng),
        "collect_rng": seeding.generator_state(trainer.collect_rng),
        "random": seeding.capture(),
        "counters": {"tensors": {}, "json": counters},
        ACTING: trainer.best,
    }


def restore_parts(trainer: "Trainer", parts: Mapping[str, State]) -> None:
    """Take back what `parts_of` returned. Raises: CheckpointError: a part is missing or does not fit."""
    missing = sorted(set(parts_of(trainer)) - set(parts))
    if missing:
        raise CheckpointError(f"{trainer.run}: the checkpoint has no {', '.join(missing)}; it cannot be trained on")
    agent, learner = trainer.agent, trainer.learner
    known, own = parts["specs"]["json"], agent.specs_state()["json"]
    if any(known.get(name) != own[name] for name in ("obs", "action")):
        raise CheckpointError(f"{trainer.run}: {trainer.options.env.id} has other observations or actions than the run")
    restore_module(agent.world_model, parts["world_model"])
    restore_module(agent.policy, parts["policy"])
    if agent.sb3 is not None:
        agent.sb3.restore(parts)
    for name in OPTIMIZERS:
        restore_optimizer(getattr(learner, name), parts[name])
    if learner.bonus is not None:
        restore_module(learner.bonus, parts["bonus"])
    if learner.bonus_optimizer is not None:
        restore_optimizer(learner.bonus_optimizer, parts["bonus_optimizer"])
    trainer.replay.restore(parts["replay"])
    trainer.collector.restore(parts["collector"])
    trainer.alarm.restore(parts["alarm"])
    seeding.restore_generator(trainer.replay_rng, parts["replay_rng"])
    seeding.restore_generator(trainer.collect_rng, parts["collect_rng"])
    counters = parts["counters"]["json"]
    for owner, names in ((trainer, COUNTERS), (learner, UPDATE_COUNTERS)):
        for name in names:
            setattr(owner, name, counters[name])
    trainer.best = parts[ACTING]
    seeding.restore(parts["random"])


def _bonus_parts(learner: "Learner") -> dict[str, State]:
    bonus, optimizer = learner.bonus, learner.bonus_optimizer
    parts = {} if bonus is None else {"bonus": module_state(bonus)}
    return parts if optimizer is None else parts | {"bonus_optimizer": optimizer_state(optimizer)}
