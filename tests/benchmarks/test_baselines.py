"""Stable-Baselines3's models play the same episodes as they would by themselves, and stop when the task is clear."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.evaluate import evaluate
from benchmarks.baseline_settings import SETTINGS
from benchmarks.baselines import ALGORITHMS, BaselineActor, Judge, train_baseline
from benchmarks.results import LAST
from benchmarks.tasks import TASKS
from envs.options import EnvOptions
from envs.vector import VectorEnv

SEEDS = (50, 51, 52)


def by_hand(model, env_id, normalize=lambda obs: obs):
    """Returns of the episodes, in gymnasium's own loop."""
    env, returns = gymnasium.make(env_id), []
    for seed in SEEDS:
        obs, _ = env.reset(seed=seed)
        returns.append(0.0)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(model.predict(normalize(obs), deterministic=True)[0])
            returns[-1] += float(reward)
            over = terminated or truncated
    return returns


@pytest.mark.parametrize(("algorithm", "env_id"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1")])
@pytest.mark.parametrize("normalised", [False, True])
def test_an_evaluation_is_what_the_model_does_by_itself(algorithm, env_id, normalised):
    envs = DummyVecEnv([lambda: gymnasium.make(env_id)])
    normalize = VecNormalize(envs) if normalised else None
    if normalize is not None:
        normalize.obs_rms.mean[:], normalize.obs_rms.var[:] = 0.1, 0.5
    model = algorithm("MlpPolicy", normalize or envs, seed=3, device="cpu")
    options = EnvOptions(id=env_id)
    with VectorEnv(options, 2) as vector:
        actor = BaselineActor(model, vector, envs.action_space, normalize)
        result = evaluate(actor, options, episodes=len(SEEDS), seed=SEEDS[0], num_envs=2, envs=vector)
    expected = by_hand(model, env_id, normalize.normalize_obs if normalize else lambda obs: obs)
    np.testing.assert_allclose(result.returns, expected, rtol=1e-4)


def judged(means, task, steps, *, limit=10**6, repeat=1):
    """The judge after as many calls as the algorithm would make, until it says stop."""
    judge = Judge(lambda number: means[number], task, limit=limit, repeat=repeat, began=0.0)
    for judge.num_timesteps in range(1, steps + 1):
        if not judge._on_step():
            break
    return judge


def test_a_run_goes_on_until_it_is_clear_whether_a_solved_task_stays_solved():
    task = replace(TASKS["cartpole"], every=10, steps=50, bar=1.0)
    assert judged([1.0] * 100, task, 1000).points[-1].step == 10 * LAST  # solved at once: ten evaluations from there on
    late = judged([0.0] * 20 + [1.0] * 100, task, 1000)
    assert late.points[-1].step == 200 + 10 * LAST
    assert judged([1.0] * 100, replace(task, steps=300), 1000).points[-1].step == 300  # no shorter than our own runs
    assert judged([0.0] * 100, task, 1000, limit=70).num_timesteps == 70


def test_steps_are_the_simulator_s():
    task = replace(TASKS["cartpole"], every=10, steps=50, bar=1.0)
    judge = judged([0.0] * 100, task, 1000, limit=40, repeat=2)
    assert [point.step for point in judge.points] == [10, 20, 30, 40]
    assert judge.num_timesteps == 20


def test_every_task_names_settings_that_its_algorithm_takes():
    named = {task.baseline for task in TASKS.values() if task.baseline}
    assert named == set(SETTINGS)
    assert {settings.algorithm for settings in SETTINGS.values()} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "cartpole-no-velocity"])
def test_a_short_baseline_run_measures(name):
    task = replace(TASKS[name], every=100)
    options = {
        "cartpole": EnvOptions(),
        "pendulum": EnvOptions(id="Pendulum-v1"),
        "cartpole-no-velocity": EnvOptions(wrappers=["mask_velocity"]),
    }[name]
    settings = SETTINGS[task.baseline]
    short = train_baseline(task, settings, options, seed=0, episodes=2, evaluation_seed=9, limit=300)
    assert [point.step // 100 for point in short] == [1, 2, 3]
    assert all(point.seconds > 0 for point in short)
    assert list(short) == sorted(short, key=lambda point: point.trained_s)
