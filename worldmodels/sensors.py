"""Which sensor lies, and what the world is like without it: a bank of filters in latent space, one for each suspicion.

Hypothesis 0 says that every number of the vector observations is as good as it usually is, hypothesis i that number i
says anything. Each has an ensemble Kalman filter over particles of the temporal prior, so that what is not seen (a
velocity whose sensor is broken) is inferred from the rest over time.
"""

from collections.abc import Mapping
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from worldmodels.distributions.gaussian import LOG_2PI
from worldmodels.errors import ConfigError
from worldmodels.types import State
from worldmodels.world_model import WorldModel

BROAD = 3.0
"""Standard deviation of what a broken sensor says, in those of the data."""
CHANGE = 0.001
"""Chance that a sensor breaks, or heals, at a step."""
HONEST = 0.9
"""Share of the steps at which a broken sensor says what a sound one would: trust comes back slowly."""
LEAST_NOISE = 1e-3
"""Smallest standard deviation of a sensor, in those of the data."""


class Belief(NamedTuple):
    """What the bank makes of one step.

    probability: (1 + n,), of each hypothesis; the first says that nothing is broken. ignored: (n,) bool, the number
    that the most probable one distrusts. expected: name -> (n,), vector observations as that hypothesis sees them.
    """

    probability: Tensor
    ignored: Tensor
    expected: dict[str, Tensor]


