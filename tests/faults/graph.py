"""Every number that can be reached from an object: what a checkpoint must bring back, whoever added it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

ATOMS = (bool, int, float, str, bytes, type(None))


def leaves(root: Any, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Path -> value of every number, text, tensor, array and generator below `root`; arrays and tensors as a hash.

    without: paths that are not entered. Functions, types, locks and files are not state of a computation.
    """
    return dict(_walk(root, "", without, set()))


def _walk(value: Any, path: str, without: frozenset[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    if path in without:
        return
    if isinstance(value, ATOMS) or isinstance(value, (np.generic, Path)):
        yield path, str(value) if isinstance(value, Path) else value
        return
    if isinstance(value, torch.Tensor):
        yield path, _hash(value.detach().cpu().contiguous().view(-1).numpy(), tuple(value.shape))
        return
    if isinstance(value, np.ndarray):
        yield path, _hash(value, value.shape)
        return
    if isinstance(value, np.random.Generator):
        yield path, str(value.bit_generator.state)
        return
    if id(value) in seen or callable(value) and not isinstance(value, torch.nn.Module):
        return
    if not isinstance(value, (Mapping, list, tuple)):
        seen.add(id(value))  # visited once, by the first path; equal containers may be one object by chance
    for name, child in _children(value):
        yield from _walk(child, f"{path}.{name}" if path else name, without, seen)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Optimizer):
        order = {id(p): i for i, p in enumerate(p for group in value.param_groups for p in group["params"])}
        yield from ((f"state.{order[id(p)]}", slots) for p, slots in value.state.items())
        for i, group in enumerate(value.param_groups):
            yield f"group.{i}", {k: v for k, v in group.items() if k != "params"}
        return
    if isinstance(value, Mapping):
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(i), child) for i, child in enumerate(value))
    elif hasattr(value, "__dict__"):
        if isinstance(value, torch.nn.Module):
            yield from value.named_parameters(recurse=False)
            yield from value.named_buffers(recurse=False)
            yield from value.named_children()
            own = {"_parameters", "_buffers", "_modules"}
            yield from ((k, v) for k, v in vars(value).items() if k not in own)
        else:
            yield from vars(value).items()


def _hash(array: np.ndarray, shape: tuple[int, ...]) -> str:
    return f"{array.dtype} {shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
