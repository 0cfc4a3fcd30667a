"""A policy that knows its input: it does what the agent did, and says when it has never seen the like."""

import numpy as np
import pytest
import torch

from agents.agent import Agent
from agents.compose import compose
from agents.evaluate import evaluate
from agents.hybrid import HybridPolicy
from agents.ood import collect
from agents.options import TrainOptions
from envs.make import make_env
from worldmodels.config import build
from worldmodels.errors import ConfigError


def untrained(*overrides):
    options = build(TrainOptions, compose([*overrides, "world_model.ensemble.members=0"]))
    env = make_env(options.env)
    torch.manual_seed(0)
    agent = Agent(options, env.obs_specs, env.action_spec)
    env.close()
    return agent


class Leaning(Agent):
    """Pushes towards where the pole leans."""

    def act(self, obs, carry, is_first, *, deterministic):  # noqa: ARG002
        return np.eye(2, dtype=np.float32)[(obs["obs"][:, 2] + 0.3 * obs["obs"][:, 3] > 0).astype(int)], carry


@pytest.fixture(scope="module")
def leaning():
    agent = untrained("env=cartpole")
    agent.__class__ = Leaning
    nominal, _ = collect(agent, episodes=20, seed=0, steps=100)
    return agent, nominal


@pytest.mark.parametrize("weight", [1.0, None])
def test_it_acts_as_the_agent_did_and_knows_what_it_never_saw(leaning, weight):
    agent, nominal = leaning
    policy = HybridPolicy(agent, nominal, weight=weight, steps=400)
    new, _ = collect(agent, episodes=10, seed=500, steps=100)
    seen = {"obs": new.obs["obs"][:, :-1][new.mask].numpy()}
    decision = policy.decide(seen)
    agreed = decision.choice == new.action[new.mask].argmax(-1)
    assert (
        agreed.float().mean() > 0.75
    )  # half of it is chance; the controller holds the pole where it can lean either way
    assert ((0.5 <= decision.probability) & (decision.probability <= 1)).all()
    assert decision.p_value.median() > 0.2
    far = policy.decide({"obs": seen["obs"][:50] + np.float32([0, 3, 0, -3])})
    assert far.p_value.max() < 0.02
    assert evaluate(policy, agent.env_options, episodes=3, seed=9, num_envs=3).mean > 30


def test_continuous_actions_are_decided_in_their_range():
    agent = untrained("env=pendulum")
    nominal, _ = collect(agent, episodes=3, seed=0, steps=60)
    policy = HybridPolicy(agent, nominal, steps=10)
    decision = policy.decide({"obs": np.zeros((4, 3), dtype=np.float32)})
    assert decision.choice.shape == (4, 1) and decision.choice.abs().max() <= 1 and (decision.probability > 0).all()
    action, _ = policy.act({"obs": np.zeros((4, 3), dtype=np.float32)}, None, np.ones(4, bool), deterministic=True)
    assert action.shape == (4, 1)


def test_what_is_no_vector_is_refused():
    agent = untrained("env=breakout", "world_model.trunk.depth=2")
    nominal, _ = collect(agent, episodes=1, seed=0, steps=3)
    with pytest.raises(ConfigError, match="expected vector observations and one action, got observations"):
        HybridPolicy(agent, nominal)
