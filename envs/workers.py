"""One process per environment: a worker that raises, hangs or dies is named, and none outlives its parent.

Processes are started by forkserver (spawn where that does not exist), never by a fork of this process, whose CUDA
context or threads would not survive it. They talk over pipes: no shared memory, so nothing depends on the size of
/dev/shm and nothing can be left in it.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs import sources
from envs.options import EnvOptions
from envs.serve import serve
from envs.spaces import Element
from envs.vector import Transition
from worldmodels.errors import EnvironmentFault

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What says how many threads a process's mathematics may use; libraries read it when they are loaded."""
START_S = 120.0
"""Seconds that a worker may take to import its libraries and build its environment, at least."""


class WorkerCopies:
    """n environments, each in a worker process."""

    def __init__(self, options: EnvOptions, num_envs: int, *, render: bool) -> None:
        """Start every worker and wait until its environment is built. Raises: EnvironmentFault."""
        self._options, self._render, self._timeout_s = options, render, options.timeout_s
        spec = sources.find_spec(options.id)
        self._spec = None if sources.finds_by_itself(options.id) else spec
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["envs.serve"])
        else:
            self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        # Runs when this object goes, and at exit before multiprocessing waits for its children.
        self._finalizer = util.Finalize(self, _kill_all, args=(self._workers,), exitpriority=100)
        try:
            for index in range(num_envs):
                self._workers.append(self._start(index))
            built = self._built(range(num_envs))
        except BaseException:
            self.kill()
            raise
        self.obs_specs, self.action_spec, self.spaces = built[0]

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Any]:
        """Reset the named environments: each row an encoded observation or the fault of its worker."""
        for index, seed in zip(indices, seeds, strict=True):
            worker = self._workers[index]
            worker.send("reset", int(seed))
            worker.seed, worker.step = int(seed), 0
        return self._receive(indices, "reset", self._timeout_s)

    def step(self, indices: Sequence[int], actions: np.ndarray) -> list[Transition | EnvironmentFault]:
        """Step the named environments at the same time."""
        for index, action in zip(indices, actions, strict=True):
            worker = self._workers[index]
            worker.send("step", action)
            worker.step += 1
        return self._receive(indices, "step", self._timeout_s)

    def render(self, index: int) -> np.ndarray:
        """Draw one environment."""
        self._workers[index].send("render", None)
        return self._must(self._receive([index], "render", self._timeout_s))[0]

    def rebuild(self, index: int) -> None:
        """Replace a failed worker by a fresh one."""
        self._workers[index].kill()
        self._workers[index] = self._start(index)
        self._built([index])

    def kill(self) -> None:
        """End every worker at once."""
        _kill_all(self._workers)

    def close(self) -> None:
        """Ask every worker to close its environment; kill those that do not. Raises: EnvironmentFault."""
        alive = [index for index, worker in enumerate(self._workers) if not worker.closed and not worker.busy]
        try:
            for index in alive:
                self._workers[index].send("close", None)
            self._must(self._receive(alive, "close", self._timeout_s))
        finally:
            self.kill()

    def _start(self, index: int) -> "_Worker":
        try:
            with _one_thread_each():
                return _Worker(self._context, index, self._options, self._spec, render=self._render)
        except (AttributeError, TypeError) as error:  # what cannot be sent to another process
            raise EnvironmentFault(
                f"{self._options.id}: its registration cannot be sent to a worker process ({error}). Register it with "
                "entry_point='module:Class', or use workers: 0."
            ) from error

    def _built(self, indices: Sequence[int]) -> list[Any]:
        return self._must(self._receive(indices, "the constructor", max(START_S, self._timeout_s)))

    def _receive(self, indices: Sequence[int], method: str, timeout_s: float) -> list[Any]:
        """One result or fault for each of `indices`, waiting for all of them together until the timeout."""
        deadline = time.monotonic() + timeout_s
        results: dict[int, Any] = {}
        waiting = {self._workers[index].pipe: index for index in indices}
        while waiting:
            ready = connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
            for pipe in ready:
                index = waiting.pop(pipe)  # type: ignore[arg-type]
                results[index] = self._workers[index].receive()
            if not ready and time.monotonic() >= deadline:
                for index in waiting.values():
                    results[index] = self._workers[index].silent(method, timeout_s)
                break
        return [results[index] for index in indices]

    def _must(self, results: list[Any]) -> list[Any]:
        for result in results:
            if isinstance(result, EnvironmentFault):
                self.kill()
                raise result
        return results


class _Worker:
    """The parent's side of one worker."""

    def __init__(
        self,
        context: ForkServerContext | SpawnContext,
        index: int,
        options: EnvOptions,
        spec: EnvSpec | None,
        *,
        render: bool,
    ) -> None:
        self.index, self.env_id, self.seed, self.step = index, options.id, 0, 0
        self.busy, self.built, self.closed = True, False, False  # busy: an answer is due
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=serve, args=(theirs, options, spec, render), name=f"environment {index}", daemon=True
        )
        try:
            self.process.start()
        finally:
            theirs.close()  # so that a dead worker closes the pipe

    def send(self, method: str, value: int | np.ndarray | None) -> None:
        """Ask for something. Raises: EnvironmentFault where the worker is closed or was interrupted."""
        if self.closed:
            raise EnvironmentFault(f"worker {self.index} is closed ({self.env_id}): make a new VectorEnv.")
        if self.busy:  # its late answer would be taken for the answer to this question
            raise EnvironmentFault(f"worker {self.index} was interrupted ({self.env_id}): make a new VectorEnv.")
        self.busy = True
        with contextlib.suppress(OSError):  # a worker that is gone is named when its answer is read
            self.pipe.send((method, value))

    def receive(self) -> Element | EnvironmentFault:
        """Its answer, or the EnvironmentFault of its failure."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return self._dead()
        self.busy = False
        if kind == "ok":
            self.built = True
            return value
        message, trace = value
        fault = EnvironmentFault(f"worker {self.index}: {message}")
        fault.add_note(trace)
        return fault

    def silent(self, method: str, timeout_s: float) -> EnvironmentFault:
        """The fault of a worker that did not answer in time. It is killed."""
        self.kill()
        return EnvironmentFault(f"worker {self.index} silent for {timeout_s:g} s in {method} {self._where()}")

    def kill(self) -> None:
        """End the process whatever it does (stopped, looping, in a driver) and reap it."""
        if self.closed:
            return
        self.closed = True
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()

    def _dead(self) -> EnvironmentFault:
        self.process.join(timeout=5)
        code = self.process.exitcode
        how = f"with exit code {code}" if code is None or code >= 0 else f"with {signal.Signals(-code).name}"
        self.kill()
        hint = "" if self.built else ". Does the script start its work under if __name__ == '__main__'?"
        return EnvironmentFault(f"worker {self.index} died {how} {self._where()}{hint}")

    def _where(self) -> str:
        return f"({self.env_id}, seed {self.seed}, step {self.step})"


def _kill_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.kill()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start inside compute with one thread each, unless the user has said otherwise.

    A pool of threads for every worker, as large as the machine, would stand in the way of the learner's.
    """
    added = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
