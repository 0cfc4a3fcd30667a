"""Is the uncertainty right? A toy whose noise is known, and forecasts on Pendulum against what then happened.

    python -m benchmarks.uncertainty toy --seeds 100-109
    python -m benchmarks.uncertainty forecast --seeds 100-109 world_model.ensemble.members=7
    python -m benchmarks.uncertainty forecast --seeds 100 --pixels --updates 4500 world_model.ensemble.members=7

Each measure stands beside controls that have to fail: total variance and the error of the prediction on the toy, a
counter of steps and a constant for the forecasts. With `--pixels` Pendulum is seen through a camera of 32x32 grey
pixels, two frames at a time, and forecasts are of latents.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.agent import Agent
from agents.experiment import load_options
from agents.learner import Learner
from agents.statistics import bootstrap_interval, iqm
from envs.pixels import Pixels, prepare_headless
from envs.vector import VectorEnv
from envs.wrappers import FrameStack
from worldmodels.build import build_ensemble
from worldmodels.dynamics import Members
from worldmodels.options import EnsembleOptions
from worldmodels.replay import Replay
from worldmodels.seeding import derive, forked
from worldmodels.types import Batch
from worldmodels.uncertainty import Calibration, interval_report, join, known_noise, open_loop, pooled_spearman
from worldmodels.uncertainty.toy import CONTEXT, LATENT, visit_slope
from worldmodels.uncertainty.trust import HORIZONS, OpenLoop, spearman_by_horizon
from worldmodels.world_model import WorldModel

STEPS = 200
TRAINING = {"random": 9, "held": 8, "noisy": 8}
"""Episodes of 200 steps of each behaviour: 5,000 transitions."""
SETS = {"held": "held", "random": "random", "policy": "policy", "shifted": "random"}
"""Action and start sets that are judged; `shifted` starts at speeds of 5 to 8, which episodes never start with."""
JUDGED = {"held": (5, 200, 4), "random": (5, 200, 4), "policy": (5, 200, 4), "shifted": (10, 50, 2)}
"""Episodes of each set, their steps, and every how many a forecast starts: 250 starts of each, 1,000 in all."""


CAMERA = ["env=pendulum-pixels", "env.image_size=32", "env.grayscale=true", "env.frame_stack=2", "replay.length=16"]
"""Settings of the world model with `--pixels`."""


def toy(options: EnsembleOptions, seed: int) -> dict[str, float]:
    """The measures on the toy for one seed of data and members."""

    def build() -> Members:
        torch.manual_seed(seed)
        members = build_ensemble(options, LATENT, CONTEXT)
        assert members is not None, "world_model.ensemble.members is 0: nothing to measure"
        return members

    result = known_noise(build, steps=3000, seed=seed)
    return vars(result) | {"visit_slope": visit_slope(build, seed=seed)}


def swing_up(obs: np.ndarray) -> float:
    """A controller by hand: pump energy, then hold; torque in [-1, 1]."""
    cos, sin, speed = obs
    angle, energy = np.arctan2(sin, cos), speed**2 / 6 + 5 * (cos - 1)
    if abs(angle) < 0.6:
        return float(np.clip(-(6 * angle + 1.25 * speed), -1, 1))
    return float(-np.sign(speed * energy)) if abs(speed) > 0.01 else 1.0


def choose(behaviour: str, t: int, obs: np.ndarray, held: float, rng: np.random.Generator) -> float:
    """The torque of this step."""
    drawn = float(rng.uniform(-1, 1))
    if behaviour == "policy" or (behaviour == "noisy" and rng.random() < 0.6):
        return swing_up(obs)
    return held if behaviour == "held" and t % 12 else drawn


class Fast(gymnasium.Wrapper):
    """Episodes of Pendulum begin at speeds of 5 to 8, as they never do by themselves."""

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        super().__init__(env)
        self._rng = rng

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at any angle."""
        _, info = self.env.reset(seed=seed, options=options)
        physics: Any = self.env.unwrapped
        physics.state = np.array(
            [self._rng.uniform(-np.pi, np.pi), self._rng.choice([-1, 1]) * self._rng.uniform(5, 8)]
        )
        return physics._get_obs(), info


