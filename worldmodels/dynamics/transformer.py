"""A causal transformer as temporal prior, with a bounded cache of keys and values."""

import torch
from torch import Tensor, nn

from worldmodels.dynamics.attention import AttentionLayer, same_episode, tokens_so_far
from worldmodels.dynamics.reader import ContextReader
from worldmodels.nets import Perceptron, mlp
from worldmodels.types import Carried, LatentFamily, State, sliding_caches


class TransformerPrior(ContextReader):
    """p(z' | readout of the last W tokens), a token being (z, a). Context (..., D) = [readout], and [last z, last a].

    A token sees itself and the W - 1 before it, of its own episode; with L layers what is read goes L (W - 1) steps
    back. Beside the context a state carries the cache (..., W - 1, C) of the last tokens: keys and values of every
    layer, and in the last column how many tokens of the episode there were (at most W - 1; 0 in the token that an
    episode ends with), by which old ones are told from those that belong to another episode. C = 2 L width + 1. An
    ordered latent is predicted as a change, as in `RecurrentPrior`.
    """

    parallel = True

    def __init__(
        self,
        family: LatentFamily,
        action_size: int,
        *,
        width: int,
        hidden: int,
        layers: int,
        heads: int,
        window: int,
        prior_layers: int,
        norm: bool,
    ) -> None:
        super().__init__()
        self.family, self.width, self.carries = family, width, family.ordered
        self.memory = width
        self.before = window - 1
        self.token_size = 2 * layers * width + 1
        self.context_size = width + (family.width + action_size if self.carries else 0)
        self.embed = Perceptron(nn.Linear(family.width + action_size, width))
        self.layers = nn.ModuleList(
            AttentionLayer(width, hidden=hidden, heads=heads, window=window) for _ in range(layers)
        )
        self.head = mlp(self.context_size, hidden, prior_layers, family.parameters, norm=norm, scale=0.1)

    def initial(self, batch: int) -> Carried:
        """Zeros (B, D), and a cache with nothing in it (B, W-1, C)."""
        device = next(self.parameters()).device
        context = torch.zeros(batch, self.context_size, device=device)
        return context, torch.zeros(batch, self.before, self.token_size, device=device)

    def advance(self, state: State, action: Tensor) -> Carried:
        """Context (B, D) after `action` (B, A) in `state`, and its cache: the oldest token gone, a new one at the end.

        Raises: ValueError: the state has no cache; take it from `infer`, `filter`, `imagine` or `dream_start`.
        """
        if state.cache is None:
            raise ValueError("a transformer's state needs its cache: expected State(context, z, cache), got no cache")
        inputs = torch.cat([state.z, action], -1)
        count = state.cache[:, -1, -1:]  # (B, 1)
        ages = torch.arange(self.before, -1, -1, device=count.device)
        gone = torch.zeros_like(ages, dtype=count.dtype).masked_fill(ages > count, -torch.inf).unsqueeze(1)  # (B, 1, W)
        x, written = self.embed(inputs), []
        for layer, cached in zip(self.layers, state.cache[..., :-1].split(2 * self.width, -1), strict=True):
            x, token = layer.step(x, cached, gone)  # type: ignore[operator]
            written.append(token)
        token = torch.cat([*written, (count + 1).clamp(max=self.before)], -1)
        context = torch.cat([x, inputs], -1) if self.carries else x
        return context, torch.cat([state.cache[:, 1:], token.unsqueeze(1)], 1)

    def scan(self, z: Tensor, action: Tensor, starts: Tensor) -> Carried:
        """Contexts (B, T+1, D) of a window, all at once: zero where `starts`; no token sees another episode's.

        The caches (B, T+1, W-1, C) are views of one row of tokens: only what is taken out of them is copied.
        """
        inputs = torch.cat([z[:, :-1], action], -1)  # (B, T, Z + A)
        x, written = self.embed(inputs), []
        allowed = same_episode(starts[:, :-1], self.before + 1)
        for layer in self.layers:
            x, tokens = layer(x, allowed)
            written.append(tokens)
        keep = (~starts[:, 1:]).unsqueeze(-1)  # (B, T, 1)
        contexts = (torch.cat([x, inputs], -1) if self.carries else x) * keep
        contexts = torch.cat([contexts.new_zeros(len(z), 1, self.context_size), contexts], 1)  # (B, T+1, D)
        count = tokens_so_far(starts[:, :-1]).clamp(max=self.before).unsqueeze(-1) * keep
        tokens = torch.cat([*written, count], -1)  # (B, T, C)
        padded = torch.cat([tokens.new_zeros(len(z), self.before, self.token_size), tokens], 1)
        return contexts, sliding_caches(padded, starts.shape[1])
