"""A small ensemble of classifiers on frozen latents: K heads as one batched product, each with its own bootstrap."""

from math import sqrt
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from agents.learner import Descent, apply_gradients


class BootstrapClassifier(nn.Module):
    """K perceptrons of one hidden layer, latent (N, D) -> log-probabilities (N, K, C).

    Members differ by what they saw (each label has an exponential weight of its own in each member: the Bayesian
    bootstrap, Rubin 1981) and by a fixed random function that is added to each one's logits and that data must correct
    (Osband et al. 2018). So they disagree where no label is near, however long they are trained.
    """

    def __init__(
        self,
        latent: int,
        classes: int,
        *,
        members: int = 10,
        hidden: int = 64,
        prior_scale: float = 1.0,
        decay: float = 1e-3,
        generator: torch.Generator,
    ) -> None:
        """prior_scale: of the random functions. decay: L2 weight per label, which vanishes as labels grow."""
        super().__init__()
        self.members, self.classes, self.prior_scale, self.decay = members, classes, prior_scale, decay
        self.generator = generator

        def weight(inputs: int, outputs: int) -> Tensor:
            return torch.randn(members, inputs, outputs, generator=generator) / sqrt(inputs)

        self.first = nn.Parameter(weight(latent, hidden))
        self.first_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.last = nn.Parameter(weight(hidden, classes) * 0.1)
        self.last_bias = nn.Parameter(torch.zeros(members, 1, classes))
        self.register_buffer("prior_first", weight(latent, hidden))
        self.register_buffer("prior_last", weight(hidden, classes))
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    prior_first: Tensor
    prior_last: Tensor
    centre: Tensor
    spread: Tensor

    def standardize(self, latents: Tensor) -> Self:
        """Centre and scale inputs by the pool's own moments: latents (N, D). No label is needed for it."""
        self.centre.copy_(latents.mean(0))
        self.spread.copy_(latents.std(0).clamp(min=1e-6))
        return self

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (N, D) -> log-probabilities (N, K, C)."""
        return self._logits(latents).log_softmax(-1).transpose(0, 1)

    def fit(self, latents: Tensor, labels: Tensor, *, steps: int = 200, rate: float = 0.02) -> Self:
        """Full-batch Adam for a fixed number of steps from where the parameters stand. Returns itself.

        Args: latents: (L, D). labels: (L,) int64.
        Raises: ValueError: no labels.
        """
        if not len(labels):
            raise ValueError("BootstrapClassifier.fit: expected at least one label")
        draws = torch.rand(self.members, len(labels), generator=self.generator).clamp(min=1e-12)
        share = -draws.log()
        share = share / share.sum(1, keepdim=True)  # (K, L)
        optimizer = Adam(self.parameters(), rate)
        for _ in range(steps):
            apply_gradients(Descent(self._loss(latents, labels, share), optimizer, 100.0, self))
        return self

    def _loss(self, latents: Tensor, labels: Tensor, share: Tensor) -> Tensor:
        """Weighted cross-entropy plus L2, summed over the members, which share no parameter."""
        logits = self._logits(latents)  # (K, L, C)
        target = labels.expand(self.members, -1)
        nats = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").unflatten(0, target.shape)
        norm = self.first.square().sum() + self.last.square().sum()
        return (share * nats).sum() + self.decay * norm / len(labels)

    def _logits(self, latents: Tensor) -> Tensor:
        """(N, D) -> (K, N, C)."""
        x = (latents - self.centre) / self.spread
        hidden = torch.tanh(torch.einsum("nd,kdh->knh", x, self.first) + self.first_bias)
        prior = torch.tanh(torch.einsum("nd,kdh->knh", x, self.prior_first)) @ self.prior_last
        return torch.baddbmm(self.last_bias, hidden, self.last) + self.prior_scale * prior
