"""`agent=sb3`: an unmodified algorithm of Stable-Baselines3, trained in the dream while the world model learns.

Every `agent.sb3.every` updates of the world model the algorithm learns in dreams that begin from the states of the
batch just seen. Imagined transitions that an off-policy algorithm keeps are dropped at every checkpoint, so that its
networks, its optimisers and a few counters are all there is to save: a resumed run goes on exactly.
"""

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any

import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger as SilentLogger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn
from torch.nn import functional as F

from agents.options import Sb3Options
from envs.dream_sb3 import DreamVecEnv
from worldmodels.errors import CheckpointError, ConfigError, NonFiniteError
from worldmodels.specs import ActionSpec
from worldmodels.states import (
    State,
    check_tensors,
    module_state,
    optimizer_state,
    restore_module,
    restore_optimizer,
    snapshot,
)
from worldmodels.types import State as LatentState
from worldmodels.world_model import WorldModel

KINDS: dict[str, tuple[str, ...]] = {
    "PPO": ("discrete", "multi_discrete", "continuous"),
    "A2C": ("discrete", "multi_discrete", "continuous"),
    "DQN": ("discrete",),
    "SAC": ("continuous",),
    "TD3": ("continuous",),
}
"""Algorithm -> the kinds of action that it can do."""
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")
"""What an algorithm counts beside its parameters and optimisers, where it has it."""
FIRST_TEMPERATURE = 0.1
"""Where SAC's temperature starts: from 1 it would take thousands of gradient steps to come down."""
PART = "sb3"
"""Name of the checkpoint part that holds the policy; what belongs to it follows after an underscore."""


class Sb3Policy(nn.Module):
    """The algorithm's policy, acting on features in the toolkit's encoding.

    algorithm: the Stable-Baselines3 object, in a dream of the world model. dream: that dream.
    """

    def __init__(self, world_model: WorldModel, options: Sb3Options) -> None:
        """Build the algorithm. Raises: ConfigError: it cannot do the world model's actions."""
        super().__init__()
        self.spec: ActionSpec = world_model.action_spec
        if self.spec.kind not in KINDS[options.algorithm]:
            able = ", ".join(name for name, kinds in KINDS.items() if self.spec.kind in kinds)
            raise ConfigError(
                f"agent.sb3.algorithm: {options.algorithm} cannot do {self.spec.kind} actions; choose one of {able}"
            )
        self.options = options
        self.dream = DreamVecEnv(
            world_model, num_envs=options.num_envs, horizon=options.horizon, uncertainty=False, seed=0
        )
        self.algorithm = build_algorithm(options, self.dream)
        self.net = self.algorithm.policy

    def act(self, features: Tensor, *, deterministic: bool) -> Tensor:
        """Features (B, F) -> encoded actions (B, A); with exploration where not `deterministic`.

        DQN takes a uniform action with the chance `exploration`, TD3 adds noise of that standard deviation; the others
        sample their own distribution.
        """
        with torch.no_grad():
            raw = self.net._predict(features, deterministic=deterministic)
        explore = 0.0 if deterministic else self.options.exploration
        if self.spec.kind == "continuous":
            if self.options.algorithm == "TD3" and explore:
                raw = raw + explore * torch.randn_like(raw)
            return raw.clamp(-1, 1)
        index = raw.reshape(len(features), -1)  # (B, blocks)
        if self.options.algorithm == "DQN" and explore:
            uniform = torch.randint(self.spec.classes[0], index.shape, device=index.device)
            index = torch.where(torch.rand(index.shape, device=index.device) < explore, uniform, index)
        return torch.cat([F.one_hot(index[:, i], n) for i, n in enumerate(self.spec.classes)], -1).float()

    def learn(self, starts: LatentState) -> dict[str, Tensor]:
        """Let the algorithm learn for `steps` imagined steps of dreams that begin from `starts` (N, ...).

        Returns: scalars to log. Raises: NonFiniteError: its parameters are no numbers any more.
        """
        algorithm, stage = self.algorithm, self.dream.stage
        stage.dreams.starts = starts
        stage.seed(int(torch.randint(2**31 - 1, ())))
        algorithm.action_space.seed(int(torch.randint(2**31 - 1, ())))
        algorithm.set_env(self.dream, force_reset=True)
        algorithm.learn(self.options.steps, reset_num_timesteps=False, log_interval=10**9)
        bad = [name for name, value in self.net.named_parameters() if not bool(torch.isfinite(value).all())]
        if bad:
            raise NonFiniteError(f"{self.options.algorithm}: {bad[0]} is not finite any more; lower agent.sb3.rate")
        returns = [info["r"] for info in algorithm.ep_info_buffer or ()]
        return {
            "policy/imagined_return": torch.tensor(sum(returns) / max(1, len(returns))),
            "policy/imagined_steps": torch.tensor(float(algorithm.num_timesteps)),
        }

    def forget(self) -> None:
        """Drop what was dreamt and is kept, transitions and returns: at every checkpoint, so that it is not saved."""
        self.algorithm.ep_info_buffer = self.algorithm.ep_success_buffer = None
        if isinstance(self.algorithm, OffPolicyAlgorithm) and self.algorithm.replay_buffer is not None:
            self.algorithm.replay_buffer.reset()

    def parts(self) -> dict[str, State]:
        """Policy, optimisers, loose variables and counters: all that a resumed run needs."""
        counters = {name: getattr(self.algorithm, name) for name in self._counters()}
        parts = {PART: module_state(self), f"{PART}_rest": {"tensors": snapshot(self._variables()), "json": counters}}
        return parts | {f"{PART}_{name}": optimizer_state(own) for name, own in self._optimizers().items()}

    def restore(self, parts: Mapping[str, State]) -> None:
        """Take what `parts` returned and forget the rest. Raises: CheckpointError: it is not of this algorithm."""
        missing = sorted(set(self.parts()) - set(parts))
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(missing)}: it is of another algorithm")
        self.forget()
        variables, rest = self._variables(), parts[f"{PART}_rest"]
        check_tensors(variables, rest["tensors"])
        if not isinstance(rest["json"], dict) or set(rest["json"]) != set(self._counters()):
            raise CheckpointError(f"the checkpoint has not the counters of {self.options.algorithm}")
        restore_module(self, parts[PART])
        for name, own in self._optimizers().items():
            restore_optimizer(own, parts[f"{PART}_{name}"])
        with torch.no_grad():
            for name, value in variables.items():
                value.copy_(rest["tensors"][name])
        for name, value in rest["json"].items():
            setattr(self.algorithm, name, value)

    def _counters(self) -> list[str]:
        return [name for name in COUNTERS if hasattr(self.algorithm, name)]

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        names, _ = self.algorithm._get_torch_save_params()
        own = {name: _attribute(self.algorithm, name) for name in names}
        return {
            name.replace(".", "_"): value for name, value in own.items() if isinstance(value, torch.optim.Optimizer)
        }

    def _variables(self) -> dict[str, Tensor]:
        _, names = self.algorithm._get_torch_save_params()
        return {name: _attribute(self.algorithm, name) for name in names}


