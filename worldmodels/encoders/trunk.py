"""One feature vector out of a dict of observations of any supported kind."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.distributions.gaussian import squash
from worldmodels.distributions.image import image_to_float
from worldmodels.nets import ImageTrunk, mlp
from worldmodels.specs import ObsSpec

MIN_SPREAD = 1e-3
"""Smallest standard deviation that is divided by: a dimension that hardly moved in the warm-up may move later."""


class Standardizer(nn.Module):
    """Centre and spread of each vector and image; 0 and 1 until `fit` is called, once.

    The encoder reads squash(x, center, spread) of a vector, a symlog in units of the spread, and the likelihood
    predicts the same. Of an image it reads (x - center) / spread, with a centre for each pixel and one spread for all,
    and the likelihood predicts x - center: what never moves is known from the first update.
    """

    def __init__(self, specs: Mapping[str, ObsSpec]) -> None:
        super().__init__()
        vectors = {name: spec.width for name, spec in specs.items() if spec.kind == "vector"}
        self.positions = {name: i for i, name in enumerate(vectors)}  # any text can name an observation, not a buffer
        for i, width in enumerate(vectors.values()):
            self.register_buffer(f"center_{i}", torch.zeros(width))
            self.register_buffer(f"spread_{i}", torch.ones(width))
        images = {name: spec.shape for name, spec in specs.items() if spec.kind == "image"}
        self.images = {name: i for i, name in enumerate(images)}
        for i, shape in enumerate(images.values()):
            self.register_buffer(f"image_center_{i}", torch.zeros(shape))
            self.register_buffer(f"image_spread_{i}", torch.ones(()))

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Centre and spread of the observation called `name`, each (n,)."""
        i = self.positions[name]
        return getattr(self, f"center_{i}"), getattr(self, f"spread_{i}")

    def image_moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Centre (H, W, C) and spread () of the float image called `name`."""
        i = self.images[name]
        return self.get_buffer(f"image_center_{i}"), self.get_buffer(f"image_spread_{i}")

    def image(self, name: str, value: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> standardised float (N, C, H, W)."""
        center, spread = self.image_moments(name)
        return (image_to_float(value) - center.movedim(-1, 0)).div_(spread)

    @torch.no_grad()
    def fit(self, obs: Mapping[str, Tensor]) -> None:
        """Set the moments from observations name -> (N, n) or uint8 (N, H, W, C), on the CPU: not all have doubles."""
        for name, value in obs.items():
            if name in self.images:
                center, spread = self.image_moments(name)
                parts = value.cpu().split(64)  # few at a time are doubles: a thousand large images would be gigabytes
                mean = torch.stack([_scaled(part).sum(0) for part in parts]).sum(0) / len(value)
                squares = torch.stack([(_scaled(part) - mean).square().mean((1, 2, 3)).sum() for part in parts]).sum()
                center.copy_(mean)
                spread.copy_((squares / len(value)).sqrt().clamp(min=MIN_SPREAD))
            elif name in self.positions:
                center, spread = self.moments(name)
                u = value.cpu().flatten(0, -2).double()
                center.copy_(u.mean(0))
                spread.copy_(u.std(0, correction=0).clamp(min=MIN_SPREAD))

    def forward(self, name: str, value: Tensor) -> Tensor:
        """(..., n) in the observation's units -> standardised (..., n)."""
        center, spread = self.moments(name)
        return squash(value, center, spread)


class Trunk(nn.Module):
    """Dict of observations (..., *shape) -> features (..., width).

    Vectors are taken to symlog space and standardised, discrete kinds become one-hots, and all of them go through one
    perceptron. Each image goes through a convolutional trunk.
    """

    def __init__(
        self,
        specs: Mapping[str, ObsSpec],
        standardizer: Standardizer,
        *,
        units: int,
        layers: int,
        depth: int,
        patch: int = 2,
        norm: bool,
    ) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.standardizer = standardizer
        self.flat = [name for name, spec in specs.items() if spec.kind != "image"]
        self.images = nn.ModuleDict()
        self.image_names = {}
        for i, (name, spec) in enumerate((n, s) for n, s in specs.items() if s.kind == "image"):
            self.image_names[name] = str(i)
            self.images[str(i)] = ImageTrunk((spec.shape[0], spec.shape[1], spec.shape[2]), depth, patch)
        self.vectors = [name for name, spec in specs.items() if spec.kind == "vector"]
        self.vector_width = sum(specs[name].width for name in self.vectors)
        flat_width = sum(specs[name].width for name in self.flat)
        self.perceptron = mlp(flat_width, units, layers, norm=norm) if self.flat else None
        self.width = (units if self.flat else 0) + sum(trunk.width for trunk in self.images.values())  # type: ignore[misc]

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """name -> (..., *shape), any leading axes -> (..., width)."""
        parts: list[Tensor] = []
        if self.perceptron is not None:
            parts.append(self.perceptron(torch.cat([self._flatten(name, obs[name]) for name in self.flat], -1)))
        for name, key in self.image_names.items():
            image = obs[name]
            lead = image.shape[:-3]
            features = self.images[key](self.standardizer.image(name, image.reshape(-1, *image.shape[-3:])))
            parts.append(features.reshape(*lead, -1))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def vector(self, obs: Mapping[str, Tensor]) -> Tensor | None:
        """All vector observations, standardised (..., vector_width); None if there are none."""
        if not self.vectors:
            return None
        return torch.cat([self.standardizer(name, obs[name]) for name in self.vectors], -1)

    def _flatten(self, name: str, value: Tensor) -> Tensor:
        """One observation as floats (..., width)."""
        spec = self.specs[name]
        if spec.kind == "vector":
            return self.standardizer(name, value)
        if spec.kind == "multi_binary":
            return value.float()
        if spec.kind == "discrete":
            return F.one_hot(value.long(), spec.classes[0]).float()
        return multi_one_hot(value, spec.classes)


def _scaled(image: Tensor) -> Tensor:
    """uint8 -> double in [-0.5, 0.5], the axes as they are."""
    return image.double() / 255 - 0.5


def multi_one_hot(value: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Integers (..., n) -> concatenated one-hots (..., sum(classes))."""
    return torch.cat([F.one_hot(value[..., i].long(), count) for i, count in enumerate(classes)], -1).float()
