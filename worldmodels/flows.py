"""Coupling flows of zuko that start near the identity: bijections whose log-determinant costs one pass either way."""

from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from zuko.flows import ElementWiseTransform, GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import AdditiveTransform, MonotonicAffineTransform, MonotonicRQSTransform

KINDS = ("nice", "realnvp", "nsf")
MIN_SLOPE = 1e-3
"""Slopes stay between this and its inverse: no volume collapses or explodes in one coupling."""
FIRST_SCALE = 0.1
"""What the last weights of every conditioner are multiplied by at the start."""


def coupling_flow(
    features: int, context: int = 0, *, kind: str, transforms: int, units: int, layers: int, bins: int
) -> LazyComposedTransform:
    """x (..., features) -> z (..., features), conditioned on (..., context) if there is one.

    kind: `nice` adds (Dinh et al. 2014) and ends with one scale a dimension; `realnvp` scales and adds (Dinh et al.
    2016); `nsf` bends by a rational-quadratic spline of `bins` pieces on [-5, 5] and leaves the rest alone (Durkan et
    al. 2019). units, layers: of the networks that read one half and the context.
    """
    univariate, shapes = _univariate(kind, bins)
    options: dict[str, Any] = {
        "univariate": univariate,
        "shapes": shapes,
        "hidden_features": [units] * layers,
        "activation": nn.SiLU,
    }
    parts: list[LazyTransform] = []
    for i in range(transforms):
        mask: Any = torch.arange(features) % 2 == i % 2
        parts.append(GeneralCouplingTransform(features, context, mask, **options))
    if kind == "nice":
        parts.append(ElementWiseTransform(features, context))
    for part in parts:
        _start_near_identity(part)
    return LazyComposedTransform(*parts)


def _univariate(kind: str, bins: int) -> tuple[Any, list[tuple[int, ...]]]:
    if kind == "nice":
        return AdditiveTransform, [()]
    if kind == "realnvp":
        return partial(MonotonicAffineTransform, slope=MIN_SLOPE), [(), ()]
    if kind == "nsf":
        return partial(MonotonicRQSTransform, slope=MIN_SLOPE), [(bins,), (bins,), (bins - 1,)]
    raise ValueError(f"coupling_flow: unknown kind {kind!r}; known: {', '.join(KINDS)}")


@torch.no_grad()
def _start_near_identity(part: LazyTransform) -> None:
    """Every univariate map is the identity where all of its parameters are zero."""
    layers = [module for module in part.modules() if isinstance(module, nn.Linear)]
    if layers:
        layers[-1].weight.mul_(FIRST_SCALE)
        if layers[-1].bias is not None:
            layers[-1].bias.zero_()
    else:  # one dimension without a context: its parameters stand alone
        for parameter in part.parameters():
            parameter.zero_()


def parameter_count(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(prod(p.shape) for p in module.parameters())
