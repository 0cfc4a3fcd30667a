"""Attacks: they stay within their size, lower the probability of the action, and are recorded as they were shown."""

import pytest
import torch

from agents.attack import _policy, gradient_attack
from agents.ood import collect
from tests.agents.test_hybrid import untrained
from worldmodels.errors import ConfigError

SPREAD = torch.tensor([1.0, 2.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def agent():
    made = untrained("env=cartpole", "world_model=flow")
    with torch.no_grad():
        for parameter in made.policy.average_actor.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return made


def shown(agent, **options):
    obs, carry, first = {"obs": torch.randn(30, 4).numpy()}, agent.initial_carry(30), torch.ones(30).bool().numpy()
    return obs["obs"], gradient_attack(agent, 0.1, SPREAD, **options)(obs, carry, first)["obs"], carry, first


@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_shown_stays_within_epsilon_and_makes_the_action_less_likely(agent, steps):
    torch.manual_seed(0)
    truth, seen, carry, first = shown(agent, steps=steps)
    assert (abs(seen - truth) <= 0.1 * SPREAD.numpy() + 1e-5).all() and abs(seen - truth).max() > 0.05
    policies = [_policy(agent, {"obs": torch.tensor(x)}, carry, torch.tensor(first))[0] for x in (truth, seen)]
    wanted = policies[0].mode
    assert (policies[1].log_prob(wanted) < policies[0].log_prob(wanted)).float().mean() > 0.9


def test_a_tampered_episode_is_recorded_as_it_was_shown(agent):
    clean, _ = collect(agent, episodes=3, seed=1, steps=10)
    batch, _ = collect(agent, episodes=3, seed=1, steps=10, tamper=gradient_attack(agent, 0.1, SPREAD))
    difference = (batch.obs["obs"][:, 0] - clean.obs["obs"][:, 0]).abs()
    assert (difference > 0).any() and (difference <= 0.1 * SPREAD + 1e-6).all()


def test_images_are_refused():
    with pytest.raises(ConfigError, match="expected one vector observation"):
        gradient_attack(untrained("env=breakout", "world_model.trunk.depth=2"), 0.1, SPREAD)
