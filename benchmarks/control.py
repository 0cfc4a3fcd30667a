"""How many real steps does control inside the dream need, beside the same algorithm in the real environment?

    python -m benchmarks.control [--rows ppo-cartpole ...] [--seeds 100 101 ...] [--json FILE]

For every row and seed: the first evaluation at or above the bar, of 20 episodes or as many as the row says, on seeds of
their own. The numbers of the algorithm trained in the real environment come from `benchmarks.sample_efficiency`, whose
settings are tuned too. Where others are known by what they reach in a fixed number of steps, so are we: a second table
holds the return after those.
"""  # noqa: D415

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.experiment import load_options, open_run

FIVE_SEEDS = (100, 101, 102, 103, 104)
"""Seeds that are reported; no setting was chosen by looking at a run with one of them."""
EVALUATION_SEEDS = 1_000_000_000
"""Episode seeds of evaluations start here, far from those that tuning looked at."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """settings: of `wm train`. bar: mean return to reach. every: real steps between evaluations. steps: longest run.

    allowed: steps to the bar that are allowed at the median; None where the bar is for the agent after all `steps`.
    elsewhere: what others need, and where. episodes: of each evaluation.
    """

    settings: tuple[str, ...]
    bar: float
    every: int
    steps: int
    allowed: int | None
    elsewhere: str
    episodes: int = 20


ROWS = {
    "ppo-cartpole": Row(
        settings=("env=cartpole", "agent=sb3", "agent.sb3.algorithm=PPO", "world_model.ensemble.members=0"),
        bar=475.0,
        every=250,
        steps=3000,
        allowed=4_352,  # a quarter of the median of the two
        elsewhere="PPO in reality, tuned: 12,288; 22,528",
    ),
    "sac-pendulum": Row(
        settings=(
            "env=pendulum",
            "agent=sb3",
            "agent.sb3.algorithm=SAC",
            "agent.sb3.gamma=0.98",
            "agent.sb3.steps=512",
            "agent.sb3.hidden=128",
            "world_model.ensemble.members=0",
        ),
        bar=-200.0,
        every=250,
        steps=1500,
        allowed=2_250,  # half of the median of the two
        elsewhere="SAC in reality, tuned: 3,000; 6,000",
    ),
    "planner-pendulum": Row(
        settings=(
            "env=pendulum",
            "agent=planner",
            "agent.gamma=1.0",
            "train.warmup_steps=100",
            "train.warmup_hold=10",
            "train.warmup_updates=500",
            "train.updates_per_step=4",
            "agent.planner.horizon=25",
            "agent.planner.samples=80",
            "world_model=markov",
            "world_model.norm=false",
            "world_model.ensemble.members=0",
        ),
        bar=-200.0,
        every=300,
        steps=600,
        allowed=300,
        elsewhere="PETS: 5,600",
    ),
    "planner-swingup": Row(
        settings=(
            "env=dmc-cartpole-swingup",
            "agent=planner_actor",
            "world_model=markov",
            "world_model.norm=false",
            "world_model.ensemble.members=0",
        ),
        bar=800.0,
        every=1_000,
        steps=10_000,
        allowed=10_000,
        elsewhere="TD-MPC2 after 100,000: 839",
        episodes=5,
    ),
    "reacher-easy": Row(
        settings=("env=dmc-reacher-easy", "world_model.ensemble.members=0"),
        bar=900.0,
        every=4_000,
        steps=40_000,
        allowed=None,
        elsewhere="SAC-SimBa after 50,000: 845",
    ),
    "walker-walk": Row(
        settings=("env=dmc-walker-walk", "world_model=markov", "world_model.ensemble.members=0"),
        bar=850.0,
        every=4_000,
        steps=40_000,
        allowed=None,
        elsewhere="SAC-SimBa after 50,000: 900",
    ),
}
"""Name -> row of the table."""


@dataclass(frozen=True)
class Result:
    """row, seed; steps and seconds of training up to the first evaluation at the bar, None where there was none.

    last: mean return at the last evaluation. total: seconds of training up to it. kept: mean return in fresh episodes
    of the agent that the run keeps, the best by its evaluations. curve: step and mean return of every evaluation.
    """

    row: str
    seed: int
    steps: int | None
    seconds: float | None
    last: float
    total: float = 0.0
    kept: float = math.nan
    curve: Sequence[tuple[int, float]] = ()


def measure(name: str, seed: int, *, steps: int | None = None, episodes: int | None = None) -> Result:
    """Train one seed of one row in a temporary folder."""
    from agents.log import Logger, read_metrics
    from agents.trainer import train

    row = ROWS[name]
    episodes = episodes or row.episodes
    own = (f"seed={seed}", f"steps={steps or row.steps}", "train.threads=1", f"evaluation.every={row.every}")
    judged = (
        f"evaluation.seed={EVALUATION_SEEDS + 100_000 * seed}",
        f"evaluation.episodes={episodes}",
        f"evaluation.num_envs={episodes}",
        f"evaluation.final_episodes={episodes}",
    )
    with tempfile.TemporaryDirectory() as folder:
        options = replace(load_options([*row.settings, *own, *judged]), run=str(Path(folder) / "run"))
        with open_run(options) as run, Logger(run, tensorboard=False) as logger:
            trained = train(options, run, resume=False, logger=logger)
        lines = [line for line in read_metrics(run) if "evaluation/mean" in line]
    spent = 0.0
    solved: tuple[int, float] | None = None
    for line in lines:
        spent += line["evaluation/seconds"]
        if solved is None and line["evaluation/mean"] >= row.bar:
            solved = int(line["step"]), float(line["wall_s"]) - spent
    steps_to_it, seconds = solved or (None, None)
    if not lines or trained is None:
        return Result(name, seed, steps_to_it, seconds, math.nan)
    curve = [(int(line["step"]), float(line["evaluation/mean"])) for line in lines]
    total = float(lines[-1]["wall_s"]) - spent
    return Result(name, seed, steps_to_it, seconds, curve[-1][1], total, trained.evaluation.mean, curve)


def table(results: Sequence[Result]) -> str:
    """One line a row: rows that count steps to a bar, then rows that count what was reached."""
    return "\n\n".join(part for part in (_steps_table(results), _returns_table(results)) if part)


def _steps_table(results: Sequence[Result]) -> str:
    """Median and every seed, beside what was allowed; empty where no such row was measured."""
    lines = []
    for name, row in ROWS.items():
        own = [result for result in results if result.row == name]
        if not own or row.allowed is None:
            continue
        never = float("inf")
        steps = [never if result.steps is None else result.steps for result in own]
        seconds = [never if result.seconds is None else result.seconds for result in own]
        ends = [result.curve[-1][0] if result.curve else row.steps for result in own]
        each = "; ".join(f"> {end:,}" if s == never else f"{s:,.0f}" for s, end in zip(steps, ends, strict=True))
        middle = statistics.median(steps)
        text = f"> {min(ends):,}" if middle == never else f"{middle:,.0f}"
        took = statistics.median(seconds)
        lines.append(
            f"| {name} | {row.bar:g} | **{text}** ({each}) | {took:,.0f} | {row.allowed:,} | {row.elsewhere} |"
        )
    heading = "| in the dream | bar | real steps to it: median (seeds) | seconds, median | allowed | elsewhere |"
    return "\n".join([heading, "|---|---|---|---|---|---|", *lines]) if lines else ""


def _returns_table(results: Sequence[Result]) -> str:
    """Median and every seed of the agent as it was at the end, and of the one that was kept, beside the bar."""
    lines = []
    for name, row in ROWS.items():
        own = [result for result in results if result.row == name]
        if not own or row.allowed is not None:
            continue
        reached, kept = _median_of([r.last for r in own]), _median_of([r.kept for r in own])
        ends = "; ".join(f"{end:,}" for end in sorted({result.curve[-1][0] for result in own}))
        took = statistics.median(result.total for result in own)
        lines.append(f"| {name} | {ends} | {reached} | {kept} | {took:,.0f} | {row.bar:g} | {row.elsewhere} |")
    heading = (
        "| in the dream | real steps | return then: median (seeds) | agent kept | seconds, median | bar | elsewhere |"
    )
    return "\n".join([heading, "|---|---|---|---|---|---|---|", *lines]) if lines else ""


def _median_of(returns: Sequence[float]) -> str:
    """`**median** (every one)`."""
    return f"**{statistics.median(returns):,.0f}** ({'; '.join(f'{value:,.0f}' for value in returns)})"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; with --json results are kept there, and those that are there are not measured again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(FIVE_SEEDS))
    parser.add_argument("--steps", type=int, help="length of every run, to try things out")
    parser.add_argument("--episodes", type=int, help="of each evaluation, to try things out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    results = (
        [Result(**entry) for entry in json.loads(args.json.read_text())] if args.json and args.json.exists() else []
    )
    for name in args.rows:
        for seed in args.seeds:
            if any((result.row, result.seed) == (name, seed) for result in results):
                continue
            began = time.monotonic()
            results.append(measure(name, seed, steps=args.steps, episodes=args.episodes))
            print(f"{results[-1]} ({time.monotonic() - began:,.0f} s)", flush=True)
            if args.json:
                args.json.write_text(json.dumps([vars(result) for result in results], indent=2) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
