"""How much of the return is left when one sensor fails, without and with a fallback?

    python -m benchmarks.fallback RUN [RUN ...] [--faults drop freeze] [--episodes 5] [--seed 100]

RUN: folders of trained agents with one vector observation (`wm train env=cartpole run=RUN`). From step 20 of each
episode on one number of the observation lies: it is 0 (drop), stays what it was (freeze), is off by one standard
deviation of ordinary episodes (offset), is half as large again (miscalibration) or has noise of one standard deviation.
Kept is the share of the agent's lead over chance that is left. `safe` holds the middle action, or action 0, while an
alarm is on: a control that needs no model.
"""  # noqa: D415

import argparse
import sys
from collections.abc import Sequence

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from agents.agent import Agent
from agents.ood import Wrap, collect
from agents.recordings import record_episodes
from envs import SensorFault, UncertaintyInfo
from envs.faults import Fault, drop, freeze, miscalibration, noise, offset
from envs.latent import Fallback
from worldmodels.saved import load_replay
from worldmodels.watch import Nominal, nominal_scores

ONSET = 20
"""First wrong observation."""
METHODS: tuple[Fallback, ...] = ("none", "safe", "imagine")


def faults(spread: float) -> dict[str, Fault]:
    """Name -> fault of a sensor whose standard deviation is `spread` in ordinary episodes."""
    return {
        "drop": drop(),
        "freeze": freeze(),
        "offset": offset(spread),
        "miscalibration": miscalibration(1.5),
        "noise": noise(spread),
    }


def watched(agent: Agent, nominal: Nominal, method: Fallback, fault: Fault | None, sensor: int) -> Wrap:
    """What stands around an environment: the fault, and behind it the fallback, if there is one."""

    def wrap(env: gymnasium.Env) -> gymnasium.Env:
        idle = np.zeros(env.action_space.shape, np.float32) if isinstance(env.action_space, spaces.Box) else 0
        faulty = env if fault is None else SensorFault(env, fault, start=ONSET, dimensions=[sensor])
        if method == "none":
            return faulty
        return UncertaintyInfo(faulty, agent, nominal=nominal, fallback=method, safe_action=idle)

    return wrap


def table(run: str, names: Sequence[str], *, episodes: int, steps: int, seed: int) -> None:
    """Print the mean return of every sensor, fault and method, and the share that is kept."""
    agent = Agent.load(run)
    nominal = nominal_scores(agent.world_model, load_replay(run), 8192, seed=0)
    clean, returns = collect(agent, episodes=4 * episodes, seed=seed, steps=steps)
    (values,) = clean.obs.values()
    spread = values[clean.obs_mask].double().std(0)
    played = record_episodes(agent, agent.env_options, "random", episodes=4 * episodes, steps=steps, seed=seed)
    best, chance = float(returns.mean()), float(played.reward.sum(1).mean())
    print(f"\n### {run}: {agent.env_options.id}, {agent.train_steps:,} steps, seed {agent.options.seed}")
    print(
        f"\nClean {best:,.1f}, chance {chance:,.1f}; {episodes} episodes of {steps} steps at most, from seed {seed}.\n"
    )
    print("| sensor | fault | " + " | ".join(f"{method}, kept" for method in METHODS) + " |\n|" + " --- |" * 5)
    kept: dict[str, list[float]] = {method: [] for method in METHODS}
    for sensor, name in [(0, "clean"), *((i, name) for i in range(len(spread)) for name in names)]:
        cells = []
        for method in METHODS:
            fault = None if name == "clean" else faults(float(spread[sensor]))[name]
            wrap = watched(agent, nominal, method, fault, sensor)
            _, got = collect(agent, episodes=episodes, seed=seed, steps=steps, wrap=wrap)
            share = (float(got.mean()) - chance) / (best - chance)
            cells.append(f"{float(got.mean()):,.0f}, {100 * share:.0f} %")
            if fault is not None:
                kept[method].append(share)
        print(f"| {'-' if name == 'clean' else sensor} | {name} | " + " | ".join(cells) + " |", flush=True)
    for method, shares in kept.items():
        enough = sum(share >= 0.9 for share in shares)
        print(f"\n{method}: mean kept {100 * np.mean(shares):.1f} %, at least 90 % in {enough} of {len(shares)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--faults", nargs="+", default=list(faults(1.0)), choices=list(faults(1.0)))
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of an episode at most")
    parser.add_argument("--seed", type=int, default=100, help="of the first episode")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for run in args.runs:
        table(run, args.faults, episodes=args.episodes, steps=args.steps, seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
