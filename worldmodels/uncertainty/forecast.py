"""Many steps ahead: every member follows its own trajectory, and what one step does not know grows into the next.

The temporal prior is one more member: it was fitted by another loss with more of the network, so where it contradicts
the ensemble there is an error that the ensemble's members may share, and cannot see.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from worldmodels.distributions import SymlogNormal
from worldmodels.errors import ConfigError
from worldmodels.types import LatentFamily, State

if TYPE_CHECKING:
    from worldmodels.world_model import WorldModel

SAMPLES = 4
"""Trajectories of each member. All members share their noise, so that it does not pass for disagreement; half of the
trajectories have that of the other half with the opposite sign, so that it hardly moves their mean."""


class Forecast(NamedTuple):
    """What is expected H steps ahead, without looking. All (B, H, n); n counts the dimensions of `readout`.

    mean: over samples and members, the temporal prior among them. epistemic: variance between the members' means.
    aleatoric: mean variance within a member, the decoder's own included. Their sum is the variance of the forecast.
    """

    mean: Tensor
    epistemic: Tensor
    aleatoric: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the forecast (B, H, n)."""
        return (self.epistemic + self.aleatoric).sqrt()


@torch.no_grad()
def forecast(model: "WorldModel", start: State, action: Tensor, *, samples: int = SAMPLES) -> Forecast:
    """Follow `action` (B, H, A) from `start` (B, ...) with every member of the ensemble, and the temporal prior, alone.

    samples: trajectories of each member, in pairs of opposite noise (antithetic variates, Hammersley and Morton 1956).
    Random numbers come from torch's global generator. Raises: ConfigError: the model has no ensemble.
    """
    ensemble = model.ensemble
    if ensemble is None:
        raise ConfigError("this world model has no ensemble: train it with world_model.ensemble.members=5")
    same = model.family_module is None  # a transition that is a flow has no noise to share with the members
    members, (batch, horizon) = ensemble.members + same, action.shape[:2]
    rows = members * samples * batch
    state = start.repeat(members * samples)  # (K * S * B, ...)
    states = []
    for t in range(horizon):
        context, cache = model.temporal_prior.advance(state, action[:, t].repeat(members * samples, 1))
        own = context.view(members, rows // members, -1)  # (K, S * B, D)
        theirs = own[: ensemble.members]
        raw = ensemble.each(theirs, model.temporal_prior.previous(theirs))
        if same:
            raw = torch.cat([raw, model.temporal_prior.prior(own[-1:])])  # (K + 1, S * B, P)
        state = State(context, _shared_sample(ensemble.family, raw, samples).flatten(0, 1), cache)
        states.append((context, state.z))
    mean, noise = readout(model, State(*(torch.stack(column) for column in zip(*states, strict=True))))
    mean = mean.view(horizon, members, samples, batch, -1)  # (H, K, S, B, n)
    within = mean.var(2, correction=0).mean(1) + noise.square()  # (H, B, n)
    between = mean.mean(2).var(1, correction=0)
    return Forecast(*(x.transpose(0, 1) for x in (mean.mean((1, 2)), between, within)))  # (B, H, n)


def readout(model: "WorldModel", states: State) -> tuple[Tensor, Tensor]:
    """What forecasts are about: vector observations in standardised units, or the latent where there are none.

    Returns: expected value (..., n) of `states` (...), and the decoder's own standard deviation of it (n,).
    """
    likelihoods = [d for d in model.decode(states).values() if isinstance(d, SymlogNormal)]
    if not likelihoods:
        return states.z, torch.zeros(states.z.shape[-1], device=states.z.device)
    mean = torch.cat([d.mean_u for d in likelihoods], -1)
    noise = torch.cat([d.std_u.reshape(-1, d.std_u.shape[-1])[0] for d in likelihoods])
    return mean, noise


def realised(model: "WorldModel", obs: dict[str, Tensor], states: State) -> Tensor:
    """What `readout` should have said: of observations (...) and of the posterior states that they led to, (..., n)."""
    vectors = model.standardizer.positions
    if not vectors:
        return states.z
    return torch.cat([model.standardizer(name, obs[name]) for name in vectors], -1)


def _shared_sample(family: LatentFamily, raw: Tensor, samples: int) -> Tensor:
    """A latent from each member's own prediction (K, S * B, P) -> (K, S * B, Z); all members share their noise."""
    if not family.ordered:
        return family.sample(raw)
    mean, std = family.moments(raw)
    half = torch.randn_like(mean[0].unflatten(0, (samples, -1))[: (samples + 1) // 2])  # (S / 2, B, Z)
    return mean + std * torch.cat([half, -half])[:samples].flatten(0, 1)
