"""The header of a safetensors file, looked at before anything is allocated for what it claims."""

import json
import math
from typing import Any

from worldmodels.errors import CheckpointError

MAX_HEADER = 1_000_000
"""Bytes of a header, or of any JSON file of a checkpoint: about 100 for each tensor."""
_MAX_VALUES = 60_000  # Python takes up to 100 bytes a value, whatever its text is
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}


def parse_json(raw: bytes, what: str) -> Any:  # noqa: ANN401
    """Return the JSON in `raw`; raise CheckpointError where it is none, or too large or too deep to read safely."""
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if len(raw) > MAX_HEADER or values > _MAX_VALUES:
        raise CheckpointError(
            f"{what} is not a worldmodels checkpoint: too large ({len(raw):,} bytes, {values} values)"
        )
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: {error}") from error


def check_header(data: bytes, what: str) -> dict[str, str]:
    """Return the text entries (`__metadata__`) of the safetensors file `data`.

    Raises:
        CheckpointError: `what` is no safetensors file, or its header claims other sizes than the file has.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or length > min(MAX_HEADER, len(data) - 8) or data[8:9] != b"{":
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: no safetensors header")
    header = parse_json(data[8 : 8 + length], what)
    entries = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: no safetensors header")
    claimed = sum(_claimed_bytes(name, entry, what) for name, entry in header.items())
    if claimed != len(data) - 8 - length:
        raise CheckpointError(
            f"{what} is damaged: it claims {claimed:,} bytes of data and has {len(data) - 8 - length:,}"
        )
    return entries


def _claimed_bytes(name: str, entry: Any, what: str) -> int:  # noqa: ANN401
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 16:
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: {name[:80]!r} has no shape")
    if entry.get("dtype") not in _BYTES:
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: {name[:80]!r} has an unknown dtype")
    if math.prod(max(n, 1) for n in shape) >= 2**48:  # an empty tensor may still have sizes that overflow
        raise CheckpointError(f"{what} is not a worldmodels checkpoint: {name[:80]!r} has an absurd shape")
    return math.prod(shape) * _BYTES[entry["dtype"]]
