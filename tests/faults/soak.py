"""Train a tiny run again and again while everything goes wrong, and count what was lost.

    python -m tests.faults.soak --minutes 20 [--seed 0] [--out FILE]

Every run is interrupted by faults drawn at random until it is finished: SIGKILL, SIGTERM, Ctrl-C (once or twice), a
disk without room, killed environment workers, and between two starts a bit flip, a cut or a missing file in the newest
checkpoint. It must end with the bytes of a run that nothing happened to. Exit code 1 where anything was lost.
"""

import argparse
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.runs import OPTIONS, Child, barrier, fingerprint
from worldmodels.checkpoint import list_checkpoints
from worldmodels.errors import CheckpointError
from worldmodels.manifest import read_manifest
from worldmodels.run_folder import SEGMENTS, never_saved

ENDINGS = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {128 + signal.SIGTERM},
    "SIGINT": {128 + signal.SIGINT},
    "two signals": {128 + signal.SIGTERM, 128 + signal.SIGINT},
    "full disk": {2},
    "worker killed": {2},
}
"""Fault -> exit codes that it may lead to; every one of them may also come too late (0)."""
ATTEMPTS = 4
"""Starts of one run that are disturbed; the next one is left alone, so that the run ends."""


class Soak:
    """Counts of what was done to runs and of what became of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.faults, self.late, self.damage = Counter[str](), Counter[str](), Counter[str]()
        self.resumes = self.repeated = self.largest = self.finished = self.equal = 0
        self.lost: list[str] = []
        self._older: int | None = None
        run = folder / "reference"
        began = time.monotonic()
        child = Child(run, resume=False)
        if child.wait() != 0:
            raise SystemExit(child.said())
        self.seconds, self.expected = time.monotonic() - began, fingerprint(run)

    def one_run(self, number: int) -> None:
        """Begin a run, disturb it, and compare what it ends with."""
        run, self._older = self.folder / f"run {number}", None
        for attempt in range(ATTEMPTS + 1):
            if attempt < ATTEMPTS:
                finished = self._disturbed(run, self.rng.choice(list(ENDINGS)))
            else:
                finished = self._start(run).wait() == 0
                if not finished:
                    self._lose(run, "an undisturbed start failed")
            if finished:
                break
            self._damage(run)
        if finished:
            self.finished += 1
            found = fingerprint(run)
            different = [name for name, value in self.expected.items() if found.get(name) != value]
            if different or found.keys() != self.expected.keys():
                self._lose(run, f"other bytes in {different}")
            else:
                self.equal += 1
            shutil.rmtree(run)

    def report(self, seconds: float) -> str:
        """A table of the faults, and what was lost."""
        rows = [(name, self.faults[name], self.late[name]) for name in ENDINGS]
        rows += [(f"damaged: {name}", count, 0) for name, count in sorted(self.damage.items())]
        lines = ["| fault | times | came too late |", "|---|---|---|"]
        lines += [f"| {name} | {count:,} | {late or ''} |" for name, count, late in rows]
        total = sum(self.faults.values()) + sum(self.damage.values())
        lines += [
            "",
            f"{seconds / 60:.0f} minutes: {total:,} faults, {self.resumes:,} resumes, {self.finished:,} runs "
            f"finished, {self.equal:,} of them with the bytes of the undisturbed run. A signal cost at most "
            f"{self.largest:,} steps "
            f"(a barrier is due every {OPTIONS.train.checkpoint_every}), all of them {self.repeated:,}.",
            f"Lost: {'; '.join(self.lost) or 'nothing'}.",
        ]
        return "\n".join(lines)

    def _start(self, run: Path, **how: Any) -> Child:
        """Start or resume, and check afterwards that it began where the newest sound checkpoint is."""
        resume = (run / "config.yaml").exists()
        self.resumes += resume
        return Child(run, resume=resume, **how)

    def _disturbed(self, run: Path, fault: str) -> bool:
        """One start with one fault; whether the run was finished before it came."""
        options, before = OPTIONS, lambda: None
        if fault == "worker killed":
            options = replace(options, env=replace(options.env, workers=1))
        if fault == "full disk":
            size = self.rng.randint(4_000, 60_000)
            before = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
        newest, begun = barrier(run) if self._older is None else self._older, never_saved(run)
        child = self._start(run, options=options, before=before)
        code = child.wait(self.rng.uniform(0, self.seconds)) if fault != "full disk" else child.wait()
        if code is None and fault == "worker killed":
            code = self._kill_workers(child)
        elif code is None:
            numbers = {"two signals": [signal.SIGTERM, signal.SIGINT]}.get(fault) or [signal.Signals[fault]]
            for signal_number in numbers:
                os.kill(child.pid, signal_number)
            code = child.wait()
        self._check(run, child, fault, code, newest, begun)
        return code == 0

    def _kill_workers(self, child: Child) -> int | None:
        """SIGKILL for every environment worker of a run that is going on."""
        workers = [pid for pid, parent in descendants(child.pid) if parent != child.pid]
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        code = child.wait() if workers else child.wait(0.0)
        if code is None:  # it had no workers yet, or no longer: end it
            os.kill(child.pid, signal.SIGKILL)
            code = child.wait()
        return code

    def _check(self, run: Path, child: Child, fault: str, code: int | None, newest: int | None, begun: bool) -> None:
        if code == 0:
            self.late[fault] += 1
        else:
            self.faults[fault] += 1
        allowed = ENDINGS[fault] | {0, -signal.SIGKILL if fault == "worker killed" else 0}
        said = child.said() if fault != "full disk" else ""
        if code not in allowed or (code == 2 and fault == "worker killed" and "died with" not in said):
            self._lose(run, f"{fault} ended with exit code {code}")
        if "Traceback" in said:
            self._lose(run, f"{fault} showed a traceback")
        if "resuming from step" in said and newest is not None and not begun:
            self._older = None
            came_back = int(said.split("resuming from step ")[1].split()[0].replace(",", ""))
            if came_back != newest:
                self._lose(run, f"resumed from {came_back}, not from {newest}")
        if "interrupted at" in said:
            words = said.split("interrupted at ")[1].split()
            steps = int(words[0].strip(",").replace(",", "")) - int(words[3].replace(",", ""))
            self.repeated, self.largest = self.repeated + steps, max(self.largest, steps)

    def _damage(self, run: Path) -> None:
        """Now and then harm the newest checkpoint; an older one, if there is one, must then do."""
        entries = list_checkpoints(run)
        if len(entries) < 2 or self.rng.random() < 0.5:
            return
        newest = entries[-1]
        files = [*newest.path.iterdir(), run / "LATEST"]
        try:
            older = set(read_manifest(entries[-2].path).segments)
            own = [name for name in read_manifest(newest.path).segments if name not in older]
        except CheckpointError:
            return
        files += [run / SEGMENTS / f"{name}.safetensors" for name in own]
        file, how = self.rng.choice(files), self.rng.choice(["bit flip", "cut short", "file removed"])
        data = bytearray(file.read_bytes())
        if how == "bit flip":
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            file.write_bytes(bytes(data))
        elif how == "cut short":
            file.write_bytes(bytes(data[: self.rng.randrange(len(data))]))
        else:
            file.unlink()
        self.damage[how] += 1
        if file.name != "LATEST":
            self._older = entries[-2].step

    def _lose(self, run: Path, what: str) -> None:
        self.lost.append(f"{run.name}: {what}")
        print(self.lost[-1], flush=True)


def descendants(pid: int) -> list[tuple[int, int]]:
    """(process, its parent) of everything that `pid` started and that still runs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, level = [], {pid}
    while level:
        below = [(child, parent) for child, parent in parents.items() if parent in level]
        found, level = found + below, {child for child, _ in below}
    return found


def left_behind(mark: str) -> list[int]:
    """Processes other than this one that carry `mark` in their environment and do not end within ten seconds."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    handle = os.pidfd_open(int(entry.name))
                    if not select.select([handle], [], [], 10.0)[0]:
                        found.append(int(entry.name))
                    os.close(handle)
            except OSError:  # it has just ended
                continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak and print its report."""
    parser = argparse.ArgumentParser(description="Train while everything goes wrong, and count what was lost.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the report")
    args = parser.parse_args(argv)
    os.environ["WM_SOAK"] = mark = f"soak-{os.getpid()}"
    began, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), args.seed)
        while number == 0 or time.monotonic() - began < 60 * args.minutes:
            soak.one_run(number)
            number += 1
            if number % 10 == 0:
                print(f"{number} runs, {sum(soak.faults.values())} faults", flush=True)
        if orphans := left_behind(mark):
            soak.lost.append(f"processes were left behind: {orphans}")
        text = soak.report(time.monotonic() - began)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")
    return 1 if soak.lost else 0


if __name__ == "__main__":
    sys.exit(main())
