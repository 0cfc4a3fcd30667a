"""One update of world model and policy. `apply_gradients` is the only place that steps an optimiser."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from agents.actor_critic import ActorCritic
from agents.options import TrainOptions
from worldmodels.errors import NonFiniteError
from worldmodels.types import Batch, State
from worldmodels.world_model import WorldModel


def apply_gradients(loss: Tensor, optimizer: Optimizer, *, clip: float) -> tuple[Tensor, bool]:
    """Step `optimizer` down the gradient of `loss`, clipped to norm `clip`, if both are finite.

    Returns: the gradient's norm before clipping, and whether the step was taken. Nothing changes if it was not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    present = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    norm = torch.nn.utils.get_total_norm([g for _, g in present], foreach=True)
    if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
        return norm.detach(), False
    scale = clip / torch.clamp(norm, min=clip)
    for parameter, gradient in present:
        parameter.grad = gradient * scale
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.detach(), True


class Learner:
    """World model, policy and their optimisers."""

    def __init__(self, world_model: WorldModel, policy: ActorCritic, options: TrainOptions) -> None:
        self.world_model, self.policy, self.options = world_model, policy, options
        self.model_optimizer = Adam(world_model.parameters(), options.train.model_rate, fused=True)
        self.actor_optimizer = Adam(policy.actor.parameters(), options.agent.actor_rate, fused=True)
        self.critic_optimizer = Adam(policy.critic.parameters(), options.agent.critic_rate, fused=True)
        self.updates = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def update_model(self, batch: Batch) -> tuple[State, dict[str, Tensor]]:
        """One step of the world model. Returns the posterior states (B, T+1), detached, and scalars to log."""
        output = self.world_model.loss(batch)
        norm, stepped = apply_gradients(output.total, self.model_optimizer, clip=self.options.train.clip)
        self._count(stepped, lambda: name_non_finite(self.world_model, batch.obs | {"reward": batch.reward}))
        metrics = {f"model/{name}": value for name, value in output.metrics.items()}
        return output.states, metrics | {"model/bound": output.bound, "model/gradient_norm": norm}

    def update_policy(self, states: State, batch: Batch) -> dict[str, Tensor]:
        """One step of actor and critic, from states of `batch` where the episode goes on."""
        agent = self.options.agent
        start = choose_starts(states, batch, agent.starts)
        losses = self.policy.losses(self.world_model.imagine, start)
        actor_norm, actor_stepped = apply_gradients(losses.actor, self.actor_optimizer, clip=agent.clip)
        critic_norm, critic_stepped = apply_gradients(losses.critic, self.critic_optimizer, clip=agent.clip)
        self._count(actor_stepped and critic_stepped, lambda: name_non_finite(self.policy, {}))
        self.policy.follow()
        metrics = losses.metrics | {"actor_gradient_norm": actor_norm, "critic_gradient_norm": critic_norm}
        return {f"policy/{name}": value for name, value in metrics.items()}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """World model, then policy, on one batch."""
        states, metrics = self.update_model(batch)
        metrics |= self.update_policy(states, batch)
        self.updates += 1
        return metrics

    def _count(self, stepped: bool, name: Callable[[], str]) -> None:
        if stepped:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.options.train.max_skipped_updates:
            raise NonFiniteError(
                f"{self.skipped_in_a_row} updates in a row had a loss or gradient that is not finite ({name()}); "
                "stopped with the last good parameters. Lower train.model_rate or look at the data."
            )


def choose_starts(states: State, batch: Batch, count: int) -> State:
    """`count` states (count, ...) drawn from those of a window (B, T+1) that are real and not terminal."""
    usable = batch.obs_mask.clone()
    usable[:, 1:] &= ~batch.terminated
    index = usable.flatten().nonzero().squeeze(-1)
    chosen = index[torch.randint(len(index), (count,), device=index.device)]
    return states.flatten().index(chosen)


def name_non_finite(module: nn.Module, data: Mapping[str, Tensor]) -> str:
    """The first tensor that holds NaN or infinity: `contribution: 3 of 512`."""
    tensors = list(data.items()) + list(module.named_parameters())
    for name, value in tensors:
        bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
        if bad:
            return f"{name}: {bad} of {value.numel()}"
    return "data and parameters are finite; the loss overflowed"
