"""How far a forecast's uncertainty can be trusted: rank correlation with what happened, and coverage, by horizon."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from worldmodels.types import Batch, cat_states
from worldmodels.uncertainty.calibration import HORIZON, LEVELS, Calibration, coverage, mace, standardised_errors
from worldmodels.uncertainty.forecast import Forecast, forecast, realised
from worldmodels.uncertainty.metrics import spearman

if TYPE_CHECKING:
    from worldmodels.world_model import WorldModel

HORIZONS = (1, 5, 10, 20)
"""Steps ahead at which the card answers."""
FEWEST = 20
"""Starts below which a horizon has no rank correlation: short episodes may not reach it."""


class OpenLoop(NamedTuple):
    """Forecasts and what came of them, from N starts. target: (N, H, n). valid: (N, H) bool, where something came."""

    forecast: Forecast
    target: Tensor
    valid: Tensor

    @property
    def score(self) -> Tensor:
        """The uncertainty that is judged: the square root of the forecast's epistemic variance (N, H).

        Noise is in the errors too, but where it is learned it hardly differs between starts, and orders them worse.
        """
        return self.forecast.epistemic.sum(-1).sqrt()

    @property
    def error(self) -> Tensor:
        """Distance between forecast and what came (N, H)."""
        return (self.target - self.forecast.mean).norm(dim=-1)


@torch.no_grad()
def open_loop(model: "WorldModel", batch: Batch, *, horizon: int = HORIZON, stride: int = 4) -> OpenLoop:
    """Forecast every `stride`-th step of whole episodes along the actions that were taken, without looking.

    Args: batch: windows (B, T+1) that begin where episodes begin. The model sees what lies before a start.
    """
    states = model.infer(batch, sample=False)
    steps = batch.action.shape[1]
    plan, mask, target = (
        torch.cat([value, value.new_zeros(len(value), horizon, *value.shape[2:])], 1)
        for value in (batch.action, batch.mask, realised(model, batch.obs, states)[:, 1:])
    )
    starts, actions, targets, valid = [], [], [], []
    for t in range(0, steps, stride):
        window = slice(t, t + horizon)
        rows = mask[:, t]
        starts.append(states.index((rows, t)))
        actions.append(plan[rows, window])
        targets.append(target[rows, window])
        valid.append(mask[rows, window].cumprod(1).bool())
    return OpenLoop(forecast(model, cat_states(starts), torch.cat(actions)), torch.cat(targets), torch.cat(valid))


def join(parts: Sequence[OpenLoop]) -> OpenLoop:
    """All starts of several sets of episodes."""
    together = Forecast(*(torch.cat(column) for column in zip(*(part.forecast for part in parts), strict=True)))
    return OpenLoop(together, torch.cat([p.target for p in parts]), torch.cat([p.valid for p in parts]))


def spearman_by_horizon(result: OpenLoop, score: Tensor | None = None) -> dict[str, float | None]:
    """Rank correlation of uncertainty and error among starts, inside each of `HORIZONS`; None where too few reach it.

    Inside a horizon a score that only counts steps is constant and gets 0. score: (N, H), another than the forecast's.
    """
    score = result.score if score is None else score
    found: dict[str, float | None] = {}
    for h in HORIZONS:
        rows = result.valid[:, h - 1] if h <= result.valid.shape[1] else result.valid[:, 0] & False
        enough = int(rows.sum()) >= FEWEST
        found[str(h)] = spearman(score[rows, h - 1], result.error[rows, h - 1]) if enough else None
    return found


def pooled_spearman(result: OpenLoop, score: Tensor | None = None) -> float:
    """The same over all horizons at once, as others report it: a step counter alone does well here."""
    score = result.score if score is None else score
    return spearman(score[result.valid], result.error[result.valid])


def interval_report(result: OpenLoop, calibration: Calibration) -> tuple[dict[str, float | None], float]:
    """Share of values inside their 90 % interval at each of `HORIZONS`, and the mean absolute calibration error."""
    errors = standardised_errors(result.forecast, result.target)
    covered = coverage(errors, result.valid, calibration.widths[: errors.shape[1]])  # (H, L)
    ninety = covered[:, LEVELS.index(0.9)].tolist()
    reached: Mapping[str, float] = {str(h): ninety[h - 1] for h in HORIZONS if h <= len(ninety)}
    return {h: None if value != value else value for h, value in reached.items()}, mace(covered)
