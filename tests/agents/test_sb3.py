"""Algorithms of Stable-Baselines3 in the dream: they learn, resume exactly, and refuse what they cannot do."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

from agents import Agent
from agents.cli import main
from agents.log import read_metrics
from agents.options import Sb3Options
from agents.sb3_learner import KINDS, Sb3Policy
from envs.options import EnvOptions
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options
from tests.learning.tools import TINY, changed, hashes, tiny_run, train_tiny
from worldmodels.errors import CheckpointError, ConfigError

SMALL = [
    'agent.name="sb3"',
    *("agent.sb3.every=3", "agent.sb3.steps=32", "agent.sb3.num_envs=8", "agent.sb3.horizon=3"),
    *("agent.sb3.hidden=8", "agent.sb3.layers=1", "agent.sb3.batch=16", "agent.sb3.gradient_steps=2"),
]


CLOCKS = ("wall_s", "evaluation/seconds")


def options(algorithm):
    env = "Pendulum-v1" if algorithm in ("SAC", "TD3") else "CartPole-v1"
    small = changed(replace(TINY, env=EnvOptions(id=env, max_episode_steps=25)), *SMALL)
    return changed(small, f'agent.sb3.algorithm="{algorithm}"')


@pytest.mark.parametrize(
    "algorithm", [*("PPO", "SAC"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("A2C", "DQN", "TD3"))]
)
def test_a_run_learns_is_loaded_and_acts(algorithm, tmp_path):
    run = train_tiny(tmp_path / "run", options=options(algorithm))
    agent = Agent.load(run)
    assert agent.sb3 is not None and agent.sb3.options.algorithm == algorithm
    fresh = Sb3Policy(agent.world_model, agent.options.agent.sb3)
    moved = [not torch.equal(a, b) for a, b in zip(agent.sb3.parameters(), fresh.parameters(), strict=True)]
    assert any(moved)
    env = gymnasium.wrappers.TimeLimit(gymnasium.make(agent.env_options.id).unwrapped, 10)
    mean, _ = evaluate_policy(agent, gymnasium.wrappers.RecordEpisodeStatistics(env), n_eval_episodes=2, warn=False)
    assert np.isfinite(mean)
    again = Agent.load(run)
    obs, _ = env.reset(seed=0)
    assert np.array_equal(agent.predict(obs)[0], again.predict(obs)[0])
    copy = Agent.load(agent.save(tmp_path / "copy").parents[1])
    assert np.array_equal(agent.predict(obs)[0], copy.predict(obs)[0])


@pytest.mark.parametrize(
    "algorithm", [*("PPO", "SAC", "DQN"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("A2C", "TD3"))]
)
def test_a_resumed_run_is_the_run_that_was_never_stopped(algorithm, tmp_path):
    finals, logged = [], []
    for stopped in (False, True):
        run = tmp_path / str(stopped)
        with tiny_run(run, "steps=80" if stopped else "steps=120", options=options(algorithm)) as (trainer, _):
            trainer.save()
            trainer.loop()
            if not stopped:
                assert trainer.agent.sb3.algorithm.num_timesteps >= 3 * 32
                finals.append(hashes(trainer))
        if stopped:
            with tiny_run(run, options=options(algorithm)) as (trainer, _):
                trainer.resume()
                trainer.loop()
                finals.append(hashes(trainer))
        logged.append([{k: v for k, v in line.items() if k not in CLOCKS} for line in read_metrics(run)])
    assert finals[0] == finals[1]
    assert logged[0] == logged[1] and sum("policy/imagined_return" in line for line in logged[0]) > 2


def test_the_state_of_another_algorithm_is_refused():
    world = small_model()
    ppo, dqn = (Sb3Policy(world, Sb3Options(algorithm=name, num_envs=4, steps=8)) for name in ("PPO", "DQN"))
    with pytest.raises(CheckpointError, match="counters of PPO|state has"):
        ppo.restore(dqn.parts())
    with pytest.raises(CheckpointError, match="the checkpoint has no sb3"):
        ppo.restore({})


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("kind", ACTIONS)
def test_an_algorithm_acts_or_says_which_ones_could(algorithm, kind):
    world = small_model(small_options(), OBS["vector"], ACTIONS[kind])
    settings = Sb3Options(algorithm=algorithm, num_envs=4, steps=8, hidden=8, layers=1, exploration=1.0)
    if kind not in KINDS[algorithm]:
        with pytest.raises(ConfigError, match=f"{algorithm} cannot do {kind} actions; choose one of PPO, A2C"):
            Sb3Policy(world, settings)
        return
    policy = Sb3Policy(world, settings)
    features = torch.randn(64, world.features_size)
    best = policy.act(features, deterministic=True)
    assert torch.equal(best, policy.act(features, deterministic=True)) and best.dtype == torch.float32
    sampled = policy.act(features, deterministic=False)
    assert not torch.equal(sampled, policy.act(features, deterministic=False))
    for action in (best, sampled):
        assert action.shape == (64, world.action_spec.size) and (action.abs() <= 1).all()
        for block in action.split(world.action_spec.classes, -1) if world.action_spec.classes else ():
            assert (block.sum(-1) == 1).all() and ((block == 0) | (block == 1)).all()


def test_sessions_begin_from_the_states_given_and_what_was_dreamt_is_kept_until_it_is_forgotten():
    world = small_model(action=ACTIONS["continuous"])
    settings = Sb3Options(algorithm="SAC", num_envs=4, steps=16, hidden=8, layers=1, batch=8, gradient_steps=1)
    policy = Sb3Policy(world, settings)
    starts = world.dream_start(1)
    buffer = policy.algorithm.replay_buffer
    for session in (1, 2):
        metrics = policy.learn(starts)
        assert buffer.size() == 4 * session and metrics["policy/imagined_steps"] == 16 * session
        first = buffer.observations[4 * (session - 1)]
        np.testing.assert_allclose(first, np.repeat(starts.features.detach().numpy(), 4, 0), rtol=1e-6)
    policy.forget()
    assert buffer.size() == 0


def test_the_command_line_takes_it_and_a_wrong_algorithm_is_one_line(tmp_path, capsys):
    few = ["steps=60", "train.warmup_steps=30", "train.warmup_updates=2", "evaluation.every=0"]
    words = ["train", "agent=sb3", "env=pendulum", "agent.sb3.algorithm=DQN", f"run={tmp_path / 'a'}", *few]
    assert main(words) == 2
    assert "DQN cannot do continuous actions; choose one of PPO, A2C, SAC, TD3" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert main(["train", "agent=sb3", "agent.sb3.algorithm=PPOO"]) == 2
    assert "agent.sb3.algorithm" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sb3", "cloning"])
def test_an_acquisition_that_would_be_left_out_is_refused(name, tmp_path, capsys):
    data = [] if name == "sb3" else [f"data={train_tiny(tmp_path / 'data')}"]
    words = ["train", f"agent={name}", "agent.acquisition.name=sigma", f"run={tmp_path / 'a'}", *data]
    assert main(words) == 2
    assert f"agent={name} has no imagined reward" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_nothing_of_stable_baselines_is_in_the_run_folder(tmp_path):
    run = train_tiny(tmp_path / "run", options=options("PPO"))
    kinds = {path.suffix for path in (run / "checkpoints").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
    assert any(path.name.startswith("sb3_rest") for path in (run / "checkpoints").rglob("*"))
