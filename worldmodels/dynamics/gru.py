"""A block GRU over a window, differentiated by hand: the loop holds one matrix product and a few elementwise steps.

The cell is that of Cho et al. 2014 in the form of Hafner et al. 2023, with G independent blocks:

    r, c, u = x_t + h W;   candidate = tanh(sigmoid(r) c);   h' = h + sigmoid(u - 1) (candidate - h)

x_t is computed for all steps at once, and so is the gradient of W.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

REMEMBER = 1.0
"""Offset of the update gate: the cell remembers at the start of training."""


def gru_cell(gates: Tensor, h: Tensor) -> Tensor:
    """Gates (..., 3D), the sum of input and recurrent parts, and h (..., D) -> next h (..., D)."""
    reset, candidate, update = gates.chunk(3, -1)
    return torch.lerp(h, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update - REMEMBER))


def recurrent_product(h: Tensor, weight: Tensor) -> Tensor:
    """Block product: h (B, G, D/G), weight (G, D/G, 3D/G) -> (B, G, 3D/G)."""
    if weight.shape[0] == 1:
        return (h[:, 0] @ weight[0]).unsqueeze(1)
    return torch.bmm(h.transpose(0, 1), weight).transpose(0, 1)


class GruScan(torch.autograd.Function):
    """`GruScan.apply(inputs, weight, keep)`: contexts after each of T steps, from h = 0.

    inputs: (T, B, G, 3D/G). weight: (G, D/G, 3D/G). keep: (T, B, 1, 1), 0 where the state begins anew after the step.
    Returns: (T, B, G, D/G). Not differentiable in keep.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, keep: Tensor) -> Tensor:  # noqa: ANN401
        """One pass; what the backward pass reads is kept per step in stacked tensors."""
        steps, batch, blocks, width = inputs.shape
        size = width // 3
        gates = torch.empty_like(inputs)
        hidden = inputs.new_zeros(steps + 1, batch, blocks, size)
        candidates = inputs.new_empty(steps, batch, blocks, size)
        raw = inputs.new_empty(steps, batch, blocks, size)
        for t in range(steps):
            h, g = hidden[t], gates[t]
            if blocks == 1:
                torch.addmm(inputs[t, :, 0], h[:, 0], weight[0], out=g[:, 0])
            else:
                torch.add(inputs[t], recurrent_product(h, weight), out=g)
            reset, candidate, update = g.split(size, -1)
            raw[t] = candidate
            torch.sigmoid_(reset)
            torch.sigmoid_(update.sub_(REMEMBER))
            torch.tanh(torch.mul(reset, candidate, out=candidates[t]), out=candidates[t])
            torch.lerp(h, candidates[t], update, out=hidden[t + 1])
            hidden[t + 1].mul_(keep[t])
        ctx.save_for_backward(weight, keep, gates, raw, candidates, hidden)
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Backpropagation through time, by hand."""
        (gradient,) = gradients
        weight, keep, gates, raw, candidates, hidden = ctx.saved_tensors
        steps, batch, blocks, width = gates.shape
        size = width // 3
        reset, _, update = gates.split(size, -1)
        previous = hidden[:-1]
        # factors that do not depend on the incoming gradient, for all steps at once
        to_candidate = update * (1 - candidates.square())  # d h' / d (reset * raw)
        to_raw = to_candidate * reset
        to_reset = to_candidate * raw * reset * (1 - reset)
        # h before the mask: where keep is 0 the whole gradient is 0, so `hidden` itself need not be known there
        to_update = (candidates - previous) * update * (1 - update)
        factors = torch.cat([to_reset, to_raw, to_update], -1)  # (T, B, G, 3D/G)
        leak = 1 - update
        out = torch.empty_like(gates)
        weight_t = weight.transpose(1, 2)
        carry = torch.zeros_like(previous[0])
        for t in reversed(range(steps)):
            carry = (carry + gradient[t]) * keep[t]
            torch.mul(carry.repeat(1, 1, 3), factors[t], out=out[t])
            carry = carry * leak[t]
            if blocks == 1:
                carry = torch.addmm(carry[:, 0], out[t, :, 0], weight_t[0]).unsqueeze(1)
            else:
                carry = carry + recurrent_product(out[t], weight_t)
        stacked_h = previous.flatten(0, 1).transpose(0, 1)  # (G, T*B, D/G)
        weight_gradient = torch.bmm(stacked_h.transpose(1, 2), out.flatten(0, 1).transpose(0, 1))
        return out, weight_gradient, None
