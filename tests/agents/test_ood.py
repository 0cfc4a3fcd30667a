"""The card of alarms: episodes side by side, faults that begin where they say, and measures that can fail."""

import numpy as np
import pytest
import torch

from agents import ood
from agents.agent import Agent
from agents.compose import compose
from agents.evaluate import evaluate
from agents.ood import collect, ood_card, physics_shift, sensor_shift, severe_shifts
from agents.options import TrainOptions
from envs import faults
from envs.make import make_env
from envs.options import EnvOptions
from worldmodels.config import build
from worldmodels.errors import EnvironmentFault


@pytest.fixture(scope="module")
def agent():
    """An untrained agent of CartPole: it drops the pole within a few steps."""
    options = build(TrainOptions, compose(["env=cartpole", "world_model=flow", "world_model.ensemble.members=0"]))
    env = make_env(options.env)
    torch.manual_seed(0)
    made = Agent(options, env.obs_specs, env.action_spec)
    env.close()
    return made


def test_collected_episodes_are_those_of_an_evaluation(agent):
    batch, returns = collect(agent, episodes=6, seed=3)
    expected = evaluate(agent, agent.env_options, episodes=6, seed=3, num_envs=6).returns
    assert returns.tolist() == expected
    assert batch.mask.sum(1).tolist() == expected and batch.obs_mask.sum(1).tolist() == [n + 1 for n in expected]
    assert batch.terminated.sum(1).tolist() == [1] * 6
    assert batch.is_first.sum() == 6 and not batch.obs["obs"][~batch.obs_mask].any()


def test_a_sensor_lies_from_its_onset_on_and_not_before(agent):
    clean, _ = collect(agent, episodes=4, seed=3)
    shift = sensor_shift(faults.offset(0.5), onset=3)
    faulty, _ = collect(agent, episodes=4, seed=3, wrap=shift.wrap)
    assert torch.equal(clean.obs["obs"][:, :3], faulty.obs["obs"][:, :3])
    torch.testing.assert_close(clean.obs["obs"][:, 3] + 0.5, faulty.obs["obs"][:, 3])


def test_severe_shifts_hold_the_physics_that_the_environment_has(agent):
    nominal, _ = collect(agent, episodes=4, seed=3)
    names = set(severe_shifts(agent, nominal))
    assert names == {
        *("offset", "noise", "dropped", "frozen", "miscalibrated"),
        *("gravity", "mass", "action_gain"),
    }


def test_severe_shifts_are_those_of_another_environment_where_it_is_named(agent):
    nominal, _ = collect(agent, episodes=2, seed=3)
    other = EnvOptions(id="worldmodels/Faulty-v0", kwargs={"fault": "none"})
    assert set(severe_shifts(agent, nominal, other)) == {"offset", "noise", "dropped", "frozen", "miscalibrated"}


def test_every_environment_is_closed_where_wrapping_one_fails(agent, monkeypatch):
    made, closed, real = [], [], ood.make_env

    def make(options):
        guard = real(options)
        made.append(guard)
        monkeypatch.setattr(guard.env.unwrapped, "close", lambda: closed.append(guard))
        return guard

    def wrap(env):
        if len(made) == 3:
            raise EnvironmentFault("no such sensor")
        return env

    monkeypatch.setattr(ood, "make_env", make)
    with pytest.raises(EnvironmentFault, match="no such sensor"):
        collect(agent, episodes=5, seed=3, wrap=wrap)
    assert len(made) == 3 and closed == made


def test_card_tells_a_fault_from_none_and_says_nothing_where_nothing_is_wrong(agent):
    shifts = {"offset": sensor_shift(faults.offset(2.0), onset=2), "nothing": physics_shift(gravity=1.0)}
    card = ood_card(agent, shifts=shifts, nominal_episodes=60, episodes=20, steps=30, fit_steps=80, by_score=True)
    assert set(card) == set(shifts) and set(card["offset"]) == {"auroc", "fpr95", "delay_steps", "by_score"}
    assert card["offset"]["auroc"] > 0.95 and card["offset"]["fpr95"] < 0.15 and card["offset"]["delay_steps"] <= 2
    assert abs(card["nothing"]["auroc"] - 0.5) < 0.15 and card["nothing"]["fpr95"] > 0.6
    scores = card["offset"]["by_score"]
    assert set(scores) == {"latent", "surprise", "transition", "drift", "combined"}
    assert np.isfinite([value for table in scores.values() for value in table.values()]).all()
