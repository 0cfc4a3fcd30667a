"""Acquisitions with a memory of what was seen: they learn from real steps and score imagined ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.heads import masked_mean
from worldmodels.nets import mlp
from worldmodels.types import Batch, Rollout, State
from worldmodels.world_model import WorldModel

UNITS = 64
EMBEDDING = 32
"""Width of the random target's output."""
BITS = 12
"""Bits of the hash that counts: 4,096 cells."""


@dataclass
class Observed:
    """Real steps in the shape of imagined ones.

    rollout: (B, T). surprise: (B, T) nats, KL(q || p) of each state reached, by one sample where p is a flow. error:
    (B, T), mean squared error of the latent that the prior expected. mask: (B, T), False where no step exists.
    """

    rollout: Rollout
    surprise: Tensor
    error: Tensor
    mask: Tensor


@torch.no_grad()
def observe(world_model: WorldModel, states: State, batch: Batch) -> Observed:
    """What happened in a batch of windows, seen as a rollout: states (B, T+1) are its posterior states."""
    encoder, family = world_model.encoder, world_model.family
    tokens = encoder.tokens(batch.obs)
    encoding = encoder.encode(tokens, states.context) if encoder.sees_context else encoder.encode(tokens)
    raw = world_model.temporal_prior.prior(states.context)  # (B, T+1, P)
    surprise = world_model.divergence(encoding, raw)
    error = (family.moments(raw)[0] - states.z).square().mean(-1)
    before = states.index((slice(None), slice(-1)))
    known = {} if world_model.ensemble is None else world_model.uncertainty(before, batch.action)._asdict()
    continuation = (~batch.terminated).float()
    rollout = Rollout(
        states, batch.action, batch.reward, continuation, **({"aleatoric": family.entropy(raw)[:, 1:]} | known)
    )
    return Observed(rollout, surprise[:, 1:], error[:, 1:], batch.mask)


class RandomNetworkDistillation(nn.Module):
    """Squared error of a learned network against a fixed random one, on the latent reached (Burda et al. 2018, 2.2).

    New latents score high, whether or not the model knows how to get there: novelty of observations, not of dynamics.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.target = mlp(latent, UNITS, 2, EMBEDDING, norm=False).requires_grad_(False)
        self.predictor = mlp(latent, UNITS, 2, EMBEDDING, norm=False)

    def forward(self, rollout: Rollout) -> Tensor:
        """(B, H)."""
        z = rollout.states.z[:, 1:]
        return (self.predictor(z) - self.target(z)).square().mean(-1)

    def learn(self, observed: Observed) -> Tensor:
        """Mean score of what was seen, to be made small."""
        return masked_mean(self(observed.rollout), observed.mask)


class Expected(nn.Module):
    """What steps like this one cost in the past: a regression on the context that the step leads to.

    of: `surprise`, nats of KL(q || p) (Mazzaglia et al. 2022, eq. 8), or `error`, the squared error of prediction
    (Pathak et al. 2017, eq. 6). Both are drawn to noise, which nobody can predict: controls.
    """

    def __init__(self, context: int, of: str) -> None:
        super().__init__()
        self.of = of
        self.net = mlp(context, UNITS, 2, 1, norm=False, scale=0.0)

    def forward(self, rollout: Rollout) -> Tensor:
        """(B, H), in units of the target; never negative."""
        return torch.expm1(self._log(rollout).clamp(max=20))

    def learn(self, observed: Observed) -> Tensor:
        """Mean squared error of log(1 + target)."""
        target = (observed.surprise if self.of == "surprise" else observed.error).clamp(min=0).log1p()
        return masked_mean((self._log(observed.rollout) - target).square(), observed.mask)

    def _log(self, rollout: Rollout) -> Tensor:
        return F.softplus(self.net(rollout.states.context[:, 1:]).squeeze(-1))


class Count(nn.Module):
    """1 / sqrt(1 + visits) of the latent's cell, by the signs of random projections (Tang et al. 2017, sec. 2.2).

    It has no gradient: use it with agent.gradient=score.
    """

    projection: Tensor
    offset: Tensor
    visits: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(latent, BITS))
        self.register_buffer("offset", torch.randn(BITS))
        self.register_buffer("visits", torch.zeros(2**BITS))

    def forward(self, rollout: Rollout) -> Tensor:
        """(B, H)."""
        return (1 + self.visits[self._cell(rollout.states.z[:, 1:])]).rsqrt()

    def learn(self, observed: Observed) -> None:
        """Count what was seen."""
        cell = self._cell(observed.rollout.states.z[:, 1:])[observed.mask]
        self.visits.index_add_(0, cell, torch.ones_like(cell, dtype=self.visits.dtype))

    def _cell(self, z: Tensor) -> Tensor:
        bits = (z @ self.projection + self.offset > 0).long()
        return (bits << torch.arange(BITS, device=z.device)).sum(-1)


class RandomNetwork(nn.Module):
    """A fixed random function of the latent reached: a control that has the form of a bonus and knows nothing."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.net = mlp(latent, UNITS, 2, 1, norm=False).requires_grad_(False)

    def forward(self, rollout: Rollout) -> Tensor:
        """(B, H)."""
        return self.net(rollout.states.z[:, 1:]).squeeze(-1)
