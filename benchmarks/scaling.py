"""What grows with what? Update time by batch, window and model, imagination's memory by batch x horizon, two processes.

`python -m benchmarks.scaling [--json FILE] [--image FILE]` takes about two minutes of one processor. Times are the
processor's, so that a busy machine changes them little; those of two processes are of the wall clock, on as many
processors as this command may use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agents.agent import Agent
from agents.experiment import load_options
from agents.learner import Learner
from benchmarks.rows import markdown
from benchmarks.speed.works import PRESETS, window
from worldmodels.memory import keep_freed_memory

OBS, ACTION = PRESETS["cartpole"]
BATCHES, LENGTHS, WIDTHS = (4, 8, 16, 32, 64), (8, 16, 32, 64, 128), (32, 64, 128, 256)
DREAMS = ((64, 5), (64, 15), (256, 5), (256, 15), (1024, 15))
REPEATS = 5
STEPS = 600


def learner(*overrides: str) -> Learner:
    """World model, policy and optimisers of CartPole's preset with some settings of their own."""
    options = load_options(["env=cartpole", *overrides])
    torch.manual_seed(0)
    agent = Agent(options, {"obs": OBS}, ACTION)
    return Learner(agent.world_model, agent.policy, options)


def update_time(own: Learner, batch: int, length: int) -> dict[str, float]:
    """Processor milliseconds of one update: of the world model, and of the policy; medians."""
    data = window(OBS, ACTION, batch, length)
    found: dict[str, list[float]] = {"model_ms": [], "policy_ms": []}
    for _ in range(REPEATS + 1):
        start = time.process_time()
        states, _ = own.update_model(data)
        middle = time.process_time()
        own.update_policy(states, data)
        found["model_ms"].append(1e3 * (middle - start))
        found["policy_ms"].append(1e3 * (time.process_time() - middle))
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def dream_bytes(own: Learner, batch: int, horizon: int) -> int:
    """Bytes that autograd keeps of an imagination through which a policy is differentiated."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own_parameters = {p.untyped_storage().data_ptr() for p in (*own.world_model.parameters(), *own.policy.parameters())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rollout = own.world_model.imagine(own.world_model.dream_start(batch), own.policy.actor.sample, horizon)
    assert rollout.reward.requires_grad
    return sum(size for place, size in kept.items() if place not in own_parameters)


def curves() -> dict[str, list[dict[str, Any]]]:
    """Every curve but that of the processes: its name -> its points."""
    plain = learner()
    found: dict[str, list[dict[str, Any]]] = {
        "batch": [{"batch": n} | update_time(plain, n, 32) for n in BATCHES],
        "length": [{"length": n} | update_time(plain, 16, n) for n in LENGTHS],
    }
    found["width"] = []
    for width in WIDTHS:
        names = ("trunk.units", "recurrent.deter", "recurrent.hidden", "heads.units")
        own = learner(
            *(f"world_model.{name}={width}" for name in names), f"agent.hidden={width}", "train.precision=float32"
        )
        count = sum(p.numel() for p in (*own.world_model.parameters(), *own.policy.actor.parameters()))
        found["width"].append({"width": width, "parameters": count} | update_time(own, 16, 32))
    found["memory"] = []
    for batch, horizon in DREAMS:
        size = dream_bytes(plain, batch, horizon)
        found["memory"].append(
            {"batch": batch, "horizon": horizon, "mb": size / 1e6, "kb_each": size / 1e3 / (batch * horizon)}
        )
    return found


def run_seconds(processes: int, batch: int) -> float:
    """Seconds per update of a CartPole run of `processes` processes, from the first line of its log to the last."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [
            *("env=cartpole", f"steps={STEPS}", "train.warmup_steps=200", "train.warmup_updates=20"),
            *(f"replay.batch={batch}", "train.log_every=20", "evaluation.every=0", "evaluation.final_episodes=1"),
            *("evaluation.num_envs=1", "world_model.ensemble.members=0", f"run={run}"),
        ]
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        subprocess.run([*start, "agents.cli", "train", *settings], check=True, capture_output=True, timeout=300)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counted = [(line["wall_s"], line["train/updates"]) for line in lines if "train/updates" in line]
    return (counted[-1][0] - counted[0][0]) / (counted[-1][1] - counted[0][1])


def processes() -> list[dict[str, Any]]:
    """One process against two: the same batch divided, and a batch that is twice as large."""
    cases = ((1, 32), (2, 32), (2, 64))
    return [{"processes": n, "batch": b, "update_ms": 1e3 * run_seconds(n, b)} for n, b in cases]


def slope(points: Sequence[dict[str, Any]], key: str) -> str:
    """`a + b n`: the line through an update's time by least squares, with the largest error of a point."""
    x = torch.tensor([float(point[key]) for point in points], dtype=torch.float64)
    y = torch.tensor([point["model_ms"] for point in points], dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], 1) / y.unsqueeze(1)  # relative errors count
    a, b = torch.linalg.lstsq(design, torch.ones_like(y).unsqueeze(1)).solution.squeeze(1).tolist()
    worst = float(((a + b * x) / y - 1).abs().max())
    return f"{a:.1f} ms + {b:.2f} ms x {key}, off by {worst:.0%} at most"


def picture(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Four curves in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    for axis, key, label in zip(
        axes, ("batch", "length", "parameters"), ("windows", "steps", "million parameters"), strict=False
    ):
        points = found["width" if key == "parameters" else key]
        x = [point[key] / (1e6 if key == "parameters" else 1) for point in points]
        axis.plot(x, [point["model_ms"] for point in points], "o-", label="world model")
        axis.plot(x, [point["policy_ms"] for point in points], "s--", label="actor and critic")
        axis.set(xlabel=label, ylabel="processor time of an update, ms", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_title("batch (32 steps)")
    axes[1].set_title("window (16 windows)")
    axes[2].set_title("model (16 windows of 32)")
    axes[0].legend()
    points = found["memory"]
    axes[3].plot([p["batch"] * p["horizon"] for p in points], [p["mb"] for p in points], "o")
    axes[3].set(xlabel="batch x horizon", ylabel="kept for gradients, MB", ylim=(0, None), title="imagination")
    axes[3].grid(alpha=0.3)
    axes[3].locator_params(axis="x", nbins=4)
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the points to this file")
    parser.add_argument("--image", type=Path, help="write the curves to this picture")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{len(os.sched_getaffinity(0))} processors, one torch thread; load {os.getloadavg()[0]:.1f}\n", flush=True)
    found = curves() | {"processes": processes()}
    for name, points in found.items():
        rows = [[f"{v:,.3g}" if isinstance(v, float) else f"{v:,}" for v in point.values()] for point in points]
        print(f"{name}\n{markdown(list(points[0]), rows)}\n", flush=True)
    print("world model by batch:", slope(found["batch"], "batch"))
    print("world model by window:", slope(found["length"], "length"))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.image is not None:
        picture(found, given.image)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
