"""Agent: a world model and a policy that act. Train it, load it, ask it for actions, save it."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from agents.acquisition import build_bonus
from agents.actor_critic import ActorCritic
from agents.experiment import load_options, recorded_options
from agents.options import TrainOptions
from agents.planners import PlanMemory, build_planner
from envs.options import EnvOptions
from envs.spaces import action_spec, decode_action, encode_obs, obs_specs
from worldmodels.build import build_world_model
from worldmodels.checkpoint import load, module_state, restore_module, save
from worldmodels.errors import CheckpointError, ConfigError, EnvironmentFault
from worldmodels.saved import ACTING, load_replay, specs_from_json, specs_to_json
from worldmodels.seeding import forked
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.states import State as PartState
from worldmodels.types import State
from worldmodels.watch import Nominal, look, nominal_scores
from worldmodels.world_model import WorldModel

if TYPE_CHECKING:
    from agents.sb3_learner import Sb3Policy


NOMINAL_STEPS = 8192
"""Steps of a run's experience whose surprise says what is ordinary."""


class Carry(NamedTuple):
    """What acting remembers from step to step: the state before the last action, that action (n, A), and the plan."""

    state: State | None
    action: Tensor | None
    plan: PlanMemory | None = None


class Decided(NamedTuple):
    """What to do, and how far to trust it.

    action: as the environment takes it. probability: of the action in this state; a density, in the toolkit's [-1, 1],
    if it is continuous. p_value: share of ordinary steps whose observation surprised as much; 1 where an episode
    begins and nothing was expected. state: for the next call. Batched like the observation.
    """

    action: Any
    probability: Any
    p_value: Any
    state: Carry


