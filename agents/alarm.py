"""Says at once where a policy dreams of rewards that nobody ever saw: it exploits an error of the model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldmodels.errors import CheckpointError
from worldmodels.states import State
from worldmodels.types import Batch

MARGIN = 1.0
"""How far imagined rewards may go beyond the observed ones, in units of their range (or of the largest, if larger)."""
NO_RANGE = 2.0
"""How many times further where all observed rewards are equal: their size is no range. All zero, they count as one."""
EXCESS = "policy/imagined_reward_excess"
"""Metric: by how much imagined rewards leave what is allowed; 0 inside."""
_IMAGINED = ("policy/imagined_reward_min", "policy/imagined_reward_max")


class RewardAlarm:
    """Remembers the rewards that were learned from, and compares with them those that a policy was trained on."""

    def __init__(self) -> None:
        self.seen: tuple[float, float] | None = None
        self._sounding = False

    def check(self, batch: Batch, metrics: Mapping[str, Tensor]) -> tuple[dict[str, float], str | None]:
        """Take the rewards of a batch into account, then look at the metrics of the update that it gave.

        Returns: the metric, empty where nothing was imagined, and the warning, given once until it is over.
        """
        reward = batch.reward[batch.mask]
        if reward.numel():
            low, high = float(reward.min()), float(reward.max())
            self.seen = (low, high) if self.seen is None else (min(low, self.seen[0]), max(high, self.seen[1]))
        if self.seen is None or not all(name in metrics for name in _IMAGINED):
            return {}, None
        low, high = self.seen
        imagined_low, imagined_high = torch.stack([metrics[name] for name in _IMAGINED]).tolist()
        margin = _margin(low, high)
        above, below = imagined_high - (high + margin), (low - margin) - imagined_low
        excess = max(above, below, 0.0)
        began = excess > 0 and not self._sounding
        self._sounding = excess > 0
        if not began:
            return {EXCESS: excess}, None
        farthest = imagined_high if above >= below else imagined_low
        text = f"imagined reward {farthest:,.4g} outside observed [{low:.4g}, {high:.4g}] by more than {margin:.4g}: "
        remedy = "more data, a shorter agent.horizon, or agent.acquisition.quantile below 1"
        return {EXCESS: excess}, f"{text}the policy exploits the model; {remedy}"

    def state(self) -> State:
        """The observed range."""
        return {"tensors": {}, "json": None if self.seen is None else list(self.seen)}

    def restore(self, state: State) -> None:
        """Take it back."""
        found = state["json"]
        if found is not None and not (isinstance(found, list) and len(found) == 2):
            raise CheckpointError(f"state of the reward alarm is {found!r}, expected two numbers or null")
        self.seen = None if found is None else (float(found[0]), float(found[1]))


def _margin(low: float, high: float) -> float:
    size = max(high - low, abs(low), abs(high))
    return MARGIN * (size if low < high else NO_RANGE * (size or 1.0))
