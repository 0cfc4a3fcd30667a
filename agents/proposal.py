"""A starting configuration for an environment that was examined, and what it costs: measured on this machine."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from agents.experiment import load_options
from agents.log import Logger
from agents.options import TrainOptions
from agents.trainer import Trainer
from envs.vector import VectorEnv
from worldmodels.memory import available_bytes, row_bytes
from worldmodels.specs import ActionSpec, ObsSpec

STEPS = 10_000
"""Simulator steps that the time is given for."""
COLLECTED, ACTED, UPDATED = 200, 50, 5
"""Random steps, steps of the policy and updates that are timed."""
SHARE = 0.25
"""Of the available memory the replay may take."""
RATIOS = (0.5, 1.0, 2.0)
"""Updates for each step, from the fast environment to the slow one."""


@dataclass(frozen=True)
class Proposal:
    """What to begin with. seconds: of the first 10,000 steps, by what they are spent on."""

    options: TrainOptions
    overrides: list[str]
    encoder: str
    parameters: int
    replay_bytes: int
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """Several lines, the last of which is a command."""
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in self.seconds.items())
        train, env = self.options.train, self.options.env
        lines = [
            f"{'encoder':<26}{self.encoder}",
            f"{'sizes':<26}{self.parameters:,} parameters",
            f"{'updates for each step':<26}{train.updates_per_step:g}, after {train.warmup_steps:,} random steps",
            f"{'memory':<26}{_size(self.replay_bytes)} for {self.options.replay.capacity:,} steps of replay",
            f"{'time for 10,000 steps':<26}{_duration(total)} on this machine ({parts})",
            f"{'begin with':<26}wm train {' '.join([f'env.id={env.id}', *self.overrides])}",
        ]
        return "\n".join(lines)


def propose(given: Sequence[str], obs_specs: Mapping[str, ObsSpec], action: ActionSpec, *, step_s: float) -> Proposal:
    """Choose sizes, ratio and memory, and time a few steps and updates of the real trainer.

    Args: given: what the user has set, `KEY=VALUE`; it is never overruled. obs_specs, action: of the environment.
        step_s: seconds of one step of it.
    """
    encoder, sizes = _sizes(obs_specs)
    row = row_bytes(obs_specs, action.size)
    capacity = load_options(given).replay.capacity
    if row * capacity > SHARE * available_bytes():
        capacity = _round_down(int(SHARE * available_bytes() / row))
        sizes.append(f"replay.capacity={capacity}")
    overrides = _unset(sizes, given)
    options = load_options([*given, *overrides])
    collecting, update_s, parameters = _measured(options)
    wanted = next((ratio for ratio in RATIOS if step_s <= ratio * update_s), RATIOS[-1])
    if wanted > options.train.updates_per_step:
        overrides += _unset([f"train.updates_per_step={wanted}"], given)
        options = load_options([*given, *overrides])
    seconds = {"collecting": STEPS * collecting, "learning": _updates(options, STEPS) * update_s}
    own = [line for line in given if not line.startswith(("env=", "env.id="))]
    return Proposal(options, [*own, *overrides], encoder, parameters, row * capacity, seconds)


def busy() -> str | None:
    """What to know about measured times where more processes want to run than there are processors, else None."""
    if not hasattr(os, "getloadavg"):
        return None
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load <= processors:
        return None
    return (
        f"busy: {load:.1f} processes have shared {processors} processors over the last minute, so times measured now "
        "are too long; ask again when it is idle"
    )


def _sizes(obs_specs: Mapping[str, ObsSpec]) -> tuple[str, list[str]]:
    """What reads the observations, and the keys whose defaults do not fit them."""
    width = sum(spec.width for spec in obs_specs.values() if spec.kind != "image")
    if any(spec.kind == "image" for spec in obs_specs.values()):
        keys = ["world_model.trunk.depth=8", "world_model.gaussian.size=16", "train.warmup_steps=1000"]
        return "vae with convolutions (images)", [*keys, "train.full_rate_steps=10000"]
    if width > 64:
        keys = [f"world_model.{key}=128" for key in ("trunk.units", "recurrent.deter", "heads.units")]
        return f"vae, {width} inputs", ["world_model.gaussian.size=32", *keys]
    return f"vae, {width} inputs", ["world_model.gaussian.size=16"] if width > 16 else []


def _measured(options: TrainOptions) -> tuple[float, float, int]:
    """Seconds of a collected step and of an update (medians), and the parameters of model and policy."""
    with tempfile.TemporaryDirectory() as folder, VectorEnv(options.env, options.env.num_envs) as envs:
        options = replace(options, run=folder)
        with Logger(folder, tensorboard=False) as logger:
            trainer = Trainer(options, Path(folder), envs, logger)
            _timed(lambda: trainer.collector.step(random=True), COLLECTED)
            update_s = _timed(trainer.update, UPDATED)
            collecting = _timed(lambda: trainer.collector.step(random=False), ACTED) / envs.num_envs
            modules = (trainer.agent.world_model, trainer.agent.policy)
            parameters = sum(p.numel() for module in modules for p in module.parameters())
            trainer.close()
    return collecting, update_s, parameters


def _timed(action: Callable[[], object], count: int) -> float:
    """Median seconds of `count` calls, after two that do not count."""
    seconds = []
    for _ in range(count + 2):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return median(seconds[2:])


def _updates(options: TrainOptions, steps: int) -> float:
    """Updates of the first `steps` steps: they become rarer as 1 / step after `full_rate_steps`."""
    train = options.train
    begun, full = train.warmup_steps, train.full_rate_steps
    if steps <= begun:
        return 0.0
    often = max(0, min(steps, full) - begun)
    rare = full * math.log(steps / max(full, begun)) if steps > full else 0.0
    return train.warmup_updates + train.updates_per_step * (often + rare)


def _unset(lines: Sequence[str], given: Sequence[str]) -> list[str]:
    """The lines whose keys the user has not set."""
    keys = {line.lstrip("+").partition("=")[0] for line in given}
    return [line for line in lines if line.partition("=")[0] not in keys]


def _round_down(number: int) -> int:
    """To two digits: 8,312,445 becomes 8,300,000."""
    digit = 10 ** max(0, len(str(number)) - 2)
    return max(1_000, number // digit * digit)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _size(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB" if number < 2**31 else f"{number / 2**30:,.1f} GiB"
