"""No name in a run folder leads out of it."""

import os
from pathlib import Path

import pytest

from tests.faults.attacks.hostile import harmless, manifest, open_all, seal, victim
from worldmodels.errors import CheckpointError
from worldmodels.files import checked_name, read_file, write_file

NAMES = [
    *("../x.json", "../../secret/x.json", "/etc/passwd", "a/../../x.json", "..", ".", "", "a/b.json", "./x.json"),
    *("x.json\0.json", "\0", "x.json\n", "~/x.json", "C:\\x.json", "..\\x.json", "x\\y.json", "x.json/", "-x.json"),
    *("$HOME.json", "%2e%2e.json", "a" * 300 + ".json", ".x.json", "é.json", "x .json", "file:///etc/passwd"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(CheckpointError, match="file name leaves the checkpoint"):
        checked_name(name)
    with pytest.raises(CheckpointError, match="file name leaves the checkpoint"):
        read_file(tmp_path, name, 100)
    with pytest.raises(CheckpointError, match="file name leaves the checkpoint"):
        write_file(tmp_path, name, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.json", "000000000012-0af.safetensors", "a_b-c+d.1.json", "A"])
def test_a_plain_name_is_fine(name):
    assert checked_name(name) == name


def _names(run: Path, table: str) -> list[Path]:
    """One run for each hostile name in that table of the manifest, where the target exists and has the right hash."""
    runs = []
    for number, name in enumerate(NAMES):
        folder = run / f"{table} {number}"
        folder.mkdir(parents=True)
        path = victim(folder / "run")
        content = manifest(path)
        key = next(iter(content[table]))
        content[table][name] = content[table].pop(key)
        seal(path, content)
        source = path / key if table == "files" else path.parent.parent / "segments" / f"{key}.safetensors"
        for target in (path / "..", path / "../..", path / "../../..", folder):
            (target / "x.json").write_bytes(source.read_bytes())
            (target / "x.json.safetensors").write_bytes(source.read_bytes())
        runs.append(folder / "run")
    return runs


def _links(folder: Path) -> list[Path]:
    """Runs in which a piece is a symbolic link to a good copy outside, a pipe or a folder."""
    runs = []
    for what in (
        "model.json",
        "model.safetensors",
        "manifest.json",
        "checkpoint",
        "checkpoints",
        "segment",
        "segments",
    ):
        run = folder / f"link {what}"
        path = victim(run)
        piece = {
            "checkpoint": path,
            "checkpoints": run / "checkpoints",
            "segment": next((run / "segments").iterdir()),
            "segments": run / "segments",
        }.get(what, path / what)
        outside = folder / f"outside {what}"
        piece.rename(outside)
        piece.symlink_to(outside)
        runs.append(run)
    for what in ("pipe", "folder"):
        run = folder / what
        path = victim(run)
        (path / "model.json").unlink()
        os.mkfifo(path / "model.json") if what == "pipe" else (path / "model.json").mkdir()
        runs.append(run)
    return runs


def test_nothing_outside_is_ever_opened(tmp_path):
    runs = [*_names(tmp_path / "a", "files"), *_names(tmp_path / "b", "segments"), *_links(tmp_path)]
    found = open_all(tmp_path, runs)
    assert len(found) == len(runs) == 2 * len(NAMES) + 9
    for run, result in zip(runs, found, strict=True):
        assert result["kind"] == "refused", (run, result)
        assert not harmless(result["events"], run), (run, result["events"])
        if run.name not in ("pipe", "folder"):
            assert "leaves the checkpoint" in result["text"], (run, result["text"])
        else:
            assert "not a plain file" in result["text"], (run, result["text"])
