"""How much of an online agent's return does one reach that never touched the environment?

    python -m benchmarks.offline [--seeds 100,101] [--tasks pendulum,cartpole] [--folder DIR]

Two data sets of `--transitions` steps. Pendulum, medium: the online agent as it explores, with chance in its place at
half of the steps. CartPole, mixed: what an online run of that many steps collected from its first random step on; it is
the online agent to be compared with, too.
On each, from the data alone: the policy in the plain dream, the same with pessimism (reward minus sigma, in standard
deviations of it), the same where dreams end at the 0.99 quantile of the data's sigma, and behaviour cloning. The last
agent of a run counts, not the best of its evaluations. Prints for every method the mean over 100 fresh episodes, for
each seed, and its share of the way from random (0 %) to the online agent (100 %). With `--folder` every run stays there
as soon as it is finished: the same command goes on where it was stopped.
"""  # noqa: D205, D415

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

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
"""Name -> settings of a run that learns from data."""
RANDOM = {"pendulum": -1239.6, "cartpole": 24.1}
"""Mean return of uniform actions over 200 episodes, environment and action space seeded by 0 to 199."""
STEPS = {"pendulum": 250, "cartpole": 5_000}
"""Steps of each run from data: 1,050 and 2,100 updates."""
How = Literal["random", "half", "explored", "best"]
"""Who plays: chance; by a coin at each step chance or an agent; the agent as it explores; its best action alone."""


def trained(run: Path, *lines: str) -> float:
    """Train one run to its end, from its last checkpoint where there is one; return the mean of its last evaluation."""
    if not (run / EVALUATION_FILE).is_file():
        settings = ["resume=true"] if (run / "config.yaml").is_file() else lines
        if wm(["train", f"run={run}", *settings]) != 0:
            raise SystemExit(f"{run} failed")
    return float(json.loads((run / EVALUATION_FILE).read_text())["mean"])


class _Best:
    """An agent that does not explore when it is asked to."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the agent has
        return getattr(self._agent, name)

    def act(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As the agent, by its most probable action."""
        return self._agent.act(*args, **{**kwargs, "deterministic": True})


def played(run: Path, folder: Path, transitions: int, seed: int, how: How) -> Path:
    """Whole episodes of a run's agent as a data folder, at least `transitions` steps; once."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(seed)
    agent: Any = Agent.load(run, which="latest")
    with VectorEnv(agent.env_options, 1) as envs:
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=2 * transitions + 2000)
        actor = _Best(agent) if how == "best" else agent
        collector = Collector(actor, envs, replay, seed=seed, rng=rng)  # type: ignore[arg-type]
        while len(replay) < transitions or not collector.idle:
            collector.draining = len(replay) >= transitions
            collector.step(random=how == "random" or (how == "half" and rng.random() < 0.5))
    return write_data(folder, replay.iter_episodes(), agent)


def measure(env: str, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Method -> mean return, the online agent among them."""
    common = [f"env={env}", f"seed={seed}", "evaluation.every=0", *args.set]
    if env == "cartpole":
        data = folder / "mixed"
        found = {"online": trained(data, *common, f"steps={args.transitions}")}
    else:
        found = {"online": trained(folder / "online", *common, f"steps={args.online}")}
        data = played(folder / "online", folder / "medium", args.transitions, seed, "half")
    for name in chosen(args.methods, METHODS):
        run = folder / f"{data.name} {name}".replace(" ", "-")
        found[name] = trained(run, *common, f"data={data}", f"steps={args.steps or STEPS[env]}", *METHODS[name])
        print(f"{env}, seed {seed}, {name}: {found[name]:,.1f} (online {found['online']:,.1f})", flush=True)
    return found


def table(env: str, rows: Sequence[dict[str, float]]) -> str:
    """Every method's means, and its share of the way from random to online, as Markdown."""
    lines = [
        "| method | mean return, each seed | share of the way from random to online: median (range) |",
        "|---|---|---|",
    ]
    for name in rows[0]:
        shares = [100 * (row[name] - RANDOM[env]) / (row["online"] - RANDOM[env]) for row in rows]
        values = ", ".join(f"{row[name]:,.1f}" for row in rows)
        spread = f"**{statistics.median(shares):.0f} %** ({min(shares):.0f} to {max(shares):.0f})"
        lines.append(f"| {name} | {values} | {spread} |")
    return "\n".join(lines)


def chosen(names: str | None, known: Iterable[str]) -> list[str]:
    """The names that are asked for, all if none are. Raises: SystemExit: one that is not known."""
    wanted = names.split(",") if names else list(known)
    unknown = set(wanted) - set(known)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return wanted


def parser_of(description: str | None, seeds: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark of fixed data takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--transitions", type=int, default=10_000)
    parser.add_argument("--steps", type=int, help="of each run from data, as docs/configuration.md counts them")
    parser.add_argument("--online", type=int, default=1_000, help="steps of the online agent of Pendulum")
    parser.add_argument("--methods", help="these alone, comma-separated: plain dream, pessimism, ...")
    parser.add_argument("--folder", type=Path, help="runs are kept here, and not repeated")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = parser_of(__doc__, "100,101,102")
    parser.add_argument("--tasks", default="pendulum,cartpole")
    args = parser.parse_args(argv)
    base = args.folder or Path(tempfile.mkdtemp(prefix="offline-"))
    for env in args.tasks.split(","):
        rows = [measure(env, int(seed), base / f"{env}-{seed}", args) for seed in args.seeds.split(",")]
        print(f"\n{env}, {args.transitions:,} transitions, seeds {args.seeds}\n\n{table(env, rows)}\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