class Agent:
    """A policy in the latent space of its world model.

    Attributes: world_model, policy, options, obs_specs, action_spec; bonus, an acquisition that is part of the imagined
    reward, or None; planner, which acts where there is one; train_steps, the simulator steps it learned from; run, the
    folder it came from or None.
    """

    def __init__(
        self,
        options: TrainOptions,
        obs_specs: Mapping[str, ObsSpec],
        action_spec: ActionSpec,
        *,
        train_steps: int = 0,
        spaces: Mapping[str, Any] | None = None,
    ) -> None:
        """spaces: the environment's own, as plain data (`Guard.spaces`); without them `predict` makes it to look."""
        self.options, self.action_spec = options, action_spec
        self.obs_specs: Mapping[str, ObsSpec] = dict(obs_specs)
        self.train_steps = train_steps
        self.run: Path | None = None
        self.world_model: WorldModel = build_world_model(options.world_model, obs_specs, action_spec)
        self.policy = ActorCritic(self.world_model.features_size, action_spec, options.agent)
        self.world_model.to(options.device)
        self.policy.to(options.device)
        self.bonus = build_bonus(options.agent.acquisition, self.world_model)
        if self.bonus is not None:
            self.bonus.to(options.device)
        self.planner = build_planner(options.agent, self.world_model, self.policy, action_spec, self.bonus)
        self.sb3 = _sb3_policy(options, self.world_model)
        self._plain_spaces = spaces
        self._spaces: tuple[Any, Any] | None = None
        self._nominal: Nominal | None = None

    @property
    def env_options(self) -> EnvOptions:
        """The environment that it was trained in."""
        return self.options.env

    @classmethod
    def train(cls, env: str, *, steps: int, seed: int = 0, run: str | Path | None = None, **overrides: Any) -> Self:  # noqa: ANN401
        """Train in a gymnasium environment (an id, or the name of a preset) and return the agent that is kept.

        Args:
            env: `CartPole-v1`, `module:Name-v0`, or a preset of `configs/env`.
            steps: simulator steps. seed: of everything that is random.
            run: the run folder; named after environment, seed and time if None.
            overrides: further keys with `__` for the dot: `agent__horizon=20`.
        Raises: WorldModelsError: as `wm train` says it.
        """
        from agents.cli import train_run
        from agents.compose import presets
        from agents.experiment import check_run

        lines = [f"env={env}" if env in presets("env") else f"env.id={env}", f"steps={steps}", f"seed={seed}"]
        lines += [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        options = load_options(lines)
        options = check_run(replace(options, run=None if run is None else str(run)))
        train_run(options)
        return cls.load(str(options.run))

    @classmethod
    def load(cls, run: str | Path, *, which: str = "best", device: str = "cpu") -> Self:
        """Load the agent of a run folder. Opening a run executes nothing from it.

        Args: which: `best` by the evaluations during training, or `latest`.
        Raises: CheckpointError: no run, or no sound checkpoint.
        """
        if which not in ("best", "latest"):
            raise ConfigError(f"which: expected 'best' or 'latest', got {which!r}")
        options = replace(recorded_options(run), device=device)
        checkpoint = load(run, segments=False)
        parts = checkpoint.parts
        obs_specs, action_spec = specs_from_json(parts["specs"]["json"])
        with forked(0):
            spaces = parts["specs"]["json"].get("spaces")
            agent = cls(options, obs_specs, action_spec, train_steps=checkpoint.step, spaces=spaces)
        agent.run = Path(run)
        if which == "best" and parts[ACTING]["tensors"]:
            agent.restore_acting(parts[ACTING])
            agent.train_steps = parts[ACTING]["json"]["step"]
        else:
            restore_module(agent.world_model, parts["world_model"])
            restore_module(agent.policy, parts["policy"])
            if agent.sb3 is not None:
                restore_module(agent.sb3, parts["sb3"])
            if agent.bonus is not None:
                restore_module(agent.bonus, parts["bonus"])
        return agent

    def save(self, run: str | Path) -> Path:
        """Save what is needed to act as a run folder that `load` and `wm evaluate` open; it cannot be trained on.

        Raises: CheckpointError: the folder holds a run already or cannot be written.
        """
        from agents.experiment import prepare_run

        folder = prepare_run(replace(self.options, run=str(run), resume=False, data=None))
        parts = {
            "specs": self.specs_state(),
            "world_model": module_state(self.world_model),
            "policy": module_state(self.policy),
            **({} if self.sb3 is None else {"sb3": module_state(self.sb3)}),
            **({} if self.bonus is None else {"bonus": module_state(self.bonus)}),
            ACTING: self.acting_state(self.train_steps, None),
        }
        return save(folder, self.train_steps, parts)

    def initial_carry(self, batch: int) -> Carry:  # noqa: ARG002 - the size shows itself with the first observation
        """What `act` takes at the first step."""
        return Carry(None, None)

    @torch.inference_mode()
    def act(
        self, obs: Mapping[str, np.ndarray], carry: Carry, is_first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, Carry]:
        """Actions in the toolkit's encoding.

        Args: obs: name -> (n, ...). carry: from the step before. is_first: (n,) bool, where the carry starts anew.
            deterministic: the averaged actor's mode, in the posterior's mode; else a sample of both. A planner's plan
            as it was found; else with noise.
        Returns: action float32 (n, A), next carry.
        """
        device = self.world_model.device
        tensors = {name: torch.from_numpy(value).to(device) for name, value in obs.items()}
        first = torch.from_numpy(is_first).to(device)
        state = self.world_model.filter(carry.state, carry.action, tensors, first, sample=not deterministic)
        if self.planner is not None:
            action, plan = self.planner.act(state, carry.plan, deterministic=deterministic, is_first=first)
            return action.cpu().numpy(), Carry(state, action, plan)
        if self.sb3 is not None:
            action = self.sb3.act(state.features, deterministic=deterministic)
            return action.cpu().numpy(), Carry(state, action)
        features = state.features
        action = self.policy.average_actor.mode(features) if deterministic else self.policy.actor.sample(features)
        return action.cpu().numpy(), Carry(state, action)

    def predict(
        self,
        observation: Any,  # noqa: ANN401 - an array or a dict of arrays
        state: Carry | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,  # noqa: FBT001, FBT002 - Stable-Baselines3's signature
    ) -> tuple[Any, Any]:
        """Action for the environment's own observation, one or a batch, as Stable-Baselines3's `predict`.

        Args: observation: as the environment returns it, with or without a leading batch axis. state: what the last
            call returned, None at first. episode_start: (n,) bool, where an episode begins.
        Returns: action as the environment takes it (batched like the observation), state for the next call.
        Raises: EnvironmentFault: the observation is not of the environment that the agent was trained in.
        """
        obs, single, carry, first = self._prepared(observation, state, episode_start)
        actions, carry = self.act(obs, carry, first, deterministic=deterministic)
        return self._decoded(actions, single=single), carry

    @torch.no_grad()
    def decide(
        self,
        observation: Any,  # noqa: ANN401
        state: Carry | None = None,
        episode_start: np.ndarray | None = None,
    ) -> Decided:
        """The most probable action, its probability, and how probable the observation itself is after those before.

        Args: as `predict`; `Decided.state` goes into the next call. Nominal is the experience of the agent's run.
        Raises: ConfigError: a planner or an algorithm of Stable-Baselines3 acts, which says no probability; or the
            agent does not come from a run. EnvironmentFault: as `predict`.
        """
        if self.planner is not None or self.sb3 is not None:
            raise ConfigError(f"decide: agent={self.options.agent.name} gives its actions no probability; use predict")
        if self._nominal is None:
            if self.run is None:
                raise ConfigError("decide: what is ordinary is the experience of a run: load the agent from its folder")
            self._nominal = nominal_scores(self.world_model, load_replay(self.run), NOMINAL_STEPS, seed=0)
        obs, single, carry, first = self._prepared(observation, state, episode_start)
        p_value = np.ones(len(first))
        if carry.state is not None and carry.action is not None:
            tensors = {name: torch.from_numpy(value).to(self.world_model.device) for name, value in obs.items()}
            sight = look(self.world_model, carry.state, carry.action, tensors)
            p_value = np.where(first, 1.0, self._nominal.p_values(sight)["surprise"].cpu().numpy())
        actions, carry = self.act(obs, carry, first, deterministic=True)
        assert carry.state is not None
        policy = self.policy.average_actor(carry.state.features)
        probability = policy.log_prob(torch.from_numpy(actions).to(self.world_model.device)).exp().cpu().numpy()
        action = self._decoded(actions, single=single)
        return Decided(action, *((probability[0], p_value[0]) if single else (probability, p_value)), carry)

    def _prepared(
        self,
        observation: Any,  # noqa: ANN401
        state: Carry | None,
        episode_start: np.ndarray | None,
    ) -> tuple[dict[str, np.ndarray], bool, Carry, np.ndarray]:
        """Encoded observations (n, ...), whether it was a single one, the carry, and where an episode begins (n,)."""
        obs_space, _ = self.spaces()
        single = _matches(obs_space, observation)
        rows = [observation] if single else _unbatch(observation)
        encoded = [encode_obs(obs_space, row) for row in rows]
        obs = {name: np.stack([row[name] for row in encoded]) for name in encoded[0]}
        _check_obs(self.obs_specs, obs)
        carry = state if state is not None else self.initial_carry(len(rows))
        start = state is None if episode_start is None else episode_start
        first = np.broadcast_to(np.asarray(start, bool), (len(rows),)).copy()
        if carry.state is None:
            first[:] = True
        return obs, single, carry, first

    def _decoded(self, actions: np.ndarray, *, single: bool) -> Any:  # noqa: ANN401
        """Encoded actions (n, A) as the environment takes them; one alone where there was one observation."""
        decoded = [decode_action(self.spaces()[1], action) for action in actions]
        return decoded[0] if single else np.stack(decoded)

    def spaces(self) -> tuple[Any, Any]:
        """Observation and action space of the environment that it was trained in.

        Where they are not known the environment is made, once.
        Raises: ConfigError: that environment lies in a module that has not been imported. CheckpointError: the saved
            spaces are not those of the saved sizes.
        """
        if self._spaces is None and self._plain_spaces is not None:
            self._spaces = self._saved_spaces(self._plain_spaces)
        if self._spaces is None:
            module, colon, _ = self.env_options.id.partition(":")
            if colon and module not in sys.modules:  # a run folder may name any module: naming it must not run it
                raise ConfigError(
                    f"this agent's environment is {self.env_options.id}, and making it runs the code of {module}: "
                    f"allow that by `import {module}`"
                )
            from envs.make import make_env

            env = make_env(self.env_options)
            self._spaces = (env.env.observation_space, env.env.action_space)
            env.close()
        return self._spaces

    def _saved_spaces(self, plain: Mapping[str, Any]) -> tuple[Any, Any]:
        from envs.plain import space_of

        obs, action = space_of(plain.get("obs")), space_of(plain.get("action"))
        try:
            fits = obs_specs(obs) == self.obs_specs and action_spec(action) == self.action_spec
        except EnvironmentFault as error:
            raise CheckpointError(f"the saved spaces are damaged: {error}") from error
        if not fits:
            raise CheckpointError("the saved spaces are not those that the agent was made for")
        return obs, action

    def specs_state(self) -> PartState:
        """Sizes and kinds of observations and actions, and the spaces that they come from, as plain data."""
        spaces = {} if self._plain_spaces is None else {"spaces": dict(self._plain_spaces)}
        return {"tensors": {}, "json": specs_to_json(self.obs_specs, self.action_spec) | spaces}

    def acting_state(self, step: int, score: float | None) -> PartState:
        """Copies of everything that acting needs, with the step and the score it was kept for."""
        tensors = {f"{name}.{k}": v for name, m in self._modules() for k, v in module_state(m)["tensors"].items()}
        return {"tensors": tensors, "json": {"step": step, "score": score}}

    def restore_acting(self, state: PartState) -> None:
        """Take what `acting_state` returned."""
        for name, module in self._modules():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state["tensors"].items() if k.startswith(prefix)}
            restore_module(module, {"tensors": own, "json": None})

    def _modules(self) -> list[tuple[str, nn.Module]]:
        modules: list[tuple[str, nn.Module]] = [("world_model", self.world_model), ("policy", self.policy)]
        optional = {"sb3": self.sb3, "bonus": self.bonus}
        return [*modules, *((name, module) for name, module in optional.items() if module is not None)]


