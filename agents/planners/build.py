"""From options to the planner of an agent: which search, over which actions, with which part of the policy."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial

from torch import Tensor

from agents.acquisition import Bonus, TaskAware, led_rollouts
from agents.actor_critic import ActorCritic
from agents.options import ActorCriticOptions, PlannerOptions
from agents.planners.cem import CEM
from agents.planners.gradient import Gradient
from agents.planners.icem import ICEM
from agents.planners.members import member_imagine
from agents.planners.mppi import MPPI
from agents.planners.objective import Imagine, Objective
from agents.planners.planner import Planner, Proposals
from agents.planners.plans import PlanFamily, plan_family
from agents.planners.search import Search
from worldmodels.errors import ConfigError
from worldmodels.specs import ActionSpec
from worldmodels.types import State
from worldmodels.world_model import WorldModel


def build_planner(
    options: ActorCriticOptions,
    world_model: WorldModel,
    policy: ActorCritic,
    spec: ActionSpec,
    bonus: Bonus | None = None,
) -> Planner | None:
    """The planner of `agent=planner` and `agent=planner_actor`; None for agents that act by their policy alone.

    bonus: what is added to each imagined reward, weight included. Without a critic that has learned it, one that
    explores is added only while the planner does.
    Raises: ConfigError: `members` without an ensemble, or a bonus that asks for the critic where there is none.
    """
    if options.name not in ("planner", "planner_actor"):
        return None
    learned = options.name == "planner_actor"
    if bonus is not None and not learned:
        _check_alone(bonus)
    own = options.planner
    search = build_search(own, plan_family(spec, std=own.std, min_std=own.min_std))
    curious = bonus if bonus is not None and bonus.weight > 0 and not learned else None
    task = None if curious is None else curious.acquisition
    return Planner(
        search,
        _objective(options, world_model, policy, bonus if curious is None else None),
        horizon=own.horizon,
        proposals=_proposals(world_model, policy, own.proposals) if learned and own.proposals else None,
        noise=own.noise,
        curiosity=None if curious is None else _objective(options, world_model, policy, curious),
        scouts=_members_plans(world_model, search, options.gamma, task) if isinstance(task, TaskAware) else None,
    )


def _objective(
    options: ActorCriticOptions, world_model: WorldModel, policy: ActorCritic, bonus: Bonus | None
) -> Objective:
    """What a plan is worth, with this bonus, and with the critic where one is learned."""
    own = options.planner
    sample = own.particles > 0 or not world_model.family.ordered
    how = {"uncertainty": bonus is not None, "sample": sample}
    if own.members == "none":
        imagine: Imagine = partial(world_model.imagine, entropy=False, **how)
        fewest = 1
    else:
        imagine = member_imagine(world_model, every_step=own.members == "step", **how)
        fewest = world_model.ensemble.members if world_model.ensemble is not None else 1  # each candidate, every member
    return Objective(
        imagine,
        options.gamma,
        value=(lambda features: policy.slow_critic(features).mean) if options.name == "planner_actor" else None,
        bonus=bonus,
        particles=own.particles or fewest,
        trust=bonus.trust if bonus is not None and bonus.quantile < 1 else None,
    )


def _members_plans(world_model: WorldModel, search: Search, gamma: float, task: TaskAware) -> Proposals:
    """Let every member look for its own best plan from where the agent is; `task` then looks where these plans lead.

    The plans themselves are candidates (B, K, H, A) of the search for what to explore.
    """
    objective = Objective(partial(led_rollouts, world_model), gamma)

    def scout(state: State, horizon: int) -> Tensor:
        assert world_model.ensemble is not None  # the acquisition was not built without
        members = world_model.ensemble.members
        own = state.repeat(members)  # (K B, ...), member after member
        belief = search.family.initial(own.z.shape[0], horizon, own.z.device)
        found = search(objective.of(own), belief, search.family.draw(belief, search.kept))
        task.follow(led_rollouts(world_model, own, found.plan, horizon))
        return found.plan.unflatten(0, (members, -1)).transpose(0, 1)  # (B, K, H, A)

    return scout


def _check_alone(bonus: Bonus) -> None:
    """Raise ConfigError where a bonus asks what an agent without policy and critic cannot say."""
    if isinstance(bonus.acquisition, TaskAware) and bonus.weight <= 0:
        raise ConfigError(
            "agent.acquisition.name=task_aware: expected a weight above 0 with agent=planner, which explores by it, "
            f"got {bonus.weight:g}; use agent=planner_actor"
        )
    if bonus.quantile < 1:
        raise ConfigError(
            f"agent.acquisition.quantile={bonus.quantile:g} ends a return with the critic's value, and agent=planner "
            "learns no critic: use agent=planner_actor"
        )


def build_search(options: PlannerOptions, family: PlanFamily) -> Search:
    """The search that `options.search` names, with those of the options that it has."""
    kinds: dict[str, type] = {"icem": ICEM, "cem": CEM, "mppi": MPPI, "gradient": Gradient}
    kind = kinds[options.search]
    names = [own.name for own in fields(kind) if own.name != "family"]
    return kind(family, **{name: getattr(options, name) for name in names})


def _proposals(world_model: WorldModel, policy: ActorCritic, count: int) -> Callable[[State, int], Tensor]:
    """What the policy would do: `count` plans (B, count, H, A), the first of them without exploration."""

    def propose(state: State, horizon: int) -> Tensor:
        batch = state.z.shape[0]
        many = state.map(lambda x: x.repeat_interleave(count, 0))

        def act(features: Tensor) -> Tensor:
            action = policy.actor.sample(features).view(batch, count, -1)
            action[:, 0] = policy.average_actor.mode(features.view(batch, count, -1)[:, 0])
            return action.flatten(0, 1)  # (B * count, A)

        return world_model.imagine(many, act, horizon, entropy=False).action.unflatten(0, (batch, count))

    return propose
