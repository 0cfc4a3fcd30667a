"""Several processes on one machine, each with the environment that torchrun gives it; forked, to start fast."""

import multiprocessing
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from agents.launched import place
from agents.ranks import Ranks, connect

LIMIT_S = 120.0
"""A process that takes longer than this hangs."""
_FORK = multiprocessing.get_context("fork")


class Group:
    """`count` processes that run `work(rank)`; what each of them prints goes to `log` with its rank at the end."""

    def __init__(self, work: Callable[[int], int], log: Path, count: int = 2) -> None:
        self.log, self.processes = log, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(count):
            process = _FORK.Process(target=_child, args=(work, rank, count, port, f"{log}{rank}"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
                process.start()
            self.processes.append(process)

    def wait(self) -> list[int | None]:
        """Their exit codes, -9 after SIGKILL."""
        for process in self.processes:
            process.join(LIMIT_S)
            if process.is_alive():
                process.kill()
                raise TimeoutError(f"a process hangs: {self.said(0)}\n{self.said(1)}")
        return [process.exitcode for process in self.processes]

    def said(self, rank: int) -> str:
        """Everything that one of them printed."""
        return Path(f"{self.log}{rank}").read_text(errors="replace")


def in_each(function: Callable[[Ranks], Any], log: Path, count: int = 2) -> list[Any]:
    """What `function` returns in each of `count` connected processes."""
    pipes = [_FORK.Pipe(duplex=False) for _ in range(count)]

    def work(rank: int) -> int:
        with connect(place(), "cpu") as ranks:
            pipes[rank][1].send(function(ranks))
        return 0

    group = Group(work, log, count)
    for _, end in pipes:
        end.close()
    found = [_received(pipe) for pipe, _ in pipes]
    assert group.wait() == [0] * count, [group.said(rank) for rank in range(count)]
    return found


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv() if pipe.poll(LIMIT_S) else None
    except EOFError:  # it has ended without an answer
        return None


def _child(work: Callable[[int], int], rank: int, count: int, port: int, log: str) -> None:
    code = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
        os.environ |= _environment(rank, count, port)
        warnings.resetwarnings()
        torch.set_num_threads(1)
        code = work(rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    numbers: Sequence[tuple[str, int]] = (
        ("RANK", rank), ("LOCAL_RANK", rank), ("GROUP_RANK", 0), ("WORLD_SIZE", count), ("LOCAL_WORLD_SIZE", count),
        ("MASTER_PORT", port),
    )  # fmt: skip
    return {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"} | {name: str(n) for name, n in numbers}
