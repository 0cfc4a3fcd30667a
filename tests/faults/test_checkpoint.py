"""A checkpoint is the old one or the new one, whatever stops the save; what is damaged is found and never loaded."""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.operations import DIED, die_before, fail_at, trace, watched
from worldmodels.checkpoint import create_run, list_checkpoints, load, module_state, probe, save
from worldmodels.errors import CheckpointError
from worldmodels.files import TEMPORARY
from worldmodels.manifest import _seal
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec


class Trainer:
    """The state of a small run: `value` is everywhere in it, so that a mixture of two saves shows."""

    def __init__(self):
        self.value = 0
        self.replay = Replay({"obs": ObsSpec("vector", (2,))}, 1, capacity=40)

    def advance(self):
        self.value += 1
        self.replay.begin(0, self._obs())
        for t in range(5):
            self.replay.add(0, np.zeros(1, np.float32), float(self.value), t == 4, False, self._obs())

    def _obs(self):
        return {"obs": np.full(2, self.value, np.float32)}

    def save(self, run, keep=2):
        ids = self.replay.write_segments(run / "segments")
        tensor = torch.full((50,), float(self.value))
        parts = {
            "model": {"tensors": {"weight": tensor, "bias": tensor[:3]}, "json": self.value},
            "critic": {"tensors": {"moment": tensor}, "json": {"value": self.value}},
            "replay": self.replay.state(),
        }
        return save(run, self.value * 10, parts, segments=ids, keep=keep)


def loaded(run, step=None):
    """The trainer that a checkpoint gives back; everything in it agrees."""
    checkpoint = load(run, step)
    trainer = Trainer()
    trainer.value = checkpoint.step // 10
    trainer.replay.load_segments(run / "segments", checkpoint.segments)
    trainer.replay.restore(checkpoint.parts["replay"])
    parts = checkpoint.parts
    values = [*parts["model"]["tensors"].values(), *parts["critic"]["tensors"].values()]
    assert {x for tensor in values for x in tensor.tolist()} == {float(trainer.value)}
    assert parts["model"]["json"] == parts["critic"]["json"]["value"] == trainer.value
    newest = max((e["reward"].max() for e in trainer.replay.iter_episodes()), default=0)
    assert newest == trainer.value
    return trainer


def new_run(folder, saves, keep=2):
    run, trainer = create_run(folder / "run"), Trainer()
    for _ in range(saves):
        trainer.advance()
        trainer.save(run, keep)
    return run, trainer


