"""The speed table, beside what others were measured at: `python -m benchmarks [--json FILE] [--threads N]`."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.speed import act, imagine, loop, run, update
from benchmarks.speed.measure import Measurement, matrix_rate
from worldmodels.memory import keep_freed_memory

PEERS = json.loads((Path(__file__).parent / "speed" / "peers.json").read_text())
QUESTIONS: dict[str, Callable[[], dict[str, Measurement]]] = {
    "update": update.compared,
    "act": act.cases,
    "imagine": imagine.cases,
    "presets": update.presets,
    "loop": loop.cases,
    "run": run.cases,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def row(name: str, found: Measurement, rates: dict[str, float]) -> str:
    """One line of the table. The share is of the matrix rate in the case's own precision, both by processor time."""
    each, unit = found.median_s / found.amount, "s"
    if each < 0.1:
        each, unit = each * 1e3, "ms"
    spread = [value / found.amount * (1e3 if unit == "ms" else 1) for value in (found.min_s, found.max_s)]
    processor = found.cpu_s / found.amount * (1e3 if unit == "ms" else 1)
    share = "-"
    if found.flops:
        rate = rates["bfloat16" if found.note.startswith("bfloat16") else "float32"]
        share = f"{found.flops / found.cpu_s / rate:.0%}"
    cells = [
        name,
        f"{each:.3g} {unit} ({spread[0]:.3g} to {spread[1]:.3g}; {found.repeats})",
        f"{processor:.3g} {unit}",
        f"{found.rated / found.median_s:,.0f}/s" if found.rated else "-",
        f"{found.parameters / 1e6:.2f} M" if found.parameters else "-",
        f"{found.flops / 1e9:,.1f} G" if found.flops else "-",
        share,
        best_peer(PEERS["seconds"].get(name, {}), found.median_s / found.amount),
        best_peer(PEERS["processor_seconds"]["seconds"].get(name, {}), found.cpu_s / found.amount),
        found.note,
    ]
    return f"| {' | '.join(cells)} |"


def best_peer(seconds: dict[str, float], own: float) -> str:
    """The fastest of others' `seconds`, and how many times our `own` they are."""
    if not seconds:
        return "-"
    best = min(seconds, key=seconds.__getitem__)
    return f"{best} {seconds[best]:g} s, {seconds[best] / own:.2f} times ours"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; a line as soon as each case is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads (all processors)")
    parser.add_argument("--only", choices=sorted(QUESTIONS), action="append", help="this question alone; may repeat")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    measured = {name: matrix_rate(dtype) for name, dtype in DTYPES.items()}
    by_clock = ", ".join(f"{wall / 1e9:,.0f} GFLOP/s {name}" for name, (wall, _) in measured.items())
    print(f"{given.threads} threads; a 1024-cube product: {by_clock}; load {os.getloadavg()[0]:.1f}")
    by_processor = PEERS["processor_seconds"]
    print(f"best peer: {PEERS['date']}, {PEERS['machine']}; there {PEERS['matrix_rate_gflops']} GFLOP/s (2048-cube)")
    print(
        f"by processor: processor time, {by_processor['date']}, {by_processor['machine']}; "
        f"there {by_processor['matrix_rate_gflops']} GFLOP/s (1024-cube)\n"
    )
    columns = "work | median (range; repetitions) | processor time | rate | parameters | FLOPs | share"
    print(f"| {columns} | best peer | by processor | |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    found: dict[str, Measurement] = {}
    rates = {name: processor for name, (_, processor) in measured.items()}
    for question in given.only or QUESTIONS:
        for name, measurement in QUESTIONS[question]().items():
            found[name] = measurement
            print(row(name, measurement, rates), flush=True)
    if given.json is not None:
        rows = {name: asdict(measurement) for name, measurement in found.items()}
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
