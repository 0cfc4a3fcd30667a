"""Temporal priors: what comes next."""

from worldmodels.dynamics.recurrent import RecurrentPrior

__all__ = ["RecurrentPrior"]
