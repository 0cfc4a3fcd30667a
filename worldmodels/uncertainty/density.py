"""A flow fitted to vectors: density of latents, of residuals, and second-stage density of likelihood statistics."""

import torch
from torch import Tensor, nn

from worldmodels.distributions.gaussian import LOG_2PI
from worldmodels.fitting import minimise
from worldmodels.flows import coupling_flow
from worldmodels.types import Kind

FLOOR = 1e-3
"""Smallest spread of a whitened axis, as a share of the largest: what never varied is not divided by zero."""


class FlowDensity(nn.Module):
    """p(x) of vectors (N, D): whitening, then a coupling flow to N(0, 1). A `DensityModel` whose log_prob is exact.

    Second-stage densities (Morningstar et al. 2021) are this class on vectors of statistics: the pair (log p, KL) of an
    input can be odd though each of the two is not.
    """

    center: Tensor
    whiten: Tensor

    def __init__(
        self,
        features: int,
        *,
        kind: str = "realnvp",
        transforms: int = 4,
        units: int = 32,
        layers: int = 1,
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.transform = coupling_flow(
            features, kind=kind, transforms=transforms, units=units, layers=layers, bins=bins
        )
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("whiten", torch.eye(features))

    def log_prob(self, x: Tensor) -> tuple[Tensor, Kind]:
        """Nats (N,), exact."""
        z, log_volume = self.latent(x)
        return log_volume - 0.5 * (z.square() + LOG_2PI).sum(-1), "exact"

    def standardize(self, x: Tensor) -> Tensor:
        """Whitened vectors (N, D)."""
        return (x - self.center) @ self.whiten

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, D), standard normal for nominal x, and log |det dz/dx| in nats (N,)."""
        z, log_volume = self.transform().call_and_ladj(self.standardize(x))
        return z, log_volume + torch.linalg.slogdet(self.whiten).logabsdet

    def score(self, x: Tensor) -> Tensor:
        """-log p(x) in nats (N,): higher is more out of distribution."""
        return -self.log_prob(x)[0]

    def sample(self, n: int) -> Tensor:
        """New vectors (n, D)."""
        white = self.transform().inv(torch.randn(n, len(self.center)))
        return torch.linalg.solve(self.whiten.T, white.T).T + self.center

    def loss(self, x: Tensor) -> Tensor:
        """Mean negative log-density, nats per row."""
        return -self.log_prob(x)[0].mean()

    def fit(
        self, x: Tensor, *, steps: int = 800, batch: int = 256, rate: float = 3e-3, noise: float = 0.05, seed: int = 0
    ) -> "FlowDensity":
        """Set the whitening to the moments of x (N, D), then maximise the likelihood; the rate falls to zero.

        noise: Gaussian standard deviation added to whitened data at every step: few data, or data on a surface, have no
        density of their own. seed: of batches and noise.
        """
        generator = torch.Generator().manual_seed(seed)
        self.fit_moments(x)
        white = self.standardize(x)

        def loss() -> Tensor:
            rows = white[torch.randint(len(white), (min(batch, len(white)),), generator=generator)]
            z, log_volume = self.transform().call_and_ladj(rows + noise * torch.randn(rows.shape, generator=generator))
            return (0.5 * z.square().sum(-1) - log_volume).mean()

        minimise(self.transform.parameters(), loss, steps=steps, rate=rate)
        return self.requires_grad_(False)

    @torch.no_grad()
    def fit_moments(self, x: Tensor) -> None:
        """Whiten by x (N, D): rotate to its principal axes and divide by their spreads."""
        self.center.copy_(x.mean(0))
        centred = (x - self.center).double()
        values, axes = torch.linalg.eigh(centred.T @ centred / len(x))
        spread = values.clamp(min=0).sqrt()
        self.whiten.copy_(axes / spread.clamp(min=max(FLOOR * spread.max().item(), 1e-12)))
