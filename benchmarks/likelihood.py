"""How probable is what really happened? Held-out log-likelihood of both encoders and both transition priors.

    python -m benchmarks.likelihood --seeds 100 101 102

Pendulum with Gaussian sensor noise of 0.05, random actions, windows of 20 steps that no model was trained on. The flow
encoder's likelihood is exact; the VAE's is an importance-weighted bound with 1,000 samples.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.compose import compose
from agents.options import TrainOptions
from worldmodels.build import build_world_model
from worldmodels.config import build
from worldmodels.fitting import minimise
from worldmodels.likelihood import log_likelihood
from worldmodels.options import EnsembleOptions
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Batch

MODELS: dict[str, dict[str, Any]] = {
    f"{encoder}, {prior} prior": {"encoder": encoder, "transition": transition}
    for encoder in ("vae", "flow")
    for prior, transition in (("Gaussian", "same"), ("flow", "flow"))
}
STEPS = 20
NOISE = 0.05
SPECS, ACTION = {"obs": ObsSpec("vector", (3,))}, ActionSpec("continuous", (), 1)


def windows(episodes: int, *, seed: int) -> Batch:
    """Windows (episodes * 10, 20 steps) of random episodes seen through a noisy sensor; none begins an episode."""
    env = gymnasium.make("Pendulum-v1")
    rng = np.random.default_rng(seed)
    obs, action = [], []
    for k in range(episodes):
        seen, done = [env.reset(seed=seed + k)[0]], []
        for _ in range(STEPS * 10):
            done.append(rng.uniform(-1, 1, 1))
            seen.append(env.step(np.float32(2 * done[-1]))[0])
        noisy = np.asarray(seen) + NOISE * rng.standard_normal((len(seen), 3))
        obs += [noisy[t : t + STEPS + 1] for t in range(0, STEPS * 10, STEPS)]
        action += [np.asarray(done[t : t + STEPS]) for t in range(0, STEPS * 10, STEPS)]
    env.close()
    no = torch.zeros(len(obs), STEPS, dtype=torch.bool)
    start = torch.zeros(len(obs), STEPS + 1, dtype=torch.bool)
    return Batch(
        {"obs": torch.tensor(np.stack(obs), dtype=torch.float32)},
        torch.tensor(np.stack(action), dtype=torch.float32),
        torch.zeros(len(obs), STEPS),
        *(no, no, ~no, start, ~start),
    )


def rows_of(batch: Batch, index: torch.Tensor) -> Batch:
    """The windows at `index`."""
    taken: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    for name, value in taken.items():
        if isinstance(value, dict):
            taken[name] = {key: tensor[index] for key, tensor in value.items()}
        elif value is not None:
            taken[name] = value[index]
    return Batch(**taken)


def measure(name: str, train: Batch, test: Batch, *, seed: int, updates: int, samples: int) -> tuple[float, str]:
    """Nats per observation of the test windows under a model fitted to the training windows, and what they are."""
    torch.manual_seed(seed)
    base = build(TrainOptions, compose(["env=pendulum"])).world_model
    options = replace(
        base,
        ensemble=EnsembleOptions(members=0),
        flow=replace(base.flow, noise=0.0),  # the sensor's own noise bounds the density
        objective=replace(base.objective, representation=1.0, free_nats=0.0),  # the bound itself, nothing else
        **MODELS[name],
    )
    model = build_world_model(options, SPECS, ACTION)
    model.fit_standardizer({key: value.flatten(0, 1) for key, value in train.obs.items()})

    def loss() -> torch.Tensor:
        return model.loss(rows_of(train, torch.randint(len(train.action), (32,)))).total

    minimise(model.parameters(), loss, steps=updates, rate=3e-3, clip=100.0)
    nats, kind = log_likelihood(model, test, samples=samples)
    return nats.mean().item() / (STEPS + 1), kind


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every model on every seed and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.likelihood", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL", help="all")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=30, help="for training; 5 more are held out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| model | nats per observation, median | each seed | kind |\n| --- | --- | --- | --- |")
    for name in args.models:
        values, kind = [], ""
        for seed in args.seeds:
            train, test = windows(args.episodes, seed=1000 * seed), windows(5, seed=1000 * seed + 500)
            value, kind = measure(name, train, test, seed=seed, updates=args.updates, samples=args.samples)
            values.append(value)
        print(f"| {name} | **{median(values):.3f}** | {'; '.join(f'{v:.3f}' for v in values)} | {kind} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
