"""The VAE encoder: a trunk and a posterior over the latent."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldmodels.encoders.trunk import Trunk
from worldmodels.nets import identity_path, mlp
from worldmodels.types import Encoding, LatentFamily


class VAEEncoder(nn.Module):
    """q(z | o) or, with a context, q(z | o, h); log_volume = -log q(z | o, h) in nats (Kingma and Welling 2014).

    `tokens` is computed for a whole window at once; `posterior` then needs little work a step. Vector observations also
    reach the latent by a linear path that starts as the identity: an untrained model already remembers them.
    """

    def __init__(self, trunk: Trunk, family: LatentFamily, *, context: int, units: int, norm: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.family = family
        self.sees_context = context > 0
        self.head = mlp(trunk.width + context, units, 1, family.parameters, norm=norm, scale=0.1)
        self.skip = identity_path(trunk.vector_width, family.width) if family.ordered else None

    def tokens(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations (..., *shape) -> (..., E), independent of the context."""
        vector = self.trunk.vector(obs) if self.skip is not None else None
        features = self.trunk(obs)
        return features if vector is None else torch.cat([vector, features], -1)

    def posterior(self, tokens: Tensor, context: Tensor | None) -> Tensor:
        """Raw parameters (..., P) of the latent family."""
        features = tokens[..., self.trunk.vector_width :] if self.skip is not None else tokens
        if self.sees_context and context is not None:
            features = torch.cat([features, context], -1)
        raw = self.family.sharpen(self.head(features))
        return raw if self.skip is None else self.family.shift(raw, self.skip(tokens[..., : self.trunk.vector_width]))

    def encode(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Encoding:
        """A sample of the posterior, or its mode, and the log-volume. Never runs the decoder."""
        raw = self.posterior(tokens, context)
        z = self.family.sample(raw) if sample else self.family.mode(raw)
        return Encoding(z, -self.family.log_prob(raw, z), raw)

    def latent(self, tokens: Tensor, context: Tensor | None = None, *, sample: bool = True) -> Tensor:
        """The z of `encode` alone: acting asks for no density."""
        raw = self.posterior(tokens, context)
        return self.family.sample(raw) if sample else self.family.mode(raw)
