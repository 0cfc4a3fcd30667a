"""The manifest of a checkpoint: size and SHA-256 of everything that belongs to it, and of itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from worldmodels.errors import CheckpointError
from worldmodels.files import checked_name, digest, read_file
from worldmodels.run_folder import MANIFEST
from worldmodels.tensorfile import MAX_HEADER, parse_json

FORMAT = 1
Sums = dict[str, tuple[int, str]]
"""File name -> size in bytes, SHA-256."""


class ForeignFormat(CheckpointError):
    """A checkpoint that another version of the toolkit wrote: it is not damaged."""


@dataclass(frozen=True)
class Manifest:
    """What belongs to the checkpoint of `step`: its files, and the replay segments in order."""

    step: int
    sequence: int
    files: Sums
    segments: Sums

    def pack(self) -> bytes:
        """Return the only bytes that this manifest may have."""
        content = {
            "format": FORMAT,
            "written_by": _version(),
            "step": self.step,
            "sequence": self.sequence,
            "files": self.files,
            "segments": self.segments,
        }
        return _seal(content)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint folder `path`.

    Raises:
        ForeignFormat: another version wrote it.
        CheckpointError: it is missing, or differs by a single bit from what was written.
    """
    raw = read_file(path, MANIFEST, MAX_HEADER)
    if raw[:1] != b"{":
        raise CheckpointError(f"{path / MANIFEST} is not a worldmodels checkpoint")
    try:
        content = parse_json(raw, MANIFEST).get("manifest")
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    if not isinstance(content, dict) or _seal(content) != raw:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} does not match its own SHA-256")
    if content.get("format") != FORMAT:
        raise ForeignFormat(
            f"checkpoint {path} has format {content.get('format')}: written by worldmodels "
            f"{content.get('written_by')}, this is {_version()}, which reads format {FORMAT}"
        )
    try:
        step, sequence = content["step"], content["sequence"]
        files, segments = _sums(content["files"]), _sums(content["segments"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} lacks an entry: {error}") from error
    if type(step) is not int or type(sequence) is not int:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} has no step")
    for name in files:
        if name.rpartition(".")[2] not in ("json", "safetensors") or name == MANIFEST:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} belongs to no checkpoint")
    return Manifest(step, sequence, files, segments)


def _sums(table: Mapping[str, Any]) -> Sums:
    sums = {}
    for name, (size, sha) in table.items():
        if type(size) is not int or not 0 <= size < 2**40 or not isinstance(sha, str):
            raise ValueError(f"size or SHA-256 of {name[:80]!r}")
        sums[checked_name(name)] = (size, sha)
    return sums


def _seal(content: Mapping[str, Any]) -> bytes:
    """Return the content with its own hash as canonical JSON: one content has one text."""
    body = json.dumps(content, sort_keys=False, indent=1)
    return json.dumps({"manifest": content, "sha256": digest(body.encode())}, sort_keys=False, indent=1).encode()


def _version() -> str:
    try:
        return metadata.version("worldmodels")
    except metadata.PackageNotFoundError:
        return "0"
