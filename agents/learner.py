"""One update of world model and policy. `apply_gradients` is the only place that steps an optimiser."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from agents.actor_critic import ActorCritic
from agents.cloning import clone_loss
from agents.compiled import compiled
from agents.options import TrainOptions
from agents.ranks import ALONE, Ranks
from worldmodels.errors import NonFiniteError
from worldmodels.types import Batch, LossOutput, State
from worldmodels.world_model import WorldModel

if TYPE_CHECKING:
    from agents.acquisition import Bonus
    from agents.sb3_learner import Sb3Policy

Pairs = list[tuple[nn.Parameter, Tensor]]
"""Parameters and their gradients."""


class Descent(NamedTuple):
    """One optimiser's part of an update: step down the gradient of `loss`, that of each group clipped to norm `clip`.

    module: whose parameters the optimiser holds; they are named in messages.
    """

    loss: Tensor
    optimizer: Optimizer
    clip: float
    module: nn.Module


def apply_gradients(*descents: Descent, ranks: Ranks = ALONE) -> tuple[list[Tensor], str | None]:
    """Step every optimiser down its gradient if all losses and gradients are finite; else change nothing at all.

    Losses and gradients are means over `ranks`: they are the same in every process, and so is what is done.

    Returns: for each optimiser the norm of its first group's gradient before clipping, and None or what was not finite:
    `gradient of net.0.weight: 2 of 64`.
    """
    gradients: list[list[Pairs]] = []  # of each optimiser, of each of its groups
    for loss, optimizer, _, _ in descents:
        groups = [group["params"] for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group]
        found = dict(zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
        gradients.append([[(p, found[p]) for p in group if found[p] is not None] for group in groups])
    losses = [descent.loss.detach() for descent in descents]
    if ranks.count > 1:
        losses, gradients = _mean_over(ranks, losses, gradients)
    norms = [
        [torch.nn.utils.get_total_norm([g for _, g in own], foreach=True) for own in groups] for groups in gradients
    ]
    first = [own[0].detach() for own in norms]
    checked = torch.stack([*(n.detach() for own in norms for n in own), *losses])
    if not bool(torch.isfinite(checked).all()):
        return first, _name_fault(descents, losses, gradients)
    for (_, optimizer, clip, _), groups, own in zip(descents, gradients, norms, strict=True):
        for pairs, norm in zip(groups, own, strict=True):
            scale = clip / torch.clamp(norm, min=clip)
            for parameter, gradient in pairs:
                parameter.grad = gradient * scale
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return first, None


class Learner:
    """World model, policy, bonus and their optimisers.

    updates, skipped, skipped_in_a_row: counts. fault: what was not finite in the last update, None if nothing.
    """

    def __init__(
        self,
        world_model: WorldModel,
        policy: ActorCritic,
        options: TrainOptions,
        sb3: "Sb3Policy | None" = None,
        bonus: "Bonus | None" = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.world_model, self.policy, self.options, self.sb3, self.bonus = world_model, policy, options, sb3, bonus
        self.ranks = ranks
        self.model_optimizer = Adam(_model_groups(world_model), options.train.model_rate, fused=True)
        self.actor_optimizer = Adam(policy.actor.parameters(), options.agent.actor_rate, fused=True)
        self.critic_optimizer = Adam(policy.critic.parameters(), options.agent.critic_rate, fused=True)
        learned = [p for p in bonus.parameters() if p.requires_grad] if bonus is not None else []
        self.bonus_optimizer = Adam(learned, options.agent.acquisition.rate, fused=True) if learned else None
        self.autocast = bfloat16_pays(options, world_model.device)
        if options.train.compile:
            world_model.compiled_step = compiled(world_model.one_step)
        self.updates = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.fault: str | None = None

    def products(self) -> torch.autocast:
        """The context of every forward pass: matrix products in the precision of the run."""
        return torch.autocast(self.world_model.device.type, torch.bfloat16, enabled=self.autocast)

    def slow_down(self, factor: float) -> None:
        """Set the learning rates of world model, actor, critic and bonus to `factor` times their configured values."""
        agent = self.options.agent
        for optimizer, rate in (
            (self.model_optimizer, self.options.train.model_rate),
            (self.actor_optimizer, agent.actor_rate),
            (self.critic_optimizer, agent.critic_rate),
            (self.bonus_optimizer, agent.acquisition.rate),
        ):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate * factor

    def update_model(self, batch: Batch) -> tuple[State, dict[str, Tensor]]:
        """One step of the world model. Returns the posterior states (B, T+1), detached, and scalars to log."""
        with self.products():
            output = self.world_model.loss(batch)
        loss = output.total if self.ranks.count == 1 else _shared_loss(output, self.world_model, self.ranks)
        descent = Descent(loss, self.model_optimizer, self.options.train.clip, self.world_model)
        (norm,), fault = apply_gradients(descent, ranks=self.ranks)
        data = batch.obs | {"action": batch.action, "reward": batch.reward}
        self.fault = fault and (name_non_finite(data, self.world_model, output.terms) or fault)
        metrics = {f"model/{name}": value for name, value in output.metrics.items()}
        return output.states, metrics | {"model/bound": output.bound, "model/gradient_norm": norm}

    def update_policy(self, states: State, batch: Batch) -> dict[str, Tensor]:
        """One step of actor and critic, from states of `batch` where the episode goes on."""
        agent = self.options.agent
        if agent.name == "cloning":
            return self._clone(states, batch)
        start = choose_starts(states, batch, agent.starts)
        range_before = self.policy.return_range.clone()
        imagine, moments_before = partial(self.world_model.imagine, entropy=False, sample=not agent.along_means), {}
        if self.bonus is not None:
            imagine = partial(imagine, uncertainty=True)
            moments_before = {name: value.clone() for name, value in self.bonus.named_buffers(recurse=False)}
            self.bonus.refresh(self.world_model, self.policy.actor.mode, start, self.ranks)
        with self.products():
            losses = self.policy.losses(imagine, start, self.bonus, self.ranks)
        (actor_norm, critic_norm), fault = apply_gradients(
            Descent(losses.actor, self.actor_optimizer, agent.clip, self.policy.actor),
            Descent(losses.critic, self.critic_optimizer, agent.clip, self.policy.critic),
            ranks=self.ranks,
        )
        if fault is None:
            self.policy.follow()
            self.policy.widen(losses.value_scale)
        else:
            self.policy.return_range.copy_(range_before)
            for name, value in moments_before.items():
                getattr(self.bonus, name).copy_(value)
        terms = {"actor": losses.actor, "critic": losses.critic}
        self.fault = fault and (name_non_finite({"states": start.features}, self.policy, terms) or fault)
        metrics = losses.metrics | {"actor_gradient_norm": actor_norm, "critic_gradient_norm": critic_norm}
        return {f"policy/{name}": value for name, value in metrics.items()}

    def update_bonus(self, states: State, batch: Batch) -> dict[str, Tensor]:
        """Let the bonus see real steps: one step down its loss, where it has one; then its scale and threshold follow.

        A planner's scale follows the scores of real steps; that of a policy those of the steps that it imagines.
        """
        if self.bonus is None:
            return {}
        planner = self.options.agent.name == "planner"
        lesson = self.bonus.learn(self.world_model, states, batch, scale=planner, ranks=self.ranks)
        if lesson is None:
            return {}
        loss = lesson.loss if self.bonus_optimizer is not None else None
        if loss is not None and self.bonus_optimizer is not None:
            shared = self.ranks.weigh(loss, batch.mask)
            descent = Descent(shared, self.bonus_optimizer, self.options.agent.clip, self.bonus)
            _, self.fault = apply_gradients(descent, ranks=self.ranks)
        if self.fault is None:
            self.fault = self.bonus.accept(lesson.moved)
        return {} if loss is None else {"policy/bonus_loss": loss.detach()}

    def _clone(self, states: State, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor towards the actions of the data."""
        loss = clone_loss(self.policy.actor, states, batch)
        shared = self.ranks.weigh(loss, batch.mask)
        descent = Descent(shared, self.actor_optimizer, self.options.agent.clip, self.policy.actor)
        (norm,), self.fault = apply_gradients(descent, ranks=self.ranks)
        if self.fault is None:
            self.policy.follow()
        return {"policy/clone_loss": loss.detach(), "policy/actor_gradient_norm": norm}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """World model, bonus, and policy if it learns, on one batch. What is not finite skips the step and is counted.

        `fault` then says what it was; the policy does not learn from states of a model that could not.
        Raises: NonFiniteError: `train.max_skipped_updates` in a row were skipped.
        """
        states, metrics = self.update_model(batch)
        if self.fault is None:
            metrics |= self.update_bonus(states, batch)
        if self.fault is None and self.options.agent.name not in ("planner", "sb3"):
            metrics |= self.update_policy(states, batch)
        if self.fault is None and self.sb3 is not None and (self.updates + 1) % self.sb3.options.every == 0:
            metrics |= self.sb3.learn(choose_starts(states, batch, batch.alive.numel()))
        self.updates += 1
        self._count()
        return metrics

    def practise(self, batch: Batch) -> dict[str, Tensor]:
        """One step of actor and critic in the model as it is, from states of `batch`; skipped and counted as `update`.

        Raises: NonFiniteError: as `update`.
        """
        with torch.no_grad():
            states = self.world_model.infer(batch)
        metrics = self.update_policy(states, batch)
        self._count()
        return metrics

    def _count(self) -> None:
        if self.fault is None:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.options.train.max_skipped_updates:
            raise NonFiniteError(
                f"{self.skipped_in_a_row} updates in a row had a loss or gradient that is not finite ({self.fault}); "
                "stopped with the last good parameters. Lower train.model_rate or look at the data."
            )


