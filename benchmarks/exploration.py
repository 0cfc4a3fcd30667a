"""How much is found without a reward? `python -m benchmarks.exploration --runs FOLDER --json FILE` prints coverage.

Every method collects with `agent=explorer` out of curiosity alone; they differ by their acquisition. Controls: `random`
acts uniformly, `repeated` keeps to each random action for a while, as the explorer does when it wanders,
`prediction_error` seeks what the model could not foretell and so a television, `random_network` has the form of a
bonus and knows nothing. Runs that were stopped go on from their last checkpoint, more --steps prolong them, and what is
in the file is not measured again. Seeds from 100 on; smaller ones chose the settings.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import envs.explore
from agents.experiment import load_options, open_run
from agents.log import Logger
from agents.options import ExplorerOptions
from agents.trainer import Trainer
from benchmarks.rows import Row, append_row, load_rows, markdown, select, with_interval
from envs.vector import VectorEnv

CHANCE = {"random": 1.0, "repeated": ExplorerOptions().stretch}
"""Methods that learn nothing -> steps for which an action is kept, in the mean."""
METHODS = (*CHANCE, "information_gain", "disagreement", "jensen_renyi", "rnd", "prediction_error", "random_network")
FIRST_SEED = 100
POINTS = 20
"""Points of a coverage curve."""
COMMON = ("agent=explorer_vector", "evaluation.every=0", "agent.explorer.task_updates=0", "train.checkpoint_every=2000")
CAR_LOW, CAR_HIGH = np.array([-1.2, -0.07]), np.array([0.6, 0.07])
CAR_BINS = 10

Episode = dict[str, Any]
Cells = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task:
    """env: its id and keys. steps: budget. cells: observations (N, D) -> cell numbers (N,). reachable: how many.

    settings: beside those of `agent=explorer_vector`, for every method alike.
    """

    env: tuple[str, ...]
    steps: int
    cells: Cells
    reachable: Callable[[], int]
    settings: tuple[str, ...] = ()


def car_cells(obs: np.ndarray) -> np.ndarray:
    """Position and velocity of the mountain car in 10 x 10 bins: (N, 2 or more) -> (N,)."""
    share = (obs[:, :2] - CAR_LOW) / (CAR_HIGH - CAR_LOW)
    place = np.clip((share * CAR_BINS).astype(int), 0, CAR_BINS - 1)
    return place[:, 0] * CAR_BINS + place[:, 1]


@cache
def car_reachable(fine: int = 300) -> int:
    """How many of the car's bins any policy can visit: a sweep over a fine grid of states by the exact dynamics."""
    x = np.stack([np.linspace(-0.6, -0.4, 50), np.zeros(50)], 1)
    seen = np.zeros((fine, fine), dtype=bool)
    bins = set(car_cells(x).tolist())
    while len(x):
        after = np.concatenate([_car_step(x, force) for force in (-1.0, -0.5, 0.0, 0.5, 1.0)])
        bins |= set(car_cells(after).tolist())
        after = after[after[:, 0] < 0.45]  # the goal ends an episode
        grid = np.clip(((after - CAR_LOW) / (CAR_HIGH - CAR_LOW) * fine).astype(int), 0, fine - 1)
        place, first = np.unique(grid[:, 0] * fine + grid[:, 1], return_index=True)
        fresh = ~seen.reshape(-1)[place]
        seen.reshape(-1)[place] = True
        x = after[first[fresh]]
    return len(bins)


def _car_step(x: np.ndarray, force: float) -> np.ndarray:
    """gymnasium's MountainCarContinuous: states (N, 2) after one step."""
    velocity = np.clip(x[:, 1] + 0.0015 * force - 0.0025 * np.cos(3 * x[:, 0]), CAR_LOW[1], CAR_HIGH[1])
    position = np.clip(x[:, 0] + velocity, CAR_LOW[0], CAR_HIGH[0])
    return np.stack([position, np.where((position <= CAR_LOW[0]) & (velocity < 0), 0, velocity)], 1)


def maze_cells(obs: np.ndarray) -> np.ndarray:
    """Position in unit cells: (N, 2) in [-1, 1] -> (N,)."""
    side = envs.explore.MAZE_SIDE
    place = np.clip(((obs + 1) / 2 * side).astype(int), 0, side - 1)
    return place[:, 0] * side + place[:, 1]


def sea_cells(obs: np.ndarray) -> np.ndarray:
    """Row and column of `DeepSea`: one-hots (N, 2 * SEA + 1) -> (N,)."""
    return obs[:, : SEA + 1].argmax(1) * SEA + obs[:, SEA + 1 :].argmax(1)


SEA = 20
CAR = Task(env=("env.id=MountainCarContinuous-v0",), steps=20_000, cells=car_cells, reachable=car_reachable)
TASKS = {
    "mountain_car": CAR,
    "noisy_car": Task(
        env=("env.id=worldmodels/NoisyMountainCar-v0",), steps=20_000, cells=car_cells, reachable=car_reachable
    ),
    "maze": Task(
        env=("env.id=worldmodels/Maze-v0",),
        steps=30_000,
        cells=maze_cells,
        reachable=lambda: len(envs.explore.maze_reachable()),
    ),
    "deep_sea": Task(  # 500 episodes; after r of its rows r + 1 columns can be stood on
        env=("env.id=worldmodels/DeepSea-v0", f"env.kwargs={{size: {SEA}, one_hot: true}}"),
        steps=500 * SEA,
        cells=sea_cells,
        reachable=lambda: sum(min(row + 1, SEA) for row in range(SEA + 1)),
        settings=(
            *("world_model.temporal_prior=markov", "world_model.trunk.standardize=false"),
            *("world_model.gaussian.min_std=0.3", "world_model.ensemble.prior_scale=1", "agent.along_means=true"),
            *("agent.starts=128", "agent.horizon=20", "agent.entropy=0.03", "agent.actor_rate=3e-3"),
            *("agent.slow_critic=0.1", "replay.length=20", "train.warmup_steps=200", "train.warmup_updates=100"),
            "train.updates_per_step=0.5",
        ),
    ),
}


