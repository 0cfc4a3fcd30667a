"""What the model expected against what came, on worlds where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.quality import ERRORS, HORIZON, SAMPLES, _to_the_others, model_quality
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
    np.testing.assert_allclose(shifted.expected["continuation"], np.log(2), rtol=1e-5)
    assert (shifted.expected["reward"] == 0).all(), "dreams that agree expect no error of the reward"
    assert (truth.expected["reward"] > 0).all()
    assert (shifted.imagined == 6.0).all()
    # Pendulum's rewards are at most 0: the mean distance to 2 is 2 minus their mean
    assert np.all(shifted.reward > 2.0)
    assert shifted.real.mean() == pytest.approx(truth.real.mean())


def test_what_is_expected_is_what_one_more_dream_of_the_same_kind_would_be_off_by():
    torch.manual_seed(0)
    dreams, one_more = torch.randn(SAMPLES, 20_000), torch.randn(20_000)
    expected, came = _to_the_others(dreams).square().mean(), (dreams.mean(0) - one_more).square().mean()
    assert float(expected / came) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(_to_the_others(dreams)[3], dreams[3] - dreams[torch.arange(SAMPLES) != 3].mean(0))


def test_errors_stand_beside_what_was_expected_in_lines_for_people():
    quality = model_quality(make_agent("Pendulum-v1"), horizon=5)
    assert set(quality.expected) == set(ERRORS)
    lines = quality.table().splitlines()
    assert [line.split()[0] for line in lines] == ["steps", "1", "5", "return"]
    assert lines[1].split()[3:5] == [f"{quality.latent[0]:.3f}", f"({quality.expected['latent'][0]:.3f})"]
    assert lines[2].split()[-2:] == [f"{quality.continuation[4]:.3f}", f"({quality.expected['continuation'][4]:.3f})"]
    assert f"{quality.imagined.mean():,.3f} imagined, {quality.real.mean():,.3f} realised" in lines[-1]


def test_dreams_end_where_episodes_end():
    agent = make_agent(COUNTING)
    quality = model_quality(agent, EnvOptions(id=COUNTING, kwargs={"longest": 4}))
    assert len(quality.starts) == HORIZON
    assert quality.starts[0] > 0 and quality.starts[4:].sum() == 0
    assert np.isfinite(quality.reward[0]) and np.isnan(quality.reward[4:]).all()
    assert quality.table().endswith("no episode went on for 30 steps")
    assert quality.starts.tolist() == sorted(quality.starts.tolist(), reverse=True)
