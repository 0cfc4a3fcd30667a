"""How much memory this process may still take."""

import resource
from pathlib import Path


def available_bytes() -> int:
    """Return the bytes that can still be allocated: the least of free memory, cgroup limit and address-space limit."""
    limits = [_meminfo("MemAvailable"), _cgroup(), _address_space()]
    return min(limit for limit in limits if limit is not None)


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
