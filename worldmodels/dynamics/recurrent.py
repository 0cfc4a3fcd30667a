"""The block-GRU temporal prior of a recurrent state-space model (Hafner et al. 2019, 2023)."""

from math import sqrt

import torch
from torch import Tensor, nn

from worldmodels.dynamics.gru import REMEMBER, GruScan, gru_cell
from worldmodels.dynamics.reader import ContextReader
from worldmodels.nets import BlockLinear, mlp
from worldmodels.types import Carried, LatentFamily, State


class RecurrentPrior(ContextReader):
    """h' = GRU(h, z, a), p(z' | h'). Context (..., D) = h.

    An ordered latent is predicted as a change, from h', z and a, and then the context is [h, last z, last a].

    What depends on z and a alone is one product over a whole window; only the gates run step by step.
    """

    parallel = False

    def __init__(
        self,
        family: LatentFamily,
        action_size: int,
        *,
        deter: int,
        hidden: int,
        blocks: int,
        core_layers: int,
        prior_layers: int,
        norm: bool,
    ) -> None:
        super().__init__()
        self.family = family
        self.deter = self.memory = deter
        self.carries = family.ordered
        self.context_size = deter + (family.width + action_size if self.carries else 0)
        self.blocks = blocks
        self.embed = mlp(family.width + action_size, hidden, 1, norm=norm)
        self.embed_context = mlp(deter, hidden, 1, norm=norm) if core_layers else None
        block = deter // blocks
        self.block = block
        width = hidden
        core: list[nn.Module] = []
        if core_layers:
            width += hidden + block
            for _ in range(core_layers):
                core += [BlockLinear(width * blocks, deter, blocks), nn.LayerNorm(block), nn.SiLU()]
                width = block
        self.core = nn.Sequential(*core)
        gates = 3 * deter
        self.input_gates = BlockLinear(width * blocks, gates, blocks) if core_layers else nn.Linear(width, gates)
        with torch.no_grad():
            self.input_gates.bias.zero_().view(blocks, 3, block)[:, 2] = REMEMBER
        bound = 1 / sqrt(block)
        self.recurrent_gates = nn.Parameter(torch.empty(blocks, block, 3 * block).uniform_(-bound, bound))
        self.head = mlp(self.context_size, hidden, prior_layers, family.parameters, norm=norm, scale=0.1)

    def initial(self, batch: int) -> Carried:
        """Zeros (B, D)."""
        return torch.zeros(batch, self.context_size, device=self.recurrent_gates.device), None

    def advance(self, state: State, action: Tensor) -> Carried:
        """Context (B, D) after `action` (B, A) in `state`."""
        h = self._cell(state.context[..., : self.deter], self._inputs(state.z, action))
        return torch.cat([h, state.z, action], -1) if self.carries else h, None

    def scan(self, z: Tensor, action: Tensor, starts: Tensor) -> Carried:
        """Contexts (B, T+1, D): zero where `starts`; no state crosses an episode."""
        inputs = self._inputs(z[:, :-1], action)  # (B, T, I)
        keep = (~starts).to(z.dtype)  # (B, T+1)
        h = torch.zeros(z.shape[0], self.deter, device=z.device)
        if self.embed_context is None:
            gates = (
                self.input_gates(inputs.transpose(0, 1)).to(z.dtype).unflatten(-1, (self.blocks, -1))
            )  # (T, B, G, 3D/G)
            scanned = GruScan.apply(gates.transpose(1, 2), self.recurrent_gates, keep[:, 1:].t().unsqueeze(-1))
            hidden = scanned.permute(2, 0, 1, 3).flatten(2)  # type: ignore[union-attr]
        else:
            steps = []
            for t in range(action.shape[1]):
                h = self._cell(h, inputs[:, t]) * keep[:, t + 1, None]
                steps.append(h)
            hidden = torch.stack(steps, 1)  # (B, T, deter)
        if self.carries:
            hidden = torch.cat([hidden, z[:, :-1] * keep[:, 1:, None], action * keep[:, 1:, None]], -1)
        first = hidden.new_zeros(len(z), 1, self.context_size)
        return torch.cat([first, hidden], 1), None  # (B, T+1, D)

    def _inputs(self, z: Tensor, action: Tensor) -> Tensor:
        """(..., Z), (..., A) -> (..., hidden)."""
        return self.embed(torch.cat([z, action], -1))

    def _cell(self, h: Tensor, inputs: Tensor) -> Tensor:
        """One step of the block GRU: (B, D), (B, I) -> (B, D)."""
        if self.embed_context is None:
            gates = self.input_gates(inputs)  # (B, 3D)
            if self.blocks == 1:  # the same in one product, without moving axes
                return gru_cell(torch.addmm(gates, h, self.recurrent_gates[0]), h)
            gates = gates.unflatten(-1, (self.blocks, -1)).transpose(0, 1)  # (G, B, 3D/G)
        blocks = h.unflatten(-1, (self.blocks, self.block)).transpose(0, 1)  # (G, B, D/G)
        if self.embed_context is not None:
            shared = torch.cat([inputs, self.embed_context(h)], -1)
            x = torch.cat([shared.expand(self.blocks, -1, -1), blocks], -1)  # every block reads all inputs: (G, B, I)
            gates = self.input_gates(self.core(x))
        return gru_cell(torch.baddbmm(gates, blocks, self.recurrent_gates), blocks).transpose(0, 1).flatten(1)
