"""How much memory this process may still take, whether a replay fits into it, and keeping what it has."""

import ctypes
import math
import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worldmodels.errors import ReplayError
from worldmodels.specs import ObsSpec


def available_bytes() -> int:
    """Return the bytes that can still be allocated: the least of free memory, cgroup limit and address-space limit."""
    limits = [_meminfo("MemAvailable"), _cgroup(), _address_space()]
    return min(limit for limit in limits if limit is not None)


def row_bytes(obs_specs: Mapping[str, ObsSpec], action_size: int) -> int:
    """Return the bytes that one row takes."""
    obs = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in obs_specs.values())
    return obs + 4 * action_size + 4 + 1  # action, reward, flags


def check_memory(obs_specs: Mapping[str, ObsSpec], action_size: int, capacity: int, *, sharers: int = 1) -> None:
    """Raise ReplayError where `capacity` rows need more memory than this process, one of `sharers` alike, can get."""
    row, available = row_bytes(obs_specs, action_size), available_bytes() // sharers
    if row * capacity <= available:
        return
    shapes = " + ".join(f"{name} {spec.shape} {spec.dtype}" for name, spec in obs_specs.items())
    fitting = available * 9 // 10 // row
    digit = 10 ** max(0, len(str(fitting)) - 2)
    raise ReplayError(
        f"replay needs {row * capacity / 1e9:,.1f} GB for {capacity:,} rows of {shapes}, "
        f"{available / 1e9:,.1f} GB available: lower capacity to {fitting // digit * digit:,}"
    )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings (malloc.h)."""


def keep_freed_memory() -> bool:
    """Let the allocator reuse what was freed instead of giving it back to the system; False where it cannot be told to.

    Large activations otherwise are mapped, filled with zeros page by page and unmapped again in every operation.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {key}")


def _cgroup() -> int | None:
    """Return what the container's memory limit leaves (cgroup version 2), or None without one."""
    folder = Path("/sys/fs/cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))


def _address_space() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(0, soft - pages * resource.getpagesize())
