"""One seed of one side in a process of its own, so that its peak memory is its own: `python -m benchmarks.single_run`.

Started by `benchmarks.sample_efficiency`; what it measured goes to a file.
"""

import argparse
import platform
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from agents.experiment import load_options, open_run
from agents.options import TrainOptions
from benchmarks.baseline_settings import SETTINGS
from benchmarks.results import Point, Run, Side, save
from benchmarks.tasks import TASKS
from worldmodels.config import to_mapping

EPISODES = 20
"""Episodes of every evaluation."""
EVALUATION_SEEDS = 1_000_000_000
"""Episode seeds of evaluations start here, far from the defaults that tuning looked at."""
SEEDS_PER_RUN = 100_000
"""Evaluation seeds that one run may use: 5,000 evaluations of 20 episodes, and its neighbour's are others."""
LIBRARIES = {"ours": ("torch", "gymnasium"), "sb3": ("torch", "gymnasium", "stable-baselines3", "sb3-contrib")}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to run. steps: simulator steps, None for the task's own number. episodes: of each evaluation.

    overrides: further keys of our runs, `KEY=VALUE`.
    """

    task: str
    side: Side
    seed: int
    steps: int | None = None
    episodes: int = EPISODES
    overrides: tuple[str, ...] = ()

    @property
    def agent(self) -> str:
        """The algorithm's name, for people."""
        baseline = TASKS[self.task].baseline
        return "worldmodels" if self.side == "ours" or baseline is None else SETTINGS[baseline].algorithm

    @property
    def evaluation_seed(self) -> int:
        """Seed of the first evaluation episode; both sides play the same ones."""
        return EVALUATION_SEEDS + self.seed * SEEDS_PER_RUN

    def options(self) -> TrainOptions:
        """The options of our run; a baseline takes its environment from them."""
        task = TASKS[self.task]
        return load_options(
            [
                f"env={self.task}",
                f"steps={self.steps or task.steps}",
                f"seed={self.seed}",
                "train.threads=1",
                f"evaluation.every={task.every}",
                f"evaluation.episodes={self.episodes}",
                f"evaluation.num_envs={min(20, self.episodes)}",
                f"evaluation.final_episodes={self.episodes}",
                f"evaluation.seed={self.evaluation_seed}",
                *self.overrides,
            ]
        )

    def settings(self) -> dict[str, Any]:
        """Everything that is set, as plain data: runs that differ in it are not the same measurement."""
        options = self.options()
        if self.side == "ours":
            return to_mapping(options)
        task = TASKS[self.task]
        return {
            "baseline": asdict(SETTINGS[task.baseline or ""]),
            "env": to_mapping(options.env),
            "evaluation": to_mapping(options.evaluation),
            "baseline_steps": task.baseline_steps,
            "limit": self.steps,
        }


def measure(spec: Spec) -> Run:
    """Train, evaluate on the way, and return what was measured."""
    import torch

    torch.set_num_threads(1)
    settings = spec.settings()  # read before the run, which may last longer than the presets stay as they are
    points = _ours(spec) if spec.side == "ours" else _baseline(spec)
    versions = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES[spec.side]}
    return Run(
        task=spec.task,
        side=spec.side,
        agent=spec.agent,
        seed=spec.seed,
        points=points,
        peak_bytes=peak_bytes(),
        settings=settings,
        versions=versions,
    )


def peak_bytes() -> int:
    """Largest resident set of this process so far. Linux counts it in KiB, and lets the parent's size count too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def evaluation_points(lines: Sequence[dict[str, Any]]) -> tuple[Point, ...]:
    """Return the evaluations in the lines of a metrics.jsonl; the time of earlier ones and their own is taken off."""
    points: list[Point] = []
    spent = 0.0
    for line in lines:
        if "evaluation/mean" in line:
            spent += line["evaluation/seconds"]
            points.append(
                Point(line["step"], line["wall_s"] - spent, line["evaluation/mean"], line["evaluation/seconds"])
            )
    return tuple(points)


def stop_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does. SDL, which draws CartPole, swallows it where nothing catches it."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ours(spec: Spec) -> tuple[Point, ...]:
    from agents.log import Logger, read_metrics
    from agents.trainer import train

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        options = replace(spec.options(), run=str(Path(folder) / "run"))
        with open_run(options) as run, Logger(run, tensorboard=False) as logger:
            train(options, run, resume=False, logger=logger)
        return evaluation_points(read_metrics(run))


def _baseline(spec: Spec) -> tuple[Point, ...]:
    from benchmarks.baselines import train_baseline

    task = TASKS[spec.task]
    return train_baseline(
        task,
        SETTINGS[task.baseline or ""],
        spec.options().env,
        seed=spec.seed,
        episodes=spec.episodes,
        evaluation_seed=spec.evaluation_seed,
        limit=spec.steps,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("side", choices=("ours", "sb3"))
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    stop_on_sigterm()
    spec = Spec(
        task=args.task,
        side=args.side,
        seed=args.seed,
        steps=args.steps,
        episodes=args.episodes,
        overrides=tuple(args.set),
    )
    save(args.out, [measure(spec)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
