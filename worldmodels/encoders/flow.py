"""The flow encoder: vector observations to latents by a bijection, with the exact change of volume."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.lazy import LazyTransform

from worldmodels.distributions.gaussian import KNEE, SymlogNormal
from worldmodels.encoders.trunk import Standardizer
from worldmodels.specs import ObsSpec
from worldmodels.types import Encoding

SHARPEST = 1e-4
"""Standard deviation, in standardised space, of a decoded observation where no noise was asked for."""


class FlowEncoder(nn.Module):
    """z = f(squash(o)) and log_volume = log |det dz/do| in nats; there is no posterior (Dinh et al. 2016, eq. 2).

    Where a latent is sampled, N(0, noise^2) is added to the standardised observation u first. Observations often lie on
    a surface (a sine and a cosine) or follow from the last ones exactly; their density has no bound, and noise gives it
    one. The noise is a posterior q(u' | o) and the likelihood p(o | u') at once: the two cancel, and what is left,
    E log p(u'), is a bound on the density of o, exact for noise = 0.
    """

    sees_context = False

    def __init__(
        self, specs: Mapping[str, ObsSpec], standardizer: Standardizer, transform: LazyTransform, *, noise: float
    ) -> None:
        super().__init__()
        self.widths = {name: spec.width for name, spec in specs.items()}
        self.standardizer = standardizer
        self.transform = transform
        self.noise = noise

    def tokens(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations name -> (..., n) -> all of them, standardised and squashed (..., Z)."""
        return torch.cat([self.standardizer(name, obs[name]) for name in self.widths], -1)

    def encode(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Encoding:  # noqa: ARG002
        """The latent of the observation, with noise if `sample`, and the log-volume of the whole map from o to z."""
        u = tokens + self.noise * torch.randn_like(tokens) if sample and self.noise else tokens
        z, log_volume = self.transform().call_and_ladj(u)
        return Encoding(z, log_volume + self._squash_volume(tokens))

    def latent(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Tensor:
        """The z of `encode`."""
        return self.encode(tokens, context, sample=sample).z

    def decode(self, z: Tensor) -> dict[str, Distribution]:
        """z (..., Z) -> name -> distribution around f^-1(z), as wide as the noise is."""
        parts = self.transform().inv(z).split(list(self.widths.values()), -1)
        decoded: dict[str, Distribution] = {}
        for name, u in zip(self.widths, parts, strict=True):
            std = torch.full_like(u, max(self.noise, SHARPEST))
            decoded[name] = SymlogNormal(u, std, *self.standardizer.moments(name))
        return decoded

    def _squash_volume(self, u: Tensor) -> Tensor:
        """log |du/do| of standardising and squashing, nats (...)."""
        spread = torch.cat([self.standardizer.moments(name)[1] for name in self.widths])
        return -(spread.log() + u.abs() / KNEE).sum(-1)
