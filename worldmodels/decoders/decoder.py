"""Likelihoods of a dict of observations, given the features of a state."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from worldmodels.distributions import ImageNormal, StraightThroughCategoricals, SymlogNormal
from worldmodels.encoders.trunk import Standardizer, multi_one_hot
from worldmodels.nets import ImageStem, identity_path, mlp
from worldmodels.specs import ObsSpec

SCALE_SPEED = 10.0
"""Log-scales learn this many times faster than other parameters: a few hundred updates must be enough for them."""


class Decoder(nn.Module):
    """p(o | z, h): Gaussian with a learned scale per dimension in standardised symlog space for vectors, Gaussian with
    one learned scale for images, categoricals for discrete kinds, Bernoulli for binary ones.
    """  # noqa: D205

    def __init__(
        self,
        specs: Mapping[str, ObsSpec],
        standardizer: Standardizer,
        features: int,
        *,
        latent: int,
        units: int,
        layers: int,
        depth: int,
        patch: int = 2,
        min_scale: float,
        image_weight: float,
        norm: bool,
    ) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.standardizer = standardizer
        self.min_scale = min_scale
        self.image_weight = image_weight
        self.flat = [name for name, spec in specs.items() if spec.kind != "image"]
        self.widths = [specs[name].width for name in self.flat]
        self.perceptron = mlp(features, units, layers, sum(self.widths), norm=norm, scale=0.1) if self.flat else None
        self.latent = latent
        vector_width = sum(specs[name].width for name in self.flat if specs[name].kind == "vector")
        self.skip = identity_path(latent, vector_width) if latent and vector_width else None
        self.log_scale = nn.ParameterDict()
        self.images = nn.ModuleDict()
        self.keys = {name: str(i) for i, name in enumerate(specs)}
        for name, spec in specs.items():
            if spec.kind == "vector":
                self.log_scale[self.keys[name]] = nn.Parameter(torch.full((spec.width,), -1.0 / SCALE_SPEED))
            elif spec.kind == "image":
                self.log_scale[self.keys[name]] = nn.Parameter(torch.tensor(-1.5 / SCALE_SPEED))
                self.images[self.keys[name]] = ImageStem(
                    features, (spec.shape[0], spec.shape[1], spec.shape[2]), depth, patch
                )

    def forward(self, features: Tensor) -> dict[str, Distribution]:
        """(..., F) -> name -> Distribution of batch shape (...)."""
        likelihoods: dict[str, Distribution] = {}
        if self.perceptron is not None:
            outputs = self.perceptron(features).split(self.widths, -1)
            direct = self.skip(features[..., -self.latent :]) if self.skip is not None else None
            start = 0
            for name, raw in zip(self.flat, outputs, strict=True):
                if direct is not None and self.specs[name].kind == "vector":
                    raw = raw + direct[..., start : start + raw.shape[-1]]
                    start += raw.shape[-1]
                likelihoods[name] = self._flat_likelihood(name, raw)
        for name, spec in self.specs.items():
            if spec.kind == "image":
                lead = features.shape[:-1]
                image = self.images[self.keys[name]](features.reshape(-1, features.shape[-1]))
                image = image + self.standardizer.image_moments(name)[0].movedim(-1, 0)
                likelihoods[name] = ImageNormal(image.reshape(*lead, *image.shape[1:]), self._scale(name))
        return likelihoods

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-likelihood of all observations in nats (...), and the same with images weighted by `image_weight`."""
        total = weighted = torch.zeros(features.shape[:-1], device=features.device)
        for name, likelihood in self(features).items():
            spec, value = self.specs[name], obs[name]
            if spec.kind == "discrete":
                value = multi_one_hot(value.unsqueeze(-1), spec.classes)
            elif spec.kind == "multi_discrete":
                value = multi_one_hot(value, spec.classes)
            elif spec.kind == "multi_binary":
                value = value.float()
            nats = likelihood.log_prob(value)
            total = total + nats
            weighted = weighted + nats * (self.image_weight if spec.kind == "image" else 1.0)
        return total, weighted

    def _scale(self, name: str) -> Tensor:
        return (SCALE_SPEED * self.log_scale[self.keys[name]]).exp() + self.min_scale

    def _flat_likelihood(self, name: str, raw: Tensor) -> Distribution:
        spec = self.specs[name]
        if spec.kind == "vector":
            center, spread = self.standardizer.moments(name)
            return SymlogNormal(raw, self._scale(name).expand_as(raw), center, spread)
        if spec.kind == "multi_binary":
            return Independent(Bernoulli(logits=raw, validate_args=False), 1, validate_args=False)
        return StraightThroughCategoricals(raw, spec.classes)


def likeliest(likelihood: Distribution, spec: ObsSpec) -> np.ndarray:
    """What a likelihood holds for most likely: images uint8, indices (..., n) for discrete kinds, else (..., n).

    For binary kinds it is the probability of 1.
    """
    if spec.kind == "image":
        return likelihood.mode.cpu().numpy()
    if spec.kind == "multi_binary":
        return likelihood.mean.cpu().numpy()
    mode = likelihood.mode.cpu().numpy()
    if not spec.classes:
        return mode
    ends = np.cumsum(spec.classes)[:-1]
    return np.stack([block.argmax(-1) for block in np.split(mode, ends, -1)], -1)  # one-hot blocks -> indices
