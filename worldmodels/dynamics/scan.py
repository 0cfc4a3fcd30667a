"""A linear recurrence over a window in parallel: h_t = decay_t h_{t-1} + drive_t, its gradient by the same scan.

Two steps (a, b) and (c, d) in a row are one step (c a, c b + d), which is associative: log2(T) rounds of elementwise
products over the whole window replace T steps in a row (Hillis and Steele 1986; Blelloch 1990, section 1.4). With
decays in [0, 1] nothing is divided and nothing grows, and a decay of 0 is a state that begins anew.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """h (B, T, D) with h_t = decay_t h_{t-1} + drive_t and h_{-1} = 0, from decay and drive (B, T, D)."""
    span = 1
    while span < drive.shape[1]:  # each h_t holds the last `span` steps
        joined = torch.addcmul(drive[:, span:], decay[:, span:], drive[:, :-span])
        drive = torch.cat([drive[:, :span], joined], 1)
        decay = torch.cat([decay[:, :span], decay[:, span:] * decay[:, :-span]], 1)
        span *= 2
    return drive


class LinearScan(torch.autograd.Function):
    """`LinearScan.apply(decay, drive)` is `linear_scan(decay, drive)`, and remembers no round of it.

    With g_t the gradient of h_t, that of drive_t is l_t = g_t + decay_{t+1} l_{t+1}: the same recurrence from the end.
    That of decay_t is l_t h_{t-1}.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor) -> Tensor:  # noqa: ANN401
        """(B, T, D), (B, T, D) -> (B, T, D)."""
        hidden = linear_scan(decay, drive)
        ctx.save_for_backward(decay, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """The scan backwards in time."""
        decay, hidden = ctx.saved_tensors
        nothing = torch.zeros_like(decay[:, :1])
        following = torch.cat([decay[:, 1:], nothing], 1)
        to_drive = linear_scan(following.flip(1), gradients[0].flip(1)).flip(1)
        return to_drive * torch.cat([nothing, hidden[:, :-1]], 1), to_drive
