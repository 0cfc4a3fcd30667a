"""A gated diagonal state-space temporal prior, trained by a parallel scan."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.dynamics.reader import ContextReader
from worldmodels.dynamics.scan import LinearScan
from worldmodels.nets import Perceptron, mlp
from worldmodels.types import Carried, LatentFamily, State

SHARPNESS = 8.0
"""c of De et al. 2024: how far a gate can stretch or shorten a unit's memory."""
MIN_RATE = 1e-4
"""Slowest forgetting a step: no unit remembers longer than 10,000 steps, and the square root below has a gradient."""


class GatedUnits(nn.Module):
    """One layer of linear units whose memory is gated by the input alone (the RG-LRU of De et al. 2024, eq. 1-4).

        r, i = sigmoid(x W);   rate = c softplus(L) r;   a = exp(-rate);   h' = a h + sqrt(1 - a^2) (i u)

    with u a linear map of x. a lies in (0, 1), and the square root keeps the size of h whatever the memory. Half-open
    gates forget at first over 1 to `longest` steps, spread evenly in the logarithm.
    """  # noqa: D400, D415

    def __init__(self, inputs: int, units: int, *, longest: float) -> None:
        super().__init__()
        self.gates = Perceptron(nn.Linear(inputs, 3 * units))
        steps = torch.logspace(0, log(longest), units, base=torch.e)  # of memory, with r = 1/2
        self.memory = nn.Parameter(torch.log(torch.expm1(2 / (SHARPNESS * steps))))  # softplus(memory) = 2 / (c steps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (..., I) -> decay and drive of each unit, (..., D) each: h' = decay h + drive."""
        remember, admit, value = self.gates(x).chunk(3, -1)
        rate = SHARPNESS * F.softplus(self.memory) * torch.sigmoid(remember) + MIN_RATE
        size = torch.sqrt(-torch.expm1(-2 * rate))
        return torch.exp(-rate), size * torch.sigmoid(admit) * value


class StateSpacePrior(ContextReader):
    """L layers of gated linear units, p(z' | h'). Context (..., D) = [h of every layer], and [last z, last a] after it.

    The units are linear in their state, so that a window is one parallel scan a layer; layers after the first read the
    one below through a perceptron, and so do the prior and all heads. An ordered latent is predicted as a change, as in
    `RecurrentPrior`.
    """

    parallel = True

    def __init__(
        self,
        family: LatentFamily,
        action_size: int,
        *,
        deter: int,
        hidden: int,
        layers: int,
        longest: float,
        prior_layers: int,
        norm: bool,
    ) -> None:
        super().__init__()
        self.family, self.deter, self.carries = family, deter, family.ordered
        self.memory = deter * layers
        self.context_size = self.memory + (family.width + action_size if self.carries else 0)
        self.embed = mlp(family.width + action_size, hidden, 1, norm=norm)
        self.between = nn.ModuleList(mlp(hidden + deter, hidden, 1, norm=norm) for _ in range(layers - 1))
        self.layers = nn.ModuleList(GatedUnits(hidden, deter, longest=longest) for _ in range(layers))
        self.head = mlp(self.context_size, hidden, prior_layers, family.parameters, norm=norm, scale=0.1)

    def initial(self, batch: int) -> Carried:
        """Zeros (B, D)."""
        return torch.zeros(batch, self.context_size, device=next(self.parameters()).device), None

    def advance(self, state: State, action: Tensor) -> Carried:
        """Context (B, D) after `action` (B, A) in `state`: one step of the recurrence."""
        inputs = torch.cat([state.z, action], -1)
        embedded = x = self.embed(inputs)
        hidden: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = self.between[k - 1](torch.cat([embedded, hidden[-1]], -1))
            decay, drive = layer(x)
            hidden.append(torch.addcmul(drive, decay, state.context[..., k * self.deter : (k + 1) * self.deter]))
        return torch.cat([*hidden, inputs] if self.carries else hidden, -1), None

    def scan(self, z: Tensor, action: Tensor, starts: Tensor) -> Carried:
        """Contexts (B, T+1, D) of a window, one parallel scan a layer: zero where `starts`; no state crosses it."""
        inputs = torch.cat([z[:, :-1], action], -1)  # (B, T, Z + A)
        embedded = x = self.embed(inputs)
        keep = (~starts).unsqueeze(-1).to(x.dtype)  # (B, T+1, 1)
        hidden: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = self.between[k - 1](torch.cat([embedded, hidden[-1]], -1))
            decay, drive = layer(x)
            scanned: Tensor = LinearScan.apply(decay * keep[:, :-1], drive)  # type: ignore[assignment]
            hidden.append(scanned)
        contexts = torch.cat([*hidden, inputs] if self.carries else hidden, -1) * keep[:, 1:]
        return torch.cat([contexts.new_zeros(len(z), 1, self.context_size), contexts], 1), None  # (B, T+1, D)