BFLOAT16_WIDTH = 256
"""Width of perceptrons from which bfloat16 is faster than float32 on processors that multiply it."""


def bfloat16_pays(options: TrainOptions, device: torch.device) -> bool:
    """Whether this run's matrix products are in bfloat16: a function of the options and of the kind of machine."""
    if options.train.precision != "auto":
        return options.train.precision == "bfloat16"
    if device.type == "mps" or min(options.world_model.trunk.units, options.agent.hidden) < BFLOAT16_WIDTH:
        return False
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_starts(states: State, batch: Batch, count: int) -> State:
    """`count` states (count, ...) drawn from those of a window (B, T+1) that are real and not terminal."""
    index = batch.alive.flatten().nonzero().squeeze(-1)
    chosen = index[torch.randint(len(index), (count,), device=index.device)]
    columns = states.z.shape[1]
    return states.index((chosen // columns, chosen % columns))  # a cache is copied for the chosen ones alone


def name_non_finite(data: Mapping[str, Tensor], module: nn.Module, terms: Mapping[str, Tensor]) -> str | None:
    """The first of data, parameters and loss terms that holds NaN or infinity: `contribution: 3 of 512`; or None."""
    losses = {f"loss term {name}": value for name, value in terms.items()}
    return _first_bad([*data.items(), *module.named_parameters(), *losses.items()])


def dump_batch(folder: Path, batch: Batch, ranks: Ranks = ALONE) -> str:
    """Write a batch to look at, `skipped_batch.safetensors`, and say where it is; full disks are said, not raised."""
    file = folder / (f"skipped_batch-{ranks.rank}.safetensors" if ranks.count > 1 else "skipped_batch.safetensors")
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if getattr(batch, f.name) is not None}
    tensors |= {f"obs.{name}": value for name, value in tensors.pop("obs").items()}
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, file)
    except (OSError, SafetensorError) as error:
        return f"The batch could not be written to {file}: {error}"
    return f"The batch is in {file}."


