"""Small files that claim to be huge, and deep or wide ones, are refused before memory is taken."""

import io
import json
import os
import zipfile

from tests.faults.attacks.hostile import harmless, manifest, open_all, plant, plant_segment, seal, victim


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(shape, begin=0, end=4, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    return buffer.getvalue()


FOUR = b"\0" * 4
TENSORS = {
    "a trillion elements": safetensors({"weight": entry([10**12])}, FOUR),
    "a trillion elements, said to be there": safetensors({"weight": entry([10**12], 0, 4 * 10**12)}, FOUR),
    "a product that overflows": safetensors({"weight": entry([2**32, 2**32])}, FOUR),
    "zero times a lot": safetensors({"weight": entry([0, 2**62], 0, 0)}),
    "zero times a little": safetensors({"weight": entry([0, 2**40, 2**40], 0, 0)}),
    "negative": safetensors({"weight": entry([-1])}, FOUR),
    "fraction": safetensors({"weight": entry([1.0])}, FOUR),
    "true": safetensors({"weight": entry([True])}, FOUR),
    "unknown type": safetensors({"weight": entry([1], dtype="F999")}, FOUR),
    "no shape": safetensors({"weight": {"dtype": "F32"}}, FOUR),
    "overlap": safetensors({"a": entry([1]), "b": entry([1])}, FOUR * 2),
    "backwards": safetensors({"weight": entry([1], 4, 0)}, FOUR),
    "offset outside": safetensors({"weight": entry([1], 2**40, 2**40 + 4)}, FOUR),
    "many dimensions": safetensors({"weight": entry([1] * 1000)}, FOUR),
    "header of 2^63 bytes": safetensors({}, length=2**63),
    "header of 2^64-1 bytes": safetensors({}, length=2**64 - 1),
    "header longer than the file": safetensors({}, length=100_000),
    "deep header": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "wide header": safetensors(b'{"a":[' + b"[]," * 300_000 + b"[]]}"),
    "wide objects": safetensors(b'{"a":[' + b'{"":0},' * 140_000 + b"0]}"),
    "long number": safetensors(b'{"a":' + b"9" * 900_000 + b"}"),
    "long name": safetensors({"a" * 900_000: entry([10**12])}, FOUR),
    "metadata that is a list": safetensors({"__metadata__": [1]}),
    "list": safetensors([]),
    "null": safetensors(b"null"),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "zip bomb": zip_bomb(),
}
TEXTS = {
    "deep but short": b"[" * 20_000 + b"]" * 20_000,
    "deep objects but short": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "wide": b"[" + b"[]," * 300_000 + b"[]]",
    "numbers": b"[" + b"1," * 400_000 + b"1]",
    "long number": b"9" * 900_000,
    "large": b'"' + b"x" * 2_000_000 + b'"',
    "not JSON": b"{a: 1}",
    "not UTF-8": b'"\xff"',
    "nothing": b"",
}

COUNTERS = [10**15, -1, 2**70, [0] * 50_000, "1", 1.5, True]
"""What the replay's row counters may claim: one stream has written two rows, the oldest of them is number 0."""


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    runs = []
    for name, data in TENSORS.items():
        plant(victim(tmp_path / f"tensors {name}"), "model.safetensors", data)
        plant_segment(victim(tmp_path / f"segment {name}"), data)
        runs += [tmp_path / f"tensors {name}", tmp_path / f"segment {name}"]
    for name, data in TEXTS.items():
        plant(victim(tmp_path / f"text {name}"), "replay.json", data)
        (victim(tmp_path / f"manifest {name}") / "manifest.json").write_bytes(data)
        runs += [tmp_path / f"text {name}", tmp_path / f"manifest {name}"]
    for number, value in enumerate(COUNTERS):
        for key in ("written", "oldest"):
            counters = {"written": [2], "oldest": [0]} | {key: value if isinstance(value, list) else [value]}
            runs.append(tmp_path / f"{key} {number}")
            plant(victim(runs[-1]), "replay.json", json.dumps(counters).encode())
    for name in ("replay.json", "manifest.json", "model.safetensors", "segment"):
        run = tmp_path / f"sparse {name}"
        path = victim(run)
        file = next((run / "segments").iterdir()) if name == "segment" else path / name
        os.truncate(file, 2**40)  # a terabyte that takes no room on the disk, and the manifest says the same
        content = manifest(path) if name != "manifest.json" else None
        if content:
            table = content["segments"] if name == "segment" else content["files"]
            table[file.stem if name == "segment" else name][0] = 2**40 - 1
            os.truncate(file, 2**40 - 1)
            seal(path, content)
        runs.append(run)
    found = open_all(tmp_path, runs)
    assert len(found) == len(runs) == 2 * (len(TENSORS) + len(TEXTS) + len(COUNTERS)) + 4
    for run, result in zip(runs, found, strict=True):
        assert result["kind"] == "refused", (run, result)
        assert not harmless(result["events"], run), (run, result["events"])
        assert result["grown"] < 10_000, (run, result["grown"])  # KiB
        assert len(result["text"]) < 2000, run
