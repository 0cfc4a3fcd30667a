"""Agents with every temporal prior: a run through the command line, exact resume, acting and dreaming after loading."""

import numpy as np
import pytest
import torch

from agents import Agent
from agents.cli import main
from agents.dream import dream, record
from envs import DreamVecEnv
from tests.learning.tools import TINY, changed, hashes, tiny_run

PRIORS = ("recurrent", "state_space", "transformer", "markov")
SMALL = (
    "world_model.state_space.deter=8",
    "world_model.state_space.hidden=8",
    "world_model.state_space.layers=2",
    "world_model.transformer.width=8",
    "world_model.transformer.hidden=8",
    "world_model.transformer.window=4",
)
PARALLEL = PRIORS[1:]


def options(prior, *further):
    return changed(TINY, f'world_model.temporal_prior="{prior}"', *SMALL, *further)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])  # by scores, and through the dynamics
@pytest.mark.parametrize("prior", PARALLEL)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(prior, env, tmp_path, monkeypatch):
    small = options(prior, f'env.id="{env}"', "env.max_episode_steps=20", "evaluation.every=0", "steps=100")
    with tiny_run(tmp_path / "whole", options=small) as (trainer, _):
        trainer.save()
        trainer.loop()
        whole = hashes(trainer)
    with tiny_run(tmp_path / "parts", options=small) as (trainer, _):
        trainer.save()
        update, steps = trainer.learner.update, []

        def stopping(batch):
            steps.append(trainer.step)
            if 0 < trainer.barrier < trainer.step - 10:
                raise KeyboardInterrupt
            return update(batch)

        monkeypatch.setattr(trainer.learner, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            trainer.loop()
    with tiny_run(tmp_path / "parts", options=small) as (trainer, _):
        trainer.resume()
        assert 0 < trainer.step < steps[-1]
        trainer.loop()
        assert hashes(trainer) == whole


@pytest.mark.parametrize("prior", PARALLEL)
def test_a_run_by_the_command_line_acts_and_dreams_after_loading(prior, tmp_path, capsys):
    run = tmp_path / "run"
    keys = ["env=cartpole", f"world_model={prior}", f"run={run}", "steps=60", "seed=1", "train.warmup_steps=20"]
    keys += ["train.warmup_updates=2", "train.every=10", "replay.length=6", "replay.batch=4", "agent.starts=8"]
    keys += ["evaluation.episodes=2", "evaluation.final_episodes=2", "train.threads=1", *SMALL]
    assert main(["train", *keys]) == 0
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    capsys.readouterr()
    agent, again = (Agent.load(run, which="latest") for _ in range(2))
    assert agent.options.world_model.temporal_prior == prior
    envs, rng = 2, np.random.default_rng(0)
    carry, other = agent.initial_carry(envs), again.initial_carry(envs)
    for t in range(9):
        obs, first = {"obs": rng.normal(size=(envs, 4)).astype(np.float32)}, np.array([t in (0, 5), t == 0])
        action, carry = agent.act(obs, carry, first, deterministic=True)
        same, other = again.act(obs, other, first, deterministic=True)
        assert (action == same).all() and torch.equal(carry.state.features, other.state.features)
    dreams = DreamVecEnv(agent.world_model, num_envs=3, horizon=5, seed=0)
    assert dreams.reset().shape == (3, agent.world_model.features_size)
    for _ in range(12):  # every dream ends and begins anew twice
        features, rewards, _, _ = dreams.step(np.zeros(3, np.int64))
        assert np.isfinite(features).all() and np.isfinite(rewards).all()


@pytest.mark.parametrize("prior", PARALLEL)
def test_what_a_film_shows_is_what_the_model_dreams(prior, tmp_path):
    torch.manual_seed(0)
    with tiny_run(tmp_path / "run", options=options(prior, "steps=40", "evaluation.every=0")) as (trainer, _):
        trainer.loop()
        agent = trainer.agent
    recording = record(agent, agent.env_options, steps=12, seed=3)
    one, other = (dream(agent.world_model, agent.obs_specs, recording, context=5, seed=s) for s in (0, 0))
    assert one.obs["obs"].shape == (len(recording) + 1, 4)
    assert np.array_equal(one.obs["obs"], other.obs["obs"]) and np.isfinite(one.obs["obs"]).all()
    assert np.isfinite(one.epistemic[5:]).all()


@pytest.mark.parametrize(
    "further", [['agent.name="planner"'], ['agent.name="planner_actor"', 'agent.planner.members="rollout"']]
)
def test_planners_search_with_a_cache(further, tmp_path):
    small = (
        "agent.planner.samples=6",
        "agent.planner.iterations=2",
        "agent.planner.elites=2",
        "agent.planner.horizon=3",
    )
    with tiny_run(
        tmp_path / "run", options=options("transformer", "steps=45", "evaluation.every=0", *small, *further)
    ) as (trainer, _):
        trainer.loop()
        assert trainer.learner.updates > 0 and trainer.learner.skipped == 0
