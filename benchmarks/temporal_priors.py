"""Which temporal prior predicts best, learns fastest and costs least: recurrent, state space or transformer?

    python -m benchmarks.temporal_priors --json priors.jsonl
    python -m benchmarks.temporal_priors --parts quality time --tasks cartpole --seeds 100 101 --json priors.jsonl

`quality`: models fitted to the same steps of a hand-made behaviour, judged on other episodes of it. `time`: updates of
all priors in turn. `solve`: whole runs, as in benchmarks.sample_efficiency. With --json every row is kept as soon as it
is there, and the same command goes on where it was stopped. docs/temporal_priors.md says what the numbers mean.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from agents.agent import Agent
from agents.collector import Collector
from agents.experiment import load_options
from agents.learner import Learner
from agents.options import TrainOptions
from benchmarks.results import IN_A_ROW, median_or_never, solved_at
from benchmarks.rows import Row, append_row, load_rows, markdown, select
from benchmarks.single_run import Spec, measure
from benchmarks.tasks import TASKS
from envs.vector import VectorEnv
from worldmodels.replay import Replay
from worldmodels.seeding import derive, forked, generator, seed_everything
from worldmodels.types import Batch
from worldmodels.uncertainty import realised
from worldmodels.uncertainty.forecast import readout
from worldmodels.world_model import WorldModel

NAMES = ("cartpole", "cartpole-no-velocity", "pendulum")
PRIORS = ("recurrent", "state_space", "transformer")
SEEDS = (100, 101, 102)
PARTS = ("quality", "time", "solve")
HORIZONS = (1, 5, 15, 50)
SEEN, DREAMS, DRAWS = 15, 8, 4
"""Steps that a model sees before it dreams; dreams whose mean is its prediction; draws of the bound."""
TRAINING_STEPS, HELD_STEPS, HELD_WINDOWS = 4_000, 4_000, 64
LONG = 64
"""Length of the windows of the second timing: what a loop over time costs shows there."""
ROUNDS = 15
"""Timed updates of each prior, in turn."""


def settings(task: str, prior: str, seed: int) -> TrainOptions:
    """The preset of a task with another temporal prior."""
    return load_options([f"env={task}", f"world_model={_preset(prior)}", f"seed={seed}", "train.threads=1"])


class Hand:
    """A behaviour by hand: CartPole is balanced by the pole's angle and its change, with a share of chance of its own
    in every episode; Pendulum gets a torque that is held for a while. It reads no velocity, so that masks hide nothing
    from it.
    """

    def __init__(self, kind: str, size: int, seed: int) -> None:
        self.action_spec = SimpleNamespace(kind=kind, size=size)
        self.rng = generator(seed, "hand")

    def initial_carry(self, batch: int) -> None:
        """Nothing is remembered at first."""

    def act(
        self,
        obs: dict[str, np.ndarray],
        carry: tuple[float, float, int] | None,
        first: np.ndarray,
        *,
        deterministic: bool,
    ) -> tuple[np.ndarray, tuple[float, float, int]]:
        """The next action (1, A) of one environment."""
        seen = obs["obs"][0]
        begun = None if first[0] else carry
        if self.action_spec.kind == "continuous":
            torque, _, left = (0.0, 0.0, 0) if begun is None else begun
            if left == 0:
                torque, left = float(self.rng.uniform(-1, 1)), int(self.rng.integers(1, 25))
            return np.full((1, 1), torque, np.float32), (torque, 0.0, left - 1)
        angle = float(seen[len(seen) // 2])  # the third of four numbers, the second of two
        last, chance, _ = (angle, float(self.rng.uniform(0.1, 0.7)), 0) if begun is None else begun
        push = int(angle + 12 * (angle - last) > 0)
        if self.rng.random() < chance:
            push = int(self.rng.integers(2))
        return np.eye(2, dtype=np.float32)[[push]], (angle, chance, 0)


def played(options: TrainOptions, steps: int, seed: int) -> Replay:
    """A replay of the behaviour's steps in the environment of these options."""
    with VectorEnv(options.env, 1) as envs:
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=steps + 1_000, streams=1)
        hand: Any = Hand(envs.action_spec.kind, envs.action_spec.size, seed)
        collector = Collector(hand, envs, replay, seed=seed, rng=generator(seed, "collector"))
        while len(replay) < steps or not collector.idle:
            collector.draining = len(replay) >= steps
            collector.step(random=False)
        return replay


