"""A block GRU over a window, differentiated by hand: the loop holds one matrix product and a few elementwise steps.

The cell is that of Cho et al. 2014 in the form of Hafner et al. 2023, with G independent blocks:

    r, c, u = x_t + h W;   candidate = tanh(sigmoid(r) c);   h' = h + sigmoid(u) (candidate - h)

x_t is computed for all steps at once, and so is the gradient of W. The bias of u starts at -1: the cell remembers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

REMEMBER = -1.0
"""Where the bias of the update gate starts: the cell remembers at the start of training."""


def gru_cell(gates: Tensor, h: Tensor) -> Tensor:
    """Gates (..., 3D), the sum of input and recurrent parts, and h (..., D) -> next h (..., D)."""
    size = h.shape[-1]
    gates = gates.to(h.dtype)  # products may be bfloat16, the state never is
    reset, raw, update = gates.split(size, -1)
    return torch.lerp(h, torch.tanh(torch.sigmoid(reset) * raw), torch.sigmoid(update))


class GruScan(torch.autograd.Function):
    """`GruScan.apply(inputs, weight, keep)`: contexts after each of T steps, from h = 0.

    inputs: (T, G, B, 3D/G). weight: (G, D/G, 3D/G). keep: (T, B, 1), 0 where the state begins anew after the step.
    Returns: (T, G, B, D/G). Not differentiable in keep.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, keep: Tensor) -> Tensor:  # noqa: ANN401
        """One pass; what the backward pass reads is kept per step in stacked tensors."""
        steps, blocks, batch, width = inputs.shape
        size = width // 3
        gates, opened = inputs.new_empty(2, steps, blocks, batch, width)  # before and after the sigmoid
        hidden = inputs.new_empty(steps + 1, blocks, batch, size)
        candidates = inputs.new_empty(steps, blocks, batch, size)
        hidden[0] = 0
        resets = (keep == 0).flatten(1).any(1).tolist()
        raw, (reset, _, update) = gates.split(size, -1)[1], opened.split(size, -1)
        tensors = (inputs, gates, opened, reset, raw, update, candidates, hidden[:-1], hidden[1:])
        rows = list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))
        for t, (x, gate, open_, r, c, u, candidate, h, after) in enumerate(rows):
            if blocks == 1:
                torch.addmm(x[0], h[0], weight[0], out=gate[0])
            else:
                torch.baddbmm(x, h, weight, out=gate)
            torch.sigmoid(gate, out=open_)
            torch.mul(r, c, out=candidate).tanh_()
            torch.lerp(h, candidate, u, out=after)
            if resets[t]:
                after.mul_(keep[t])
        ctx.save_for_backward(weight, keep, gates, opened, candidates, hidden)
        ctx.resets = resets
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Backpropagation through time, by hand."""
        weight, keep, gates, opened, candidates, hidden = ctx.saved_tensors
        steps, blocks, batch, width = gates.shape
        size = width // 3
        out = _gate_factors(gates, opened, candidates, hidden[:-1])  # (T, G, B, 3, D/G), then the gradient of inputs
        leak = 1 - opened[..., 2 * size :]
        transposed = weight.transpose(1, 2).contiguous()
        carry = torch.zeros_like(hidden[0])
        spread, flat = carry.unsqueeze(-2), out.flatten(-2)
        views = list(zip(*(x.unbind(0) for x in (gradients[0], out, flat, leak)), strict=True))
        for t in reversed(range(steps)):
            gradient, factors, row, stay = views[t]
            carry.add_(gradient)
            if ctx.resets[t]:
                carry.mul_(keep[t])
            factors.mul_(spread)
            carry.mul_(stay)
            if blocks == 1:
                carry[0].addmm_(row[0], transposed[0])
            else:
                carry.baddbmm_(row, transposed)
        stacked = hidden[:-1].transpose(0, 1).flatten(1, 2)  # (G, T*B, D/G)
        return flat, torch.bmm(stacked.transpose(1, 2), flat.transpose(0, 1).flatten(1, 2)), None


def _gate_factors(gates: Tensor, opened: Tensor, candidates: Tensor, previous: Tensor) -> Tensor:
    """Derivatives of h' by the gates (T, G, B, 3, D/G), which do not depend on the incoming gradient.

    Before the mask: where `keep` is 0 the whole gradient is 0, so the h' that was zeroed need not be known.
    """
    size = previous.shape[-1]
    reset, _, update = opened.split(size, -1)
    raw = gates[..., size : 2 * size]
    factors = gates.new_empty(*gates.shape[:-1], 3, size)
    to_reset, to_raw, to_update = factors.unbind(-2)
    to_candidate = torch.addcmul(update, update * candidates, candidates, value=-1)  # d h' / d (reset * raw)
    torch.mul(to_candidate, reset, out=to_raw)
    torch.mul(to_raw * raw, 1 - reset, out=to_reset)
    torch.mul((candidates - previous) * update, 1 - update, out=to_update)
    return factors
