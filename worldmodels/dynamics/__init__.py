"""Temporal priors: what comes next, and the members that say how sure that is."""

from worldmodels.dynamics.ensemble import Ensemble, Members
from worldmodels.dynamics.epinet import Epinet
from worldmodels.dynamics.markov import MarkovPrior
from worldmodels.dynamics.recurrent import RecurrentPrior
from worldmodels.dynamics.state_space import StateSpacePrior
from worldmodels.dynamics.transformer import TransformerPrior

__all__ = ["Ensemble", "Epinet", "MarkovPrior", "Members", "RecurrentPrior", "StateSpacePrior", "TransformerPrior"]
