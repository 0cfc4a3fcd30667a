"""What does a made-up question look like? `python -m benchmarks.made_up_queries --image FILE` draws some in the maze.

A world model is fitted to what random actions saw of `worldmodels/Maze-v0`; then trajectories are made up by gradient
ascent on the information gain and drawn, as the decoder sees them, beside random ones, over what the model has seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from agents.acquisition import information_gain, synthesise
from agents.agent import Agent
from agents.experiment import load_options
from agents.learner import Learner
from benchmarks.exploration import TASKS, random_episodes
from envs.explore import MAZE_SIDE, maze_walls
from envs.vector import VectorEnv
from worldmodels import seeding
from worldmodels.replay import Replay


def fitted(steps: int, updates: int) -> tuple[Agent, Replay]:
    """An agent whose world model was fitted to `steps` random steps in the maze."""
    options = load_options([*TASKS["maze"].env, "run=unused"])
    with VectorEnv(options.env, 1) as envs:
        agent = Agent(options, envs.obs_specs, envs.action_spec)
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=steps + 200, streams=1)
    for episode in random_episodes(TASKS["maze"], 0, steps):
        obs, last = episode["obs"]["obs"], len(episode["reward"]) - 1
        replay.begin(0, {"obs": obs[0]})
        for t, action in enumerate(episode["action"]):
            replay.add(0, action, 0.0, False, t == last, {"obs": obs[t + 1]})
    learner, rng = Learner(agent.world_model, agent.policy, options), seeding.generator(0, "replay")
    for _ in range(updates):
        learner.update_model(replay.sample(options.replay.batch, options.replay.length, rng))
    return agent, replay


def draw(file: Path, replay: Replay, random: np.ndarray, made: np.ndarray, gains: tuple[float, float]) -> None:
    """Two panels over the maze: random trajectories, and made-up ones, (B, H+1, 2) each."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    seen = np.concatenate([episode["obs"]["obs"] for episode in replay.iter_episodes()])
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 5.2), layout="constrained")
    for panel, paths, title, gain in zip(panels, (random, made), ("random", "made up"), gains, strict=True):
        panel.scatter(*_units(seen).T, s=2, color="0.8", label="seen")
        for wall, start, stop in maze_walls():
            panel.plot([wall, wall], [start, stop], color="black")
        for path in _units(paths):
            panel.plot(*path.T, linewidth=1)
            panel.plot(*path[0], "o", color="black", markersize=3)
        panel.set(xlim=(0, MAZE_SIDE), ylim=(0, MAZE_SIDE), aspect="equal", title=f"{title}: {gain:.2f} nats a step")
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _units(obs: np.ndarray) -> np.ndarray:
    return (obs + 1) / 2 * MAZE_SIDE


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, make up, draw, and print what both kinds of trajectories would teach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--horizon", type=int, default=20)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeding.seed_everything(0)
    agent, replay = fitted(args.steps, args.updates)
    model = agent.world_model
    batch = replay.sample(8, 8, seeding.generator(0, "start"))
    with torch.no_grad():
        states = model.infer(batch)
        start = states.index((slice(None), -1))
        plan = torch.rand(8, args.horizon, agent.action_spec.size) * 2 - 1
        rollout = model.imagine(start, plan, args.horizon, uncertainty=True)
        random: Tensor = model.decode(rollout.states)["obs"].mean
    made = synthesise(model, start, information_gain, action_size=agent.action_spec.size, horizon=args.horizon)
    gains = float(information_gain(rollout).mean()), float(made.score.mean())
    draw(args.image, replay, random.numpy(), made.obs["obs"].numpy(), gains)
    print(f"information gain, nats a step: random {gains[0]:.2f}, made up {gains[1]:.2f}; picture: {args.image}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
