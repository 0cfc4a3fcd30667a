"""Environments for exploration: what there is to see is what they say, and a television teaches nothing."""

import gymnasium
import numpy as np
import pytest

from benchmarks.exploration import (
    CAR_BINS,
    TASKS,
    car_cells,
    car_reachable,
    maze_cells,
    measure,
    random_episodes,
    sea_cells,
)
from envs.explore import MAZE_SIDE, DeepSea, Maze, maze_reachable, maze_walls
from envs.make import make_env
from envs.options import EnvOptions


def play(env, actions, seed=0):
    rows = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.array(rows), rewards


def test_only_the_rightmost_path_of_the_sea_pays_and_every_step_to_the_right_costs():
    env = DeepSea(6, layout=3)
    env.reset()
    total = 0.0
    for column in range(6):
        right = env._right[env._row, env._column]
        obs, reward, over, _, _ = env.step(right)
        total += reward
        assert over == (column == 5)
    assert total == pytest.approx(1 - 0.01)
    wrong = [1 - env._right[row, 0] for row in range(6)]
    assert play(DeepSea(6, layout=3), wrong)[1] == [0] * 6
    assert len({DeepSea(8, layout=k)._right.tobytes() for k in range(4)}) == 4, "the layout decides what actions mean"


def test_random_actions_find_the_seas_reward_once_in_two_to_the_size():
    env, rng, found = DeepSea(4), np.random.default_rng(0), 0
    for _ in range(1_600):
        found += play(env, rng.integers(2, size=4))[1][-1] > 0.5
    assert 60 < found < 150  # 100 expected


def test_cells_of_the_sea_are_told_apart():
    places, seen = [], []
    for k in range(60):
        actions = np.random.default_rng(k).integers(2, size=20)
        places += play(DeepSea(20), actions)[0].tolist()
        seen += play(DeepSea(20, one_hot=True), actions)[0].tolist()
    assert np.array(seen).shape == (60 * 21, 41) and set(np.array(seen).sum(1)) == {2}
    cells = sea_cells(np.array(seen))
    rows = np.rint((np.array(places) + 1) / 2 * 20)
    assert (cells == rows[:, 0] * 20 + rows[:, 1]).all(), "both ways to look say the same"
    assert len(set(cells.tolist())) <= TASKS["deep_sea"].reachable()


def test_no_step_of_the_maze_crosses_a_wall_and_every_cell_can_be_reached_in_time():
    env = Maze()
    rng = np.random.default_rng(0)
    rows, _ = play(env, rng.uniform(-1, 1, (3_000, 2)))
    places = (rows + 1) / 2 * MAZE_SIDE
    for before, after in zip(places[:-1], places[1:], strict=True):
        assert np.abs(after - before).max() <= 1 + 1e-3
        for wall, start, stop in maze_walls():
            if (before[0] - wall) * (after[0] - wall) < 0:
                assert not (start + 1e-3 < before[1] < stop - 1e-3)
    reached, front, steps = set(), {(10.5, 12.0)}, 0
    seen = {(21, 24)}
    while front and steps < 100:
        fresh = set()
        for place in front:
            for move in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1), (0.5, 0), (0, 0.5)):
                env._place = np.array(place)
                env.step(np.array(move))
                there = (float(env._place[0]), float(env._place[1]))
                reached.add((int(there[0]), int(there[1])))
                key = (round(there[0] * 2), round(there[1] * 2))
                if key not in seen:
                    seen.add(key)
                    fresh.add(there)
        front, steps = fresh, steps + 1
    assert reached == maze_reachable() and steps > 60, "the ends are far, and within an episode"


def test_cells_of_maze_and_car_are_those_of_the_place():
    assert maze_cells(np.array([[-1.0, -1.0], [0.999, 0.999], [1.0, -1.0]])).tolist() == [0, 575, 552]
    assert car_cells(
        np.array(
            [
                [-1.2, -0.07],
                [0.6, 0.07],
                [
                    0.59,
                    -0.07,
                ][:2],
            ]
        )
    ).tolist() == [0, 99, 90]


def test_reachable_bins_of_the_car_are_what_strong_policies_visit_and_more_than_random_ones_do():
    reachable = car_reachable()
    assert reachable == car_reachable(150) and 80 <= reachable < CAR_BINS**2
    env, seen = gymnasium.make("MountainCarContinuous-v0").unwrapped, set()
    for k in range(10):
        obs, over = env.reset(seed=k)[0], False
        for _ in range(200):
            obs, _, over, _, _ = env.step(np.array([np.sign(obs[1]) if k % 2 else 1.0]))
            seen |= set(car_cells(obs[None]).tolist())
            if over:
                break
    assert 20 < len(seen) <= reachable


def test_the_television_changes_nothing_but_itself_and_only_when_it_is_switched():
    noisy = gymnasium.make("worldmodels/NoisyMountainCar-v0")
    plain = gymnasium.make("MountainCarContinuous-v0")
    obs, clean = noisy.reset(seed=5)[0], plain.reset(seed=5)[0]
    rng, shown = np.random.default_rng(0), []
    for step in range(60):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        before = obs[-1]
        obs, reward, *_, info = noisy.step(action)
        clean, clean_reward, *_ = plain.step(action[:1])
        np.testing.assert_array_equal(obs[:-1], clean)
        assert reward == clean_reward and info["tv"] == (action[1] > 0)
        assert (obs[-1] != before) == info["tv"], step
        shown.append(float(obs[-1]))
    assert min(shown) < -0.5 < 0.5 < max(shown)
    again = gymnasium.make("worldmodels/NoisyMountainCar-v0")
    again.reset(seed=5)
    rng = np.random.default_rng(0)
    assert [float(again.step(rng.uniform(-1, 1, 2).astype(np.float32))[0][-1]) for _ in range(60)] == shown


@pytest.mark.parametrize("name", list(TASKS))
def test_tasks_of_the_benchmark_are_made_and_measured(name):
    task = TASKS[name]
    episodes = random_episodes(task, seed=0, steps=150)
    row = measure(task, episodes, 150, tv=name == "noisy_car")
    assert 0 < row["coverage"] < 1 and [share for _, share in row["curve"]] == sorted(s for _, s in row["curve"])
    assert (row["tv_share"] is None) == (name != "noisy_car")
    assert row["steps"] == 150


def test_sizes_of_the_spaces():
    assert make_env(EnvOptions(id="worldmodels/NoisyMountainCar-v0")).obs_specs["obs"].shape == (3,)
    assert make_env(EnvOptions(id="worldmodels/Maze-v0")).action_spec.size == 2
