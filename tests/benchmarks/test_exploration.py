"""Coverage: what is counted, and that the controls act as they say."""

import numpy as np
import pytest

from benchmarks.exploration import CHANCE, TASKS, measure, random_episodes


@pytest.mark.parametrize("method", CHANCE)
def test_a_control_keeps_each_action_for_as_long_as_it_says(method: str) -> None:
    stretch = CHANCE[method]
    episodes = random_episodes(TASKS["maze"], 0, 3_000, stretch=stretch)
    kept, steps = [], 0
    for episode in episodes:
        action = episode["action"]
        ends = np.flatnonzero((action[1:] != action[:-1]).any(1)) + 1
        kept.append(len(action) / (len(ends) + 1))
        steps += len(action)
    assert steps == 3_000
    assert np.mean(kept) == pytest.approx(stretch, rel=0.15)  # an episode's end cuts the last one short


def test_actions_of_a_control_are_those_of_its_seed() -> None:
    first, same, other = (random_episodes(TASKS["maze"], seed, 200, stretch=8.0) for seed in (1, 1, 2))
    assert all(np.array_equal(a["action"], b["action"]) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0]["action"], other[0]["action"])


def test_coverage_counts_each_cell_once_and_nothing_after_the_budget() -> None:
    maze = TASKS["maze"]
    place = np.array([[-1.0, -1.0], [-0.99, -0.99], [-1.0, -1.0], [0.99, 0.99]])  # two cells, the second at the end
    episode = {"obs": {"obs": np.concatenate([place[:1], place])}, "action": np.zeros((4, 2)), "reward": np.zeros(4)}
    assert measure(maze, [episode], 3, tv=False)["coverage"] == pytest.approx(1 / 576)
    assert measure(maze, [episode], 4, tv=False)["coverage"] == pytest.approx(2 / 576)