def build_algorithm(options: Sb3Options, dream: DreamVecEnv) -> BaseAlgorithm:
    """The algorithm with its own defaults, but for what the options set. Silent."""
    shared: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": dream,
        "gamma": options.gamma,
        "learning_rate": options.rate,
        "policy_kwargs": {"net_arch": [options.hidden] * options.layers},
        "device": dream.stage.world_model.device,
    }
    steps = max(1, options.steps // options.num_envs)
    off = {
        "buffer_size": max(options.memory, options.steps),
        "learning_starts": 0,
        "batch_size": options.batch,
        "train_freq": (steps, "step"),
        "gradient_steps": options.gradient_steps,
    }
    make: dict[str, Callable[[], BaseAlgorithm]] = {
        "PPO": lambda: PPO(
            **shared,
            n_steps=steps,
            batch_size=gcd(options.batch, steps * options.num_envs),  # minibatches of one size
            n_epochs=options.epochs,
            ent_coef=options.entropy,
        ),
        "A2C": lambda: A2C(**shared, n_steps=steps, ent_coef=options.entropy),
        "DQN": lambda: DQN(**shared, **off, target_update_interval=options.num_envs, tau=options.tau),
        "SAC": lambda: SAC(**shared, **off, tau=options.tau, ent_coef=f"auto_{FIRST_TEMPERATURE}"),
        "TD3": lambda: TD3(**shared, **off, tau=options.tau),
    }
    algorithm = make[options.algorithm]()
    algorithm.set_logger(SilentLogger(folder=None, output_formats=[]))
    return algorithm


def _attribute(owner: Any, path: str) -> Any:  # noqa: ANN401
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner
