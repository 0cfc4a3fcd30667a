"""Part names to parts: the one place where a world model's options become modules."""

from collections.abc import Mapping
from typing import Any

import torch

from worldmodels.decoders import Decoder, InverseDecoder
from worldmodels.distributions import CategoricalFamily, FlowFamily, GaussianFamily
from worldmodels.dynamics import (
    Ensemble,
    Epinet,
    MarkovPrior,
    Members,
    RecurrentPrior,
    StateSpacePrior,
    TransformerPrior,
)
from worldmodels.encoders import FlowEncoder, Standardizer, Trunk, VAEEncoder
from worldmodels.errors import ConfigError
from worldmodels.flows import coupling_flow
from worldmodels.heads import ContinuationHead, TwoHotHead
from worldmodels.options import EnsembleOptions, FlowOptions, WorldModelOptions
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import LatentFamily
from worldmodels.world_model import WorldModel


def build_world_model(
    options: WorldModelOptions, obs_specs: Mapping[str, ObsSpec], action_spec: ActionSpec
) -> WorldModel:
    """A freshly initialised world model; parameters are drawn from torch's global generator.

    Raises: ConfigError: an unknown part, or parts that do not go together.
    """
    trunk_options, heads = options.trunk, options.heads
    if options.encoder not in ("vae", "flow"):
        raise ConfigError(f"world_model.encoder: unknown part {options.encoder!r}; known: flow, vae")
    posterior = _posterior_family(options, obs_specs)
    family = _transition_family(options, posterior)
    standardizer = Standardizer(obs_specs)
    prior = _temporal_prior(options, family, action_spec.size)
    features = prior.context_size + family.width
    encoder = (
        _flow_encoder(options, obs_specs, standardizer)
        if options.encoder == "flow"
        else _vae_encoder(options, obs_specs, standardizer, posterior, prior.context_size)
    )
    return WorldModel(
        encoder=encoder,
        family=family,
        temporal_prior=prior,
        marginal=MarginalPrior(family),
        decoder=InverseDecoder(encoder.decode, latent=family.width)
        if isinstance(encoder, FlowEncoder)
        else Decoder(
            obs_specs,
            standardizer,
            features,
            latent=family.width if family.ordered else 0,
            units=trunk_options.units,
            layers=trunk_options.layers,
            depth=trunk_options.depth,
            patch=trunk_options.patch,
            min_scale=trunk_options.min_scale,
            image_weight=trunk_options.image_weight,
            norm=options.norm,
        ),
        reward=TwoHotHead(
            features, units=heads.units, layers=heads.layers, bins=heads.bins, limit=heads.limit, norm=options.norm
        ),
        continuation=ContinuationHead(features, units=heads.units, layers=heads.layers, norm=options.norm),
        standardizer=standardizer,
        objective=options.objective,
        ensemble=build_ensemble(options.ensemble, posterior, prior.context_size),
        obs_specs=obs_specs,
        action_spec=action_spec,
    )


def build_ensemble(options: EnsembleOptions, family: LatentFamily, context: int) -> Members | None:
    """The members for contexts of this width, or None.

    The random state is left as it was: the same run without them draws the same numbers.
    """
    if options.members == 0:
        return None
    sizes = {k: v for k, v in vars(options).items() if k not in ("kind", "clip")}
    with torch.random.fork_rng(devices=[]):
        if options.kind == "epinet":
            return Epinet(family, context, **sizes)
        return Ensemble(family, context, **sizes, clip=options.clip)


