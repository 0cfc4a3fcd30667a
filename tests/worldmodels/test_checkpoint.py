"""What is saved comes back bit for bit, under the same names, and is refused where it does not fit."""

import copy
import json

import pytest
import torch

from worldmodels.checkpoint import (
    Stateful,
    create_run,
    list_checkpoints,
    load,
    module_state,
    optimizer_state,
    probe,
    restore_module,
    restore_optimizer,
    save,
)
from worldmodels.errors import CheckpointError
from worldmodels.manifest import _seal, read_manifest


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))


def update(module, optimizer):
    optimizer.zero_grad()
    module(torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()
    optimizer.step()


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "run")


def part(number, **tensors):
    return {"tensors": tensors, "json": {"number": number}}


def test_tensors_and_json_come_back_bit_for_bit(run):
    tensors = {
        "float": torch.tensor([1.5, float("inf"), -0.0, float("nan")]),
        "half": torch.tensor([1.0], dtype=torch.bfloat16),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "int": torch.tensor([[2**62, -1]]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "view": torch.arange(6.0).reshape(2, 3).T,
    }
    content = {"big": 2**127, "float": 0.1, "none": None, "list": [1, "é", True], "inf": float("-inf")}
    save(run, 7, {"a": {"tensors": tensors, "json": content}, "b.c": {"tensors": {}, "json": None}})
    found = load(run)
    assert found.step == 7 and found.segments == [] and found.notes == ()
    assert found.parts["b.c"] == {"tensors": {}, "json": None}
    assert found.parts["a"]["json"] == content
    back = found.parts["a"]["tensors"]
    assert sorted(back) == sorted(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].numel() == 0 or torch.equal(_bytes(back[name]), _bytes(tensor))


def _bytes(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)


def test_the_same_state_gives_the_same_bytes(tmp_path):
    files = []
    for name in ("one", "two"):
        path = save(create_run(tmp_path / name), 0, {"model": module_state(network()), "n": part(1)})
        files.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"model.json", "model.safetensors", "n.json", "manifest.json"}


def test_training_goes_on_as_if_nothing_had_happened(run):
    for make in (
        lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9)),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=1e-2),
    ):
        module = network()
        optimizer = make(module.parameters())
        for _ in range(3):
            update(module, optimizer)
        save(run, 1, {"model": module_state(module), "optimizer": optimizer_state(optimizer)})
        for _ in range(3):
            update(module, optimizer)
        parts = load(run).parts
        other = network()
        again = make(other.parameters())
        restore_module(other, parts["model"])
        restore_optimizer(again, parts["optimizer"])
        for _ in range(3):
            update(other, again)
        assert same(module.state_dict(), other.state_dict())
        assert isinstance(again.param_groups[0]["lr"], type(optimizer.param_groups[0]["lr"]))


def test_options_of_the_optimizer_are_restored():
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, betas=(0.5, 0.6))
    state = json.loads(json.dumps(optimizer_state(optimizer)["json"]))
    fresh = torch.optim.Adam(module.parameters(), lr=1.0)
    restore_optimizer(fresh, {"tensors": {}, "json": state})
    assert fresh.param_groups[0]["lr"] == 1e-2 and fresh.param_groups[0]["betas"] == (0.5, 0.6)


