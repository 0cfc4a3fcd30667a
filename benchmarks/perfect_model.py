"""How good is a plan when nothing is wrong with the model? Pendulum's own equations in place of the world model.

    python -m benchmarks.perfect_model [--horizons 20 25 ...] [--samples 80] [--seeds 0 1 ...]

The searches of `agent=planner` on the episodes that `benchmarks.control` evaluates a seed on: what is missing there is
not the model's fault, and no further data can mend it.
"""  # noqa: D415

import argparse
from math import pi

import gymnasium
import torch
from torch import Tensor

from agents.planners import ICEM, GaussianPlans, Objective, Planner
from benchmarks.control import EVALUATION_SEEDS
from worldmodels.types import Rollout, State

STEPS = 200
"""Of an episode of Pendulum-v1."""


def pendulum(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Angle and speed (N, 2) and action (N, 1) in [-1, 1] -> the next ones (N, 2) and the reward (N,)."""
    angle, speed, torque = state[:, 0], state[:, 1], 2 * action[:, 0]
    upright = torch.remainder(angle + pi, 2 * pi) - pi
    reward = -(upright.square() + 0.1 * speed.square() + 0.001 * torque.square())
    speed = (speed + 0.05 * (15 * angle.sin() + 3 * torque)).clamp(
        -8, 8
    )  # gravity 10, mass and length 1, steps of 50 ms
    return torch.stack([angle + 0.05 * speed, speed], -1), reward


def imagine(state: State, plan: Tensor, horizon: int) -> Rollout:
    """What `WorldModel.imagine` does, without error."""
    states, rewards = [state.z], []
    for t in range(horizon):
        following, reward = pendulum(states[-1], plan[:, t])
        states.append(following)
        rewards.append(reward)
    z, reward = torch.stack(states, 1), torch.stack(rewards, 1)  # (N, H+1, 2), (N, H)
    return Rollout(State(z[..., :0], z), plan, reward, torch.ones_like(reward), torch.zeros_like(reward))


def returns(seeds: range, *, horizon: int, samples: int) -> Tensor:
    """Returns of episodes that begin as the environment's of these seeds do."""
    torch.manual_seed(0)
    search = ICEM(GaussianPlans(1, std=0.7), samples=samples)
    planner = Planner(search, Objective(imagine, 1.0), horizon=horizon)
    env, starts = gymnasium.make("Pendulum-v1"), []
    for seed in seeds:
        env.reset(seed=seed)
        starts.append(torch.as_tensor(env.unwrapped.state, dtype=torch.float32))  # type: ignore[attr-defined]
    state, total, memory = torch.stack(starts), torch.zeros(len(seeds)), None
    for _ in range(STEPS):
        action, memory = planner.act(State(state[:, :0], state), memory, deterministic=True)
        state, reward = pendulum(state, action)
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