def memory_folder():
    """A temporary folder in memory, where there is one: what is tested does not depend on the speed of a disk."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


@pytest.fixture
def tmp_path():
    with memory_folder() as folder:
        yield Path(folder)


def temporary_files(run):
    return [path for path in run.rglob("*") if path.name.startswith(TEMPORARY)]


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_before_any_file_operation_leaves_the_old_or_the_new(tmp_path, torn):
    base, trainer = new_run(tmp_path, saves=2, keep=1)
    trainer.advance()
    seen = []
    for k in itertools.count():
        run = tmp_path / f"crash {k}"
        shutil.copytree(base, run)
        status = die_before(k, lambda run=run: trainer.save(run, keep=1), torn=torn)
        assert status in (DIED, 0)
        found = loaded(run)
        seen.append(found.value)
        assert found.value in (2, 3)
        for entry in list_checkpoints(run):  # one that is half removed is not listed
            assert loaded(run, entry.step).value == entry.step // 10
        found.advance()  # and the run goes on from there, over whatever was left lying around
        found.save(run, keep=1)
        assert loaded(run).value == found.value
        assert len(list_checkpoints(run)) == 1 and not temporary_files(run / "segments")
        assert len(list((run / "checkpoints").iterdir())) == 1
        shutil.rmtree(run)
        if status == 0:
            break
    assert k > 50 and seen == sorted(seen) and set(seen) == {2, 3}


def test_every_file_is_on_the_disk_before_it_has_its_name_and_latest_comes_last(tmp_path):
    run, trainer = new_run(tmp_path, saves=1)
    trainer.advance()
    operations = trace(lambda: trainer.save(run, keep=1))
    names = [name for name, _ in operations]
    assert set(names) >= {"open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir"}
    renamed = []
    for i, (name, args) in enumerate(operations):
        if name == "replace":
            assert [n for n, _ in operations[i - 2 : i]] == ["write", "fsync"]
            assert [n for n, _ in operations[i + 1 : i + 3]] == ["open", "fsync"]  # the folder
            assert operations[i + 1][1][0] == Path(args[1]).parent
            renamed.append(Path(args[1]).name)
    assert renamed[-2:] == ["manifest.json", "LATEST"] and renamed[0].endswith(".safetensors") and len(renamed) == 8
    assert names.index("unlink") > len(names) - 1 - names[::-1].index("replace")  # nothing goes before LATEST is there


def test_an_error_of_any_file_operation_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    base, trainer = new_run(tmp_path, saves=2, keep=1)
    trainer.advance()
    failures = 0
    for k, number in itertools.product(range(200), (errno.ENOSPC, errno.EIO)):
        run = tmp_path / f"run {k} {number}"
        shutil.copytree(base, run)
        copy = loaded(run)
        copy.advance()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                fail_at(k, lambda run=run, copy=copy: copy.save(run, keep=1), number)
            except CheckpointError as error:
                failures += 1
                told = f"no space left in {run}" if number == errno.ENOSPC else f"cannot write to {run}"
                assert told in str(error) or "cannot be read" in str(error)
                assert not temporary_files(run) or "unlink" in str(caught)
                assert loaded(run).value == 2
            else:
                assert loaded(run).value == 3  # it was saved; what failed was to remove what is old
                done = not caught
        copy.save(run, keep=1)  # once there is room again the same trainer saves
        assert loaded(run).value == 3
        shutil.rmtree(run)
        if k > 100 and done:
            break
    assert failures > 80


def test_a_disk_that_stores_something_else_is_noticed_before_the_old_checkpoint_goes(tmp_path, monkeypatch):
    base, trainer = new_run(tmp_path, saves=1)
    trainer.advance()
    write, real = os.write, []

    def corrupt(descriptor, data):
        real.append(len(data))
        data = bytes(data)
        return write(descriptor, data[:-1] + bytes([data[-1] ^ 1]) if len(real) == wrong else data)

    for wrong in range(1, 8):  # the segment, five files of parts, the manifest
        run = tmp_path / f"run {wrong}"
        shutil.copytree(base, run)
        copy = loaded(run)
        copy.advance()
        real.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", corrupt)
            with pytest.raises(CheckpointError, match="is not what was written|damaged"):
                copy.save(run, keep=1)
        assert loaded(run).value == 1 and (run / "LATEST").read_text() == "000000010-0001\n"
        copy.save(run, keep=1)  # the same trainer can try again
        assert loaded(run).value == 2


def test_space_runs_out_at_any_size(tmp_path):
    base, trainer = new_run(tmp_path, saves=1)
    model = torch.nn.Linear(64, 64)
    full = len((save(base, 10, {"model": module_state(model)}, keep=5) / "model.safetensors").read_bytes())
    for number, size in enumerate(np.linspace(0, full - 1, 20).astype(int)):
        run = tmp_path / f"run {number}"
        shutil.copytree(base, run)
        text = in_child(lambda run=run, size=int(size): limited_save(run, model, size))
        assert text.startswith(f"no space left in {run}: needed 16,"), text
        assert not temporary_files(run) and len(list((run / "checkpoints").iterdir())) == 2
        assert load(run).step == 10
        shutil.rmtree(run)


def limited_save(run, model, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(CheckpointError) as caught:
        save(run, 20, {"model": module_state(model)})
    return str(caught.value)


def in_child(action):
    """Return the text that `action` returns in a forked child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(writing, action().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_a_full_disk(tmp_path):
    """A file system of one mebibyte, for checkpoints and for replay segments."""
    code = """
import sys, torch, numpy as np
from pathlib import Path
from worldmodels.checkpoint import create_run, load, save
from worldmodels.errors import CheckpointError
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec
run = create_run(Path(sys.argv[1]) / "run")
replay = Replay({"obs": ObsSpec("vector", (100,))}, 1, capacity=5000)
def episode(n):
    obs = {"obs": np.zeros(100, np.float32)}
    replay.begin(0, obs)
    for t in range(n):
        replay.add(0, np.zeros(1, np.float32), 0.0, t == n - 1, False, obs)
def part(n):
    return {"model": {"tensors": {"a": torch.zeros(n)}, "json": None}, "replay": replay.state()}
episode(10)
save(run, 1, part(10), segments=replay.write_segments(run / "segments"))
for action in (lambda: save(run, 2, part(3_000_000)), lambda: (episode(4000), replay.write_segments(run / "segments"))):
    try:
        action()
    except CheckpointError as error:
        print(error)
    assert not [p for p in run.rglob("*") if p.name.startswith(".tmp")]
    assert load(run).step == 1
"""
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$1" -c "$2" "$0"'
    command = ["unshare", "-Urm", "sh", "-c", mount, str(tmp_path), sys.executable, code]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert done.stdout.splitlines() == [
        f"no space left in {run}: needed 11 MiB",
        f"no space left in {run / 'segments'}: needed 2 MiB",
    ]


def test_a_run_folder_that_cannot_be_written_is_an_error_at_the_start():
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run")
        os.chmod(folder, 0o755)
        for path, mode in ((run / "segments", 0o555), (run / "checkpoints", 0o555), (run, 0o555)):
            path.chmod(mode)

            def attempt(path=path):
                if os.getuid() == 0:
                    os.setuid(65534)
                with pytest.raises(CheckpointError) as caught:
                    probe(run)
                return str(caught.value)

            assert in_child(attempt) == f"cannot write to {run}: Permission denied (errno 13)" or os.getuid() != 0
            path.chmod(0o777)
        with pytest.raises(CheckpointError, match=r"cannot write to .*/proc/run: .*\(errno 2\)"):
            create_run("/proc/run")


@pytest.mark.parametrize("what", ["run", "run/checkpoints", "run/segments"])
def test_a_folder_removed_during_the_run_is_an_error_and_does_not_come_back(tmp_path, what):
    run, trainer = new_run(tmp_path, saves=2)
    shutil.rmtree(tmp_path / what)
    trainer.advance()
    if what == "run/checkpoints":
        trainer.save(run)  # everything that is needed is still there, and is saved again
        assert loaded(run).value == 3
        return
    with pytest.raises(CheckpointError, match=f"cannot write to {run}|is missing"):
        trainer.save(run)
    assert what != "run" or not run.exists()


def damage(path, offset=-1):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def files_of(run):
    """Every file that the newest checkpoint needs."""
    checkpoint = load(run)
    segments = [run / "segments" / f"{identity}.safetensors" for identity in checkpoint.segments]
    return [*sorted(checkpoint.path.iterdir()), *segments]


def test_a_file_cut_short_is_detected_at_every_length(tmp_path):
    run, trainer = new_run(tmp_path, saves=3)
    step, tried = trainer.value * 10, 0
    for path in files_of(run):
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little") if path.suffix == ".safetensors" else 8
        lengths = {0, 1, 7, 8, header - 1, header, header + 1, len(data) - 1}
        lengths |= {len(data) * percent // 100 for percent in range(100)}
        for length in sorted(n for n in lengths if 0 <= n < len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(CheckpointError) as caught:
                load(run, step)
            if path.name != "manifest.json":
                assert f"{path.name} is {length:,} bytes" in str(caught.value) and f"{len(data):,}" in str(caught.value)
            tried += 1
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{path.name} is missing|no checkpoint of step"):
            load(run, step)
        path.write_bytes(data)
    assert tried > 300 and loaded(run, step).value == 3


def test_every_flipped_bit_is_detected(tmp_path):
    run, trainer = new_run(tmp_path, saves=3)
    files, rng = files_of(run), random.Random(0)
    for number in range(1000):
        path = files[number % len(files)]
        data = path.read_bytes()
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError):
            load(run, trainer.value * 10)
        path.write_bytes(data)
    assert loaded(run).value == 3


def test_exchanged_files_are_detected(tmp_path):
    run, trainer = new_run(tmp_path, saves=3)
    tried = 0
    for left, right in itertools.combinations(files_of(run), 2):
        one, two = left.read_bytes(), right.read_bytes()
        if one != two:
            left.write_bytes(two)
            right.write_bytes(one)
            with pytest.raises(CheckpointError):
                load(run, trainer.value * 10)
            left.write_bytes(one)
            right.write_bytes(two)
            tried += 1
    assert tried > 10
    old, new = (entry.path for entry in list_checkpoints(run))
    old.rename(run / "x")
    new.rename(old)
    (run / "x").rename(new)
    with pytest.raises(CheckpointError, match="its manifest is that of step"):
        load(run, trainer.value * 10)


def test_an_edited_manifest_is_detected(tmp_path):
    run, trainer = new_run(tmp_path, saves=3)
    path = files_of(run)[0].parent / "manifest.json"
    raw = path.read_bytes()
    content = json.loads(raw)["manifest"]
    assert _seal(content) == raw
    files = content["files"]
    first = next(iter(files))
    edits = [
        {**content, "step": 99},
        {**content, "sequence": 99},
        {**content, "step": "30"},
        {**content, "files": {**files, first: [files[first][0] + 1, files[first][1]]}},
        {**content, "files": {**files, first: [files[first][0], "0" * 64]}},
        {**content, "files": {**files, "more.json": [2, "0" * 64]}},
        {**content, "files": {**files, "more.pt": [2, "0" * 64]}},
        {**content, "files": [1]},
        {**content, "files": {first: 3}},
        {**content, "segments": {"x": [1, "0" * 64]}},
        {key: value for key, value in content.items() if key != "segments"},
        {},
    ]
    for edited in edits:
        for text in (_seal(edited), json.dumps({**json.loads(raw), "manifest": edited}, indent=1).encode()):
            path.write_bytes(text)
            with pytest.raises(CheckpointError):
                load(run, trainer.value * 10)
    for text in (raw + b"\n", raw.replace(b"\n", b""), b"[]", b"{}", b"null", b'{"manifest": 3}', b"\xff" * 30):
        path.write_bytes(text)
        with pytest.raises(CheckpointError):
            load(run, trainer.value * 10)
    path.write_bytes(raw)
    assert loaded(run).value == 3


@pytest.mark.parametrize("damaged", [1, 2])
@pytest.mark.parametrize("kind", ["model.safetensors", "critic.json", "manifest.json", "segment"])
def test_the_newest_sound_checkpoint_is_taken_and_damaged_ones_are_kept_aside(tmp_path, damaged, kind):
    run, trainer = new_run(tmp_path, saves=3, keep=3)
    entries = list_checkpoints(run)[::-1][:damaged]
    for entry in entries:
        name = list(load(run, entry.step).segments)[-1] + ".safetensors"
        damage(run / "segments" / name if kind == "segment" else entry.path / kind)
    with pytest.raises(CheckpointError, match="damaged"):
        load(run, trainer.value * 10)
    before = tree(entries[0].path)
    with pytest.warns(
        RuntimeWarning, match=r"is damaged: .* kept as 0000000\d0-000\d\.damaged; going back to step"
    ) as told:
        found = load(run)
    assert found.step == (3 - damaged) * 10 and len(told) == damaged and len(found.notes) >= damaged
    aside = [path for path in (run / "checkpoints").iterdir() if path.suffix == ".damaged"]
    assert len(aside) == damaged and tree(entries[0].path.with_suffix(".damaged")) == before
    resumed = loaded(run)  # without a warning: they are out of the way
    resumed.advance()
    resumed.save(run)
    assert loaded(run).value == resumed.value and all(path.exists() for path in aside)
    assert len({path.name.partition(".")[0] for path in (run / "checkpoints").iterdir()}) == damaged + 2


def test_nothing_usable_is_an_error_and_changes_nothing(tmp_path):
    run, trainer = new_run(tmp_path, saves=3)
    empty = tmp_path / "empty"
    empty.mkdir()
    for entry in list_checkpoints(run):
        damage(entry.path / "model.json")
    before = tree(tmp_path)
    for folder in (empty, run, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=f"^no usable checkpoint in {folder}"):
            load(folder)
    assert tree(tmp_path) == before
    with pytest.raises(CheckpointError, match="not a worldmodels checkpoint: expected a run folder"):
        load(run / "LATEST")


def test_segments_newer_than_the_checkpoint_are_ignored_and_named(tmp_path):
    run, trainer = new_run(tmp_path, saves=2)
    rows = trainer.replay.rows
    trainer.advance()
    trainer.replay.write_segments(run / "segments")  # and here the run is killed: no manifest names it
    found = loaded(run)
    assert found.replay.rows == rows and len(found.replay) == 10
    assert load(run).notes == ("1 replay segments do not belong to step 20 and are ignored",)
    found.advance()
    found.save(run)
    assert load(run).notes == ()


def test_without_segments_an_agent_loads_but_its_training_does_not(tmp_path):
    run, trainer = new_run(tmp_path, saves=2)
    shutil.rmtree(run / "segments")
    assert load(run, segments=False).parts["model"]["json"] == 2
    with pytest.raises(CheckpointError, match="is missing"):
        load(run)


def test_what_changes_during_the_save_is_not_saved(tmp_path):
    run, model = create_run(tmp_path / "run"), torch.nn.Linear(8, 8)

    def disturb(number, name, args):
        with torch.no_grad():
            model.weight.add_(1)
            model.bias.mul_(2)

    for turn in range(100):
        live = {"tensors": dict(model.state_dict()), "json": turn}  # the parameters themselves, not copies
        expected = {name: tensor.clone() for name, tensor in live["tensors"].items()}
        with watched(disturb):
            save(run, turn, {"live": live, "model": module_state(model)}, keep=1)
        parts = load(run).parts
        for part in ("live", "model"):
            assert all(torch.equal(parts[part]["tensors"][name], expected[name]) for name in expected)
        assert not torch.equal(model.weight, expected["weight"])
        torch.nn.init.normal_(model.bias)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from(["", "", "reload", "back"])), max_size=8)
)
def test_whatever_is_kept_can_be_loaded_and_nothing_else_stays(turns):
    """Random saves, prunings, restarts and steps back, against sets of segments."""
    with memory_folder() as folder:
        run, trainer = new_run(Path(folder), saves=1)
        needed: dict[Path, set[str]] = {entry.path: set(load(run).segments) for entry in list_checkpoints(run)}
        for episodes, keep, then in turns:
            for _ in range(episodes):
                trainer.advance()
            path = trainer.save(run, keep)
            needed[path] = set(load(run).segments)
            kept = list(needed)[-keep:]
            needed = {path: needed[path] for path in kept}
            entries = list_checkpoints(run)
            assert [entry.path for entry in entries] == kept and load(run).path == path
            stored = {file.stem for file in (run / "segments").iterdir()}
            assert stored == set().union(*needed.values())
            for entry in entries:
                loaded(run, entry.step)
            if then:
                trainer = loaded(run, entries[0].step if then == "back" else None)