class Wrapped(torch.nn.Module):
    """What torch.nn.parallel.DistributedDataParallel does to names."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_names_are_the_same_with_and_without_wrappers():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module_list = torch.nn.ModuleList([network()])
            self.cell = torch.nn.Linear(2, 2)

    plain, inside, both = Model(), Model(), Model()
    inside.cell = torch.compile(inside.cell, backend="eager")
    wrapped = Wrapped(torch.compile(both, backend="eager"))
    assert any("_orig_mod" in name for name in wrapped.state_dict()) and any("_orig" in n for n in inside.state_dict())
    states = [module_state(module) for module in (plain, inside, wrapped)]
    assert len({tuple(state["tensors"]) for state in states}) == 1
    for module in (plain, inside, wrapped):
        for state in states:
            restore_module(module, state)
            assert same(module_state(module)["tensors"], state["tensors"])


def _broken(tensors):
    """Yield (tensors, expected text) with one tensor gone, renamed, reshaped, of another type, and one too many."""
    for name, tensor in tensors.items():
        others = {key: value for key, value in tensors.items() if key != name}
        yield others, f"no {name!r}"
        yield others | {name + "x": tensor}, repr(name + "x")
        yield others | {name: torch.zeros(*tensor.shape, 2)}, repr(name)
        yield others | {name: tensor.to(torch.complex64)}, repr(name)
        yield tensors | {name + "x": tensor}, repr(name + "x")


def test_a_tensor_that_does_not_fit_changes_nothing():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    good = {name: tensor + 1 for name, tensor in module_state(module)["tensors"].items()}
    tried = 0
    for tensors, text in _broken(good):
        with pytest.raises(CheckpointError) as caught:
            restore_module(module, {"tensors": tensors, "json": None})
        assert text in str(caught.value)
        assert same(module.state_dict(), before)
        tried += 1
    assert tried == 5 * len(before)
    with pytest.raises(CheckpointError, match=r"state has no '0\.weight' \(4, 3\)"):
        restore_module(module, {"tensors": {k: v for k, v in good.items() if k != "0.weight"}, "json": None})


def test_an_optimizer_state_that_does_not_fit_changes_nothing():
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    update(module, optimizer)
    good = optimizer_state(optimizer)
    before = copy.deepcopy(optimizer.state_dict())

    def refused(state):
        with pytest.raises(CheckpointError, match="^state has"):
            restore_optimizer(optimizer, state)
        assert same(optimizer_state(optimizer)["tensors"], good["tensors"])
        assert optimizer.state_dict()["param_groups"] == before["param_groups"]

    for name, tensor in good["tensors"].items():
        others = {key: value for key, value in good["tensors"].items() if key != name}
        listed = {"groups": good["json"]["groups"], "slots": sorted([*others, "99.step"])}
        refused({"tensors": others, "json": good["json"]})
        refused({"tensors": others | {"99.step": tensor}, "json": listed})
        refused({"tensors": others | {name: torch.zeros(*tensor.shape, 2)}, "json": good["json"]})
    for groups in (None, [], good["json"]["groups"] * 2, [{"params": [0]}]):
        refused({"tensors": good["tensors"], "json": good["json"] | {"groups": groups}})
    fewer = copy.deepcopy(good["json"])
    fewer["groups"][0]["params"].pop()
    refused({"tensors": good["tensors"], "json": fewer})
    refused({"tensors": good["tensors"], "json": None})


def test_a_state_does_not_follow_what_it_was_taken_from():
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    update(module, optimizer)
    states = [module_state(module)["tensors"], optimizer_state(optimizer)["tensors"]]
    before = copy.deepcopy(states)
    update(module, optimizer)
    assert all(same(state, kept) for state, kept in zip(states, before, strict=True))


def test_only_the_newest_checkpoints_stay(run):
    for step in range(0, 50, 10):
        save(run, step, {"n": part(step)}, keep=3)
        assert (run / "LATEST").read_text() == list_checkpoints(run)[-1].path.name + "\n"
    assert [entry.step for entry in list_checkpoints(run)] == [20, 30, 40]
    assert load(run).step == 40 and load(run, 20).parts["n"]["json"] == {"number": 20}
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 10 in .*: there are \[20, 30, 40\]"):
        load(run, 10)


def test_what_was_saved_last_is_the_newest_whatever_its_step(run):
    for step, number in ((100, 1), (200, 2), (100, 3)):
        save(run, step, {"n": part(number)}, keep=3)
    assert (load(run).step, load(run).parts["n"]["json"]["number"]) == (100, 3)
    assert load(run, 100).parts["n"]["json"]["number"] == 3


def test_parts_must_have_names_that_stay_in_the_folder(run):
    for name in ("../a", "a/b", "", ".hidden", "manifest"):
        with pytest.raises(CheckpointError):
            save(run, 0, {name: part(0)})
    with pytest.raises(CheckpointError, match="too large"):
        save(run, 0, {"a": {"tensors": {}, "json": [0] * 100_000}})
    assert list_checkpoints(run) == [] and not any((run / "checkpoints").iterdir())


def test_a_run_folder_is_made_once(tmp_path):
    run = create_run(tmp_path / "a" / "b")
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "segments"]
    with pytest.raises(CheckpointError, match=r"holds a run already: add resume=true .* run=PATH"):
        create_run(run)
    probe(run)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="errno 20"):
        create_run(tmp_path / "file" / "run")


def test_another_format_is_refused_by_name_and_left_alone(run):
    save(run, 1, {"n": part(1)})
    path = save(run, 2, {"n": part(2)})
    content = json.loads((path / "manifest.json").read_bytes())["manifest"]
    (path / "manifest.json").write_bytes(_seal(content | {"format": 2, "written_by": "0.9"}))
    for step in (None, 2):
        with pytest.raises(CheckpointError, match=r"has format 2: written by worldmodels 0\.9, this is .* format 1"):
            load(run, step)
    assert path.exists()
    assert read_manifest(load(run, 1).path).step == 1


def test_the_replay_is_stateful():
    from worldmodels.replay import Replay

    assert issubclass(Replay, Stateful)