def _sb3_policy(options: TrainOptions, world_model: WorldModel) -> "Sb3Policy | None":
    """The policy of Stable-Baselines3, where the options ask for it: nothing else loads that library."""
    if options.agent.name != "sb3":
        return None
    from agents.sb3_learner import Sb3Policy

    return Sb3Policy(world_model, options.agent.sb3)


def _check_obs(specs: Mapping[str, ObsSpec], obs: Mapping[str, np.ndarray]) -> None:
    """Raise EnvironmentFault where encoded observations (n, ...) are not of the shapes and values of `specs`."""
    for name, spec in specs.items():
        value = obs[name]
        if value.shape[1:] != spec.shape:
            raise EnvironmentFault(f"predict: observation {name!r} has shape {value.shape[1:]}, expected {spec.shape}")
        if spec.kind == "vector" and not np.isfinite(value).all():
            raise EnvironmentFault(f"predict: observation {name!r} is not finite: {value.tolist()}")
        if spec.classes and not ((value >= 0) & (value < spec.classes)).all():
            raise EnvironmentFault(f"predict: observation {name!r} is {value.tolist()}, expected below {spec.classes}")


def _matches(space: Any, observation: Any) -> bool:  # noqa: ANN401
    """Whether this is one observation of the space, and not a batch of them."""
    if hasattr(space, "spaces"):
        name = next(iter(space.spaces))
        return _matches(space.spaces[name], observation[name])
    return np.shape(observation) == tuple(space.shape or ())


def _unbatch(observation: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(observation, Mapping):
        columns = {name: _unbatch(value) for name, value in observation.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return list(observation)
