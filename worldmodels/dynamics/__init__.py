"""Temporal priors: what comes next."""

from worldmodels.dynamics.ensemble import Ensemble
from worldmodels.dynamics.recurrent import RecurrentPrior

__all__ = ["Ensemble", "RecurrentPrior"]
