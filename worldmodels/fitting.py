"""Small fits from start to end: density models, predictors, posteriors of single inputs. Nothing here is resumed."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

from worldmodels.errors import NonFiniteError

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma and Ba 2015, algorithm 1)."""


def minimise(
    parameters: Iterable[Tensor], loss: Callable[[], Tensor], *, steps: int, rate: float, clip: float = 10.0
) -> list[float]:
    """Adam on `loss()`, a scalar, with a rate that falls linearly to zero and gradients of at most norm `clip`.

    parameters: leaves that require gradients; changed in place. Returns: every step's loss.
    Raises: NonFiniteError: a loss or gradient that is not finite; the parameters are those before that step.
    """
    leaves = [p for p in parameters if p.requires_grad]
    first, second = [torch.zeros_like(p) for p in leaves], [torch.zeros_like(p) for p in leaves]
    counts, losses = [torch.zeros(()) for _ in leaves], []
    for step in range(steps):
        value = loss()
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm + value.detach())):
            raise NonFiniteError(f"fit: loss {value.item():g} and gradient norm {norm.item():g} at step {step}")
        with torch.no_grad():
            adam(
                leaves,
                [g * (clip / norm).clamp(max=1) for g in gradients],
                first,
                second,
                [],
                counts,
                foreach=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=rate * (1 - step / steps),
                weight_decay=0.0,
                eps=EPS,
                maximize=False,
            )
        losses.append(value.item())
    return losses
