"""How probable windows of observations are under a world model: exactly, or by an importance-weighted bound."""

from dataclasses import fields
from math import log
from typing import Any

import torch
from torch import Tensor

from worldmodels.encoders import FlowEncoder
from worldmodels.types import Batch, Kind
from worldmodels.world_model import WorldModel


@torch.no_grad()
def log_likelihood(model: WorldModel, batch: Batch, *, samples: int = 1000, chunk: int = 50) -> tuple[Tensor, Kind]:
    """log p(o_0 .. o_T | a) of each window in nats (B,), and whether that is `exact` (a bijection) or a `bound`.

    The bound is log 1/S sum_s p(o, z_s | a) / q(z_s | o) with S = `samples`, below in expectation and tighter the more
    samples there are (Burda et al. 2016, eq. 8); `chunk` of them are drawn at a time, from torch's global generator.
    """
    if isinstance(model.encoder, FlowEncoder):
        return model.log_weight(batch, sample=False).sum(-1), "exact"
    weights = []
    for start in range(0, samples, chunk):
        count = min(chunk, samples - start)
        weight = model.log_weight(_repeat(batch, count)).sum(-1)  # (S * B,)
        weights.append(weight.unflatten(0, (count, -1)))  # (S, B)
    return torch.cat(weights).logsumexp(0) - log(samples), "bound"


def _repeat(batch: Batch, count: int) -> Batch:
    """Every window `count` times, the copies of the whole batch one after the other (count * B, ...)."""
    copies: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            copies[field.name] = {name: v.repeat(count, *[1] * (v.ndim - 1)) for name, v in value.items()}
        elif value is None:
            copies[field.name] = None
        else:
            copies[field.name] = value.repeat(count, *[1] * (value.ndim - 1))
    return Batch(**copies)
