"""Episodes to returns: every episode whole, in order, with its own seed, and no randomness that leaks."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import evaluate as module
from agents.evaluate import evaluate, write_evaluation
from envs.options import EnvOptions
from envs.toy import counting_step
from envs.vector import VectorEnv
from tests.agents.stubs import CountingAgent
from worldmodels.errors import CheckpointError, ConfigError, EnvironmentFault

OPTIONS = EnvOptions(id="worldmodels/Counting-v0")


def by_hand(seed):
    """Return and length of one episode of `CountingAgent`, from the physics alone."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    length, total = int(rng.integers(1, 13)), 0.0
    obs = np.array([seed, 0, rng.integers(65_536)], dtype=np.float32)
    for t in range(length):
        obs, reward = counting_step(obs, (int(obs[2]) + t) % 4)
        total += reward
    return total, length


@pytest.mark.parametrize("num_envs", [1, 2, 7, 20, 50])
def test_episode_k_is_that_of_seed_plus_k_whatever_the_number_of_environments(num_envs):
    result = evaluate(CountingAgent(), OPTIONS, episodes=20, seed=100, num_envs=num_envs)
    expected = [by_hand(100 + k) for k in range(20)]
    assert result.returns == [total for total, _ in expected]
    assert result.lengths == [length for _, length in expected]


def test_statistics_and_keys(tmp_path):
    result = evaluate(CountingAgent(), OPTIONS, episodes=8, seed=3, num_envs=4)
    file = write_evaluation(tmp_path / "evaluation.json", result)
    stored = json.loads(file.read_text())
    keys = "env_id episodes seed returns lengths mean std iqm iqm_ci95 train_steps".split()
    assert list(stored) == keys
    assert stored["mean"] == pytest.approx(np.mean(result.returns))
    assert stored["std"] == pytest.approx(np.std(result.returns))
    assert stored["iqm"] == pytest.approx(np.mean(sorted(result.returns)[2:6]))
    assert stored["iqm_ci95"][0] <= stored["iqm"] <= stored["iqm_ci95"][1]
    assert (stored["env_id"], stored["episodes"], stored["seed"]) == ("worldmodels/Counting-v0", 8, 3)
    assert stored["train_steps"] == 1234
    assert list(tmp_path.iterdir()) == [file]
    assert f"{result.iqm:,.2f}" in result.table()
    logged = result.metrics()
    assert logged["evaluation/mean"] == result.mean
    assert (logged["evaluation/iqm_low"], logged["evaluation/iqm_high"]) == result.iqm_ci95


def test_nothing_random_outside_is_touched():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    evaluate(CountingAgent(), OPTIONS, episodes=3, seed=0, num_envs=2, deterministic=False)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


def test_a_stochastic_policy_repeats_with_its_seed():
    def play(seed):
        return evaluate(CountingAgent(), OPTIONS, episodes=6, seed=seed, num_envs=3, deterministic=False).returns

    np.random.seed(0)
    first = play(1)
    np.random.seed(1)
    assert play(1) == first
    assert evaluate(CountingAgent(), OPTIONS, episodes=6, seed=1, num_envs=3).returns != first


def test_no_gradient_is_recorded():
    class Recorder(CountingAgent):
        def act(self, obs, carry, is_first, *, deterministic):
            assert torch.is_inference_mode_enabled()
            return super().act(obs, carry, is_first, deterministic=deterministic)

    evaluate(Recorder(), OPTIONS, episodes=2, seed=0, num_envs=2)
    assert not torch.is_inference_mode_enabled()


def test_environments_made_before_are_used_and_left_open():
    with VectorEnv(OPTIONS, 3) as envs:
        first = evaluate(CountingAgent(), OPTIONS, episodes=7, seed=0, num_envs=99, envs=envs)
        again = evaluate(CountingAgent(), OPTIONS, episodes=7, seed=0, num_envs=99, envs=envs)
    assert first == again == evaluate(CountingAgent(), OPTIONS, episodes=7, seed=0, num_envs=1)


def test_lengths_count_simulator_steps():
    options = replace(OPTIONS, action_repeat=3)
    result = evaluate(CountingAgent(options), options, episodes=10, seed=0, num_envs=3)
    assert result.lengths == [by_hand(k)[1] for k in range(10)]


def test_an_episode_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(module, "EPISODE_LIMIT", 30)
    options = EnvOptions(id="worldmodels/TimeLimit-v0", kwargs={"length": 10**9})
    result = evaluate(CountingAgent(options), options, episodes=3, seed=0, num_envs=2)
    assert result.lengths == [30] * 3
    assert result.returns == [30.0] * 3


def test_an_environment_that_fails_is_named():
    faulty = EnvOptions(id="worldmodels/Faulty-v0", kwargs={"fault": "raises", "at": 2})
    with pytest.raises(EnvironmentFault, match="Faulty-v0.*seed 0, step 2"):
        evaluate(CountingAgent(faulty), faulty, episodes=2, seed=0, num_envs=1)


def test_an_episode_that_was_dropped_is_played_again():
    class Failing(VectorEnv):
        """Environment 1 fails once, at its third step."""

        steps = 0

        def step(self, indices, actions):
            result = super().step(indices, actions)
            if 1 in list(indices):
                self.steps += 1
                if self.steps == 3:
                    row = list(indices).index(1)
                    dropped = np.zeros(len(indices), dtype=bool)
                    dropped[row] = True
                    reward, ended = result.reward.copy(), result.terminated.copy()
                    reward[row], ended[row] = 777, False
                    result = replace(result, dropped=dropped, reward=reward, terminated=ended)
            return result

    with Failing(OPTIONS, 3) as envs:
        result = evaluate(CountingAgent(), OPTIONS, episodes=9, seed=0, num_envs=3, envs=envs)
        assert envs.steps > 3
    assert result == evaluate(CountingAgent(), OPTIONS, episodes=9, seed=0, num_envs=3)


def test_another_environment_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"CartPole-v1: its observations are obs vector \(4,\), the agent was trained with obs \w+ \("
    ):
        evaluate(CountingAgent(), EnvOptions(id="CartPole-v1"), episodes=1, seed=0, num_envs=1)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    result = evaluate(CountingAgent(), OPTIONS, episodes=1, seed=0, num_envs=1)
    with pytest.raises(CheckpointError, match="missing.*cannot be written"):
        write_evaluation(tmp_path / "missing" / "evaluation.json", result)
