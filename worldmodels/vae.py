"""The still VAE: the world model's own encoder, prior and decoder on single observations, without time or action."""

from collections.abc import Mapping
from math import inf, log

import torch
from torch import Tensor, nn

from worldmodels.decoders import Decoder
from worldmodels.distributions import GaussianFamily
from worldmodels.encoders import Standardizer, Trunk, VAEEncoder
from worldmodels.errors import ConfigError
from worldmodels.fitting import minimise
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ObsSpec
from worldmodels.types import DensityModel, Kind

NAME = "x"
"""The one observation of a still model."""


class StillVAE(nn.Module):
    """log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z)): a sequence of length 1 (Kingma and Welling 2014).

    x: (N, *shape) of one kind: uint8 images (N, height, width, channels), both sides at least 10, or float vectors.
    A `DensityModel`.

    Args: spec: kind and shape of x. latent: Z. min_std: smallest spread of the posterior. units, layers, depth: as in
        `TrunkOptions`. min_scale: smallest standard deviation of the likelihood.
    Raises: ConfigError: x is neither an image of a sufficient size nor a vector.
    """

    def __init__(
        self,
        spec: ObsSpec,
        *,
        latent: int = 16,
        min_std: float = 0.05,
        units: int = 128,
        layers: int = 1,
        depth: int = 16,
        min_scale: float = 0.02,
    ) -> None:
        super().__init__()
        if spec.kind not in ("image", "vector") or (spec.kind == "image" and min(spec.shape[:2]) < 10):
            raise ConfigError(
                f"StillVAE: expected a vector or an image of at least 10x10, got {spec.kind} of shape {spec.shape}; "
                "enlarge small images by repeating their pixels"
            )
        specs: Mapping[str, ObsSpec] = {NAME: spec}
        self.family = GaussianFamily(latent, min_std)
        self.standardizer = Standardizer(specs)
        trunk = Trunk(specs, self.standardizer, units=units, layers=layers, depth=depth, norm=True)
        self.encoder = VAEEncoder(trunk, self.family, context=0, units=units, norm=True)
        self.prior = MarginalPrior(self.family)
        self.decoder = Decoder(
            specs,
            self.standardizer,
            latent,
            latent=latent,
            units=units,
            layers=layers,
            depth=depth,
            min_scale=min_scale,
            image_weight=1.0,
            norm=True,
        )

    def posterior(self, x: Tensor) -> Tensor:
        """Raw parameters (N, P) of q(z | x)."""
        return self.encoder.posterior(self.encoder.tokens({NAME: x}), None)

    def latent(self, x: Tensor) -> Tensor:
        """Mean of q(z | x), (N, Z)."""
        return self.family.mode(self.posterior(x))

    def elbo(self, x: Tensor, raw: Tensor) -> Tensor:
        """E_q[log p(x | z)] - KL(q || p) by one sample of the posterior with parameters `raw` (N, P); nats (N,)."""
        likelihood, _ = self.decoder.log_prob(self.family.sample(raw), {NAME: x})
        return likelihood - self.family.kl(raw, self._prior(raw))

    def loss(self, x: Tensor) -> Tensor:
        """Mean negative ELBO, nats per row."""
        return -self.elbo(x, self.posterior(x)).mean()

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, samples: int = 100) -> tuple[Tensor, Kind]:
        """Importance-weighted bound (N,) with that many samples of the posterior (Burda et al. 2016, eq. 8)."""
        raw = self.posterior(x)
        weights = torch.stack([self._log_weight(x, raw) for _ in range(samples)])
        return weights.logsumexp(0) - log(samples), "bound"

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """The most likely x of n latents out of the prior: (n, *shape)."""
        z = self.family.sample(self._prior(torch.empty(n, 1, device=self.prior.table.device)))
        return self.decoder(z)[NAME].mode

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Tensor:
        """What the bound is made of, (N, 4), without sampling: log p(x | z), log p(z), H(q), log |z|, at the mean z.

        The ELBO is nearly the sum of the first three; a second-stage density sees where they are odd together
        (Morningstar et al. 2021).
        """
        raw = self.posterior(x)
        z = self.family.mode(raw)
        likelihood, _ = self.decoder.log_prob(z, {NAME: x})
        return torch.stack(
            [likelihood, self.family.log_prob(self._prior(raw), z), self.family.entropy(raw), z.norm(dim=-1).log()], -1
        )

    def _prior(self, like: Tensor) -> Tensor:
        """Raw parameters of p(z) for as many rows as `like` (N, ...) has."""
        return self.prior.parameters_of(torch.ones(len(like), dtype=torch.bool, device=like.device))

    def _log_weight(self, x: Tensor, raw: Tensor) -> Tensor:
        """log p(x, z) - log q(z | x) of one sample, (N,)."""
        z = self.family.sample(raw)
        likelihood, _ = self.decoder.log_prob(z, {NAME: x})
        return likelihood + self.family.log_prob(self._prior(raw), z) - self.family.log_prob(raw, z)


def fit(
    model: DensityModel, x: Tensor, *, steps: int, batch: int = 128, rate: float = 3e-3, seed: int = 0
) -> list[float]:
    """Minimise a density model's loss on rows of x (N, ...) by Adam, the rate falling to zero; every step's loss.

    Random numbers outside stay untouched. The model is an `nn.Module` whose parameters are trained.
    """
    assert isinstance(model, nn.Module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = lambda: model.loss(x[torch.randint(len(x), (min(batch, len(x)),))])  # noqa: E731
        return minimise(model.parameters(), loss, steps=steps, rate=rate, clip=100.0)


def likelihood_regret(vae: StillVAE, x: Tensor, *, steps: int = 50, rate: float = 0.05, samples: int = 32) -> Tensor:
    """max_q ELBO(x; q) - ELBO(x; q(z | x)), nats (N,): how much a posterior of its own would help each x.

    Each row's posterior parameters are optimised by themselves, from the encoder's; the decoder stays as it is (Xiao et
    al. 2020, eq. 5). The same noise is used before and after; where nothing better was found the regret is 0. Higher is
    more out of distribution.
    """
    weights = [p.requires_grad for p in vae.parameters()]
    vae.requires_grad_(False)
    try:
        start = vae.posterior(x).detach()
        raw = start.clone().requires_grad_()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            minimise([raw], lambda: -vae.elbo(x, raw).sum(), steps=steps, rate=rate, clip=inf)
            values = []
            for parameters in (start, raw.detach()):
                torch.manual_seed(0)
                values.append(torch.stack([vae.elbo(x, parameters) for _ in range(samples)]).mean(0))
    finally:
        for parameter, trained in zip(vae.parameters(), weights, strict=True):
            parameter.requires_grad_(trained)
    return (values[1] - values[0]).clamp(min=0).detach()