def learner_of(options: TrainOptions, replay: Replay) -> Learner:
    """A new model and policy for what the replay holds, its observations standardised by all of them."""
    seed_everything(options.seed)
    with VectorEnv(options.env, 1) as envs:
        agent = Agent(options, envs.obs_specs, envs.action_spec)
    obs = np.concatenate([episode["obs"]["obs"] for episode in replay.iter_episodes()])
    agent.world_model.fit_standardizer({"obs": torch.from_numpy(obs)})
    return Learner(agent.world_model, agent.policy, options)


def quality(task: str, prior: str, seed: int, updates: int) -> Row:
    """Fit a model and judge it on episodes that it has not seen; data are the same for every prior."""
    options = settings(task, prior, seed)
    training = played(options, TRAINING_STEPS, derive(seed, "training"))
    held = whole_windows(played(options, HELD_STEPS, derive(seed, "held out")), seed)
    learner, rng = learner_of(options, training), generator(seed, "replay")
    for _ in range(updates):
        learner.update_model(training.sample(options.replay.batch, options.replay.length, rng))
    with forked(seed), torch.no_grad():
        bounds = [float(learner.world_model.loss(held).bound) for _ in range(DRAWS)]
        errors = open_loop_errors(learner.world_model, held)
    row = {"part": "quality", "task": task, "prior": prior, "seed": seed, "updates": updates}
    return row | {"bound": statistics.fmean(bounds), "errors": errors, "parameters": _parameters(learner)}


