"""Whether torchrun has started this process, and as which of how many. No torch here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """rank: number of this process from 0, of `count` in all, `local_count` of them on this machine."""

    rank: int = 0
    count: int = 1
    local_count: int = 1


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """Where torchrun has put this process; alone, where it was not torchrun."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return Place()
    return Place(int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"]))
