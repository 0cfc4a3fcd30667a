"""A policy that knows its input: the joint density of observations and of the actions that an agent takes in them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from worldmodels.errors import ConfigError
from worldmodels.hybrid import Choice, Decider, Decision, Hybrid, Separate, fit
from worldmodels.types import Batch


class HybridPolicy:
    """p(a, o) = p(a | o) p(o), learned from what an agent did (`agents.ood.collect`); `decide` says all three.

    It can be evaluated as an agent is. Observations are vectors, actions one discrete choice or continuous; the policy
    sees the last observation alone.

    Args: agent: who acted. nominal: its episodes; two thirds are learned from, the rest sets the p-values. weight: of
        the density, as in `Hybrid`; None learns two separate models. steps, noise, seed: as in
        `worldmodels.hybrid.fit`; noise in standard deviations of the observations.
    Raises: ConfigError: observations that are no vectors, or several discrete choices at once.
    """

    def __init__(
        self,
        agent: Agent,
        nominal: Batch,
        *,
        weight: float | None = 1.0,
        steps: int = 1000,
        noise: float = 0.02,
        seed: int = 0,
    ) -> None:
        others = [name for name, spec in agent.obs_specs.items() if spec.kind != "vector"]
        if others or agent.action_spec.kind == "multi_discrete":
            what = f"observations {others} that are no vectors" if others else "several discrete actions at once"
            raise ConfigError(f"HybridPolicy: expected vector observations and one action, got {what}")
        self.obs_specs, self.action_spec, self.train_steps = agent.obs_specs, agent.action_spec, agent.train_steps
        self.choice: Choice = "real" if agent.action_spec.kind == "continuous" else "class"
        acted = nominal.mask
        x = self._flat({name: value[:, :-1][acted] for name, value in nominal.obs.items()})
        action = nominal.action[acted]
        y = action if self.choice == "real" else action.argmax(-1)
        self.center, self.spread = x.mean(0), x.std(0).clamp(min=1e-6)
        split = 2 * len(x) // 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            size = (x.shape[1], action.shape[1])
            model = (
                Separate(*size, choice=self.choice)
                if weight is None
                else Hybrid(*size, choice=self.choice, weight=weight)
            )
        fit(model, self._scaled(x[:split]), y[:split], steps=steps, noise=noise, seed=seed)
        self.decider = Decider(model.requires_grad_(False), self._scaled(x[split:]))

    def decide(self, obs: Mapping[str, np.ndarray]) -> Decision:
        """Observations name -> (n, ...): the action (index, or numbers in [-1, 1]), p(a | o), and the p-value of o."""
        tensors = {name: torch.from_numpy(np.asarray(obs[name], dtype=np.float32)) for name in self.obs_specs}
        decision = self.decider.decide(self._scaled(self._flat(tensors)))
        return decision._replace(choice=decision.choice.clamp(-1, 1)) if self.choice == "real" else decision

    def initial_carry(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(
        self,
        obs: Mapping[str, np.ndarray],
        carry: Any,  # noqa: ANN401, ARG002
        is_first: np.ndarray,  # noqa: ARG002
        *,
        deterministic: bool,  # noqa: ARG002
    ) -> tuple[np.ndarray, None]:
        """The most probable actions in the toolkit's encoding (n, A), whatever their p-values."""
        choice = self.decide(obs).choice
        if self.choice == "real":
            return choice.numpy(), None
        return np.eye(self.action_spec.size, dtype=np.float32)[choice.numpy()], None

    def _flat(self, obs: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([obs[name].flatten(1).float() for name in self.obs_specs], -1)

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.spread
