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
    gaussian_information_gain,
    mutual_information,
    total_variance,
)
from worldmodels.uncertainty.density import FlowDensity
from worldmodels.uncertainty.detection import (
    cusum,
    detection_delay,
    fpr_at_95,
    p_value,
    threshold_at,
    time_matched,
)
from worldmodels.uncertainty.divergence import jensen_renyi
from worldmodels.uncertainty.forecast import Forecast, forecast, realised
from worldmodels.uncertainty.metrics import auroc, spearman
from worldmodels.uncertainty.residual import reencoding_residual
from worldmodels.uncertainty.scores import (
    compressed_nats,
    input_complexity,
    likelihood_ratio,
    typicality,
    waic,
)
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
    "FlowDensity",
    "Forecast",
    "OpenLoop",
    "ToyResult",
    "auroc",
    "compressed_nats",
    "coverage",
    "cusum",
    "decompose",
    "detection_delay",
    "forecast",
    "fpr_at_95",
    "gaussian_information_gain",
    "input_complexity",
    "interval_report",
    "jensen_renyi",
    "join",
    "known_noise",
    "likelihood_ratio",
    "mace",
    "member_difference",
    "mutual_information",
    "open_loop",
    "p_value",
    "pooled_spearman",
    "realised",
    "reencoding_residual",
    "spearman",
    "spearman_by_horizon",
    "standardised_errors",
    "threshold_at",
    "time_matched",
    "total_variance",
    "typicality",
    "waic",
]