def pendulum(rng: np.random.Generator, *, shifted: bool, pixels: bool) -> gymnasium.Env:
    """The environment: 3 numbers, or the last two of 32x32 grey images."""
    if not pixels:
        env = gymnasium.make("Pendulum-v1")
        return Fast(env, rng) if shifted else env
    prepare_headless()
    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    return FrameStack(Pixels(Fast(env, rng) if shifted else env, 32, grayscale=True), 2)


def play(
    behaviour: str, episodes: int, seed: int, *, shifted: bool = False, steps: int = STEPS, pixels: bool = False
) -> Batch:
    """Episodes of Pendulum as windows (episodes, steps + 1)."""
    rng = np.random.default_rng(seed)
    env = pendulum(rng, shifted=shifted, pixels=pixels)
    physics: Any = env.unwrapped
    seen, actions, rewards = [], [], []
    for episode in range(episodes):
        obs = env.reset(seed=seed * 1000 + episode)[0]
        rows, action = [obs], 0.0
        for t in range(steps):
            action = choose(behaviour, t, physics._get_obs(), action, rng)
            obs, reward, *_ = env.step(np.array([2 * action], np.float32))
            rows.append(obs)
            actions.append(action)
            rewards.append(float(reward))
        seen.append(np.stack(rows))
    mask = torch.ones(episodes, steps, dtype=torch.bool)
    first = torch.zeros(episodes, steps + 1, dtype=torch.bool)
    first[:, 0] = True
    shape = (episodes, steps)
    stacked = torch.from_numpy(np.stack(seen))
    obs = {"obs": stacked if pixels else stacked.float()}
    return Batch(obs, torch.tensor(actions).view(*shape, 1), torch.tensor(rewards).view(shape), ~mask, ~mask, mask,
                 first, torch.ones_like(first))  # fmt: skip


def fit(seed: int, updates: int, settings: Sequence[str] = (), *, pixels: bool = False) -> WorldModel:
    """A world model of Pendulum from 5,000 mixed transitions, by the learner's own updates at a rate that decays."""
    options = load_options([*(CAMERA if pixels else ["env=pendulum"]), *settings])
    with VectorEnv(options.env, 1) as envs:
        torch.manual_seed(seed)
        agent = Agent(options, envs.obs_specs, envs.action_spec)
    learner, replay = Learner(agent.world_model, agent.policy, options), Replay(agent.obs_specs, 1, capacity=10_000)
    data = [play(name, count, 10 * seed + i, pixels=pixels) for i, (name, count) in enumerate(TRAINING.items())]
    for batch in data:
        for row in range(len(batch.action)):
            replay.begin(0, {"obs": batch.obs["obs"][row, 0].numpy()})
            for t in range(STEPS):
                action, reward = batch.action[row, t].numpy(), float(batch.reward[row, t])
                replay.add(0, action, reward, False, t == STEPS - 1, {"obs": batch.obs["obs"][row, t + 1].numpy()})
    agent.world_model.fit_standardizer({"obs": torch.cat([batch.obs["obs"].flatten(0, 1) for batch in data])})
    rng = np.random.default_rng(seed)
    for update in range(updates):
        learner.slow_down(0.5 * (1 + np.cos(np.pi * update / updates)))
        learner.update_model(replay.sample(options.replay.batch, options.replay.length, rng))
    return agent.world_model


def judge(model: WorldModel, seed: int, *, pixels: bool = False) -> dict[str, OpenLoop]:
    """Forecasts of every set of episodes; the shifted ones from early starts alone."""
    found = {}
    for i, (name, behaviour) in enumerate(SETS.items()):
        episodes, steps, stride = JUDGED[name]
        own = derive(seed, name) % 10**6 + i
        batch = play(behaviour, episodes, own, shifted=name == "shifted", steps=steps, pixels=pixels)
        with forked(seed):
            found[name] = open_loop(model, batch, stride=stride)
    return found


