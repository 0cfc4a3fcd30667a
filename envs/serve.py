"""What a worker process does: it builds one environment and answers questions about it until told to close."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection

from gymnasium.envs.registration import EnvSpec, registry

from envs.guard import Guard
from envs.make import make_env
from envs.options import EnvOptions
from envs.spaces import Element
from envs.vector import transition
from worldmodels.errors import EnvironmentFault


def serve(pipe: Connection, options: EnvOptions, spec: EnvSpec | None, render: bool) -> None:
    """A worker's whole life: build the environment, then answer until told to close or until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if spec is not None:
        registry.setdefault(spec.id, spec)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        try:
            env = make_env(options, render=render)
        except Exception as error:
            pipe.send(("fault", (_text(error), traceback.format_exc())))
            return
        pipe.send(("ok", (env.obs_specs, env.action_spec, env.spaces)))
        method = ""
        while method != "close":
            method, value = pipe.recv()
            try:
                answer = ("ok", _answer(env, method, value))
            except Exception as error:
                answer = ("fault", (_text(error), traceback.format_exc()))
            pipe.send(answer)


def _answer(env: Guard, method: str, value: Element) -> Element:
    if method == "reset":
        return env.reset(seed=value)[0]
    if method == "step":
        return transition(env.step(value))
    if method == "render":
        return env.render()
    return env.close()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, EnvironmentFault) else f"{type(error).__name__}: {error}"


def _die_with_parent() -> None:
    """A worker whose environment hangs cannot see its pipe close; this thread sees the parent go."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
