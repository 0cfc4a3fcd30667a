"""Checkpoints that are there whole or not at all, are read back before they count, and run no code when opened.

A checkpoint is a folder with `PART.json` and, where the part has tensors, `PART.safetensors`; `manifest.json`, written
last, lists size and SHA-256 of each of them and of every replay segment that belongs to it.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors

from worldmodels.errors import CheckpointError
from worldmodels.files import checked_name, digest, measure, read_file, size_of, write_error, write_file
from worldmodels.manifest import ForeignFormat, Manifest, Sums, read_manifest
from worldmodels.run_folder import (
    LATEST,
    MANIFEST,
    SEGMENTS,
    Entry,
    check_folder,
    create_run,
    list_checkpoints,
    new_checkpoint,
    probe,
    prune,
    remove_checkpoint,
    set_aside,
)
from worldmodels.segments import check_segment
from worldmodels.states import (
    State,
    Stateful,
    module_state,
    optimizer_state,
    restore_module,
    restore_optimizer,
    snapshot,
)
from worldmodels.tensorfile import check_header, parse_json

__all__ = [
    "Checkpoint",
    "Entry",
    "State",
    "Stateful",
    "create_run",
    "list_checkpoints",
    "load",
    "module_state",
    "optimizer_state",
    "probe",
    "restore_module",
    "restore_optimizer",
    "save",
]


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns. `segments` are the ids to give to `Replay.load_segments`; `notes` says what was unusual."""

    step: int
    parts: dict[str, State]
    segments: list[str]
    path: Path
    notes: tuple[str, ...] = ()


def save(
    run_dir: str | Path, step: int, parts: Mapping[str, State], *, segments: Sequence[str] = (), keep: int = 2
) -> Path:
    """Write a checkpoint, read it back, point LATEST at it, and only then remove what nothing needs any more.

    Args:
        run_dir: an existing run folder.
        step: simulator steps taken.
        parts: name -> state. The tensors are copied before the first byte is written.
        segments: ids of the replay segments that belong to it, in order.
        keep: checkpoints that stay, this one included.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or what was read back is not what was written.
            The checkpoints before are as they were, and nothing of this one is left.
    """
    run_dir = Path(run_dir)
    files = _pack(parts)
    needed = sum(len(data) for data in files.values())
    if not run_dir.is_dir():
        raise CheckpointError(f"cannot write to {run_dir}: no such folder (errno 2); it was removed or never made")
    path = None
    try:
        sums = _segment_sums(run_dir, segments)
        sequence, path = new_checkpoint(run_dir, step)
        manifest = Manifest(step, sequence, {n: (len(data), digest(data)) for n, data in files.items()}, sums)
        for name, data in files.items():
            write_file(path, name, data)
        write_file(path, MANIFEST, manifest.pack())
        _verify(path, read_manifest(path))
        write_file(run_dir, LATEST, f"{path.name}\n".encode())
    except OSError as error:
        _undo(path)
        raise write_error(error, run_dir, needed) from error
    except CheckpointError:
        _undo(path)
        raise
    _prune(run_dir, keep)
    return path


def load(run_dir: str | Path, step: int | None = None, *, segments: bool = True) -> Checkpoint:
    """Return the newest sound checkpoint, or the one of `step`, with every size and hash verified.

    A damaged checkpoint that is newer than the sound one is named in a RuntimeWarning and in `notes`, and renamed to
    `NAME.damaged`. With `step` there is no second choice.

    Args:
        run_dir: a run folder.
        step: the step to load; None for the newest.
        segments: whether the replay segments are verified too; without them an agent can be loaded but not trained on.

    Raises:
        CheckpointError: no checkpoint is there, or none is sound; then nothing is renamed.
    """
    run_dir = Path(run_dir)
    check_folder(run_dir)
    entries = [entry for entry in reversed(list_checkpoints(run_dir)) if step is None or entry.step == step]
    if step is not None:
        if not entries:
            steps = sorted({entry.step for entry in list_checkpoints(run_dir)})
            raise CheckpointError(f"no checkpoint of step {step:,} in {run_dir}: there are {steps or 'none'}")
        return _load(run_dir, entries[0], segments=segments)
    damaged: list[tuple[Entry, str]] = []
    for entry in entries:
        try:
            checkpoint = _load(run_dir, entry, segments=segments)
        except ForeignFormat:
            raise
        except CheckpointError as error:
            damaged.append((entry, str(error)))
            continue
        notes = [f"{text}{_put_away(bad)}; going back to step {entry.step:,}" for bad, text in damaged]
        for note in notes:
            warnings.warn(note, RuntimeWarning, stacklevel=2)
        return replace(checkpoint, notes=(*notes, *_unused(run_dir, checkpoint)))
    raise CheckpointError("\n".join([f"no usable checkpoint in {run_dir}", *(text for _, text in damaged)]))


