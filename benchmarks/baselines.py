"""Stable-Baselines3 on the same tasks: published settings, the same environments, the same evaluation episodes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers import FlattenObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.evaluate import evaluate
from benchmarks.baseline_settings import BaselineSettings
from benchmarks.results import LAST, Point, solved_at
from benchmarks.tasks import Task
from envs.make import make_env
from envs.options import EnvOptions
from envs.spaces import ActionCodec
from envs.vector import VectorEnv

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "RecurrentPPO": RecurrentPPO, "SAC": SAC}


def train_baseline(
    task: Task,
    settings: BaselineSettings,
    env_options: EnvOptions,
    *,
    seed: int,
    episodes: int,
    evaluation_seed: int,
    limit: int | None = None,
) -> tuple[Point, ...]:
    """Train until the task's budget is spent, or it is clear how long a solved task stays solved.

    That is clear after `task.steps` simulator steps, what our own runs take, and LAST evaluations from the solving one
    on. The random numbers of the training are not touched by the evaluations.

    Args: evaluation_seed: episode k of evaluation i is reset with evaluation_seed + i * episodes + k, as ours are.
        limit: simulator steps after which to stop in any case; schedules stay those of the task's budget.
    """
    began = time.monotonic()
    train_envs: Any = DummyVecEnv([lambda: FlattenObservation(make_env(env_options).env)] * settings.num_envs)
    normalize = VecNormalize(train_envs, gamma=settings.arguments["gamma"]) if settings.normalize else None
    model = ALGORITHMS[settings.algorithm](
        settings.policy,
        train_envs if normalize is None else normalize,
        seed=seed,
        device="cpu",
        **_with_schedules(settings.arguments),
    )
    with VectorEnv(env_options, min(20, episodes)) as eval_envs:
        actor = BaselineActor(model, eval_envs, train_envs.action_space, normalize)
        judge = Judge(
            lambda number: (
                evaluate(
                    actor,
                    env_options,
                    episodes=episodes,
                    seed=evaluation_seed + number * episodes,
                    num_envs=eval_envs.num_envs,
                    envs=eval_envs,
                ).mean
            ),
            task,
            limit=task.baseline_steps if limit is None else min(limit, task.baseline_steps),
            repeat=env_options.action_repeat,
            began=began,
        )
        model.learn(task.baseline_steps // env_options.action_repeat, callback=judge)
    train_envs.close()
    return tuple(judge.points)


class Judge(BaseCallback):
    """Evaluates every `task.every` simulator steps, keeps the clock, and says when to stop."""

    def __init__(self, measure: Callable[[int], float], task: Task, *, limit: int, repeat: int, began: float) -> None:
        super().__init__()
        self._measure, self._task, self._limit, self._repeat, self._began = measure, task, limit, repeat, began
        self._evaluation_s = 0.0
        self.points: list[Point] = []

    def _on_step(self) -> bool:
        step = self.num_timesteps * self._repeat
        last = self.points[-1].step if self.points else 0
        if step // self._task.every > last // self._task.every:
            start = time.monotonic()
            mean = self._measure(len(self.points))
            seconds = time.monotonic() - start
            self.points.append(Point(step, start - self._began - self._evaluation_s, mean, seconds))
            self._evaluation_s += seconds
            if self._is_clear():
                return False
        return step < self._limit

    def _is_clear(self) -> bool:
        solved = solved_at(self.points, self._task.bar)
        if solved is None or self.points[-1].step < self._task.steps:
            return False
        return len(self.points) - self.points.index(solved) >= LAST


class BaselineActor:
    """A Stable-Baselines3 model with the face that `agents.evaluate.evaluate` takes."""

    train_steps = 0

    def __init__(
        self, model: BaseAlgorithm, envs: VectorEnv, action_space: Any, normalize: VecNormalize | None
    ) -> None:
        self.obs_specs: Mapping[str, Any] = envs.obs_specs
        self.action_spec: Any = envs.action_spec
        self._model, self._normalize, self._codec = model, normalize, ActionCodec(action_space)

    def initial_carry(self, batch: int) -> None:  # noqa: ARG002 - the size shows itself with the first observation
        """What `act` takes at the first step: no state of a recurrent policy."""
        return None

    def act(
        self, obs: Mapping[str, np.ndarray], carry: Any, is_first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, Any]:
        """Actions (n, A) for observations name -> (n, ...), joined in the order in which they are flattened."""
        flat: Any = np.concatenate([value.reshape(len(value), -1) for value in obs.values()], axis=-1)  # (n, F)
        if self._normalize is not None:
            flat = self._normalize.normalize_obs(flat)
        actions, carry = self._model.predict(flat, carry, is_first, deterministic=deterministic)
        return np.stack([self._codec.encode(action) for action in actions]), carry


def _with_schedules(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the library takes them: `lin_X` falls from X to 0 over the run, `ReLU` is torch's module."""
    resolved = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, str) and value.startswith("lin_"):
            resolved[name] = _falling(float(value.removeprefix("lin_")))
    policy = dict(resolved.get("policy_kwargs", {}))
    if policy.get("activation_fn") == "ReLU":
        policy["activation_fn"] = torch.nn.ReLU
    return resolved | ({"policy_kwargs": policy} if policy else {})


def _falling(start: float) -> Callable[[float], float]:
    return lambda remaining: start * remaining
