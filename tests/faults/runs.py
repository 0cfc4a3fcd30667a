"""Whole training runs in processes of their own, which can be stopped at any moment, and what they leave behind."""

import json
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agents import trainer as trainer_module
from agents.cli import train_run
from agents.collector import Collector
from agents.evaluate import EVALUATION_FILE
from agents.learner import Learner
from agents.log import read_metrics
from agents.options import TrainOptions
from agents.stopping import guarded
from tests.learning.tools import TINY, changed, part_hash
from worldmodels.checkpoint import list_checkpoints, load

LIMIT_S = 600.0
"""A child that takes longer than this hangs."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
OPTIONS = changed(TINY, "env.num_envs=2", "steps=150", "train.keep=3")


class Child:
    """`wm train` in a forked process; everything it says goes to `log`."""

    def __init__(
        self,
        run: Path,
        *,
        resume: bool,
        options: TrainOptions = OPTIONS,
        before: Callable[[], object] = lambda: None,
        draw: bool = False,
    ) -> None:
        """run: the run folder. before: called in the child first. draw: whether the film is made at the end."""
        self.log = run.with_name(run.name + ".log")
        options = replace(options, run=str(run), resume=resume)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
            before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            self.pid = os.fork()
        if self.pid == 0:
            self._be_the_child(options, before, draw=draw)
        signal.pthread_sigmask(signal.SIG_SETMASK, before_fork)
        self._handle = os.pidfd_open(self.pid)

    def wait(self, seconds: float = LIMIT_S) -> int | None:
        """The exit code (-9 after SIGKILL) once it has ended, None where it is still running after `seconds`."""
        if not select.select([self._handle], [], [], seconds)[0]:
            return None
        os.close(self._handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def stop(self, number: int, after: float) -> int:
        """Send a signal `after` seconds, unless it has ended by then; the exit code."""
        code = self.wait(after)
        if code is None:
            os.kill(self.pid, number)
            code = self.wait()
        assert code is not None, f"it ignores signal {number}"
        return code

    def said(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def _be_the_child(self, options: TrainOptions, before: Callable[[], object], *, draw: bool) -> None:
        code = 99
        try:
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
            warnings.resetwarnings()
            torch.set_num_threads(1)
            if not draw:
                trainer_module.Trainer._draw = lambda self, kept: None
            before()
            code = guarded(lambda: _train(options))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _train(options: TrainOptions) -> int:
    """Train, open to signals: before and after it no handler is there, and the forked process's own would be met."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        return train_run(options)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def at_call(where: str, count: int, action: Callable[[], object]) -> Callable[[], object]:
    """What gives Child(before=...): `action` happens ahead of call number `count` (from 1) of `where`."""
    owner, name = {
        "collect": (Collector, "step"),
        "update": (Learner, "update"),
        "save": (os, "fsync"),
    }[where]

    def install() -> None:
        original, calls = getattr(owner, name), 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                action()
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    return install


def kill_itself(*numbers: int) -> Callable[[], object]:
    """An action: send these signals to the own process, one after the other."""

    def action() -> None:
        for number in numbers[:-1]:
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            except KeyboardInterrupt:
                continue
        os.kill(os.getpid(), numbers[-1])

    return action


def fingerprint(run: Path) -> dict[str, Any]:
    """What a finished run learned and stored: hashes of every part, the segments by their content, the evaluation."""
    checkpoint = load(run)
    evaluation = json.loads((run / EVALUATION_FILE).read_text()) if (run / EVALUATION_FILE).exists() else {}
    return {name: part_hash(part) for name, part in checkpoint.parts.items()} | {
        "step": checkpoint.step,
        "segments": checkpoint.segments,
        "returns": evaluation.get("returns"),
    }


def measured(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    clocks = ("wall_s", "evaluation/seconds")
    return [{k: v for k, v in line.items() if k not in clocks} for line in read_metrics(run)]


def barrier(run: Path) -> int | None:
    """The step of the newest complete checkpoint; None where there is none yet."""
    entries = list_checkpoints(run)
    return entries[-1].step if entries else None
