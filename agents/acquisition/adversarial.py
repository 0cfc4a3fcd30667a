"""Variational-adversarial choice of points to label: those that a discriminator tells apart from the labelled ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from agents.acquisition.pool import Selection, top
from agents.learner import Descent, apply_gradients
from worldmodels.nets import mlp
from worldmodels.seeding import forked

CODE = 8
"""Size of the code that the discriminator reads."""
UNITS = 64


class _Autoencoder(nn.Module):
    """A small VAE on latents (N, D): code (N, CODE) by its mean, reconstruction, KL to the standard normal."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder = mlp(latent, UNITS, 1, 2 * CODE, norm=False)
        self.decoder = mlp(CODE, UNITS, 1, latent, norm=False)

    def code(self, latents: Tensor) -> Tensor:
        return self.encoder(latents).chunk(2, -1)[0]

    def loss(self, latents: Tensor) -> Tensor:
        """Negative evidence lower bound with unit noise, nats a point up to a constant."""
        mean, log_std = self.encoder(latents).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        error = 0.5 * (self.decoder(z) - latents).square().sum(-1)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
        return (error + kl).mean()


def variational_adversarial(
    latents: Tensor, labelled: Tensor, size: int, *, seed: int, steps: int = 300, rate: float = 3e-3
) -> Selection:
    """The points least like labelled ones (Sinha et al. 2019, eq. 1-4 and algorithm 2).

    A VAE codes both sets and is trained to make the codes look labelled; a discriminator on the codes is trained to
    tell. What it still sees as unlabelled is far from the labels. It reads no class and no model's uncertainty, and is
    often no better than random: a control.

    Args: latents: (N, D), the pool. labelled: (L, D), L > 0. size: points to choose. seed: of every random number.
    Returns: the batch; the scores are -log D(code) nats, D the probability of being labelled.
    """
    with forked(seed):
        model = _Autoencoder(latents.shape[1])
        judge = mlp(CODE, UNITS, 1, 1, norm=False)
        optimizers = Adam(model.parameters(), rate), Adam(judge.parameters(), rate)
        batch = min(64, len(latents))
        for _ in range(steps):
            own = labelled[torch.randint(len(labelled), (batch,))]
            other = latents[torch.randint(len(latents), (batch,))]
            both = torch.cat([own, other])
            is_own = torch.cat([torch.ones(batch), torch.zeros(batch)])
            fooled = F.binary_cross_entropy_with_logits(judge(model.code(both)).squeeze(-1), torch.ones(2 * batch))
            seen = F.binary_cross_entropy_with_logits(judge(model.code(both).detach()).squeeze(-1), is_own)
            apply_gradients(
                Descent(model.loss(both) + fooled, optimizers[0], 100.0, model),
                Descent(seen, optimizers[1], 100.0, judge),
            )
        with torch.no_grad():
            unlike = F.softplus(-judge(model.code(latents)).squeeze(-1))  # -log sigmoid
    return top(unlike, size)
