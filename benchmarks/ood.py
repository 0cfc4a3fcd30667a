"""Does the alarm go off when sensors lie, physics changes or somebody attacks? And how soon?

    python -m benchmarks.ood RUN [RUN ...] --attack

RUN: folders of trained agents with vector observations (`wm train env=cartpole world_model=flow run=RUN`). Severe
faults are those of the U-card; minor ones are a hundredth: factors of 1.01, offsets and noise of 0.01. Nominal controls
are matched step by step. The attacks are FGSM and PGD at the smallest size that costs 20 % of the return, and PGD that
also stays near what the model foretold.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from agents.agent import Agent
from agents.attack import gradient_attack
from agents.ood import Alarm, Shift, after, collect, ood_card, physics_shift, sensor_shift, severe_shifts
from agents.recordings import part
from benchmarks.rows import markdown
from envs import faults
from worldmodels.monitor import Monitor
from worldmodels.types import Batch
from worldmodels.uncertainty import time_matched

EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Sizes of the attack, in standard deviations of each sensor on nominal data."""
COST = 0.2
"""Share of the return that an attack has to cost."""
SEED = 50_000


def minor_shifts(agent: Agent, nominal: Batch) -> dict[str, Shift]:
    """Faults of a hundredth: of the same physics as the severe ones, and of the sensors."""
    physics = set(severe_shifts(agent, nominal)) & {"gravity", "mass", "action_gain"}
    return {name: physics_shift(**{name: 1.01}) for name in sorted(physics)} | {
        "offset": sensor_shift(faults.offset(0.01)),
        "noise": sensor_shift(faults.noise(0.01)),
        "miscalibrated": sensor_shift(faults.miscalibration(1.01)),
    }


def fault_table(agent: Agent, *, episodes: int, fit_steps: int) -> dict[str, str]:
    """One row a fault: the alarm, and each score by itself. Returns the means over faults, for the summary."""
    nominal, returns = collect(agent, episodes=20, seed=SEED - 20)
    print(f"\nnominal return {returns.mean():,.1f} in {nominal.mask.shape[1]} steps at most")
    sizes = {"severe": severe_shifts(agent, nominal), "minor": minor_shifts(agent, nominal)}
    card = ood_card(
        agent,
        shifts={f"{size} {name}": shift for size, shifts in sizes.items() for name, shift in shifts.items()},
        nominal_episodes=4 * episodes,
        episodes=episodes,
        seed=SEED,
        fit_steps=fit_steps,
        by_score=True,
    )
    print("\n| fault | AUROC | FPR95 | delay | latent | surprise | transition | drift |\n|" + " --- |" * 8)
    for name, found in card.items():
        alone = [found["by_score"][score]["auroc"] for score in ("latent", "surprise", "transition", "drift")]
        numbers = [found[measure] for measure in ("auroc", "fpr95", "delay_steps")] + alone
        print(f"| {name} | {' | '.join(map(_number, numbers))} |", flush=True)
    means = {}
    for size in sizes:
        own = [found for name, found in card.items() if name.startswith(size)]
        means[f"{size} AUROC"] = _mean([found["auroc"] for found in own])
        means[f"{size} FPR95"] = _mean([found["fpr95"] for found in own])
    means["minor AUROC, drift"] = _mean(
        [found["by_score"]["drift"]["auroc"] for name, found in card.items() if name.startswith("minor")]
    )
    return means


def _mean(values: Sequence[float | None]) -> str:
    """Over the faults that have a number."""
    found = [value for value in values if value is not None]
    return _number(sum(found) / len(found) if found else None)


def _number(value: float | None) -> str:
    """Three decimals; a dash where there is nothing: every episode was over before the fault, or no alarm."""
    return "-" if value is None else f"{value:.3f}"


def attack_table(agent: Agent, *, episodes: int, fit_steps: int) -> dict[str, str]:
    """The smallest harmful size of each attack, what it costs, and whether the alarm sees it. Returns the AUROCs."""
    nominal, returns = collect(agent, episodes=4 * episodes, seed=SEED)
    monitor = Monitor(agent.world_model).fit(part(nominal, slice(0, 2 * episodes)), steps=fit_steps)
    alarm = Alarm(monitor, part(nominal, slice(2 * episodes, 3 * episodes)))
    control = alarm.scores(part(nominal, slice(3 * episodes, None)))["combined"]
    (values,) = nominal.obs.values()
    spread = values[nominal.obs_mask].std(0)
    unhurt = returns[:episodes].mean()  # of the same episodes that are attacked
    print("\n| attack | size | return | share lost | AUROC | FPR95 |\n|" + " --- |" * 6)
    aurocs = {}
    for name, options in (
        ("FGSM", {"steps": 1}),
        ("PGD", {"steps": 5}),
        ("PGD, adaptive", {"steps": 5, "stealth": 100.0}),
    ):
        for epsilon in EPSILONS:
            attacked, hurt = collect(
                agent, episodes=episodes, seed=SEED, tamper=gradient_attack(agent, epsilon, spread, **options)
            )
            lost = ((unhurt - hurt.mean()) / unhurt.abs()).item()
            if lost >= COST or epsilon == EPSILONS[-1]:
                found: Tensor = after(alarm.scores(attacked)["combined"], 1)
                auroc, false = time_matched(control, found)
                cells = f"{epsilon} | {hurt.mean():,.1f} | {lost:.2f} | {auroc:.3f} | {false:.3f}"
                print(f"| {name} | {cells} |", flush=True)
                aurocs[name] = _number(auroc) if lost >= COST else f"({_number(auroc)}, harmless)"
                break
    return aurocs


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of every run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ood", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--episodes", type=int, default=20, help="of each fault; four times as many are nominal")
    parser.add_argument("--fit-steps", type=int, default=1000, help="updates of what raises the alarm")
    parser.add_argument("--attack", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    summary: list[dict[str, str]] = []
    for run in args.runs:
        agent = Agent.load(run)
        print(f"\n### {run}: {agent.env_options.id}, {agent.train_steps:,} steps")
        summary.append({"run": Path(run).name} | fault_table(agent, episodes=args.episodes, fit_steps=args.fit_steps))
        if args.attack:
            summary[-1] |= attack_table(agent, episodes=args.episodes, fit_steps=args.fit_steps)
    print(f"\n{markdown(list(summary[0]), [list(row.values()) for row in summary])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
