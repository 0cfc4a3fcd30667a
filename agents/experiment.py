"""From a configuration to a run: typed options, what a resumed run may change, and the run folder. No torch here."""

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.compiled import check_compiler
from agents.compose import compose
from agents.options import TrainOptions
from worldmodels.config import build, dump_yaml, load_yaml, to_mapping
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.files import TEMPORARY, write_file
from worldmodels.lock import RunLock
from worldmodels.run_folder import list_checkpoints, never_saved

CONFIG_FILE = "config.yaml"
MINARI = "minari:"
"""How `data` names a local Minari data set: `minari:ID`."""
RESUMABLE = (
    "steps", "online_steps", "device", "evaluation", "train.log_every", "train.keep", "train.compile",
    "env.timeout_s", "env.workers", "env.restarts",
)  # fmt: skip
"""Keys, and whole sections, that a resumed run may change: none changes what the learner computes, but for rounding."""


def load_options(overrides: Sequence[str]) -> TrainOptions:
    """Return the checked options of the run that `overrides` describe; nothing is written.

    With `resume=true run=PATH` the run's own configuration comes first and the overrides change it.

    Raises:
        ConfigError: every unknown key, wrong type and value out of range, one a line; on resume also every key whose
            change would change the computation.
        CheckpointError: `resume=true` for a folder that holds no run.
    """
    resume = any(line.lstrip("+").startswith("resume=") for line in overrides)
    given = compose(overrides, defaults=False) if resume else {}
    if given.get("resume") is not True:
        return build(TrainOptions, compose(overrides))
    if given.get("run") is None:
        raise ConfigError("resume=true needs run=PATH, the folder of the run to go on with")
    run = Path(str(given["run"])).expanduser()
    if not (run / CONFIG_FILE).is_file() or not (never_saved(run) or (run / "checkpoints").is_dir()):
        raise CheckpointError(f"no usable checkpoint in {run}; leave out resume=true to start a new run there")
    options = build(TrainOptions, _merged(load_yaml(run / CONFIG_FILE), given))
    resume_changes(options)
    return options


def recorded_options(run: str | Path) -> TrainOptions:
    """Return the options that the run folder records, with `run` set.

    Raises:
        CheckpointError: no run folder. ConfigError: its config.yaml was not written by this project's version.
    """
    file = Path(run).expanduser() / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{run}: not a run folder, it has no {CONFIG_FILE}")
    return build(TrainOptions, load_yaml(file) | {"run": str(run)})


def resume_changes(options: TrainOptions) -> dict[str, tuple[Any, Any]]:
    """Return what a resumed run changes in its recorded configuration: key -> (old, new).

    Raises:
        ConfigError: naming every changed key that RESUMABLE does not list.
    """
    old = _leaves(_without_place(recorded_options(_folder(options))))
    new = _leaves(_without_place(options))
    changed = {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}
    refused = [key for key in changed if not any(key == name or key.startswith(name + ".") for name in RESUMABLE)]
    if refused:
        listed = ", ".join(f"{key}: {changed[key][0]!r} -> {changed[key][1]!r}" for key in refused)
        raise ConfigError(
            f"{options.run} cannot go on with other settings ({listed}): leave them out or start a new run; "
            f"a resumed run may change {', '.join(RESUMABLE)}"
        )
    return changed


def default_run_name(options: TrainOptions) -> str:
    """Return `runs/ENVIRONMENT-seedN-DATE-TIME`, a folder that does not exist yet."""
    name = "".join(letter if letter.isalnum() else "-" for letter in options.env.id.lower()).strip("-")
    base = f"runs/{name}-seed{options.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while Path(path).exists():
        count += 1
        path = f"{base}-{count}"
    return path


def check_run(options: TrainOptions) -> TrainOptions:
    """Return the options with their run folder named, after everything that can be checked beforehand was.

    Raises:
        CheckpointError: the folder holds something already and `resume` is not set.
        EnvironmentFault: the environment cannot be made.
        ConfigError: no such device, no such data, or a resumed run with other settings.
    """
    options = options if options.run else replace(options, run=default_run_name(options))
    run = _folder(options)
    if options.resume:
        resume_changes(options)
    elif run.exists() and not _is_free(run):
        raise CheckpointError(
            f"{run} exists already: go on with that run by `resume=true run={run}`, or choose another folder, run=PATH"
        )
    elif options.data is not None:
        check_source(options.data)
    if options.agent.name == "cloning" and options.data is None:
        raise ConfigError("agent=cloning: expected data=RUN, whose actions it imitates; docs/offline.md says what else")
    if options.agent.name in ("sb3", "cloning") and options.agent.acquisition.name != "none":
        raise ConfigError(
            f"agent={options.agent.name} has no imagined reward that agent.acquisition.name="
            f"{options.agent.acquisition.name} could be part of: leave it out, or use another agent"
        )
    if options.online_steps and options.data is None:
        raise ConfigError("online_steps: only a run from fixed data has a part that is collected later; use steps")
    _check_device(options.device)
    if options.train.compile:
        check_compiler()
    from envs.make import make_env

    make_env(options.env).close()
    return options


