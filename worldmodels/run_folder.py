"""Where things are in a run folder, and whether it can be written. No torch here."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from worldmodels.errors import CheckpointError
from worldmodels.files import TEMPORARY, flush_directory, write_error, write_file

CHECKPOINTS, SEGMENTS, LATEST, MANIFEST = "checkpoints", "segments", "LATEST", "manifest.json"
_ENTRY = re.compile(r"(\d{1,18})-(\d{1,9})")


class Entry(NamedTuple):
    """A checkpoint whose manifest is there. `sequence` counts the saves of a run: a larger one was saved later."""

    sequence: int
    step: int
    path: Path


def create_run(run_dir: str | Path) -> Path:
    """Make the folder of a new run and prove that it can be written.

    Raises:
        CheckpointError: the folder holds a run already, or cannot be made or written.
    """
    run_dir = Path(run_dir)
    if any((run_dir / name).exists() for name in (CHECKPOINTS, LATEST, "config.yaml")):
        raise CheckpointError(
            f"{run_dir} holds a run already: add resume=true to go on with it, or choose another folder with run=PATH"
        )
    try:
        (run_dir / CHECKPOINTS).mkdir(parents=True)
        (run_dir / SEGMENTS).mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(error, run_dir, 0) from error
    probe(run_dir)
    return run_dir


def probe(run_dir: str | Path) -> None:
    """Write and remove a small file in the run folder; raise CheckpointError with path and errno where that fails."""
    run_dir = Path(run_dir)
    for folder in (run_dir, run_dir / CHECKPOINTS, run_dir / SEGMENTS):
        try:
            write_file(folder, "probe", b"worldmodels\n")
            os.unlink(folder / "probe")
        except OSError as error:
            raise write_error(error, folder, 12) from error


def check_folder(run_dir: Path) -> None:
    """Raise CheckpointError unless `run_dir` is a folder whose pieces lie in it and not behind symbolic links."""
    if not run_dir.exists():
        raise CheckpointError(f"no usable checkpoint in {run_dir}: no such folder")
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is not a worldmodels checkpoint: expected a run folder")
    for name in (CHECKPOINTS, SEGMENTS):
        if (run_dir / name).is_symlink():
            raise CheckpointError(f"file name leaves the checkpoint: {run_dir / name} is a symbolic link")


def list_checkpoints(run_dir: str | Path) -> list[Entry]:
    """Return the complete checkpoints of a run, in the order in which they were saved; whether they are sound shows
    only when they are loaded. Damaged ones that were set aside are not listed."""  # fmt: skip
    found = []
    for path in _children(Path(run_dir) / CHECKPOINTS):
        match = _ENTRY.fullmatch(path.name)
        if match and (path / MANIFEST).exists():
            found.append(Entry(int(match[2]), int(match[1]), path))
    return sorted(found)


def never_saved(run_dir: str | Path) -> bool:
    """Whether a run was begun here and stopped before its first checkpoint was whole, so that nothing can be lost.

    A checkpoint that is damaged or was set aside, or a replay segment, means that there was something.
    """
    run_dir = Path(run_dir)
    saved = any((path / MANIFEST).exists() for path in _children(run_dir / CHECKPOINTS))
    return not saved and not (run_dir / LATEST).exists() and not any((run_dir / SEGMENTS).glob("*.safetensors"))


def new_checkpoint(run_dir: Path, step: int) -> tuple[int, Path]:
    """Make a checkpoint folder with a name that no other ever had; return its sequence number and path."""
    names = [path.name.removesuffix(".damaged").partition(".")[0] for path in _children(run_dir / CHECKPOINTS)]
    used = [int(match[2]) for match in map(_ENTRY.fullmatch, names) if match]
    sequence = max(used, default=0) + 1
    path = run_dir / CHECKPOINTS / f"{step:09d}-{sequence:04d}"
    (run_dir / CHECKPOINTS).mkdir(exist_ok=True)
    path.mkdir()
    flush_directory(run_dir / CHECKPOINTS)
    return sequence, path


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint's folder, its manifest first: half removed it is not listed any more."""
    (path / MANIFEST).unlink(missing_ok=True)
    for child in _children(path):
        child.unlink(missing_ok=True)
    path.rmdir()


def prune(run_dir: Path, kept: set[Path], segments: set[str]) -> None:
    """Remove every checkpoint but those in `kept`, every segment but those named in `segments`, and temporary files.

    Damaged checkpoints that were set aside stay.
    """
    for path in _children(run_dir / CHECKPOINTS):
        if _ENTRY.fullmatch(path.name) and path not in kept and path.is_dir() and not path.is_symlink():
            remove_checkpoint(path)
    for path in _children(run_dir / SEGMENTS):
        if path.name.startswith(TEMPORARY) or (path.suffix == ".safetensors" and path.stem not in segments):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that nothing loads it and a person can look at it; return its new path."""
    for number in range(1000):
        target = path.with_name(path.name + (f".{number}" if number else "") + ".damaged")
        if not target.exists():
            path.rename(target)
            return target
    raise CheckpointError(f"{path} is damaged, and a thousand like it are: remove them")


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
