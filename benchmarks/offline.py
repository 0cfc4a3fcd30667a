"""How much of an online agent's return does one reach that never touched the environment?

    python -m benchmarks.offline [--seeds 100,101] [--transitions 10000] [--steps 5000] [--online 5000] [--folder DIR]

Two data sets of `--transitions` steps. Pendulum, medium: episodes of an agent that was stopped after a tenth of the
online steps, with its own exploration. CartPole, mixed: what an online run collected from its first random step on.
On each, from the data alone: the policy in the plain dream, the same with pessimism (reward minus sigma, in standard
deviations of it), the same where dreams end at the 0.99 quantile of the data's sigma, and behaviour cloning. The last
agent of a run counts, not the best of its evaluations. Prints for every method the mean over 100 fresh episodes, for
each seed, and its share of the way from random (0 %) to the online agent (100 %).
"""  # noqa: D205, D415

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from agents.agent import Agent
from agents.cli import main as wm
from agents.collector import Collector
from agents.data import write_data
from agents.evaluate import EVALUATION_FILE
from envs.vector import VectorEnv
from worldmodels.replay import Replay

METHODS = {
    "plain dream": [],
    "pessimism": ["agent.acquisition.name=sigma", "agent.acquisition.weight=-1"],
    "truncation": ["agent.acquisition.name=sigma", "agent.acquisition.weight=0", "agent.acquisition.quantile=0.99"],
    "cloning": ["agent=cloning"],
}
RANDOM = {"pendulum": -1239.6, "cartpole": 24.1}
"""Mean return of uniform actions over 200 episodes, environment and action space seeded by 0 to 199."""


def trained(run: Path, *lines: str) -> float:
    """Train one run, and return the mean of its last evaluation."""
    if not (run / EVALUATION_FILE).is_file() and wm(["train", f"run={run}", *lines]) != 0:
        raise SystemExit(f"{run} failed")
    return float(json.loads((run / EVALUATION_FILE).read_text())["mean"])


def played(run: Path, folder: Path, transitions: int, seed: int) -> Path:
    """Whole episodes of a run's agent, explored as in training, as a data folder."""
    agent = Agent.load(run, which="latest")
    with VectorEnv(agent.env_options, 1) as envs:
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=2 * transitions + 2000)
        collector = Collector(agent, envs, replay, seed=seed, rng=np.random.default_rng(seed))
        while len(replay) < transitions or not collector.idle:
            collector.draining = len(replay) >= transitions
            collector.step(random=False)
    return write_data(folder, replay.iter_episodes(), agent)


def measure(env: str, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Method -> mean return, the online agent among them."""
    common = [f"env={env}", f"seed={seed}", "evaluation.every=0", *args.set]
    online = folder / "online"
    found = {"online": trained(online, *common, f"steps={args.online}")}
    data = folder / "data"
    if env == "cartpole":
        data = folder / "mixed"
        trained(data, *common, f"steps={args.transitions}")
    elif not data.exists():
        early = folder / "early"
        trained(early, *common, f"steps={max(1, args.online // 10)}")
        played(early, data, args.transitions, seed)
    for name, lines in METHODS.items():
        run = folder / name.replace(" ", "-")
        found[name] = trained(run, *common, f"data={data}", f"steps={args.steps}", *lines)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100,101")
    parser.add_argument("--tasks", default="pendulum,cartpole")
    parser.add_argument("--transitions", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--online", type=int, default=5_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    args = parser.parse_args()
    base = args.folder or Path(tempfile.mkdtemp(prefix="offline-"))
    for env in args.tasks.split(","):
        rows = [measure(env, int(seed), base / f"{env}-{seed}", args) for seed in args.seeds.split(",")]
        print(f"\n{env}, {args.transitions:,} transitions, seeds {args.seeds}")
        for name in rows[0]:
            shares = [100 * (row[name] - RANDOM[env]) / (row["online"] - RANDOM[env]) for row in rows]
            values = ", ".join(f"{row[name]:,.1f}" for row in rows)
            spread = f"{statistics.median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f})"
            print(f"{name:<12} {values:<30} median {spread}")


if __name__ == "__main__":
    main()
