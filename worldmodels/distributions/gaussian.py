"""Diagonal Gaussian latents, and the Gaussian likelihood of a vector in symlog space."""

from math import log, pi

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

LOG_2PI = log(2 * pi)
SHARP = 5.0
"""Where a posterior's spread parameter starts below that of a prior."""


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), elementwise (Hafner et al. 2023, eq. 9)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`, elementwise."""
    return x.sign() * x.abs().expm1()


class GaussianFamily:
    """N(mean, std^2) over Z dimensions; raw = [mean, s], std = 2 sigmoid((s - 3) / 2) + min_std."""

    def __init__(self, size: int, min_std: float = 0.05) -> None:
        self.width = size
        self.parameters = 2 * size
        self.min_std = min_std

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2Z) -> mean and standard deviation, each (..., Z)."""
        mean, s = raw.chunk(2, -1)
        return mean, torch.add(self.min_std, torch.sigmoid(0.5 * s - 1.5), alpha=2)

    ordered = True

    def sharpen(self, raw: Tensor) -> Tensor:
        """Raw parameters whose spread starts near its floor: an untrained posterior still tells states apart."""
        mean, s = raw.chunk(2, -1)
        return torch.cat([mean, s - SHARP], -1)

    def shift(self, raw: Tensor, z: Tensor) -> Tensor:
        """The same spread around `z` (..., Z) plus the mean: raw parameters of a predicted change."""
        mean, s = raw.chunk(2, -1)
        return torch.cat([mean + z, s], -1)

    def sample(self, raw: Tensor) -> Tensor:
        """Reparameterised sample (..., Z)."""
        mean, std = self.moments(raw)
        return torch.addcmul(mean, std, torch.randn_like(mean))

    def mode(self, raw: Tensor) -> Tensor:
        """The mean (..., Z)."""
        return raw.chunk(2, -1)[0]

    def log_prob(self, raw: Tensor, z: Tensor) -> Tensor:
        """Log-density in nats (...)."""
        mean, std = self.moments(raw)
        return -0.5 * (((z - mean) / std).square() + 2 * std.log() + LOG_2PI).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        """0.5 sum log(2 pi e std^2), nats (...)."""
        _, std = self.moments(raw)
        return (std.log() + 0.5 * (1 + LOG_2PI)).sum(-1)

    def kl(self, raw_q: Tensor, raw_p: Tensor) -> Tensor:
        """KL(q || p) in nats (...)."""
        mean_q, std_q = self.moments(raw_q)
        mean_p, std_p = self.moments(raw_p)
        ratio = std_q / std_p
        return 0.5 * (ratio.square() + ((mean_q - mean_p) / std_p).square() - 1 - 2 * ratio.log()).sum(-1)

    def distribution(self, raw: Tensor) -> Distribution:
        """Independent Normal of event shape (Z,)."""
        mean, std = self.moments(raw)
        return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


KNEE = 5.0
"""Standard deviations up to which squashing is close to linear."""


def squash(x: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """KNEE symlog((x - center) / (KNEE spread)): standardised, with slope 1 at the centre and logarithmic far out."""
    return KNEE * symlog((x - center) / (KNEE * spread))


def unsquash(u: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """Inverse of `squash`."""
    return center + spread * KNEE * symexp(u / KNEE)


class SymlogNormal(Distribution):
    """x with squash(x) = u and u ~ N(mean, std^2), per dimension; event shape (n,).

    `log_prob` is the density of x itself, in nats: the log-Jacobian of the squashing is included.
    """

    arg_constraints: dict = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = True

    def __init__(self, mean: Tensor, std: Tensor, center: Tensor, spread: Tensor) -> None:
        self.mean_u, self.std_u, self.center, self.spread = mean, std, center, spread
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats (...), summed over the event."""
        u = squash(value, self.center, self.spread)
        log_jacobian = -self.spread.log() - u.abs() / KNEE  # du/dx = 1 / (spread (1 + |x - center| / (KNEE spread)))
        log_normal = -0.5 * (((u - self.mean_u) / self.std_u).square() + LOG_2PI) - self.std_u.log()
        return (log_normal + log_jacobian).sum(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised sample (*sample_shape, ..., n)."""
        noise = torch.randn(*sample_shape, *self.mean_u.shape, dtype=self.mean_u.dtype, device=self.mean_u.device)
        return unsquash(self.mean_u + self.std_u * noise, self.center, self.spread)

    @property
    def mode(self) -> Tensor:
        """The median, in the observation's units (..., n)."""
        return unsquash(self.mean_u, self.center, self.spread)

    @property
    def mean(self) -> Tensor:
        """Same as `mode`: the point that is shown and compared."""
        return self.mode