def _model_groups(world_model: WorldModel) -> list[dict[str, list[nn.Parameter]]]:
    """The ensemble is a group of its own: the length of its gradient does not clip that of the rest."""
    ensemble = [] if world_model.ensemble is None else list(world_model.ensemble.parameters())
    own = {id(parameter) for parameter in ensemble}
    groups = [[p for p in world_model.parameters() if id(p) not in own], ensemble]
    return [{"params": group} for group in groups if group]


def _shared_loss(output: LossOutput, world_model: WorldModel, ranks: Ranks) -> Tensor:
    """The loss whose mean over processes is the loss of all their batches together: each term weighs what it counts."""
    counts = torch.stack([mask.sum() for mask in output.masks.values()])
    shares = dict(zip(output.masks, ranks.shares(counts), strict=True))
    weights = vars(world_model.objective)
    return torch.stack([weights[name] * value * shares.get(name, 1.0) for name, value in output.terms.items()]).sum()


def _mean_over(
    ranks: Ranks, losses: Sequence[Tensor], gradients: Sequence[Sequence[Pairs]]
) -> tuple[list[Tensor], list[list[Pairs]]]:
    flat = [gradient for groups in gradients for pairs in groups for _, gradient in pairs]
    means = iter(ranks.mean([*losses, *flat]))
    return [next(means) for _ in losses], [
        [[(p, next(means)) for p, _ in own] for own in groups] for groups in gradients
    ]


def _name_fault(descents: Sequence[Descent], losses: Sequence[Tensor], gradients: Sequence[Sequence[Pairs]]) -> str:
    for (_, _, _, module), loss, groups in zip(descents, losses, gradients, strict=True):
        pairs = [pair for group in groups for pair in group]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        tensors = [(f"gradient of {names[id(p)]}", gradient) for p, gradient in pairs]
        bad = _first_bad([("loss", loss), *tensors])
        if bad is not None:
            return bad
    return "the gradient's norm overflowed"


def _first_bad(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    for name, value in tensors:
        bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
        if bad:
            return f"{name}: {bad} of {value.numel()}"
    return None