def draw(sets: dict[str, OpenLoop], file: Path) -> None:
    """What was claimed against what happened, every start a point, one panel for each horizon."""
    import matplotlib.pyplot as plt  # half a second that the figures do not pay
    from matplotlib.ticker import NullFormatter

    figure, panels = plt.subplots(1, len(HORIZONS), figsize=(13, 3.6), constrained_layout=True)
    for panel, h in zip(panels, HORIZONS, strict=True):
        for name, result in sets.items():
            rows = result.valid[:, h - 1]
            panel.loglog(result.score[rows, h - 1], result.error[rows, h - 1], ".", markersize=2, label=name)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_formatter(NullFormatter())  # powers of ten alone: a short axis has no room for more
        panel.set(title=f"{h} step{'s' if h > 1 else ''} ahead", xlabel="epistemic standard deviation", ylabel="error")
    panels[0].legend(markerscale=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def forecast(
    seed: int, updates: int, settings: Sequence[str] = (), *, pixels: bool = False, picture: Path | None = None
) -> dict[str, float]:
    """Every figure of one seed: rank correlations by set and horizon, controls, and intervals before and after."""
    began = process_time()
    model = fit(seed, updates, settings, pixels=pixels)
    seconds = process_time() - began
    sets = judge(model, 2 * seed, pixels=pixels)
    held_out = join(list(judge(model, 2 * seed + 1, pixels=pixels).values()))
    if picture is not None:
        draw(sets, picture)
    everything = join(list(sets.values()))
    counter = torch.arange(20.0).expand_as(everything.valid)
    values: dict[str, float] = {}
    for name, result in {**sets, "all": everything}.items():
        values |= {f"spearman, {name}, {h}": v for h, v in spearman_by_horizon(result).items() if v is not None}
    values |= {f"spearman of total variance, all, {h}": v
               for h, v in spearman_by_horizon(everything, everything.forecast.std.norm(dim=-1)).items()
               if v is not None}  # fmt: skip
    values["median error, 1"] = float(everything.error[everything.valid[:, 0], 0].median())
    values["pooled"] = pooled_spearman(everything)
    values["pooled, step counter"] = pooled_spearman(everything, counter)
    for name, control in (("step counter", counter), ("constant", torch.ones_like(counter))):
        inside = spearman_by_horizon(everything, control).values()
        values[f"inside horizons, {name}"] = max(abs(v or 0) for v in inside)
    calibration = Calibration()
    for name in ("before", "after"):
        covered, error = interval_report(everything, calibration)
        values |= {f"90 % intervals {name} recalibration, {h}": v for h, v in covered.items() if v is not None}
        values[f"mean absolute calibration error {name}"] = error
        calibration.fit(held_out.forecast, held_out.target, held_out.valid)
    return values | {"processor seconds of the fit": seconds}


def table(rows: Sequence[dict[str, float]]) -> str:
    """Interquartile mean, its 95 % interval and every seed of each figure, as Markdown."""
    lines = ["| figure | interquartile mean | 95 % interval | seeds |", "|---|---|---|---|"]
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        low, high = bootstrap_interval(values, iqm, seed=0)
        each = " ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | **{float(iqm(values)):.3f}** | {low:.3f} to {high:.3f} | {each} |")
    return "\n".join(lines)


def seeds(text: str) -> list[int]:
    """`100-104` or `100,102`."""
    low, dash, high = text.partition("-")
    return list(range(int(low), int(high) + 1)) if dash else [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["toy", "forecast"])
    parser.add_argument("--seeds", type=seeds, default=seeds("100-102"))
    parser.add_argument("--updates", type=int, default=9000, help="updates of the world model (forecast)")
    parser.add_argument("--pixels", action="store_true", help="see Pendulum through a camera (forecast)")
    parser.add_argument("--picture", type=Path, help="where to draw errors of the last seed (forecast)")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE of the configuration")
    args = parser.parse_intermixed_args()  # settings may follow options
    torch.set_num_threads(1)
    options = load_options(["env=pendulum", *args.settings]).world_model.ensemble
    one: Callable[[int], dict[str, float]] = (
        (lambda seed: toy(options, seed))
        if args.measure == "toy"
        else (lambda seed: forecast(seed, args.updates, args.settings, pixels=args.pixels, picture=args.picture))
    )
    rows = []
    for seed in args.seeds:
        rows.append(one(seed))
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items()), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
