"""Opening a run executes nothing from it: pickles, archives and serialised objects in every place are refused."""

import base64
import io
import json
import zipfile
from pathlib import Path

import pytest

from tests.faults.attacks.hostile import harmless, manifest, open_all, plant, plant_segment, seal, victim


def payloads(canary: Path) -> dict[str, bytes]:
    """Bytes that run `touch canary` when they are unpickled, in the wrappings that people use."""
    command = f"touch {canary}"
    text = f"cposix\nsystem\n(S'{command}'\ntR.".encode()  # pickle protocol 0
    binary = b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."

    def archive(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target:
            for name, data in files.items():
                target.writestr(name, data)
        return buffer.getvalue()

    array = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    array += b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + binary
    policy = {"policy_class": {":type:": "x", ":serialized:": base64.b64encode(binary).decode()}}
    return {
        "pickle text": text,
        "pickle": binary,
        "torch archive": archive({"archive/data.pkl": binary, "archive/version": b"3\n"}),
        "torch legacy": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + binary,
        "npz": archive({"a.npy": array}),
        "npy": array,
        "sb3 zip": archive(
            {"data": json.dumps(policy).encode(), "policy.pth": binary, "_stable_baselines3_version": b"2"}
        ),
        "json around a pickle": json.dumps(policy).encode(),
    }


SLOTS = ["model.safetensors", "model.json", "replay.json", "manifest.json", "LATEST", "segment"]
WHOLE = ["run.pt", "run.pkl", "run.zip", "run.npz", "run.safetensors"]


def test_nothing_in_a_run_folder_is_ever_executed(tmp_path):
    canary = tmp_path / "canary"
    runs, expected = [], []
    for number, (name, data) in enumerate(payloads(canary).items()):
        for slot in SLOTS:
            run = tmp_path / f"{number} {slot}"
            path = victim(run)
            if slot == "segment":
                plant_segment(path, data)
            elif slot == "LATEST":
                (run / slot).write_bytes(data)
            elif slot == "manifest.json":
                (path / slot).write_bytes(data)
            else:
                plant(path, slot, data)
            runs.append(run)
            plain = name == "json around a pickle" and slot == "model.json"
            expected.append("loaded" if slot == "LATEST" or plain else "refused")
        for whole in WHOLE:
            file = tmp_path / f"{number} {whole}"
            file.write_bytes(data)
            runs.append(file)
            expected.append("refused")
    # A file with a name that the manifest should never have listed.
    for suffix in ("pt", "pkl", "py", "zip"):
        run = tmp_path / f"listed {suffix}"
        path = victim(run)
        plant(path, f"model.{suffix}", payloads(canary)["pickle"])
        runs.append(run)
        expected.append("refused")
    # A manifest that says which class to make of it: nothing reads that.
    path = victim(tmp_path / "class")
    seal(path, manifest(path) | {"class": "os.system", "_target_": "os.system", "args": [f"touch {canary}"]})
    runs.append(tmp_path / "class")
    expected.append("loaded")
    found = open_all(tmp_path, runs)
    assert len(found) == len(runs) > 90
    assert not canary.exists()
    for run, kind, result in zip(runs, expected, found, strict=True):
        assert result["kind"] == kind, (run, result)
        assert not harmless(result["events"], run), (run, result["events"])
        if kind == "refused" and not run.name.startswith("listed") and "replay.json" not in run.name:
            words = ("not a worldmodels checkpoint", "damaged")
            assert any(word in result["text"] for word in words), (run, result["text"])
    named = [r["text"] for run, r in zip(runs, found, strict=True) if run.suffix in (".pt", ".pkl", ".zip", ".npz")]
    assert named and all("not a worldmodels checkpoint" in text or "belongs to no" in text for text in named)


@pytest.mark.parametrize("name", ["pickle text", "pickle", "torch archive", "npz", "sb3 zip"])
def test_the_payloads_would_work(name, tmp_path):
    """The same bytes do harm where they are unpickled: a test with dull weapons proves nothing."""
    import pickle
    import subprocess
    import sys

    canary = tmp_path / "canary"
    data = payloads(canary)[name]
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inner = next(n for n in archive.namelist() if n.endswith((".pkl", ".pth", ".npy")))
            data = archive.read(inner)
            data = data[128:] if inner.endswith(".npy") else data
    assert pickle.__name__ == "pickle"
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", code], input=data, timeout=60, check=True)
    assert canary.exists()