def explore(task: Task, method: str, seed: int, steps: int, folder: Path, settings: Sequence[str]) -> list[Episode]:
    """The episodes that a method collects in `steps` steps, in order; a run in `folder` goes on where it stopped."""
    if method in CHANCE:
        return random_episodes(task, seed, steps, stretch=CHANCE[method])
    resume = (folder / "LATEST").exists()
    own = [line for line in task.settings if line.split("=")[0] not in {s.split("=")[0] for s in settings}]
    name = f"agent.acquisition.name={method}"
    lines = [*task.env, *COMMON, *own, name, *settings, f"steps={steps}", f"seed={seed}"]
    options = load_options([f"run={folder}", "resume=true", f"steps={steps}"] if resume else [*lines, f"run={folder}"])
    torch.set_num_threads(1)
    with open_run(options) as run, Logger(run) as logger, VectorEnv(options.env, 1) as environments:
        trainer = Trainer(options, run, environments, logger)
        if resume:
            trainer.resume()
        else:
            trainer.save()
        trainer.loop()
        return list(trainer.replay.iter_episodes())


def random_episodes(task: Task, seed: int, steps: int, *, stretch: float = 1.0) -> list[Episode]:
    """Episodes of uniform actions, each repeated `stretch` steps in the mean, through the toolkit's own spaces."""
    from agents.collector import random_actions

    options = load_options([*task.env, "run=unused"])
    rng, found, total, number = np.random.default_rng(seed), [], 0, 0
    with VectorEnv(options.env, 1) as environments:
        while total < steps:
            obs = [environments.reset([0], [seed * 100_000 + number])["obs"][0]]
            actions, rewards, over, left = [], [], False, 0
            action = np.zeros((1, environments.action_spec.size), np.float32)
            while not over:
                if left == 0:
                    action = random_actions(environments.action_spec, 1, rng)
                    left = int(rng.geometric(1 / stretch)) if stretch > 1 else 1  # uniform actions need no draw
                left -= 1
                result = environments.step([0], action)
                obs.append(result.obs["obs"][0].copy())
                actions.append(action[0])
                rewards.append(result.reward[0])
                over = bool(result.terminated[0] or result.truncated[0])
            number, total = number + 1, total + len(rewards)
            found.append({"obs": {"obs": np.array(obs)}, "action": np.array(actions), "reward": np.array(rewards)})
    return found


def measure(task: Task, episodes: Sequence[Episode], steps: int, *, tv: bool) -> Row:
    """Coverage of the reachable cells on the way, the first episode that was rewarded, the share of the television."""
    obs = np.concatenate([episode["obs"]["obs"][1:] for episode in episodes])[:steps]
    actions = np.concatenate([episode["action"] for episode in episodes])[:steps]
    cells, reachable = task.cells(obs), task.reachable()
    marks = np.linspace(steps / POINTS, steps, POINTS).astype(int)
    curve = [(int(mark), len(np.unique(cells[:mark])) / reachable) for mark in marks if mark <= len(cells)]
    rewarded = next((k + 1 for k, episode in enumerate(episodes) if episode["reward"].max() > 0.5), None)
    share = float((actions[:, -1] > 0).mean()) if tv else None
    return {"steps": len(cells), "coverage": curve[-1][1], "curve": curve, "rewarded": rewarded, "tv_share": share}


def table(rows: Sequence[Row]) -> str:
    """One row a task and method."""
    lines = []
    for name in TASKS:
        for method in METHODS:
            own = select(rows, task=name, method=method)
            for steps in sorted({row["steps"] for row in own}):
                same = select(own, steps=steps)
                shares = [row["tv_share"] for row in same if row["tv_share"] is not None]
                found = [np.inf if row["rewarded"] is None else row["rewarded"] for row in same]
                coverage = with_interval([100 * row["coverage"] for row in same], ".0f")
                tv = with_interval(shares, ".2f") if shares else "-"
                lines.append([name, method, f"{steps:,}", str(len(same)), coverage, with_interval(found), tv])
    head = ["task", "method", "steps", "seeds", "% of reachable cells", "first rewarded episode", "share of TV"]
    return markdown(head, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for and not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=["random", "repeated", "information_gain", "prediction_error"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(FIRST_SEED, FIRST_SEED + 5)))
    parser.add_argument("--steps", type=int, help="fewer or more than each task's own")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--runs", type=Path, default=Path("runs/exploration"), help="where the runs are kept")
    parser.add_argument("--json", type=Path, help="file of results")
    args = parser.parse_args(argv)
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    rows = load_rows(args.json)
    for seed in args.seeds:
        for name in args.tasks:
            task = TASKS[name]
            steps = args.steps or task.steps
            for method in args.methods:
                key = {"task": name, "method": method, "seed": seed, "steps": steps}
                if select(rows, **key):
                    continue
                folder = args.runs / f"{name}-{method}-{seed}"
                episodes = explore(task, method, seed, steps, folder, args.settings)
                row = measure(task, episodes, steps, tv=name == "noisy_car") | key
                rows.append(row)
                append_row(args.json, row)
                print(f"{name} {method} seed {seed}: {row['coverage']:.1%}, first reward {row['rewarded']}", flush=True)
    print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
