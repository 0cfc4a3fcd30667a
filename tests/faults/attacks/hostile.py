"""Run folders that were made to do harm, and a process that opens them under watch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from worldmodels.checkpoint import create_run, save
from worldmodels.files import digest
from worldmodels.manifest import _seal
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec

SPECS = {"obs": ObsSpec("vector", (2,))}


def victim(folder: Path) -> Path:
    """A sound run folder with one checkpoint of two parts and one replay segment; returns the checkpoint's folder."""
    run = create_run(folder)
    replay = Replay(SPECS, 1, capacity=20)
    replay.begin(0, {"obs": np.zeros(2, np.float32)})
    replay.add(0, np.zeros(1, np.float32), 1.0, True, False, {"obs": np.ones(2, np.float32)})
    ids = replay.write_segments(run / "segments")
    parts = {"model": {"tensors": {"weight": torch.ones(4)}, "json": 1}, "replay": replay.state()}
    return save(run, 10, parts, segments=ids)


def manifest(path: Path) -> dict:
    """The content of a checkpoint's manifest."""
    return json.loads((path / "manifest.json").read_bytes())["manifest"]


def seal(path: Path, content: dict) -> None:
    """Write the manifest with a correct hash of its own, as an attacker would."""
    (path / "manifest.json").write_bytes(_seal(content))


def plant(path: Path, name: str, data: bytes) -> None:
    """Replace a file of the checkpoint and make the manifest agree with it."""
    (path / name).write_bytes(data)
    content = manifest(path)
    content["files"][name] = [len(data), digest(data)]
    seal(path, content)


def plant_segment(path: Path, data: bytes) -> None:
    """Replace the replay segment by `data`, under a name that fits, and make the manifest agree with it."""
    folder = path.parent.parent / "segments"
    for old in folder.iterdir():
        old.unlink()
    identity = f"000000000002-{digest(data)[:24]}"
    (folder / f"{identity}.safetensors").write_bytes(data)
    content = manifest(path)
    content["segments"] = {identity: [len(data), digest(data)]}
    seal(path, content)


WATCH = """
import json, os, sys
import numpy as np
from worldmodels.checkpoint import load
from worldmodels.errors import WorldModelsError
from worldmodels.lock import RunLock
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec

def open_run(run):
    with RunLock(run) if os.path.isdir(run) else open(os.devnull):
        checkpoint = load(run)
        replay = Replay({"obs": ObsSpec("vector", (2,))}, 1, capacity=20)
        replay.load_segments(os.path.join(run, "segments"), checkpoint.segments)
        replay.restore(checkpoint.parts["replay"])
        replay.sample(1, 1, np.random.default_rng(0))

def status(key):  # KiB
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))

def peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins again at what is in use now
    return status("VmHWM")

events, watching = [], False
NAMES = ("open", "exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
         "pickle.find_class", "marshal.loads", "ctypes.dlopen", "socket.connect")
def hook(name, args):
    if watching and name in NAMES:
        events.append([name, str(args[0])[:300]])
open_run(sys.argv[1])  # a sound one: everything that is imported late is imported now
sys.addaudithook(hook)
for run in sys.argv[2:]:
    events.clear()
    before = peak()
    watching = True
    try:
        open_run(run)
        text, kind = "", "loaded"
    except WorldModelsError as error:
        text, kind = str(error), "refused"
    except BaseException as error:
        text, kind = repr(error), "crashed"
    watching = False
    grown = status("VmHWM") - before
    print(json.dumps({"kind": kind, "text": text, "events": events, "grown": grown}))
"""


def open_all(folder: Path, runs: list[Path]) -> list[dict]:
    """Open every run in one watched process; return for each kind, text, audit events and KiB grown.

    Opening means all of it: lock, checkpoint, segments, counters, one sample.
    """
    victim(folder / "sound")
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(folder / "sound"), *map(str, runs)]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def harmless(events: list[list[str]], run: Path) -> list[list[str]]:
    """The audit events that should not have been: all but opening files of the run folder, /proc and /sys."""
    allowed = (str(run), "/proc/", "/sys/fs/cgroup", os.devnull)
    known = ("traceback", "linecache", "warnings")
    return [
        [name, what]
        for name, what in events
        if not (name == "open" and (what.startswith(allowed) or what.isdecimal()))  # a number is an open descriptor
        and not (name == "import" and what in known)
    ]
