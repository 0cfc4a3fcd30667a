"""How long a piece of work takes, what it computes, and what share of the machine's matrix rate that is."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARMUPS = 2
REPEATS = 5
PATIENCE_S = 45.0
"""Seconds after which a case takes no further repetition: on a busy machine the whole table must still end."""
SIDE = 1024
"""Rows and columns of the matrices whose product gives the machine's rate."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Seconds of wall clock for one repetition, and the processor's seconds (all threads) next to them.

    flops: counted by torch.utils.flop_counter, None where none are. amount: how many things one repetition does, for
    which the table shows the time of one; rated: how many the table shows a rate of.
    """

    median_s: float
    min_s: float
    max_s: float
    cpu_s: float
    repeats: int
    parameters: int = 0
    flops: int | None = None
    amount: int = 1
    rated: int = 0
    note: str = ""


def measure(
    work: Callable[[], object],
    *,
    modules: tuple[nn.Module, ...] = (),
    amount: int = 1,
    rated: int = 0,
    count_flops: bool = True,
    note: str = "",
) -> Measurement:
    """Warm up, then repeat `work` until REPEATS or the patience is reached; the median of at least one repetition."""
    began = time.perf_counter()
    flops = None
    if count_flops:
        with FlopCounterMode(display=False) as counter:
            work()
        flops = counter.get_total_flops()
    for _ in range(WARMUPS - count_flops):
        if time.perf_counter() - began < PATIENCE_S / 3:
            work()
    wall, processor = [], []
    while len(wall) < REPEATS and (not wall or time.perf_counter() - began < PATIENCE_S):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    distinct = {id(p): p.numel() for module in modules for p in module.parameters()}
    return Measurement(
        median_s=statistics.median(wall),
        min_s=min(wall),
        max_s=max(wall),
        cpu_s=statistics.median(processor),
        repeats=len(wall),
        parameters=sum(distinct.values()),
        flops=flops,
        amount=amount,
        rated=rated,
        note=note,
    )


def matrix_rate(dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a square product: by the wall clock, and by the processor's time of all threads, best of eight."""
    a, b = torch.randn(2, SIDE, SIDE).to(dtype).unbind(0)
    wall, processor = [], []
    for _ in range(10):
        start, start_cpu = time.perf_counter(), time.process_time()
        torch.mm(a, b)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    flops = 2 * SIDE**3
    return flops / min(wall[2:]), flops / min(processor[2:])
