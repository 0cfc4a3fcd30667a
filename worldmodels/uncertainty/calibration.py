"""Whether intervals hold what they promise, and widths that make them do so."""

from statistics import NormalDist

import torch
from torch import Tensor, nn

from worldmodels.uncertainty.forecast import Forecast

HORIZON = 20
"""Steps ahead that have widths of their own; later ones take those of the last."""
LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Probabilities of the central intervals that are checked: 0.05 to 0.95."""


class Calibration(nn.Module):
    """Half-widths of central intervals, in standard deviations of a forecast, by horizon and level.

    Gaussian quantiles until `fit` replaces them by quantiles of held-out standardised errors, horizon by horizon: an
    interval then covers what it promises on data like those (Kuleshov et al. 2018; Lei et al. 2018, eq. 5). The widths
    are buffers: they travel with the model.
    """

    widths: Tensor
    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        gaussian = torch.tensor([NormalDist().inv_cdf(0.5 + level / 2) for level in LEVELS])
        self.register_buffer("widths", gaussian.repeat(HORIZON, 1))  # (H, L)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, forecast: Forecast, target: Tensor, valid: Tensor) -> None:
        """Take the widths from forecasts that were not trained on.

        Args: forecast: of (B, H, n). target: what came, (B, H, n). valid: (B, H) bool, where something came.
        A horizon without a valid row takes the widths of the one before.
        """
        errors = standardised_errors(forecast, target)
        for h in range(HORIZON):
            step = min(h, errors.shape[1] - 1)
            own = errors[valid[:, step], step].flatten()
            if len(own):
                levels = torch.tensor(LEVELS, dtype=own.dtype, device=own.device) * (1 + 1 / len(own))
                self.widths[h] = own.quantile(levels.clamp(max=1.0))
            elif h:
                self.widths[h] = self.widths[h - 1]
        self.fitted.fill_(True)

    def width(self, horizon: int, level: float) -> Tensor:
        """Half-widths (H,) of the central interval of probability `level`, one of `LEVELS`, for H = `horizon` steps."""
        rows = torch.arange(horizon).clamp(max=HORIZON - 1)
        return self.widths[rows, LEVELS.index(level)]

    def interval(self, forecast: Forecast, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Low and high end of the central interval of each dimension, (B, H, n) each."""
        half = self.width(forecast.mean.shape[1], level).unsqueeze(-1) * forecast.std
        return forecast.mean - half, forecast.mean + half


def standardised_errors(forecast: Forecast, target: Tensor) -> Tensor:
    """|target - mean| / std, (B, H, n)."""
    return (target - forecast.mean).abs() / forecast.std


def coverage(errors: Tensor, valid: Tensor, widths: Tensor) -> Tensor:
    """Share of standardised errors (B, H, n) within each half-width, where `valid` (B, H).

    Args: widths: (H, L). Returns: (H, L), NaN at a horizon without a valid row.
    """
    inside = (errors.unsqueeze(-1) <= widths.unsqueeze(1)).float().mean(2)  # (B, H, L)
    count = valid.sum(0).unsqueeze(-1)
    return (inside * valid.unsqueeze(-1)).sum(0) / count  # (H, L)


def mace(covered: Tensor) -> float:
    """Mean absolute calibration error: mean over horizons and levels of |covered - level|, of `covered` (H, L)."""
    levels = torch.tensor(LEVELS, dtype=covered.dtype, device=covered.device)
    return float((covered - levels).abs().nanmean())
