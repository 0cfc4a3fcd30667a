"""Agents that plan, through the real trainer: they learn, are saved, resumed, evaluated and asked like any other."""

import gymnasium
import numpy as np
import pytest
import torch

from agents.agent import Agent
from tests.learning.tools import TINY, changed, hashes, tiny_run

SMALL = ("agent.planner.horizon=3", "agent.planner.samples=6", "agent.planner.iterations=2", "agent.planner.elites=3")


def options(name, *assignments):
    return changed(TINY, f'agent.name="{name}"', *SMALL, "evaluation.every=0", *assignments)


TASK_AWARE = ('agent.acquisition.name="task_aware"', "world_model.ensemble.members=3", "agent.acquisition.reward=0.0")


@pytest.mark.parametrize(
    ("name", "env", "search", "more"),
    [
        *[(name, "CartPole-v1", "icem", ()) for name in ("planner", "planner_actor")],
        *[(name, "Pendulum-v1", "mppi", ()) for name in ("planner", "planner_actor")],
        ("planner", "CartPole-v1", "icem", TASK_AWARE),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(name, env, search, more, tmp_path, monkeypatch):
    wanted = (f'env.id="{env}"', f'agent.planner.search="{search}"', "train.warmup_steps=20", "steps=70", *more)
    chosen = options(name, *wanted)
    with tiny_run(tmp_path / "whole", options=chosen) as (trainer, _):
        trainer.save()
        before = hashes(trainer)
        trainer.loop()
        whole = hashes(trainer)
    assert (whole["policy"] != before["policy"]) == (name == "planner_actor")
    assert whole["world_model"] != before["world_model"]
    with tiny_run(tmp_path / "run", options=chosen) as (trainer, _):
        trainer.save()
        step, calls = trainer.envs.step, []

        def stopping(*args):
            calls.append(1)
            if len(calls) == 55:
                raise KeyboardInterrupt
            return step(*args)

        monkeypatch.setattr(trainer.envs, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trainer.loop()
    with tiny_run(tmp_path / "run", options=chosen) as (trainer, _):
        trainer.resume()
        trainer.loop()
        assert hashes(trainer) == whole


def test_proposals_cost_no_entropy(tmp_path, monkeypatch):
    with tiny_run(tmp_path / "run", options=options("planner_actor")) as (trainer, _):
        agent = trainer.agent
        monkeypatch.setattr(agent.world_model.family, "entropy", lambda raw: pytest.fail("nobody reads it"))
        obs = {"obs": np.zeros((2, 4), np.float32)}
        agent.act(obs, agent.initial_carry(2), np.ones(2, bool), deterministic=True)


@pytest.mark.parametrize("search", ["cem", "icem", "mppi", "gradient"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_every_search_acts_in_the_agent_and_predicts_valid_actions(search, env, tmp_path):
    chosen = options("planner_actor", f'env.id="{env}"', f'agent.planner.search="{search}"')
    with tiny_run(tmp_path / "run", options=chosen) as (trainer, _):
        agent = trainer.agent
        real = gymnasium.make(env)
        obs, _ = real.reset(seed=0)
        action, carry = agent.predict(obs)
        assert real.action_space.contains(action)
        again, carry = agent.predict(obs, carry, episode_start=np.array([False]), deterministic=False)
        assert real.action_space.contains(again) and carry.plan.belief.shape[:2] == (1, 3)
        result = trainer._measure(agent, 2, seed=0)
        assert len(result.returns) == 2 and np.isfinite(result.returns).all()
        real.close()


def test_a_saved_planner_plans_the_same(tmp_path):
    with tiny_run(tmp_path / "run", options=options("planner")) as (trainer, _):
        trainer.agent.save(tmp_path / "saved")
        loaded = Agent.load(tmp_path / "saved")
        obs = {"obs": np.zeros((2, 4), np.float32)}
        actions = []
        for agent in (trainer.agent, loaded):
            torch.manual_seed(3)
            action, _ = agent.act(obs, agent.initial_carry(2), np.ones(2, bool), deterministic=True)
            actions.append(action)
    np.testing.assert_array_equal(*actions)
