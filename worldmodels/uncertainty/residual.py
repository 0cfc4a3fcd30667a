"""How far a latent is from those of real observations: what decoding and encoding it again do not give back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from worldmodels.specs import ObsSpec
from worldmodels.types import State

if TYPE_CHECKING:
    from worldmodels.world_model import WorldModel


@torch.no_grad()
def reencoding_residual(model: "WorldModel", states: State, specs: Mapping[str, ObsSpec]) -> Tensor:
    """Distance of a latent from the posterior's mode of its own decoded observation, in units of the latent (...).

    Near zero where the decoder draws what the encoder reads; large where imagination has left the latents of real
    observations. It costs a decoding and an encoding. specs: of the observations.
    """
    obs = {name: _likeliest(likelihood, specs[name]) for name, likelihood in model.decode(states).items()}
    encoding = model.encoder.encode(model.encoder.tokens(obs), states.context, sample=False)
    return (encoding.z - states.z).norm(dim=-1)


def _likeliest(likelihood: Distribution, spec: ObsSpec) -> Tensor:
    """The most likely observation (..., *shape), as an encoder reads it."""
    if spec.kind == "multi_binary":
        return (likelihood.mean > 0.5).to(torch.uint8)
    if not spec.classes:
        return likelihood.mode
    blocks = likelihood.mode.split(list(spec.classes), -1)
    indices = torch.stack([block.argmax(-1) for block in blocks], -1)
    return indices if spec.shape else indices.squeeze(-1)
