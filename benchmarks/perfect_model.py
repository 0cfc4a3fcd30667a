"""How good is a plan when nothing is wrong with the model? Pendulum's own equations in place of the world model.

    python -m benchmarks.perfect_model [--horizons 20 25 ...] [--samples 80] [--seeds 0 1 ...]

The searches of `agent=planner` on the episodes that `benchmarks.control` evaluates a seed on: what is missing there is
not the model's fault, and no further data can mend it.
"""  # noqa: D415

import argparse

import gymnasium
import torch
from torch import Tensor

from agents.planners import ICEM, GaussianPlans, Objective, Planner
from benchmarks.control import EVALUATION_SEEDS
from benchmarks.true_pendulum import advance, imagine, latents
from worldmodels.types import State

STEPS = 200
"""Of an episode of Pendulum-v1."""


def returns(seeds: range, *, horizon: int, samples: int) -> Tensor:
    """Returns of episodes that begin as the environment's of these seeds do."""
    torch.manual_seed(0)
    search = ICEM(GaussianPlans(1, std=0.7), samples=samples)
    planner = Planner(search, Objective(imagine, 1.0), horizon=horizon)
    env, starts = gymnasium.make("Pendulum-v1"), []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        starts.append(latents(obs))
    z, total, memory = torch.stack(starts), torch.zeros(len(seeds)), None
    for _ in range(STEPS):
        action, memory = planner.act(State(z[:, :0], z), memory, deterministic=True)
        z, reward = advance(z, action)
        total += reward
    return total


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--horizons", nargs="+", type=int, default=[15, 20, 25, 30])
    parser.add_argument("--samples", type=int, default=80)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of runs, as in benchmarks.control"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| horizon | mean return of all | of each seed's episodes |\n|---|---|---|")
    for horizon in args.horizons:
        first = [EVALUATION_SEEDS + 100_000 * seed for seed in args.seeds]
        found = [returns(range(f, f + args.episodes), horizon=horizon, samples=args.samples).mean() for f in first]
        each = "; ".join(f"{mean:.0f}" for mean in found)
        print(f"| {horizon} | **{torch.stack(found).mean():.0f}** | {each} |", flush=True)


if __name__ == "__main__":
    main()
