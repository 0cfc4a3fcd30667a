"""Encoders: observation to latent, with what that did to volume."""

from worldmodels.encoders.flow import FlowEncoder
from worldmodels.encoders.trunk import Standardizer, Trunk
from worldmodels.encoders.vae import VAEEncoder

__all__ = ["FlowEncoder", "Standardizer", "Trunk", "VAEEncoder"]
