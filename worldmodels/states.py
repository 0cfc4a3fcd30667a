"""The state of one part as tensors and JSON, and its strict return: everything is checked before anything changes."""

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor

from worldmodels.errors import CheckpointError


class State(TypedDict):
    """What a part needs to go on as if nothing had happened. `json` is plain data: dict, list, str, number, bool."""

    tensors: dict[str, Tensor]
    json: Any


@runtime_checkable
class Stateful(Protocol):
    """A part that registers itself with the trainer and travels in every checkpoint."""

    def state(self) -> State:
        """The state of this moment."""
        ...

    def restore(self, state: State) -> None:
        """Take `state`; raise CheckpointError and change nothing where it does not fit."""
        ...


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless names, shapes and dtypes are the same; the message names every difference."""
    problems = []
    for name, tensor in expected.items():
        shape = tuple(tensor.shape)
        if name not in found:
            problems.append(f"state has no {name!r} {shape}")
        elif tuple(found[name].shape) != shape:
            problems.append(f"state has {name!r} {tuple(found[name].shape)}, expected {shape}")
        elif found[name].dtype != tensor.dtype:
            problems.append(f"state has {name!r} as {found[name].dtype}, expected {tensor.dtype}")
    problems += [f"state has {name!r}, which is not expected" for name in found if name not in expected]
    if problems:
        raise CheckpointError("\n".join(problems))


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU that own their memory: what happens to the originals later does not reach them."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def module_state(module: torch.nn.Module) -> State:
    """Return the parameters and persistent buffers, under the same names with and without compile and DDP wrappers."""
    return {"tensors": snapshot(_named(module)), "json": None}


def restore_module(module: torch.nn.Module, state: State) -> None:
    """Copy `state` into the module, on whatever device it is. Raises CheckpointError where it does not fit."""
    own = _named(module)
    found = {_plain_name(name): tensor for name, tensor in state["tensors"].items()}
    check_tensors(own, found)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def _plain_name(name: str) -> str:
    """Return the name without the prefixes that torch.compile (anywhere) and DDP (in front) add."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _named(module: torch.nn.Module) -> dict[str, Tensor]:
    return {_plain_name(name): tensor for name, tensor in module.state_dict().items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Return moments and counters as tensors named `index.key`, and the options of every group as JSON.

    Parameters are numbered in the order in which the optimiser holds them. For optimisers whose state is tensors and
    whose options are plain numbers: SGD, Adam, AdamW and their kin.
    """
    packed = optimizer.state_dict()
    slots = {f"{i}.{key}": value for i, slot in packed["state"].items() for key, value in slot.items()}
    tensors = snapshot({name: value for name, value in slots.items() if value is not None})
    return {"tensors": tensors, "json": {"groups": _groups(optimizer), "slots": sorted(tensors)}}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put `state` back, options included. Raises CheckpointError where it does not fit; then nothing has changed."""
    found = state["json"] if isinstance(state["json"], dict) else {}
    groups = found.get("groups")
    own = _groups(optimizer)
    if not isinstance(groups, list) or [sorted(group) for group in groups] != [sorted(group) for group in own]:
        raise CheckpointError("state has other optimiser options than this optimiser")
    if [group["params"] for group in groups] != [group["params"] for group in own]:
        raise CheckpointError("state has other optimiser parameters than this optimiser")
    if found.get("slots") != sorted(state["tensors"]):
        names = set(found.get("slots", ())) ^ set(state["tensors"])
        raise CheckpointError(f"state has not the optimiser slots that it lists: {sorted(names)}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state["tensors"].items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise CheckpointError(f"state has {name!r}, which is not expected")
        shape = tuple(parameters[int(index)].shape)
        if tuple(tensor.shape) not in ((), shape):
            raise CheckpointError(f"state has {name!r} {tuple(tensor.shape)}, expected {shape}")
        slots.setdefault(int(index), {})[key] = tensor.clone()
    merged = [_like(group, current) for group, current in zip(groups, optimizer.param_groups, strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": merged})


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the groups' options as plain data; an option that is a tensor becomes a number."""
    groups = optimizer.state_dict()["param_groups"]
    return [{k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in groups]


def _like(group: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the types that the optimiser uses now: JSON knows neither tuples nor tensors."""
    result = dict(group)
    for key, value in group.items():
        if isinstance(current[key], tuple):
            result[key] = tuple(value)
        elif isinstance(current[key], Tensor) and key != "params":
            result[key] = torch.full_like(current[key], value)
    return result