def whole_windows(replay: Replay, seed: int) -> Batch:
    """Windows that no episode ends in, long enough for the longest horizon."""
    rng, kept = generator(seed, "held out"), []
    batch = replay.sample(40 * HELD_WINDOWS, SEEN + max(HORIZONS), rng)
    kept = batch.mask.all(1).nonzero().squeeze(-1)[:HELD_WINDOWS]
    if len(kept) < HELD_WINDOWS:
        raise RuntimeError(f"only {len(kept)} of {HELD_WINDOWS} windows without an end: more held-out steps are needed")
    fields = {name: value[kept] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return Batch(obs={name: value[kept] for name, value in batch.obs.items()}, **fields)


def open_loop_errors(model: WorldModel, held: Batch) -> list[float]:
    """Root mean square error of the mean dream at `HORIZONS`, in standard deviations of the observations."""
    states = model.infer(held, sample=False)
    start = states.index((slice(None), SEEN)).repeat(DREAMS)
    rollout = model.imagine(start, held.action[:, SEEN:].repeat(DREAMS, 1, 1), max(HORIZONS), entropy=False)
    dreamt = readout(model, rollout.states.index((slice(None), slice(1, None))))[0]  # (S * B, H, n)
    target = realised(model, held.obs, states)[:, SEEN + 1 :]
    error = (dreamt.unflatten(0, (DREAMS, -1)).mean(0) - target).square().mean((0, 2)).sqrt()  # (H,)
    return [float(error[horizon - 1]) for horizon in HORIZONS]


def timing(task: str, priors: Sequence[str], seed: int) -> list[Row]:
    """Milliseconds of processor time: an update at the preset's size, and one of the model alone on long windows."""
    replay = played(settings(task, priors[0], seed), TRAINING_STEPS, derive(seed, "training"))
    learners = {prior: learner_of(settings(task, prior, seed), replay) for prior in priors}
    rng = generator(seed, "replay")
    seconds: dict[str, list[list[float]]] = {prior: [[], []] for prior in priors}
    for turn in range(ROUNDS + 2):
        for prior, learner in learners.items():
            own = learner.options.replay
            short, long = (replay.sample(own.batch, length, rng) for length in (own.length, LONG))
            spent = [_seconds(lambda: learner.update(short)), _seconds(lambda: learner.update_model(long))]  # noqa: B023
            if turn > 1:
                for column, value in zip(seconds[prior], spent, strict=True):
                    column.append(value)
    return [
        {"part": "time", "task": task, "prior": prior, "seed": seed}
        | {"update_ms": 1e3 * statistics.median(short), "long_ms": 1e3 * statistics.median(long)}
        for prior, (short, long) in seconds.items()
    ]


def solve(task: str, prior: str, seed: int, steps: int | None) -> Row:
    """One whole run, judged as in benchmarks.sample_efficiency."""
    keys = (f"world_model={_preset(prior)}",)
    run = measure(Spec(task=task, side="ours", seed=seed, steps=steps, overrides=keys))
    point = solved_at(run.points, TASKS[task].bar)
    return {"part": "solve", "task": task, "prior": prior, "seed": seed, "steps": steps} | {
        "solved": point and point.step,
        "solved_s": point and point.trained_s,
        "end": run.points[-1].step if run.points else 0,
        "last": run.last_mean(),
        "points": [[point.step, point.mean] for point in run.points],
    }


def missing(args: argparse.Namespace, rows: Sequence[Row]) -> Iterator[Callable[[], list[Row]]]:
    """What is asked for and not there yet: seed by seed, so that an early stop leaves every prior something."""
    for part in args.parts:
        for seed in args.seeds:
            for task in args.tasks:
                keys = {"part": part, "task": task, "seed": seed}
                keys |= {"updates": args.updates} if part == "quality" else {}
                keys |= {"steps": args.steps} if part == "solve" else {}
                absent = [prior for prior in args.priors if not select(rows, prior=prior, **keys)]
                if part == "time" and absent and seed == args.seeds[0]:
                    yield lambda task=task, seed=seed: timing(task, args.priors, seed)
                for prior in absent if part == "quality" else []:
                    yield lambda task=task, seed=seed, prior=prior: [quality(task, prior, seed, args.updates)]
                for prior in absent if part == "solve" else []:
                    yield lambda task=task, seed=seed, prior=prior: [solve(task, prior, seed, args.steps)]


def table(rows: Sequence[Row]) -> str:
    """One row a task and prior: medians over seeds, with smallest and largest where there are several."""
    head = ["task", "prior", "parameters", "bound, nats", *(f"error at {h}" for h in HORIZONS)]
    head += ["update, ms", f"model at {LONG}, ms", "steps to solve", "mean of the last evaluations"]
    lines = []
    for task in NAMES:
        for prior in PRIORS:
            own = [row for row in rows if (row["task"], row["prior"]) == (task, prior)]
            if not own:
                continue
            fits, times, runs = (select(own, part=part) for part in PARTS)
            cells = [f"{fits[0]['parameters']:,}" if fits else "-", _spread([row["bound"] for row in fits], ".2f")]
            cells += [_spread([row["errors"][k] for row in fits], ".3f") for k in range(len(HORIZONS))]
            cells += [_spread([row[name] for row in times], ".1f") for name in ("update_ms", "long_ms")]
            cells += [_solved(runs), _spread([row["last"] for row in runs], ".0f")]
            lines.append([task, prior, *cells])
    return markdown(head, lines)


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    median = f"{statistics.median(values):{form}}"
    return median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"


def _solved(runs: Sequence[Row]) -> str:
    if not runs:
        return "-"
    each = [f"{row['solved']:,}" if row["solved"] else f"> {row['end']:,}" for row in runs]
    median = median_or_never(row["solved"] for row in runs)
    return each[0] if len(runs) == 1 else f"{median:,.0f} ({'; '.join(each)})"


def _preset(prior: str) -> str:
    return "default" if prior == "recurrent" else prior


def _parameters(learner: Learner) -> int:
    return sum(parameter.numel() for parameter in learner.world_model.temporal_prior.parameters())  # type: ignore[attr-defined]


def _seconds(call: Callable[[], object]) -> float:
    """Processor time, which other work on the machine changes less than the clock's."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for and not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=PRIORS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="of the runs of `solve`; the task's own, if not given")
    parser.add_argument("--updates", type=int, default=1_000, help="of the models of `quality` (%(default)s)")
    parser.add_argument("--json", type=Path, help="file of lines to keep results in, and to go on from")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = load_rows(args.json)
    for job in missing(args, list(rows)):
        for row in job():
            rows.append(row)
            append_row(args.json, row)
            print({name: value for name, value in row.items() if name != "points"}, flush=True)
    print(f"\n{table(rows)}\n\nSolved: the first of {IN_A_ROW} evaluations in a row that reach the task's bar.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
