"""The probes have the values that they promise, and Counting is the exact function that it says."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs.toy
from envs import EnvOptions, make_env
from envs.toy import COUNTING_ACTIONS, COUNTING_CODES, counting_step

GAMMA = 0.9


def episode(env_id, policy, seed, **kwargs):
    """obs (T+1, n), rewards, and whether it terminated."""
    env = gymnasium.make(f"worldmodels/{env_id}", **kwargs).unwrapped
    rows, rewards, over = [env.reset(seed=seed)[0]], [], False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(rows))
        rows.append(obs)
        rewards.append(reward)
        over = terminated or truncated
    return np.array(rows), rewards, terminated


OTHERS = ("worldmodels/Dream-v0",)  # needs a run
HONEST = [
    name
    for name in gymnasium.registry
    if name.startswith("worldmodels/") and "Faulty" not in name and name not in OTHERS
]


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.filterwarnings("ignore")  # what gymnasium's checker only advises
def test_every_toy_passes_gymnasiums_own_checker(name):
    kwargs = {"worldmodels/TimeLimit-v0": {"length": 9}, "worldmodels/Counting-v0": {"longest": 2_000}}
    check_env(gymnasium.make(name, **kwargs.get(name, {})).unwrapped, skip_render_check=True)


def test_probe_values():
    for seed in range(10):
        assert episode("ProbeConstant-v0", lambda _: 0, seed)[1:] == ([1.0], True)
        obs, rewards, _ = episode("ProbeObservation-v0", lambda _: 0, seed)
        assert rewards == [obs[0, 0]] and abs(rewards[0]) == 1
        obs, rewards, terminated = episode("ProbeDiscount-v0", lambda _: 0, seed, steps=3)
        assert rewards == [0, 0, 1] and terminated and len(np.unique(obs[:3])) == 3
        assert [episode("ProbeAction-v0", lambda _, a=a: a, seed)[1] for a in (0, 1)] == [[-1], [1]]
        assert episode("ProbePolicy-v0", lambda rows: int(rows[0][0] > 0), seed)[1] == [1]
        assert episode("ProbePolicy-v0", lambda rows: int(rows[0][0] < 0), seed)[1] == [-1]


def test_the_best_number_of_the_continuous_probes():
    for seed in range(10):
        for name, best in (("ProbeAction-v0", lambda rows: 0.5), ("ProbePolicy-v0", lambda rows: rows[0][0] / 2)):
            reward = episode(name, lambda rows, best=best: [best(rows)], seed, continuous=True)[1]
            worse = episode(name, lambda rows, best=best: [best(rows) + 0.1], seed, continuous=True)[1]
            assert reward == [1] and worse[0] == pytest.approx(1 - 0.01)


@pytest.mark.parametrize("delay", [1, 4, 9])
def test_only_memory_answers_the_memory_probe(delay):
    recalled, last = [], []
    for seed in range(40):
        obs, rewards, terminated = episode("ProbeMemory-v0", lambda rows: int(rows[0][0] > 0), seed, delay=delay)
        assert len(rewards) == delay + 1 and terminated and rewards[:-1] == [0] * delay
        assert (obs[1:, 0] == 0).all() and obs[:-1, 1].tolist() == [0] * delay + [1]
        recalled.append(rewards[-1])
        last.append(tuple(obs[-2]))
    assert set(recalled) == {1.0} and len(set(last)) == 1  # what is seen at the end says nothing


def test_counting_is_its_function_and_the_function_can_be_inverted():
    generator = np.random.default_rng(0)
    for seed in range(30):
        env = envs.toy.Counting()
        obs, over, time = env.reset(seed=seed)[0].copy(), False, 0
        assert obs[:2].tolist() == [seed, 0]
        while not over:
            action = int(generator.integers(COUNTING_ACTIONS))
            after, reward, terminated, truncated, _ = env.step(action)
            expected, expected_reward = counting_step(obs, action)
            assert (after == expected).all() and reward == expected_reward
            assert divmod(int(reward), COUNTING_ACTIONS) == (time, action)
            assert (int(after[2]) - 5 * int(obs[2]) - 1) % COUNTING_CODES == action
            obs, over, time = after.copy(), terminated or truncated, time + 1
        assert 1 <= time <= 12 and terminated == (seed % 2 == 0) and truncated == (seed % 2 == 1)


def test_time_limit_alternates_two_states():
    obs, rewards, terminated = episode("TimeLimit-v0", lambda _: 0, 3, length=4)
    assert (obs[1:, 0] == -obs[:-1, 0]).all() and rewards == [1] * 4 and not terminated
    assert episode("TimeLimit-v0", lambda _: 0, 3, ends="terminated")[2]


def test_toys_are_made_by_id_alone():
    assert make_env(EnvOptions(id="worldmodels/ProbeMemory-v0")).obs_specs["obs"].shape == (2,)
