"""How much memory does a run take? `python -m benchmarks.memory` prints the peak of each case beside its limit.

Every case runs in a process of its own; the peak is the largest resident set of that process. Exit code 1 where a limit
is passed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.experiment import load_options, open_run
from benchmarks.sample_efficiency import ONE_THREAD, ROOT
from benchmarks.single_run import peak_bytes, stop_on_sigterm

FRAMES = 100_000
EPISODE = 250
"""Transitions of a synthetic episode."""
UPDATES = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """limit: bytes that the run may take. run: what to run."""

    title: str
    limit: float
    run: Callable[[], None]


def cartpole() -> None:
    """Train CartPole for 2,000 steps with everything that a run does: checkpoints, evaluations, film and curve."""
    from agents.log import Logger
    from agents.trainer import train

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        lines = ["env=cartpole", "steps=2000", "train.checkpoint_every=1000", f"run={folder}/run"]
        options = load_options(lines)
        with open_run(options) as run, Logger(run) as logger:
            train(options, run, resume=False, logger=logger)


def pixels() -> None:
    """Store 100,000 synthetic frames, with a checkpoint as often as in a run, then update, evaluate and finish."""
    import numpy as np
    import torch

    from agents.log import Logger
    from agents.trainer import Trainer
    from envs.vector import VectorEnv

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        lines = ["env=cartpole-pixels", "env.grayscale=false", f"replay.capacity={FRAMES}", f"run={folder}/run"]
        options = replace(load_options(lines), steps=FRAMES)
        with open_run(options) as run, Logger(run) as logger, VectorEnv(options.env, options.env.num_envs) as envs:
            trainer = Trainer(options, run, envs, logger)
            (name, spec), size = next(iter(envs.obs_specs.items())), envs.action_spec.size
            action = np.eye(size, dtype=np.float32)[0]
            while trainer.replay.rows < FRAMES:
                frames = rng.integers(256, size=(EPISODE, *spec.shape), dtype=np.uint8)
                trainer.replay.begin(0, {name: frames[0]})
                for step, frame in enumerate(frames[1:], start=2):
                    trainer.replay.add(0, action, 1.0, step == EPISODE, False, {name: frame})
                trainer.step += EPISODE
                if trainer.step % options.train.checkpoint_every == 0:
                    trainer.save()
            for _ in range(UPDATES):
                trainer.update()
            trainer.evaluate()
            trainer.finish()
            trainer.close()


CASES = {
    "cartpole": Case(title="CartPole, a whole run", limit=1.5e9, run=cartpole),
    "pixels": Case(title=f"64x64x3 images, {FRAMES:,} stored", limit=4e9, run=pixels),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cases and print them; with `--child` be the process of one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        stop_on_sigterm()
        CASES[args.child[0]].run()
        Path(args.child[1]).write_text(json.dumps(peak_bytes()), encoding="utf-8")
        return 0
    failures = 0
    print("| run | peak memory | limit |\n| --- | --- | --- |")
    for name in args.cases:
        case, peak = CASES[name], _peak(name)
        failures += peak > case.limit
        print(f"| {case.title} | {peak / 1e9:.2f} GB | {case.limit / 1e9:.1f} GB |", flush=True)
    return 1 if failures else 0


def _peak(name: str) -> int:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "peak.json"
        command = [sys.executable, "-m", "benchmarks.memory", "--child", name, str(file)]
        subprocess.run(command, cwd=ROOT, env=os.environ | ONE_THREAD, check=True)
        return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