def _temporal_prior(
    options: WorldModelOptions, family: LatentFamily, action_size: int
) -> RecurrentPrior | StateSpacePrior | TransformerPrior | MarkovPrior:
    """The temporal prior of that name; one that is trained in parallel cannot wait for a posterior that reads it."""
    kinds = {
        "recurrent": RecurrentPrior,
        "state_space": StateSpacePrior,
        "transformer": TransformerPrior,
        "markov": MarkovPrior,
    }
    kind = kinds.get(options.temporal_prior)
    if kind is None:
        known = ", ".join(kinds)
        raise ConfigError(f"world_model.temporal_prior: unknown part {options.temporal_prior!r}; known: {known}")
    for section, size, parts in (("recurrent", "deter", "blocks"), ("transformer", "width", "heads")):
        whole, count = (getattr(getattr(options, section), name) for name in (size, parts))
        if whole % count:
            raise ConfigError(
                f"world_model.{section}: {size} {whole} does not divide into {count} {parts}; make it a multiple"
            )
    if kind.parallel and options.posterior_sees_context:
        raise ConfigError(
            f"world_model.posterior_sees_context: expected false with world_model.temporal_prior="
            f"{options.temporal_prior}, which is trained over all steps at once, got true"
        )
    return kind(family, action_size, **vars(getattr(options, options.temporal_prior)), norm=options.norm)


def _posterior_family(options: WorldModelOptions, obs_specs: Mapping[str, ObsSpec]) -> LatentFamily:
    """The family of the latent that the encoder writes; a bijection's is as wide as the observation."""
    if options.encoder == "flow":
        _check_flow_encoder(options, obs_specs)
        return GaussianFamily(sum(spec.width for spec in obs_specs.values()), options.gaussian.min_std)
    if options.posterior == "gaussian":
        return GaussianFamily(options.gaussian.size, options.gaussian.min_std)
    if options.posterior == "categorical":
        return CategoricalFamily(options.categorical.groups, options.categorical.classes, options.categorical.unimix)
    raise ConfigError(f"world_model.posterior: unknown part {options.posterior!r}; known: categorical, gaussian")


def _check_flow_encoder(options: WorldModelOptions, obs_specs: Mapping[str, ObsSpec]) -> None:
    """Raise ConfigError where no bijection of real numbers can serve."""
    others = ", ".join(f"{name} ({spec.kind})" for name, spec in obs_specs.items() if spec.kind != "vector")
    if others:
        raise ConfigError(
            f"world_model.encoder=flow: expected vector observations alone, got {others}; use world_model.encoder=vae"
        )
    if options.posterior != "gaussian":
        raise ConfigError(
            f"world_model.posterior: expected gaussian with world_model.encoder=flow, whose latent is a real vector, "
            f"got {options.posterior!r}"
        )
    if options.posterior_sees_context:
        raise ConfigError(
            "world_model.posterior_sees_context: expected false with world_model.encoder=flow, which reads the "
            "observation alone, got true"
        )


def _transition_family(options: WorldModelOptions, posterior: LatentFamily) -> LatentFamily:
    """The family of p(z' | h), over the same latent as the posterior."""
    if options.transition == "same":
        return posterior
    if not isinstance(posterior, GaussianFamily):
        raise ConfigError(
            f"world_model.transition=flow: expected world_model.posterior=gaussian, got {options.posterior!r}; "
            "a flow has a density over real vectors alone"
        )
    transform = coupling_flow(posterior.width, options.flow.context, **_couplings(options.flow))
    return FlowFamily(posterior.width, posterior.min_std, transform, options.flow.context)


def _flow_encoder(
    options: WorldModelOptions, obs_specs: Mapping[str, ObsSpec], standardizer: Standardizer
) -> FlowEncoder:
    width = sum(spec.width for spec in obs_specs.values())
    transform = coupling_flow(width, **_couplings(options.flow))
    return FlowEncoder(obs_specs, standardizer, transform, noise=options.flow.noise)


def _vae_encoder(
    options: WorldModelOptions,
    obs_specs: Mapping[str, ObsSpec],
    standardizer: Standardizer,
    family: LatentFamily,
    context: int,
) -> VAEEncoder:
    sizes = options.trunk
    trunk = Trunk(
        obs_specs,
        standardizer,
        units=sizes.units,
        layers=sizes.layers,
        depth=sizes.depth,
        patch=sizes.patch,
        norm=options.norm,
    )
    seen = context if options.posterior_sees_context else 0
    return VAEEncoder(trunk, family, context=seen, units=sizes.units, norm=options.norm)


def _couplings(options: FlowOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("kind", "transforms", "units", "layers", "bins")}
