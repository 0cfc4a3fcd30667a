"""A temporal prior without memory: the next latent depends on the last one and the action alone."""

import torch
from torch import Tensor

from worldmodels.dynamics.reader import ContextReader
from worldmodels.nets import mlp
from worldmodels.types import Carried, LatentFamily, State


class MarkovPrior(ContextReader):
    """p(z' | z, a). Context (..., D) = [last z, last a]: zero where a state begins anew.

    For environments whose observations say everything. Nothing is scanned, and a wrong memory cannot mislead a long
    dream: with few data it is the most precise of the priors there. An ordered latent is predicted as a change.
    """

    parallel = True

    def __init__(self, family: LatentFamily, action_size: int, *, hidden: int, prior_layers: int, norm: bool) -> None:
        super().__init__()
        self.family, self.memory = family, 0
        self.context_size = family.width + action_size
        self.head = mlp(self.context_size, hidden, prior_layers, family.parameters, norm=norm, scale=0.1)

    def initial(self, batch: int) -> Carried:
        """Zeros (B, D)."""
        return torch.zeros(batch, self.context_size, device=next(self.parameters()).device), None

    def advance(self, state: State, action: Tensor) -> Carried:
        """Context (B, D) after `action` (B, A) in `state`."""
        return torch.cat([state.z, action], -1), None

    def scan(self, z: Tensor, action: Tensor, starts: Tensor) -> Carried:
        """Contexts (B, T+1, D) of a window: zero where `starts`."""
        contexts = torch.cat([z[:, :-1], action], -1) * (~starts[:, 1:]).unsqueeze(-1).to(z.dtype)  # (B, T, D)
        return torch.cat([contexts.new_zeros(len(z), 1, self.context_size), contexts], 1), None
