"""Decoders: likelihoods of every observation kind."""

from worldmodels.decoders.decoder import Decoder

__all__ = ["Decoder"]