class SensorBank:
    """Ensemble Kalman filters that exchange particles (Burgers et al. 1998; Blom and Bar-Shalom 1988).

    At each step every hypothesis draws particles from those that may have changed into it, moves them by the temporal
    prior, and corrects their latents by the observation, with the gain Cov(z, y) (Cov(y, y) + R)^-1 of its own sensor
    noise R. Its probability follows from how well it foretold what it trusts, N(y; mean y, Cov(y, y) + R). Of what it
    distrusts it says: as hypothesis 0 foretells it with chance `HONEST`, else anything. So one wild reading is enough
    to distrust a sensor, and trust comes back slowly, where nothing contradicts it. Where everything is linear and
    Gaussian each filter is that of Kalman, up to the number of particles.

    Sensors are compared in standardised units. One number is distrusted at a time. Random numbers come from torch's
    global generator.
    """

    def __init__(
        self, model: WorldModel, noise: Tensor, *, particles: int = 128, broad: float = BROAD, change: float = CHANGE
    ) -> None:
        """Make the filters of a model.

        Args: noise: (n,), standard deviation of what each number usually differs from what was expected of it.
        particles: of each hypothesis. broad: standard deviation of a broken sensor. change: chance a step that a sensor
        breaks or heals.
        Raises: ConfigError: the model sees no vector observations.
        """
        self.names = [name for name, spec in model.obs_specs.items() if spec.kind == "vector"]
        if not self.names:
            raise ConfigError("which sensor is broken can be asked of vector observations, and the model sees none")
        self.model, self.particles, count = model, particles, len(noise)
        usual, anything = noise.clamp(min=LEAST_NOISE).square(), torch.full_like(noise, broad**2)
        broken = torch.cat([torch.zeros(1, count), torch.eye(count)]).bool().to(noise.device)  # (M, n)
        self.broken, self.variance = broken, torch.where(broken, anything, usual)  # (M, n)
        transition = torch.zeros(count + 1, count + 1, device=noise.device)
        transition[0, 1:], transition[1:, 0] = change / count, change
        self.transition = transition + (1 - transition.sum(1)).diag()

    def begin(self, state: State) -> None:
        """Begin at one state (1, ...), with every sensor trusted."""
        count = len(self.broken)
        self.states = state.repeat(count * self.particles).map(lambda x: x.unflatten(0, (count, -1)))  # (M, N, ...)
        self.log_probability = torch.full((count,), -torch.inf, device=self.broken.device)
        self.log_probability[0] = 0.0

    @torch.no_grad()
    def step(self, action: Tensor, obs: Mapping[str, Tensor]) -> Belief:
        """Take in the observation (1, ...) that `action` (1, A) led to."""
        rows = self._mix().map(lambda x: x.flatten(0, 1))  # (M * N, ...)
        state, _ = self.model.one_step(rows, action.expand(len(rows.z), -1))
        expected, _ = self._read(state)  # (M, N, n)
        seen = torch.cat([self.model.standardizer(name, obs[name]) for name in self.names], -1)[0]  # (n,)
        z = state.z.unflatten(0, (len(self.broken), -1))
        corrected = correct(z, expected, seen, self.variance)
        state = State(state.context, corrected.flatten(0, 1), state.cache)
        self.states = state.map(lambda x: x.unflatten(0, (len(self.broken), -1)))
        lying, trusted = log_evidence(expected, seen, self.variance), log_evidence(expected[:1], seen, self.variance)
        usual = trusted[0] - trusted  # of what each doubts, as hypothesis 0 foretells it, against anything
        evidence = lying + torch.logaddexp(usual + log(HONEST), torch.full_like(usual, log(1 - HONEST)))
        self.log_probability = (self.log_probability + evidence).log_softmax(0)
        best = int(self.log_probability.argmax())
        _, natural = self._read(self.states.index(best))
        return Belief(
            self.log_probability.exp(),
            self.broken[best].clone(),
            {name: value.mean(0) for name, value in natural.items()},
        )

    def _mix(self) -> State:
        """Particles (M, N, ...) of every hypothesis after a possible change; their probabilities change with them."""
        joint = self.log_probability.unsqueeze(1) + self.transition.log()  # (from, to)
        self.log_probability = joint.logsumexp(0)
        shares = (joint - self.log_probability).exp().T.cumsum(1)  # (to, from)
        places = (torch.arange(self.particles, device=shares.device) + torch.rand(1, device=shares.device)) / (
            self.particles
        )
        source = torch.searchsorted(shares.contiguous(), places.expand(len(shares), -1).contiguous())  # (M, N)
        own = torch.randperm(self.particles, device=shares.device).expand_as(source)
        return self.states.index((source.clamp(max=len(shares) - 1), own))

    def _read(self, states: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Vector observations of states (M * N, ...) or (N, ...): standardised (M, N, n), and in their own units."""
        likelihoods = self.model.decode(states)
        natural = {name: likelihoods[name].mode for name in self.names}
        flat = torch.cat([self.model.standardizer(name, value) for name, value in natural.items()], -1)
        return flat.unflatten(0, (-1, self.particles)), natural


def correct(z: Tensor, expected: Tensor, seen: Tensor, variance: Tensor) -> Tensor:
    """One update of M ensemble Kalman filters, with perturbed observations (Burgers et al. 1998, eq. 13).

    Args: z: particles (M, N, Z). expected: what each foretells, (M, N, n). seen: (n,). variance: of sensors, (M, n).
    Returns: corrected particles (M, N, Z).
    """
    apart, off = z - z.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True)
    gain = torch.linalg.solve(_covariance(expected, variance), off.mT @ apart / (z.shape[1] - 1))  # (M, n, Z)
    return z + (seen - expected + variance.sqrt().unsqueeze(1) * torch.randn_like(expected)) @ gain


def log_evidence(expected: Tensor, seen: Tensor, variance: Tensor) -> Tensor:
    """log N(seen; mean, covariance + variance) in nats (M,), of what particles foretell (M, N, n)."""
    factor = torch.linalg.cholesky(_covariance(expected, variance))
    missed = (seen - expected.mean(1)).unsqueeze(-1)  # (M, n, 1)
    distance = torch.linalg.solve_triangular(factor, missed, upper=False).square().sum((1, 2))
    return -0.5 * (distance + len(seen) * LOG_2PI) - factor.diagonal(dim1=1, dim2=2).log().sum(1)


def _covariance(expected: Tensor, variance: Tensor) -> Tensor:
    """Of readings, (M, n, n): the spread of what particles (M, N, n) foretell, and sensors of `variance` (M, n)."""
    off = expected - expected.mean(1, keepdim=True)
    return off.mT @ off / (expected.shape[1] - 1) + variance.diag_embed()
