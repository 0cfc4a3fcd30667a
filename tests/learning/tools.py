"""Runs of a few hundred steps with tiny networks, through the real trainer."""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agents.experiment import open_run
from agents.log import Logger
from agents.options import (
    ActorCriticOptions,
    EvaluationOptions,
    LearnerOptions,
    ReplayOptions,
    TrainOptions,
)
from agents.progress import Progress
from agents.trainer import Trainer, train
from envs.options import EnvOptions
from envs.vector import VectorEnv
from worldmodels.options import GaussianOptions, HeadOptions, RecurrentOptions, TrunkOptions, WorldModelOptions
from worldmodels.states import State

TINY = TrainOptions(
    env=EnvOptions(id="CartPole-v1"),
    world_model=WorldModelOptions(
        trunk=TrunkOptions(units=8, layers=1),
        gaussian=GaussianOptions(size=4),
        recurrent=RecurrentOptions(deter=8, hidden=8),
        heads=HeadOptions(units=8, bins=21),
    ),
    agent=ActorCriticOptions(horizon=3, starts=8, hidden=8, layers=1, bins=21),
    replay=ReplayOptions(capacity=1000, batch=4, length=8),
    train=LearnerOptions(
        warmup_steps=30, warmup_updates=3, updates_per_step=0.2, every=5, checkpoint_every=40, keep=3, log_every=10
    ),
    evaluation=EvaluationOptions(every=50, episodes=2, final_episodes=2, num_envs=2),
    steps=120,
)


def changed(options: TrainOptions, *assignments: str) -> TrainOptions:
    """The options with `section.key=JSON` assignments."""
    for assignment in assignments:
        path, _, value = assignment.partition("=")
        options = _with(options, path.split("."), json.loads(value))
    return options


def train_tiny(run: Path, *assignments: str, options: TrainOptions = TINY) -> Path:
    """A whole run as `wm train` makes it, without pictures: its folder."""
    options = replace(changed(options, "evaluation.every=0", *assignments), run=str(run))
    with open_run(options) as folder, Logger(folder, tensorboard=False) as logger:
        train(options, folder, resume=False, logger=logger)
    return run


@contextmanager
def tiny_run(
    run: Path, *assignments: str, options: TrainOptions = TINY, tensorboard: bool = False, progress: bool = True
) -> Iterator[tuple[Trainer, Any]]:
    """A trainer in its run folder, and a function that returns the lines said so far."""
    options = replace(changed(options, *assignments), run=str(run))
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True)
    stream = io.StringIO()
    shown = Progress(options.steps, stream=stream) if progress else None
    with (
        VectorEnv(options.env, options.env.num_envs) as envs,
        Logger(run, progress=shown, tensorboard=tensorboard) as log,
    ):
        trainer = Trainer(options, run, envs, log)
        try:
            yield trainer, lambda: stream.getvalue().splitlines()
        finally:
            trainer.close()


def hashes(trainer: Trainer, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Part name -> hash of its tensors and JSON; the replay's rows are a part too."""
    parts = {name: part_hash(part) for name, part in trainer.state().items() if name not in without}
    rows = hashlib.sha256()
    for episode in trainer.replay.iter_episodes():
        for name in sorted(episode["obs"]):
            rows.update(episode["obs"][name].tobytes())
        for name in ("action", "reward", "terminated", "truncated", "is_first"):
            rows.update(episode[name].tobytes())
    return parts | {"rows": rows.hexdigest()}


def part_hash(part: State) -> str:
    """A hash of names, types, shapes and bytes of a part's tensors, and of its JSON."""
    digest = hashlib.sha256(json.dumps(part["json"], sort_keys=True).encode())
    for name, tensor in sorted(part["tensors"].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _with(options: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _with(getattr(options, path[0]), path[1:], value)
    return replace(options, **{path[0]: value})
