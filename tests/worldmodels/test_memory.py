"""The allocator keeps what was freed: a large tensor made twice is mapped once."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from worldmodels.memory import keep_freed_memory
keep_freed_memory() if {keep} else None
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(48 * 2**18)  # 48 MiB, more than glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep):
    run = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    assert faults(keep=True) < faults(keep=False)