def prepare_run(options: TrainOptions) -> Path:
    """Check the options, make the run folder and write its config.yaml; a resumed run's is brought up to date.

    Raises:
        WorldModelsError: see `check_run`; nothing was written then.
    """
    options = check_run(options)
    _make_folder(_folder(options))
    _write_config(options)
    return _folder(options)


@contextmanager
def open_run(options: TrainOptions) -> Iterator[Path]:
    """Prepare the run folder as `prepare_run` does and hold its lock while the block runs.

    A folder made here that never got a checkpoint is removed again when the block raises an error, so that the same
    command can be given again. A run that is interrupted stays: it can be resumed from its first second.

    Raises:
        WorldModelsError: see `check_run`; CheckpointError too where another process holds the folder.
    """
    options = check_run(options)
    run = _folder(options)
    created = not run.exists()
    _make_folder(run)
    try:
        with RunLock(run):
            if not options.resume and (run / CONFIG_FILE).exists():  # made by another process since the check
                created = False
                raise CheckpointError(f"{run} exists already: choose another folder, run=PATH")
            _write_config(options)
            yield run
    except Exception:
        if created and not (run / "LATEST").exists():
            shutil.rmtree(run, ignore_errors=True)
        raise


def check_source(data: str) -> Path:
    """Return the folder that `data` names. Raises ConfigError where nothing there can be learned from."""
    if data.startswith(MINARI):
        return _minari_folder(data.removeprefix(MINARI))
    folder = Path(data).expanduser()
    if not list_checkpoints(folder):
        raise ConfigError(
            f"data: expected a run folder with a checkpoint, a data folder or minari:ID, got {data}; "
            "docs/offline.md says how to make one"
        )
    return folder


def _minari_folder(name: str) -> Path:
    if importlib.util.find_spec("minari") is None:
        raise ConfigError(f"data: {MINARI}{name} needs Minari: pip install 'minari[hdf5]'")
    import minari
    from minari.storage import get_dataset_path

    try:
        folder = Path(get_dataset_path(name))
    except ValueError as error:  # not a name of theirs
        raise ConfigError(f"data: {MINARI}{name}: {error}") from error
    if not (folder / "data").is_dir():
        known = ", ".join(minari.list_local_datasets()) or "none"
        raise ConfigError(
            f"data: there is no local Minari data set {name} (local ones: {known}); "
            f"fetch it by `minari download {name}`"
        )
    return folder


def _is_free(run: Path) -> bool:
    """Whether a run can begin in this folder: empty, but for what a process leaves that died in its first moment."""
    usable = run.is_dir() and os.access(run, os.R_OK | os.W_OK | os.X_OK)
    return usable and all(path.name == ".lock" or path.name.startswith(TEMPORARY) for path in run.iterdir())


def _folder(options: TrainOptions) -> Path:
    if options.run is None:
        raise ConfigError("run: expected a folder, got null")
    return Path(options.run).expanduser()


def _make_folder(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{run}: cannot be made: {error.strerror}") from error


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError as error:
        raise ConfigError(f"device: expected cpu, cuda, cuda:N or mps, got {device!r}") from error
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device: mps is not available (it needs PyTorch on a Mac with Metal); use device=cpu")
        return
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind != "cpu" and index >= count:
        raise ConfigError(f"device: {device} is not available (CUDA devices found: {count}); use device=cpu")


def _write_config(options: TrainOptions) -> None:
    """Write config.yaml whole or not at all; an unchanged one is left alone."""
    run, data = _folder(options), dump_yaml(_without_place(options)).encode()
    try:
        unchanged = (run / CONFIG_FILE).is_file() and (run / CONFIG_FILE).read_bytes() == data
    except OSError as error:
        raise CheckpointError(f"{run / CONFIG_FILE}: cannot be read: {error.strerror}") from error
    if not unchanged:
        write_file(run, CONFIG_FILE, data)


def _without_place(options: TrainOptions) -> dict[str, Any]:
    """Return the options as a mapping without where the run lies and whether it is resumed: folders can be moved."""
    return {key: value for key, value in to_mapping(options).items() if key not in ("run", "resume")}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _leaves(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = _leaves(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
        leaves.update(inner)
    return leaves
