"""Replay rows on the disk: each segment is written once and never changed, and its name says what is in it.

A segment is a safetensors file with one tensor a column (rows of all streams, one after another) and one header
entry, named after the format: a JSON list of [stream, number of the first row, rows].
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from worldmodels.errors import CheckpointError
from worldmodels.files import digest, measure, read_file, write_error, write_file
from worldmodels.tensorfile import check_header, parse_json

SUFFIX = ".safetensors"
_FORMAT = "worldmodels segment 1"


@dataclass(frozen=True)
class _Segment:
    id: str
    ends: dict[int, int]  # stream -> number of the row after its last one


class SegmentStore:
    """Writes the rows of `columns` (name -> (streams, ring, ...)) piece by piece, and reads the pieces back.

    prefix: how the names of its segments begin. first_stream: the number that its first stream has in them.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], ring: int, *, prefix: str = "", first_stream: int = 0
    ) -> None:
        self._columns, self._ring = columns, ring
        self._prefix, self._first_stream = prefix, first_stream
        self.clear()

    def clear(self) -> None:
        """Forget which segments are there; the files stay."""
        self._segments: list[_Segment] = []
        self._saved: dict[int, int] = {}  # stream -> number of the first row that no segment holds

    def write(self, directory: Path, oldest: Sequence[int], ends: Sequence[int]) -> list[str]:
        """Write the rows up to `ends` that no segment holds yet; return the ids that rows from `oldest` on need."""
        parts = []
        for stream, (old, end) in enumerate(zip(oldest, ends, strict=True)):
            first = max(self._saved.get(stream, 0), old)
            if end > first:
                parts.append((stream, first, end - first))
        if parts:
            self._write(directory, parts)
        self._segments = [s for s in self._segments if any(end > oldest[stream] for stream, end in s.ends.items())]
        return [segment.id for segment in self._segments]

    def _write(self, directory: Path, parts: list[tuple[int, int, int]]) -> None:
        places = [stream * self._ring + np.arange(first, first + count) % self._ring for stream, first, count in parts]
        rows = np.concatenate(places)
        tensors = {name: column.reshape(-1, *column.shape[2:]).take(rows, 0) for name, column in self._columns.items()}
        named = [(self._first_stream + stream, first, count) for stream, first, count in parts]
        data = save(tensors, {_FORMAT: json.dumps(named)})  # one entry: the order of several is random
        total = sum(first + count for _, first, count in parts)
        identity = f"{self._prefix}{total:012d}-{digest(data)[:24]}"
        try:
            directory.mkdir(exist_ok=True)  # never its parents: a run folder that was removed does not come back
            write_file(directory, identity + SUFFIX, data)
        except OSError as error:
            raise write_error(error, directory, len(data)) from error
        check_segment(identity, measure(directory, identity + SUFFIX)[1])
        self._segments.append(_Segment(identity, {stream: first + count for stream, first, count in parts}))
        self._saved.update(self._segments[-1].ends)

    def load(self, directory: Path, ids: Sequence[str], streams: int) -> tuple[list[int], list[int]]:
        """Put the rows of the segments back; return, for each stream, the next row's number and the oldest's."""
        written, oldest = [0] * streams, [0] * streams
        for identity in ids:
            tensors, named = self._read(directory, identity)
            parts = [(stream - self._first_stream, first, count) for stream, first, count in named]
            begin = 0
            for stream, first, count in parts:
                if not 0 <= stream < streams:
                    raise CheckpointError(f"segment {identity} has stream {stream}, this replay has {streams}")
                if first < written[stream]:
                    raise CheckpointError(f"segment {identity} repeats row {first} of stream {stream}")
                if first > written[stream]:  # the rows between were pushed out before they were ever written
                    oldest[stream] = first
                kept = min(count, self._ring)
                place = np.arange(first + count - kept, first + count) % self._ring
                for name, column in self._columns.items():
                    column[stream, place] = tensors[name][begin + count - kept : begin + count]
                begin += count
                written[stream] = first + count
                oldest[stream] = max(oldest[stream], written[stream] - self._ring)
            self._segments.append(_Segment(identity, {stream: first + count for stream, first, count in parts}))
            self._saved.update(self._segments[-1].ends)
        return written, oldest

    def _read(self, directory: Path, identity: str) -> tuple[dict[str, np.ndarray], list[tuple[int, int, int]]]:
        data = read_file(directory, identity + SUFFIX, limit=2**40)
        check_segment(identity, digest(data))
        header = check_header(data, f"segment {identity}")
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise CheckpointError(f"segment {identity} is not a worldmodels checkpoint: {error}") from error
        if _FORMAT not in header:
            raise CheckpointError(f"segment {identity} has format {', '.join(header)[:80]!r}, expected {_FORMAT!r}")
        parts = _parts(header[_FORMAT], identity)
        total = sum(count for _, _, count in parts)
        for name, column in self._columns.items():
            shape = (total, *column.shape[2:])
            if name not in tensors or tensors[name].shape != shape or tensors[name].dtype != column.dtype:
                raise CheckpointError(f"segment {identity} has no {name!r} {shape} {column.dtype}")
        return tensors, parts


def check_segment(identity: str, sha: str) -> None:
    """Raise CheckpointError unless a file with the SHA-256 `sha` may have this id, which holds the hash's beginning."""
    if sha[:24] != identity.rpartition("-")[2]:
        raise CheckpointError(f"segment {identity} is damaged: it is not what was written")


def _parts(text: str, identity: str) -> list[tuple[int, int, int]]:
    """Return the (stream, first row, rows) of a segment; raise CheckpointError where they make no sense."""
    found = parse_json(text.encode(), f"segment {identity}")
    sound = isinstance(found, list) and all(
        isinstance(part, list) and len(part) == 3 and all(type(n) is int and 0 <= n < 2**62 for n in part)
        for part in found
    )
    if not sound:
        raise CheckpointError(f"segment {identity} is damaged: it does not say which rows it holds")
    return [(stream, first, count) for stream, first, count in found]
