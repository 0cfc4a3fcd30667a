"""In how many steps is a task solved? Ours and Stable-Baselines3 in one table.

`python -m benchmarks.sample_efficiency` runs every seed in a process of its own, on one thread. With --json each result
is kept as soon as it is there, and the same command goes on where it was stopped. docs/results.md says what the numbers
mean.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.results import Run, Side, load, merge, save
from benchmarks.single_run import EPISODES, Spec, stop_on_sigterm
from benchmarks.table import SIDES, detail_table, run_line, solve_table
from benchmarks.tasks import TASKS
from worldmodels.errors import ConfigError, WorldModelsError

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
TAIL = 4_000
"""Characters of a failed run's output that are shown."""
PATIENCE_S = 20.0
"""Seconds that a stopped run has to leave its temporary folder clean before it is killed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for and not there yet, and print the tables. Exit code 1 where a run failed, 2 on a mistake."""
    args = _parser().parse_args(argv)
    stop_on_sigterm()
    failures = 0
    try:
        runs = merge([load(args.json) if args.json else [], *(load(_existing(file)) for file in args.merge)])
        waiting = [] if args.merge and not args.tasks else missing(wanted(args), runs)

        def keep(run: Run) -> None:
            runs.append(run)
            if args.json:
                save(args.json, runs)
            print(run_line(run), flush=True)

        failures = run_all(waiting, jobs=args.jobs, keep=keep)
        if args.json and runs:
            save(args.json, runs)
        print(f"\n{solve_table(runs)}\n\n{detail_table(runs)}")
        if args.images:
            from benchmarks.curves import draw

            for picture in draw(runs, args.images):
                print(f"picture: {picture}")
    except WorldModelsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"finished runs are in {args.json}; the same command goes on" if args.json else "nothing was kept"
        print(f"stopped; {kept}", file=sys.stderr)
        return 130
    return 1 if failures else 0


def wanted(args: argparse.Namespace) -> list[Spec]:
    """Return the runs that the arguments ask for: seed by seed, so that an early stop leaves every task something."""
    sides: list[Side] = list(SIDES)
    if args.ours_only or args.baselines_only:
        sides = ["ours"] if args.ours_only else ["sb3"]
    tasks = [TASKS[name] for name in args.tasks or TASKS]
    specs = []
    for position in range(max(len(args.seeds or task.seeds) for task in tasks)):
        for task in tasks:
            for seed in (args.seeds or task.seeds)[position : position + 1]:
                specs += [
                    Spec(
                        task=task.name,
                        side=side,
                        seed=seed,
                        steps=args.steps,
                        episodes=args.episodes,
                        overrides=tuple(args.set) if side == "ours" else (),
                    )
                    for side in sides
                    if side == "ours" or task.baseline
                ]
    return specs


def missing(specs: Iterable[Spec], runs: Iterable[Run]) -> list[Spec]:
    """Return the specs that no run answers yet.

    Raises: ConfigError: a run of that task, side and seed is there but was made with other settings.
    """
    there = {run.key: run for run in runs}
    absent = []
    for spec in specs:
        run = there.get((spec.task, spec.side, spec.seed))
        if run is None:
            absent.append(spec)
        elif run.settings != json.loads(json.dumps(spec.settings())):
            raise ConfigError(
                f"{spec.task}, {spec.side}, seed {spec.seed} is there already but was made with other settings; "
                "write to another file, or remove that run from this one"
            )
    return absent


def run_all(specs: Sequence[Spec], *, jobs: int, keep: Callable[[Run], None]) -> int:
    """Run the specs, `jobs` at a time, hand each result to `keep` as it comes, and return how many failed.

    Whatever ends this ends the processes that it started.
    """
    waiting, failures = list(specs), 0
    running: list[tuple[Spec, subprocess.Popen[bytes], Path]] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    out = Path(folder) / str(len(waiting))
                    spec = waiting.pop(0)
                    running.append((spec, start(spec, out), out))
                done = _first_done(running)
                if done is None:
                    continue
                running.remove(done)
                spec, process, out = done
                if process.returncode == 0:
                    keep(load(out)[0])
                else:
                    failures += 1
                    log = out.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
                    print(f"{spec.task}, {spec.agent}, seed {spec.seed} failed:\n{log[-TAIL:]}", file=sys.stderr)
        finally:
            for _, process, _ in running:
                process.terminate()
            for _, process, _ in running:
                _wait_or_kill(process)
    return failures


def start(spec: Spec, out: Path) -> subprocess.Popen[bytes]:
    """Start the run in a process of its own that writes its result to `out` and what it prints beside it."""
    command = [sys.executable, "-m", "benchmarks.single_run", spec.task, spec.side, str(spec.seed), str(out)]
    command += ["--episodes", str(spec.episodes)] + (["--steps", str(spec.steps)] if spec.steps else [])
    command += ["--set", *spec.overrides] if spec.overrides else []
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | ONE_THREAD, stdout=log, stderr=log)


def _first_done(
    running: Sequence[tuple[Spec, "subprocess.Popen[bytes]", Path]],
) -> tuple[Spec, "subprocess.Popen[bytes]", Path] | None:
    for entry in running:
        try:
            entry[1].wait(timeout=0.2)
            return entry
        except subprocess.TimeoutExpired:
            continue
    return None


def _wait_or_kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ConfigError(f"--merge {file}: no such file")
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_efficiency", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="all, if not given; with --merge none")
    parser.add_argument("--seeds", nargs="+", type=int, help="each task's own, if not given")
    parser.add_argument("--steps", type=int, help="length of every run in simulator steps, to try things out")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each evaluation (%(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings for our runs")
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--ours-only", action="store_true")
    sides.add_argument("--baselines-only", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each (%(default)s)")
    parser.add_argument("--json", type=Path, help="file to keep results in, and to go on from")
    parser.add_argument("--merge", nargs="+", type=Path, default=[], help="files of runs made apart, for one table")
    parser.add_argument("--images", type=Path, help="folder to draw learning curves into, one picture a task")
    return parser


if __name__ == "__main__":
    sys.exit(main())
