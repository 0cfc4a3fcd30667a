"""Latent families and likelihoods as pure functions of raw parameters, each with its torch Distribution."""

from worldmodels.distributions.bounded import TanhNormal
from worldmodels.distributions.categorical import (
    CategoricalFamily,
    StraightThroughCategoricals,
    mix_uniform,
    sample_one_hot,
)
from worldmodels.distributions.flow import FlowFamily
from worldmodels.distributions.gaussian import GaussianFamily, SymlogNormal, symexp, symlog
from worldmodels.distributions.image import ImageNormal
from worldmodels.distributions.two_hot import TwoHot, two_hot_bins

__all__ = [
    "CategoricalFamily",
    "FlowFamily",
    "GaussianFamily",
    "ImageNormal",
    "StraightThroughCategoricals",
    "SymlogNormal",
    "TanhNormal",
    "TwoHot",
    "mix_uniform",
    "sample_one_hot",
    "symexp",
    "symlog",
    "two_hot_bins",
]
