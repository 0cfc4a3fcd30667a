"""What share of a CartPole run's wall time is spent outside the update? A short run with everything that a run does."""

import tempfile
import time

from agents.experiment import load_options, open_run
from agents.log import Logger
from agents.trainer import Trainer
from benchmarks.speed.measure import Measurement
from envs.vector import VectorEnv
from worldmodels.types import Batch

LINES = ("env=cartpole", "steps=900", "train.warmup_updates=50", "evaluation.every=0")


def cases() -> dict[str, Measurement]:
    """Seconds of the loop outside `Learner.update`; `note` says of how many."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        options = load_options([*LINES, f"run={folder}/run"])
        with open_run(options) as run, Logger(run) as logger, VectorEnv(options.env, options.env.num_envs) as envs:
            trainer = Trainer(options, run, envs, logger)
            update, spent = trainer.learner.update, 0.0

            def timed(batch: Batch) -> dict:
                nonlocal spent
                began = time.perf_counter()
                metrics = update(batch)
                spent += time.perf_counter() - began
                return metrics

            trainer.learner.update = timed  # type: ignore[method-assign]
            began, began_cpu = time.perf_counter(), time.process_time()
            trainer.loop()
            total, processor = time.perf_counter() - began, time.process_time() - began_cpu
            trainer.close()
    outside = total - spent
    note = f"{outside / total:.1%} of {total:.1f} s, {trainer.learner.updates} updates in {trainer.step} steps"
    return {
        "outside": Measurement(
            median_s=outside, min_s=outside, max_s=outside, cpu_s=processor, repeats=1, amount=trainer.step, note=note
        )
    }
