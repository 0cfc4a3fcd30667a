"""How many transitions does each way to explore need? `python -m benchmarks.steps_to_solve --json FILE` prints a table.

The world model learns from every transition, and `agent=planner` acts. Methods differ by what it does while it
collects: `random` acts uniformly, `greedy` plans for the reward, the others for an acquisition alone. All are evaluated
alike, planning for the reward; a task is solved at the first evaluation whose mean return reaches its threshold. Tasks
and thresholds are those of Mehta et al. (2022), where the reward is known as a function of what is observed, and the
dynamics are not; `--reward learned` gives the planner the model's own reward head instead. What is in the file is not
measured again. Seeds from 100 on; smaller ones chose the settings.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from agents.evaluate import evaluate
from agents.experiment import load_options, open_run
from agents.log import Logger
from agents.trainer import Trainer
from benchmarks.rows import Row, append_row, load_rows, markdown, select
from envs.swing_up import LENGTH, REACH
from envs.vector import VectorEnv
from worldmodels.world_model import WorldModel

FIRST_SEED = 100
METHODS = ("random", "greedy", "disagreement", "information_gain", "task_aware")
EPISODES = 10
"""Of each evaluation, with seeds of their own; no episode of them is learned from."""

Reward = Callable[[Tensor, Tensor], Tensor]
"""Observations reached (..., N) and actions in [-1, 1] (..., A) -> rewards (...)."""


def pendulum_reward(obs: Tensor, action: Tensor) -> Tensor:
    """-(theta^2 + 0.1 theta'^2 + 0.001 u^2) of the state that is reached; gymnasium's own is of the one before."""
    return -(
        torch.atan2(obs[..., 1], obs[..., 0]).square() + 0.1 * obs[..., 2].square() + 0.004 * action[..., 0].square()
    )


def swing_up_reward(obs: Tensor, action: Tensor) -> Tensor:  # noqa: ARG001 - pushing costs nothing
    """`envs.swing_up.swing_up_reward` of observations."""
    x, s, c = obs[..., 0], obs[..., 2], obs[..., 3]
    squared = (x + LENGTH * s).square() + (LENGTH * c - LENGTH).square()
    return torch.exp(-0.5 * squared / REACH**2) - 1


def reacher_reward(obs: Tensor, action: Tensor) -> Tensor:
    """Minus the distance of the tip from the target, minus the square of the action."""
    return -obs[..., -2:].norm(dim=-1) - action.square().sum(-1)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row of the table.

    env: preset. threshold: mean return that counts as solved. warmup: transitions of random actions. every: between
    evaluations, a whole number of episodes. budget: where a run gives up. goal: median transitions. published: of
    others. settings: keys of every run.
    """

    env: str
    threshold: float
    warmup: int
    every: int
    budget: int
    goal: int
    published: str
    reward: Reward
    settings: tuple[str, ...] = ()


COMMON = (
    "evaluation.every=0",
    "world_model.ensemble.members=5",
    "world_model.trunk.min_scale=0.02",
    "agent.gamma=1",
    "agent.acquisition.width=0.2",
)
TASKS = {
    "pendulum": Task(
        env="pendulum",
        threshold=-200.0,
        warmup=100,
        every=100,
        budget=600,
        goal=500,
        published="PETS 5,600; Gaussian process 46",
        reward=pendulum_reward,
        settings=(
            "world_model.temporal_prior=markov",
            "world_model.norm=false",
            "train.warmup_updates=500",
            "train.updates_per_step=4",
            "agent.planner.horizon=25",
            "agent.planner.samples=80",
        ),
    ),
    "cartpole-swing-up": Task(
        env="cartpole-swing-up",
        threshold=-13.0,
        warmup=50,
        every=25,
        budget=400,
        goal=300,
        published="PETS 1,625; Gaussian process 131",
        reward=swing_up_reward,
        settings=("train.warmup_updates=400", "train.updates_per_step=8", "train.full_rate_steps=50"),
    ),
    "reacher": Task(
        env="reacher",
        threshold=-5.0,
        warmup=150,
        every=50,
        budget=400,
        goal=400,
        published="PETS 700; Gaussian process 251",
        reward=reacher_reward,
        settings=("train.warmup_updates=500", "train.updates_per_step=6", "train.full_rate_steps=150"),
    ),
}


class _Given(NamedTuple):
    """A reward that is known: nothing to learn."""

    mean: Tensor

    def log_prob(self, reward: Tensor) -> Tensor:
        return torch.zeros_like(reward)


class KnownReward(nn.Module):
    """A reward head that applies a known function to what the decoder sees in features, and to the action in them."""

    def __init__(self, world_model: WorldModel, reward: Reward) -> None:
        super().__init__()
        self._decode = lambda features: world_model.decoder(features)["obs"].mode
        end = world_model.temporal_prior.context_size  # a context ends with the action that led to it
        self._action = slice(end - world_model.action_spec.size, end)
        self._reward = reward

    def forward(self, features: Tensor) -> _Given:
        """(..., F) -> what stands for a distribution of batch shape (...)."""
        return _Given(self._reward(self._decode(features), features[..., self._action]))


def transitions(task: Task, method: str, seed: int, *, known: bool, settings: Sequence[str] = ()) -> Row:
    """Transitions until the task is solved, None if its budget was not enough; and the mean return on the way."""
    lines = [f"env={task.env}", "agent=planner", *COMMON, *task.settings, f"train.warmup_steps={task.warmup}"]
    if method not in ("random", "greedy"):
        lines += [f"agent.acquisition.name={method}", "agent.acquisition.reward=0"]
    torch.set_num_threads(1)
    curve: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        lines += [*settings, f"steps={task.budget}", f"seed={seed}", f"run={folder}/run"]
        options = load_options(list({line.partition("=")[0]: line for line in lines}.values()))  # later lines win
        with open_run(options) as run, Logger(run) as logger, VectorEnv(options.env, 1) as environments:
            trainer = Trainer(options, run, environments, logger)
            model = trainer.agent.world_model
            if known:
                model.reward = KnownReward(model, task.reward)  # type: ignore[assignment] - it answers as one
            while trainer.step < task.budget and not (curve and curve[-1][1] >= task.threshold):
                warm = trainer.step >= task.warmup
                steps, _ = trainer.collector.step(random=method == "random" or not warm)
                trainer.step += steps
                if trainer.step >= task.warmup:
                    trainer.learn(steps)
                    if trainer.step % task.every == 0:
                        curve.append((trainer.step, _mean_return(trainer, len(curve))))
    return {"solved": curve[-1][0] if curve[-1][1] >= task.threshold else None, "curve": curve}


def _mean_return(trainer: Trainer, number: int) -> float:
    env, first = trainer.options.env, trainer.options.evaluation.seed + number * EPISODES
    return evaluate(trainer.agent, env, episodes=EPISODES, seed=first, num_envs=EPISODES).mean


def table(rows: Sequence[Row]) -> str:
    """One row a task, kind of reward and method: every seed, the median, the goal and what others need."""
    lines = []
    for name, task in TASKS.items():
        for reward in ("known", "learned"):
            for method in METHODS:
                own = sorted(select(rows, task=name, reward=reward, method=method), key=lambda row: row["seed"])
                if own:
                    needed = [np.inf if row["solved"] is None else row["solved"] for row in own]
                    seeds = f"{own[0]['seed']} to {own[-1]['seed']}"
                    shown = ", ".join(_count(n, task) for n in needed)
                    middle = _count(float(np.median(needed)), task)
                    lines.append([name, reward, method, seeds, shown, middle, f"{task.goal:,}", task.published])
    head = ["task", "reward", "acquisition", "seeds", "transitions", "median", "goal", "elsewhere"]
    return markdown(head, lines)


def _count(transitions: float, task: Task) -> str:
    return f"{transitions:,.0f}" if np.isfinite(transitions) else f"over {task.budget:,}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for and not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(FIRST_SEED, FIRST_SEED + 3)))
    parser.add_argument("--reward", nargs="+", default=["known"], choices=["known", "learned"])
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--json", type=Path, help="file of results")
    args = parser.parse_args(argv)
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    rows = load_rows(args.json)
    for seed in args.seeds:
        for name in args.tasks:
            for method in args.methods:
                for reward in args.reward:
                    key = {"task": name, "method": method, "seed": seed, "reward": reward}
                    if select(rows, **key):
                        continue
                    row = transitions(TASKS[name], method, seed, known=reward == "known", settings=args.settings) | key
                    rows.append(row)
                    append_row(args.json, row)
                    curve = ", ".join(f"{step}: {value:.1f}" for step, value in row["curve"])
                    print(f"{name} {method} {reward} seed {seed}: {row['solved']} ({curve})", flush=True)
    print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
