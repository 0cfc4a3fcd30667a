"""Decoders: likelihoods of every observation kind."""

from worldmodels.decoders.decoder import Decoder, likeliest
from worldmodels.decoders.inverse import InverseDecoder

__all__ = ["Decoder", "InverseDecoder", "likeliest"]
