"""Gaussian likelihood of an image with one learned scale."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from worldmodels.distributions.gaussian import LOG_2PI


def image_to_float(image: Tensor) -> Tensor:
    """uint8 (..., H, W, C) -> float (..., C, H, W) in [-0.5, 0.5]. The only place where images change their type.

    Raises: TypeError: not uint8: an image that was scaled already would be scaled twice, in place.
    """
    if image.dtype != torch.uint8:
        raise TypeError(f"image is {image.dtype}, expected torch.uint8: images stay uint8 up to the encoder")
    return torch.sub(image, 127.5).div_(255).movedim(-1, -3)


class ImageNormal(Distribution):
    """N(mean, std^2) over the float image; values are uint8 (..., H, W, C).

    `log_prob` is in nats per image, a density of the float image in [-0.5, 0.5] (not of the integers).
    """

    arg_constraints: dict = {}  # noqa: RUF012

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean_u, self.std_u = mean, std
        super().__init__(mean.shape[:-3], mean.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """uint8 (..., H, W, C) -> nats (...)."""
        error = (self.mean_u - image_to_float(value)).movedim(-3, -1).flatten(-3)  # channels last, as in memory
        squares = torch.linalg.vecdot(error, error)
        return -0.5 * (squares / self.std_u.square() + error.shape[-1] * (2 * self.std_u.log() + LOG_2PI))

    @property
    def mode(self) -> Tensor:
        """uint8 (..., H, W, C)."""
        return ((self.mean_u + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)

    @property
    def mean(self) -> Tensor:
        """Same as `mode`."""
        return self.mode
