"""Returns of imagined rollouts: pure functions of tensors."""

import torch
from torch import Tensor


def lambda_return(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float | Tensor) -> Tensor:
    """R_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda R_{t+1}), R_H = v_H (Sutton and Barto 2018, eq. 12.2 ff.).

    Args: reward, discount: (B, H), of the step from s_t to s_{t+1}; discount = gamma * continuation of s_{t+1}.
        value: (B, H), of the states reached (s_1 .. s_H). lambda_: a number, or (B, H), one for each step.
    Returns: (B, H), the return from s_0 .. s_{H-1}.
    """  # noqa: D205
    blended = reward + discount * (1 - lambda_) * value
    carried = discount * lambda_
    result = value[:, -1]
    returns = []
    for t in reversed(range(reward.shape[1])):
        result = blended[:, t] + carried[:, t] * result
        returns.append(result)
    return torch.stack(returns[::-1], 1)


def visit_weights(discount: Tensor) -> Tensor:
    """Probability-like weight of being in s_0 .. s_{H-1}: 1, d_0, d_0 d_1, ... (B, H) -> (B, H)."""
    return torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1).cumprod(1)


def percentile_range(values: Tensor, low: float = 0.05, high: float = 0.95) -> Tensor:
    """Distance between two quantiles of all entries, a scalar (Hafner et al. 2023, eq. 12)."""
    quantiles = torch.quantile(values.flatten().float(), torch.tensor([low, high], device=values.device))
    return quantiles[1] - quantiles[0]
