"""What the model expected against what came, on worlds where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.quality import HORIZON, model_quality
from envs.options import EnvOptions
from tests.agents.test_agent import make_agent

COUNTING = "worldmodels/Counting-v0"


def test_nothing_of_the_agent_or_of_the_random_state_changes():
    agent = make_agent("Pendulum-v1")
    before = {name: value.clone() for name, value in agent.world_model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = model_quality(agent, horizon=5)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in agent.world_model.state_dict().items())
    second = model_quality(agent, horizon=5)
    np.testing.assert_array_equal(first.observation, second.observation)
    assert len(first.observation) == len(first.reward) == len(first.starts) == 5


def test_a_model_that_expects_what_comes_has_no_error_and_one_that_is_off_has_that_error():
    """Predictions are replaced by the truth, then by the truth plus a known offset."""
    agent = make_agent("Pendulum-v1")
    model = agent.world_model
    truth = model_quality(agent, horizon=3)
    assert (truth.reward > 0).all()
    imagine = type(model).imagine

    def off_by_two(state, plan, horizon, **options):
        rollout = imagine(model, state, plan, horizon, **options)
        return replace(
            rollout, reward=torch.full_like(rollout.reward, 2.0), continuation=rollout.continuation * 0 + 0.5
        )

    model.imagine = off_by_two
    shifted = model_quality(agent, horizon=3)
    np.testing.assert_allclose(shifted.continuation, np.log(2), rtol=1e-5)
    assert (shifted.imagined == 6.0).all()
    # Pendulum's rewards are at most 0: the mean distance to 2 is 2 minus their mean
    assert np.all(shifted.reward > 2.0)
    assert shifted.real.mean() == pytest.approx(truth.real.mean())


def test_dreams_end_where_episodes_end():
    agent = make_agent(COUNTING)
    quality = model_quality(agent, EnvOptions(id=COUNTING, kwargs={"longest": 4}))
    assert len(quality.starts) == HORIZON
    assert quality.starts[0] > 0 and quality.starts[4:].sum() == 0
    assert np.isfinite(quality.reward[0]) and np.isnan(quality.reward[4:]).all()
    assert quality.starts.tolist() == sorted(quality.starts.tolist(), reverse=True)