def _load(run_dir: Path, entry: Entry, *, segments: bool) -> Checkpoint:
    manifest = read_manifest(entry.path)
    if (manifest.step, manifest.sequence) != (entry.step, entry.sequence):
        raise CheckpointError(f"checkpoint {entry.path} is damaged: its manifest is that of step {manifest.step:,}")
    if segments:
        _verify_segments(run_dir, entry.path, manifest)
    parts: dict[str, State] = {}
    for name in manifest.files:
        part, _, kind = name.rpartition(".")
        state = parts.setdefault(part, {"tensors": {}, "json": None})
        data = _read_verified(entry.path, name, manifest)
        if kind == "json":
            state["json"] = parse_json(data, f"{entry.path}: {name}")
        else:
            state["tensors"] = _unpack_tensors(data, f"{entry.path}: {name}")
    return Checkpoint(manifest.step, parts, list(manifest.segments), entry.path)


def _pack(parts: Mapping[str, State]) -> dict[str, bytes]:
    files = {}
    for part, state in parts.items():
        name = checked_name(f"{part}.json")
        if name == MANIFEST:
            raise CheckpointError(f"a part cannot be called {part!r}")
        files[name] = json.dumps(state["json"]).encode()
        parse_json(files[name], f"state of {part!r}")  # what could not be read back is not written
        if state["tensors"]:
            files[f"{part}.safetensors"] = pack_tensors(snapshot(state["tensors"]))
            check_header(files[f"{part}.safetensors"], f"state of {part!r}")
    return files


def _unpack_tensors(data: bytes, what: str) -> dict[str, Any]:
    check_header(data, what)
    try:
        return dict(sorted(parse_tensors(data).items()))  # the file has no order of its own
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: {error}") from error


def _read_verified(path: Path, name: str, manifest: Manifest) -> bytes:
    size, sha = manifest.files[name]
    actual = size_of(path, name)
    if actual != size:
        raise CheckpointError(f"checkpoint {path} is damaged: {name} is {actual:,} bytes, manifest says {size:,}")
    data = read_file(path, name, size)
    if digest(data) != sha:
        raise CheckpointError(f"checkpoint {path} is damaged: {name} has another SHA-256 than the manifest says")
    return data


def _verify(path: Path, manifest: Manifest) -> None:
    for name, expected in manifest.files.items():
        if measure(path, name) != expected:
            raise CheckpointError(f"checkpoint {path}: {name} read back is not what was written")


def _verify_segments(run_dir: Path, path: Path, manifest: Manifest) -> None:
    for identity, (size, sha) in manifest.segments.items():
        name = identity + ".safetensors"
        actual = size_of(run_dir / SEGMENTS, name)
        if actual != size:
            raise CheckpointError(f"checkpoint {path} is damaged: segment {name} is {actual:,} bytes, not {size:,}")
        if measure(run_dir / SEGMENTS, name)[1] != sha:
            raise CheckpointError(f"checkpoint {path} is damaged: segment {name} has another SHA-256")


def _segment_sums(run_dir: Path, segments: Sequence[str]) -> Sums:
    """Return size and hash of every segment; those that the last manifest knows are not read again."""
    known: Sums = {}
    for entry in list_checkpoints(run_dir)[-1:]:
        try:
            known = read_manifest(entry.path).segments
        except CheckpointError:
            known = {}  # damaged behind our back; what counts is that the new one is sound
    sums = {}
    for identity in segments:
        name = identity + ".safetensors"
        reused = identity in known and size_of(run_dir / SEGMENTS, name) == known[identity][0]
        sums[identity] = known[identity] if reused else measure(run_dir / SEGMENTS, name)
        check_segment(identity, sums[identity][1])
    return sums


def _unused(run_dir: Path, checkpoint: Checkpoint) -> list[str]:
    """Say which segments this checkpoint does not know: they were written after it and are ignored."""
    known = set(checkpoint.segments)
    extra = [path.stem for path in (run_dir / SEGMENTS).glob("*.safetensors") if path.stem not in known]
    step = f"{checkpoint.step:,}"
    return [f"{len(extra)} replay segments do not belong to step {step} and are ignored"] if extra else []


def _put_away(entry: Entry) -> str:
    try:
        return f"; kept as {set_aside(entry.path).name}"
    except OSError as error:
        return f"; it stays where it is ({error.strerror})"


def _undo(path: Path | None) -> None:
    try:
        if path is not None:
            remove_checkpoint(path)
    except OSError as error:
        warnings.warn(f"cannot remove the unfinished {path}: {error.strerror}", RuntimeWarning, stacklevel=3)


def _prune(run_dir: Path, keep: int) -> None:
    kept = list_checkpoints(run_dir)[-max(1, keep) :]
    try:
        needed = {identity for entry in kept for identity in read_manifest(entry.path).segments}
        prune(run_dir, {entry.path for entry in kept}, needed)
    except (OSError, CheckpointError) as error:
        # The checkpoint is saved; what is not known to be useless stays.
        warnings.warn(f"nothing more was removed from {run_dir}: {error}", RuntimeWarning, stacklevel=3)
