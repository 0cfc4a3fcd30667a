"""What the model knows and does not know: pure functions of predictions. Nothing here imports the world model."""

from worldmodels.uncertainty.calibration import (
    LEVELS,
    Calibration,
    coverage,
    mace,
    standardised_errors,
)
from worldmodels.uncertainty.collapse import IDENTICAL, member_difference
from worldmodels.uncertainty.decomposition import (
    MIN_VARIANCE,
    decompose,
    information_gain,
    mutual_information,
    total_variance,
)
from worldmodels.uncertainty.divergence import jensen_renyi
from worldmodels.uncertainty.forecast import Forecast, forecast, realised
from worldmodels.uncertainty.metrics import auroc, spearman
from worldmodels.uncertainty.residual import reencoding_residual
from worldmodels.uncertainty.toy import ToyResult, known_noise
from worldmodels.uncertainty.trust import (
    OpenLoop,
    interval_report,
    join,
    open_loop,
    pooled_spearman,
    spearman_by_horizon,
)

__all__ = [
    "IDENTICAL",
    "LEVELS",
    "MIN_VARIANCE",
    "Calibration",
    "Forecast",
    "OpenLoop",
    "ToyResult",
    "auroc",
    "coverage",
    "decompose",
    "forecast",
    "information_gain",
    "interval_report",
    "jensen_renyi",
    "join",
    "known_noise",
    "mace",
    "member_difference",
    "mutual_information",
    "open_loop",
    "pooled_spearman",
    "realised",
    "reencoding_residual",
    "spearman",
    "spearman_by_horizon",
    "standardised_errors",
    "total_variance",
]
