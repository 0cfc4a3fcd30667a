"""Part names to parts: the one place where a world model's options become modules."""

from collections.abc import Mapping

import torch

from worldmodels.decoders import Decoder
from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.dynamics import Ensemble, RecurrentPrior
from worldmodels.encoders import Standardizer, Trunk, VAEEncoder
from worldmodels.errors import ConfigError
from worldmodels.heads import ContinuationHead, TwoHotHead
from worldmodels.options import WorldModelOptions
from worldmodels.priors import MarginalPrior
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import LatentFamily
from worldmodels.world_model import WorldModel


def build_world_model(
    options: WorldModelOptions, obs_specs: Mapping[str, ObsSpec], action_spec: ActionSpec
) -> WorldModel:
    """A freshly initialised world model; parameters are drawn from torch's global generator."""
    trunk_options, heads = options.trunk, options.heads
    family = _family(options)
    standardizer = Standardizer(obs_specs)
    if options.temporal_prior != "recurrent":
        raise ConfigError(f"world_model.temporal_prior: unknown part {options.temporal_prior!r}; known: recurrent")
    if options.encoder != "vae":
        raise ConfigError(f"world_model.encoder: unknown part {options.encoder!r}; known: vae")
    if options.recurrent.deter % options.recurrent.blocks:
        raise ConfigError(
            f"world_model.recurrent: deter {options.recurrent.deter} does not divide into "
            f"{options.recurrent.blocks} blocks; make it a multiple"
        )
    prior = RecurrentPrior(family, action_spec.size, **vars(options.recurrent), norm=options.norm)
    trunk = Trunk(
        obs_specs,
        standardizer,
        units=trunk_options.units,
        layers=trunk_options.layers,
        depth=trunk_options.depth,
        norm=options.norm,
    )
    context = prior.context_size if options.posterior_sees_context else 0
    features = prior.context_size + family.width
    return WorldModel(
        encoder=VAEEncoder(trunk, family, context=context, units=trunk_options.units, norm=options.norm),
        family=family,
        temporal_prior=prior,
        marginal=MarginalPrior(family),
        decoder=Decoder(
            obs_specs,
            standardizer,
            features,
            latent=family.width if family.ordered else 0,
            units=trunk_options.units,
            layers=trunk_options.layers,
            depth=trunk_options.depth,
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
        ensemble=_ensemble(options, family, prior.context_size),
    )


def _ensemble(options: WorldModelOptions, family: LatentFamily, context: int) -> Ensemble | None:
    """The members, or None. The random state is left as it was: the same run without them draws the same numbers."""
    ensemble = options.ensemble
    if ensemble.members == 0:
        return None
    with torch.random.fork_rng(devices=[]):
        return Ensemble(
            family,
            context,
            members=ensemble.members,
            units=ensemble.units,
            layers=ensemble.layers,
            prior_scale=ensemble.prior_scale,
            keep=ensemble.keep,
            clip=ensemble.clip,
            norm=options.norm,
        )


def _family(options: WorldModelOptions) -> LatentFamily:
    if options.posterior == "gaussian":
        return GaussianFamily(options.gaussian.size, options.gaussian.min_std)
    if options.posterior == "categorical":
        return CategoricalFamily(options.categorical.groups, options.categorical.classes, options.categorical.unimix)
    raise ConfigError(f"world_model.posterior: unknown part {options.posterior!r}; known: categorical, gaussian")
