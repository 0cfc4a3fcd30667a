"""What the model knows and does not know: pure functions of predictions. Nothing here imports the world model."""

from worldmodels.uncertainty.decomposition import (
    MIN_VARIANCE,
    decompose,
    information_gain,
    mutual_information,
    total_variance,
)

__all__ = [
    "MIN_VARIANCE",
    "decompose",
    "information_gain",
    "mutual_information",
    "total_variance",
]
