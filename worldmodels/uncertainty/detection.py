"""Alarms: false alarms, delay, thresholds, p-values, CUSUM, and time-matched controls. Higher is more out of nominal.

All measures are one-sided: a score that is lower on what is wrong is a bad score, and is not turned around. NaN stands
where there is no score (an episode that is over); elsewhere it is an error.
"""

from math import inf, nan

import torch
from torch import Tensor

from worldmodels.uncertainty.metrics import auroc


def fpr_at_95(nominal: Tensor, shifted: Tensor) -> float:
    """Share of nominal scores (N,) at or above the threshold that 95 % of the shifted ones (M,) reach."""
    nominal, shifted = _sorted(nominal), _sorted(shifted)
    threshold = shifted[int(0.05 * len(shifted))]
    return (nominal >= threshold).double().mean().item()


def time_matched(nominal: Tensor, shifted: Tensor) -> tuple[float, float]:
    """AUROC and FPR at 95 % detection of scores (E, T) and (F, T) against nominal scores of the same step alone.

    An episode's first steps differ from its later ones, and faults end episodes early: a score that only tells the time
    must come out at 0.5 here. AUROC is the mean of those of each step, weighted by how many shifted scores it has; the
    threshold of the false-positive rate is one for all steps, and nominal scores are weighted in the same way.
    """
    steps = min(nominal.shape[1], shifted.shape[1])
    pairs = []
    for t in range(steps):
        n, s = _present(nominal[:, t]), _present(shifted[:, t])
        if len(n) and len(s):
            pairs.append((n, s))
    if not pairs:
        return nan, nan
    counts = torch.tensor([len(s) for _, s in pairs], dtype=torch.float64)
    weights = counts / counts.sum()
    curves = torch.tensor([auroc(n, s) for n, s in pairs], dtype=torch.float64)
    detected = _sorted(torch.cat([s for _, s in pairs]))
    threshold = detected[int(0.05 * len(detected))]
    false = torch.tensor([(n >= threshold).double().mean().item() for n, _ in pairs], dtype=torch.float64)
    return (curves * weights).sum().item(), (false * weights).sum().item()


def threshold_at(nominal: Tensor, false_alarm_rate: float) -> float:
    """The score above which at most this share of new nominal steps lies, from nominal scores (N,) (Vovk et al. 2005).

    Raises: ValueError: too few scores for that rate; 1 / rate - 1 of them are needed.
    """
    nominal = _sorted(nominal)
    allowed = int(false_alarm_rate * (len(nominal) + 1) + 1e-9)
    if allowed < 1:
        raise ValueError(
            f"threshold_at: {len(nominal)} nominal scores cannot set a rate of {false_alarm_rate}; expected at least "
            f"{round(1 / false_alarm_rate) - 1}: collect more nominal steps or allow more false alarms"
        )
    return nominal[-allowed].item()


def p_value(nominal: Tensor, scores: Tensor, *, in_order: bool = False) -> Tensor:
    """(1 + number of nominal scores (N,) at least as high) / (N + 1) for scores (...); small is out of distribution.

    Below a rate with that probability on nominal data, whatever the score (Vovk et al. 2005, conformal p-values).
    in_order: nominal scores are sorted already; nothing of them is looked at then.
    """
    nominal = nominal if in_order else _sorted(nominal)
    higher = len(nominal) - torch.searchsorted(nominal, scores.contiguous(), right=False)
    return (1 + higher) / (len(nominal) + 1)


def cusum(
    scores: Tensor, mean: Tensor | float, std: Tensor | float, *, allowance: float = 0.5, window: int = 0
) -> Tensor:
    """S_t = max(0, S_{t-1} + (score_t - mean) / std - allowance), (..., T), from S = 0 (Page 1954).

    mean, std: of nominal scores. allowance: half the shift, in standard deviations, that shall be found. window: how
    many steps back a shift may have begun; 0 for any. NaN scores leave the sum as it is.
    """
    steps = torch.nan_to_num((scores - mean) / std - allowance)
    if window == 0:
        sums, total = [], torch.zeros_like(steps[..., 0])
        for t in range(steps.shape[-1]):
            total = (total + steps[..., t]).clamp(min=0)
            sums.append(total)
        return torch.stack(sums, -1)
    padded = torch.cat([torch.zeros(*steps.shape[:-1], window - 1, dtype=steps.dtype), steps], -1)
    back = padded.unfold(-1, window, 1).flip(-1).cumsum(-1)  # (..., T, window): sums that end at t
    return back.amax(-1).clamp(min=0)


def detection_delay(scores: Tensor, threshold: float, *, onset: int) -> Tensor:
    """Steps (E,) from `onset` to the first score (E, T) above the threshold at or after it; infinite where none is."""
    alarm = scores[:, onset:] > threshold  # NaN is no alarm
    first = alarm.double().argmax(1).double()
    return torch.where(alarm.any(1), first, inf)


def _present(scores: Tensor) -> Tensor:
    return scores[~scores.isnan()]


def _sorted(scores: Tensor) -> Tensor:
    """Flat and in order. Raises ValueError where there is nothing, or NaN, which has no place in an order."""
    scores = scores.flatten()
    if not len(scores) or bool(scores.isnan().any()):
        raise ValueError(f"expected at least one score and none that is NaN, got {len(scores)} scores")
    return scores.sort().values
