"""Acquisition: what to look at, do or ask next."""

from agents.acquisition.adversarial import variational_adversarial
from agents.acquisition.bootstrap import BootstrapClassifier
from agents.acquisition.pool import (
    Selection,
    bald,
    batch_bald,
    core_set,
    epig,
    predictive_entropy,
    random_batch,
    top,
)

__all__ = [
    "BootstrapClassifier",
    "Selection",
    "bald",
    "batch_bald",
    "core_set",
    "epig",
    "predictive_entropy",
    "random_batch",
    "top",
    "variational_adversarial",
]
