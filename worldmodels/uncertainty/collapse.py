"""Members that have become one: an ensemble that agrees about noise says nothing about knowledge."""

import torch

from worldmodels.dynamics import Members

IDENTICAL = 1e-3
"""Members whose predictions differ by less than this share of their size are one and the same."""
_PROBES = 64


@torch.no_grad()
def member_difference(ensemble: Members, context: int) -> float:
    """Smallest difference between two members on noise, as a share of what they predict; 1 with a single member.

    Nothing of the data resembles standard normal contexts (N, `context`), so members that learned the same still differ
    here. The noise is the same at every call, and torch's global generator is left alone.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_PROBES, context, generator=generator).to(next(ensemble.parameters()).device)
    previous = torch.zeros(_PROBES, ensemble.family.width, device=noise.device)
    said = ensemble(noise, previous).flatten(1)  # (K, N * P)
    if len(said) < 2:
        return 1.0
    size = (said - said.mean(1, keepdim=True)).square().mean().sqrt()
    return float(torch.pdist(said).min() / said.shape[1] ** 0.5 / size.clamp(min=1e-12))
