"""How fast are dreams beside the real environment, and evaluation beside one episode after another?

    python -m benchmarks.dream [--run RUN] [--num-envs 1024] [--repeats 30]

Steps a second of n copies with uniform actions: median over repeats, which take turns, and their quartiles. Without a
run a short one is trained first. The second table plays 100 episodes both ways. Everything runs in one thread of this
process and is timed by its own CPU clock, so that other work on the machine counts for little.
"""  # noqa: D415

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import Agent
from agents.evaluate import evaluate
from agents.experiment import load_options, open_run
from envs import DreamVecEnv, DreamVectorEnv

SETTINGS = ("env=cartpole", "steps=1500", "evaluation.every=250", "train.threads=1")
CHUNK = 20
"""Steps that are timed together."""


def train_short(folder: Path) -> Path:
    """Train the CartPole preset for 1,500 steps and return its run folder."""
    from agents.log import Logger
    from agents.trainer import train

    options = replace(load_options(SETTINGS), run=str(folder))
    with open_run(options) as run, Logger(run, tensorboard=False) as logger:
        train(options, run, resume=False, logger=logger)
    return folder


def contenders(agent: Agent, count: int) -> dict[str, Any]:
    """Name -> environment of `count` copies."""
    made = {
        "DreamVecEnv, without epistemic": DreamVecEnv(agent, count, uncertainty=False),
        "DreamVecEnv": DreamVecEnv(agent, count),
        "DreamVecEnv, decoded observations": DreamVecEnv(agent, count, uncertainty=False, observation="decoded"),
        "DreamVectorEnv, without epistemic": DreamVectorEnv(
            agent, count, uncertainty=False, autoreset_mode=AutoresetMode.SAME_STEP
        ),
        "real, gymnasium SyncVectorEnv": SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * count),
        "real, gymnasium's own array CartPole": gymnasium.make_vec(
            "CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point"
        ),
        "real, Stable-Baselines3 DummyVecEnv": DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * count),
    }
    for env in made.values():
        env.reset()
    return made


def step_rates(made: dict[str, Any], count: int, repeats: int) -> dict[str, list[float]]:
    """Steps a second of every contender, which take turns."""
    rng, rates = np.random.default_rng(0), {name: [] for name in made}
    for repeat in range(repeats + 2):
        for name, env in made.items():
            actions = rng.integers(2, size=(CHUNK, count))
            began = time.process_time()
            for action in actions:
                env.step(action)
            if repeat >= 2:  # the first two warm up
                rates[name].append(CHUNK * count / (time.process_time() - began))
    return rates


def evaluation_seconds(agent: Agent, episodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of the same evaluation, vectorised and one episode after another."""

    def one_after_another() -> None:
        env = Monitor(gymnasium.make("CartPole-v1"))
        evaluate_policy(agent, env, n_eval_episodes=episodes)  # pyright: ignore[reportArgumentType]

    def vectorised() -> None:
        evaluate(agent, agent.env_options, episodes=episodes, seed=0, num_envs=min(episodes, 20))

    ways: dict[str, Callable[[], None]] = {"wm evaluate": vectorised, "evaluate_policy": one_after_another}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, play in ways.items():
            began = time.process_time()
            play()
            found[name].append(time.process_time() - began)
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run of CartPole; a short one is trained if not given")
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=100)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent.load(args.run or train_short(Path(folder) / "run"))
    rates = step_rates(contenders(agent, args.num_envs), args.num_envs, args.repeats)
    print(f"| {args.num_envs:,} environments, one thread | steps a second | quartiles |\n|---|---|---|")
    for name, values in rates.items():
        low, middle, high = quartiles(values)
        print(f"| {name} | **{middle:,.0f}** | {low:,.0f} to {high:,.0f} |")
    seconds = evaluation_seconds(agent, args.episodes, max(1, args.repeats // 10))
    print(f"\n| {args.episodes} episodes of CartPole | seconds, median |\n|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):,.2f} |")
    ratio = statistics.median(b / a for a, b in zip(seconds["wm evaluate"], seconds["evaluate_policy"], strict=True))
    print(f"| times faster | **{ratio:,.1f}** |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
