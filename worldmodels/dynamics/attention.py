"""Causal attention over the last W tokens of an episode, a whole window at once or one token against a cache.

A token's position counts only through its age, by one learned number for each head and age that is added to the scores
(as in Shaw et al. 2018 and Press et al. 2022, whose slopes it starts from). So what is cached never changes, and a
cache of the last W - 1 tokens gives what attention over the whole window gives, however long the episode is.
"""

from math import sqrt

import torch
from torch import Tensor, nn

from worldmodels.nets import Perceptron


class AttentionLayer(nn.Module):
    """x + attention(x), then x + perceptron(norm(x)) (Vaswani et al. 2017, normalised first, but for the values).

    Values are linear in the tokens as they are: a difference between two steps, such as a speed, keeps its size.

    width: of a token, a multiple of `heads`. hidden: of the perceptron. window: W, tokens that one token sees, itself
    included.
    """

    pick: Tensor

    def __init__(self, width: int, *, hidden: int, heads: int, window: int) -> None:
        super().__init__()
        self.width, self.heads, self.window = width, heads, window
        self.norm = nn.LayerNorm(width)
        self.look = Perceptron(nn.Linear(width, 2 * width, bias=False))  # queries and keys
        self.show = Perceptron(nn.Linear(width, width, bias=False))  # values
        slopes = 2.0 ** (-8 * torch.arange(heads) / heads)  # (G,), 1 for the head that looks back the least
        self.age = nn.Parameter(-slopes.unsqueeze(-1) * torch.arange(window))  # (G, W)
        self.mix = Perceptron(nn.Linear(width, width, bias=False))
        self.feed = Perceptron(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        pick = torch.eye(heads).repeat_interleave(width // heads, 1)  # (G, width): which head a number belongs to
        self.register_buffer("pick", pick, persistent=False)

    def forward(self, x: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, width) and who sees whom (B, T, T), row sees column -> tokens, keys and values (B, T, 2 width).

        `allowed` must be True on the diagonal and False where a token is younger or more than W - 1 steps older.
        """
        (query, key), value = self.look(self.norm(x)).chunk(2, -1), self.show(x)
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]  # (B, G, T, w)
        steps = torch.arange(x.shape[1], device=x.device)
        ages = (steps.unsqueeze(-1) - steps).clamp(0, self.window - 1)  # (T, T)
        scores = (heads[0] @ heads[1].transpose(-1, -2)) * self.scale + self.age[:, ages]  # (B, G, T, T)
        share = scores.masked_fill(~allowed.unsqueeze(1), -torch.inf).softmax(-1)
        seen = (share @ heads[2]).transpose(1, 2).flatten(2)  # (B, T, width)
        return self._after(x, seen), torch.cat([key, value], -1)

    def step(self, x: Tensor, cached: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
        """One token (N, width), keys and values (N, W-1, 2 width) of those before it, the newest last.

        Args: gone: (N, 1, W), -infinity for those before it that there are not, 0 for the rest and for itself.
        Returns: the token, its keys and values (N, 2 width). The cache is read where it lies, not copied.
        """
        (query, key), value = self.look(self.norm(x)).chunk(2, -1), self.show(x)
        keys, values = cached.split(self.width, -1)  # (N, W-1, width)
        by_head = query.unsqueeze(1) * self.pick  # (N, G, width)
        before = torch.bmm(by_head, keys.transpose(1, 2))  # (N, G, W-1)
        own = (by_head * key.unsqueeze(1)).sum(-1, keepdim=True)
        scores = torch.cat([before, own.to(before.dtype)], -1)  # (N, G, W)
        share = torch.add(gone + self.age.flip(1), scores, alpha=self.scale).softmax(-1)
        seen = torch.bmm(share[..., :-1], values) + share[..., -1:] * value.unsqueeze(1)  # (N, G, width)
        return self._after(x, (seen * self.pick).sum(1)), torch.cat([key, value], -1)

    @property
    def scale(self) -> float:
        """1 / sqrt(width of a head)."""
        return 1 / sqrt(self.width // self.heads)

    def _after(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.mix(seen)
        return x + self.feed(x)


def same_episode(starts: Tensor, window: int) -> Tensor:
    """Who sees whom (B, T, T) among the tokens of a window: itself and the last W - 1 of its own episode.

    Args: starts: (B, T) bool, True where a token is the first of an episode.
    """
    episode = starts.cumsum(1)
    steps = torch.arange(starts.shape[1], device=starts.device)
    age = steps.unsqueeze(-1) - steps
    near = (age >= 0) & (age < window)  # (T, T)
    return near & (episode.unsqueeze(2) == episode.unsqueeze(1))


def tokens_so_far(starts: Tensor) -> Tensor:
    """How many tokens of its episode there are up to and with each token, (B, T) int, from starts (B, T)."""
    steps = torch.arange(starts.shape[1], device=starts.device)
    return steps - torch.where(starts, steps, 0).cummax(1).values + 1
