"""Marginal priors: the first latent of an episode or of a window."""

from worldmodels.priors.marginal import MarginalPrior

__all__ = ["MarginalPrior"]
