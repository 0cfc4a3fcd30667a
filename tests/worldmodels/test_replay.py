"""What goes into the replay comes out unchanged and aligned; counters, errors and segments are exact."""

import json

import numpy as np
import pytest
import torch

from worldmodels.errors import CheckpointError, ReplayError
from worldmodels.memory import row_bytes
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec

SPECS = {
    "vector": ObsSpec("vector", (3,)),
    "image": ObsSpec("image", (4, 5, 3)),
    "discrete": ObsSpec("discrete", (), (1000,)),
    "many": ObsSpec("multi_discrete", (2,), (1000, 1000)),
    "bits": ObsSpec("multi_binary", (4,)),
}


def observation(number):
    """Observation `number`: every entry can be computed from it."""
    return {
        "vector": np.array([number, -number, number / 2], np.float32),
        "image": np.full((4, 5, 3), number % 256, np.uint8),
        "discrete": np.array(number % 1000),
        "many": np.array([number % 1000, 7]),
        "bits": np.array([number & 1, 1, 0, 1], np.uint8),
    }


def action(number):
    return np.array([number, -number], np.float32)


def fill(replay, stream, first, length, end="terminated"):
    """Add an episode of observations first, first + 1, ...; `end` None leaves it open."""
    replay.begin(stream, observation(first))
    for n in range(first, first + length):
        last = n == first + length - 1
        done = (last and end == "terminated", last and end == "truncated")
        replay.add(stream, action(n), n + 0.5, *done, observation(n + 1))


def make(capacity=100, streams=1):
    return Replay(SPECS, 2, capacity=capacity, streams=streams)


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(tensors(left), tensors(right), strict=True))


def tensors(batch):
    flags = (batch.terminated, batch.truncated, batch.mask, batch.is_first, batch.obs_mask)
    return [*batch.obs.values(), batch.action, batch.reward, *flags]


def test_a_window_holds_exactly_what_was_added():
    replay = make()
    fill(replay, 0, 10, 3)
    fill(replay, 0, 50, 2, end="truncated")
    assert (len(replay), replay.rows, replay.episodes) == (5, 7, 2)
    batch = replay.sample(4, 6, np.random.default_rng(0))  # the only window of 7 rows
    numbers = [10, 11, 12, 13, 50, 51, 52]
    for row in range(4):
        for name in SPECS:
            expected = np.stack([observation(n)[name] for n in numbers])
            assert batch.obs[name].dtype == torch.from_numpy(expected).dtype
            assert np.array_equal(batch.obs[name][row].numpy(), expected)
        assert batch.action[row].tolist() == [[10, -10], [11, -11], [12, -12], [0, 0], [50, -50], [51, -51]]
        assert batch.reward[row].tolist() == [10.5, 11.5, 12.5, 0, 50.5, 51.5]
        assert batch.mask[row].tolist() == [True, True, True, False, True, True]
        assert batch.terminated[row].tolist() == [False, False, True, False, False, False]
        assert batch.truncated[row].tolist() == [False, False, False, False, False, True]
        assert batch.is_first[row].tolist() == [True, False, False, False, True, False, False]
        assert batch.obs_mask[row].all()
    assert batch.action.dtype == batch.reward.dtype == torch.float32
    assert {t.dtype for t in (batch.mask, batch.terminated, batch.truncated, batch.is_first)} == {torch.bool}


def test_both_flags_can_be_true_and_stay_apart():
    replay = make()
    replay.begin(0, observation(0))
    replay.add(0, action(0), 1.0, True, True, observation(1))
    batch = replay.sample(1, 1, np.random.default_rng(0))
    assert batch.terminated.item() and batch.truncated.item()


def test_the_open_episode_can_be_sampled():
    replay = make()
    fill(replay, 0, 0, 5, end=None)
    batch = replay.sample(2, 5, np.random.default_rng(0))
    assert batch.mask.all() and not batch.terminated.any() and not batch.truncated.any()
    assert (len(replay), replay.episodes) == (5, 0)


def test_two_replays_of_a_run_name_their_rows_apart():
    names = []
    for first in (0, 2):
        replay = Replay(SPECS, 2, capacity=100, streams=2, first_stream=first)
        for stream in (0, 1):
            fill(replay, stream, 10 * stream, 5)
        names.append(set(replay.sample(50, 5, np.random.default_rng(0)).rows.flatten().tolist()))
    assert names[0] == set(range(12)) and len(names[1]) == 12 and not names[0] & names[1]


def test_the_oldest_rows_of_a_stream_make_room():
    replay = make(capacity=10)
    fill(replay, 0, 0, 5)
    fill(replay, 0, 100, 6)
    assert (len(replay), replay.rows, replay.episodes) == (8, 10, 2)
    first, second = replay.iter_episodes()
    assert first["obs"]["vector"][:, 0].tolist() == [3, 4, 5] and not first["is_first"].any()
    assert second["obs"]["vector"][:, 0].tolist() == [100, 101, 102, 103, 104, 105, 106]
    assert second["reward"].tolist() == [n + 0.5 for n in range(100, 106)]


def test_abandoned_steps_leave_no_trace_but_the_room_they_took():
    replay = make(capacity=10)
    fill(replay, 0, 0, 4)
    fill(replay, 0, 100, 7, end=None)  # pushes rows 0, 1 and 2 out
    replay.abandon(0)
    assert (len(replay), replay.rows, replay.episodes) == (1, 2, 1)
    replay.abandon(0)  # nothing is open: nothing happens
    fill(replay, 0, 200, 2)
    assert [e["action"][:, 0].tolist() for e in replay.iter_episodes()] == [[3], [200, 201]]


def test_an_abandoned_episode_longer_than_the_ring_leaves_it_empty():
    replay = make(capacity=5)
    fill(replay, 0, 0, 20, end=None)
    replay.abandon(0)
    assert (len(replay), replay.rows, replay.episodes) == (0, 0, 0)
    fill(replay, 0, 50, 2)
    assert (len(replay), replay.rows, replay.episodes) == (2, 3, 1)


def test_cut_ends_the_episode_as_truncated():
    replay = make()
    fill(replay, 0, 0, 3, end=None)
    replay.cut(0)
    (episode,) = replay.iter_episodes()
    assert episode["truncated"].tolist() == [False, False, True] and not episode["terminated"].any()
    replay.begin(0, observation(9))
    replay.cut(0)  # no step yet: dropped
    assert (len(replay), replay.rows, replay.episodes) == (3, 4, 1)
    with pytest.raises(ReplayError, match="without an open episode"):
        replay.cut(0)


def test_calls_out_of_order_are_refused():
    replay = make(streams=2)
    with pytest.raises(ReplayError, match="stream 1: add\\(\\) without begin\\(\\)"):
        replay.add(1, action(0), 0.0, False, False, observation(1))
    replay.begin(1, observation(0))
    with pytest.raises(ReplayError, match="stream 1: begin\\(\\) while an episode is open"):
        replay.begin(1, observation(0))
    replay.begin(0, observation(0))


def test_segments_hold_each_finished_episode_once(tmp_path):
    replay = make(capacity=60, streams=2)
    assert replay.write_segments(tmp_path) == []
    fill(replay, 0, 0, 5)
    fill(replay, 1, 100, 3)
    fill(replay, 1, 200, 4, end=None)
    (first,) = replay.write_segments(tmp_path)
    assert replay.write_segments(tmp_path) == [first]
    replay.cut(1)
    ids = replay.write_segments(tmp_path)
    assert len(ids) == 2 and ids[0] == first
    assert sorted(p.stem for p in tmp_path.iterdir()) == sorted(ids)
    loaded = make(capacity=60, streams=2)
    loaded.load_segments(tmp_path, ids)
    assert [e["reward"].tolist() for e in loaded.iter_episodes()] == [
        e["reward"].tolist() for e in replay.iter_episodes()
    ]
    assert (len(loaded), loaded.rows, loaded.episodes) == (12, 15, 3)


@pytest.mark.parametrize("restore_first", [True, False])
def test_a_loaded_replay_goes_on_like_the_one_that_was_saved(tmp_path, restore_first):
    rng = np.random.default_rng(0)
    replay, number = make(capacity=60, streams=2), 0
    for turn in range(40):
        for stream in range(2):
            length = int(rng.integers(1, 9))
            fill(replay, stream, number, length)
            number += length + 1
        if turn % 3 == 0:
            replay.write_segments(tmp_path)
    ids, state = replay.write_segments(tmp_path), json.loads(json.dumps(replay.state()))
    assert len(ids) < len(list(tmp_path.iterdir()))  # those that are pushed out are not asked for
    loaded = make(capacity=60, streams=2)
    if restore_first:
        loaded.restore(state)
    loaded.load_segments(tmp_path, ids)
    if not restore_first:
        loaded.restore(state)
    for _ in range(10):
        assert (len(loaded), loaded.rows, loaded.episodes) == (len(replay), replay.rows, replay.episodes)
        a, b = (r.sample(5, 9, np.random.default_rng(number)) for r in (replay, loaded))
        assert equal(a, b)
        for r in (replay, loaded):
            fill(r, number % 2, number, 4)
        number += 5
        assert replay.write_segments(tmp_path) == loaded.write_segments(tmp_path)
        assert replay.state() == loaded.state()


def test_rows_that_were_pushed_out_before_they_were_written_are_not_made_up(tmp_path):
    replay = make(capacity=10)
    fill(replay, 0, 0, 4)
    fill(replay, 0, 100, 20, end=None)  # pushes everything out
    replay.abandon(0)
    fill(replay, 0, 200, 3)
    loaded = make(capacity=10)
    loaded.load_segments(tmp_path, replay.write_segments(tmp_path))
    assert (len(loaded), loaded.rows, loaded.episodes) == (3, 4, 1)


def test_a_smaller_replay_keeps_the_newest_rows(tmp_path):
    replay = make(capacity=60)
    fill(replay, 0, 0, 20)
    fill(replay, 0, 100, 20)
    small = make(capacity=30)
    small.load_segments(tmp_path, replay.write_segments(tmp_path))
    small.restore(replay.state())
    assert small.rows == 30 and len(small) == 28
    assert [e["action"][0, 0] for e in small.iter_episodes()] == [12, 100]


def test_segments_of_another_environment_are_refused(tmp_path):
    replay = make()
    fill(replay, 0, 0, 5)
    ids = replay.write_segments(tmp_path)
    for specs, size in [({"vector": ObsSpec("vector", (4,))}, 2), (SPECS, 3), ({"obs": ObsSpec("vector", (3,))}, 2)]:
        other = Replay(specs, size, capacity=100)
        with pytest.raises(CheckpointError, match="has no '.*'"):
            other.load_segments(tmp_path, ids)
        assert other.rows == 0
    with pytest.raises(CheckpointError, match="is missing"):
        make().load_segments(tmp_path, ["000000000001-" + "0" * 24])
    with pytest.raises(CheckpointError, match="repeats row 0 of stream 0"):
        make().load_segments(tmp_path, [*ids, *ids])


def test_a_damaged_segment_is_refused_and_leaves_the_replay_empty(tmp_path):
    replay = make()
    fill(replay, 0, 0, 5)
    ids = replay.write_segments(tmp_path)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for offset in (9, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(CheckpointError, match="is not what was written"):
            replay.load_segments(tmp_path, ids)
        assert (len(replay), replay.rows, replay.episodes) == (0, 0, 0)


def test_counters_that_do_not_fit_are_refused(tmp_path):
    replay = make(streams=2)
    fill(replay, 0, 0, 5)
    ids = replay.write_segments(tmp_path)
    loaded = make(streams=2)
    loaded.restore(replay.state())
    with pytest.raises(CheckpointError, match="stream 0 ends at row 0, state says 6"):
        loaded.load_segments(tmp_path, [])
    for wrong in (
        None,
        {},
        {"written": [6, 0]},
        {"written": [6], "oldest": [0]},
        {"written": ["6", 0], "oldest": [0, 0]},
    ):
        with pytest.raises(CheckpointError, match="replay state has no"):
            loaded.restore({"tensors": {}, "json": wrong})
    loaded = make(streams=2)
    loaded.load_segments(tmp_path, ids)
    loaded.restore(replay.state())
    assert len(loaded) == 5


def test_memory_is_what_is_declared():
    replay = make(capacity=100, streams=3)
    assert replay.memory_bytes() == 99 * row_bytes(SPECS, 2)
    assert row_bytes(SPECS, 2) == 3 * 4 + 60 + 8 + 16 + 4 + 2 * 4 + 4 + 1
    with pytest.raises(ReplayError, match="expected at least 6 rows"):
        make(capacity=5, streams=3)


def whole_episodes(count=3):
    replay = make()
    for k in range(count):
        fill(replay, 0, 10 * k, 3 + k, end=("terminated", "truncated")[k % 2])
    return replay, list(replay.iter_episodes())


def test_an_episode_at_once_is_the_same_as_step_by_step():
    replay, episodes = whole_episodes()
    copy = make()
    for episode in episodes:
        copy.extend(0, episode)
    assert copy.state() == replay.state() and (len(copy), copy.episodes) == (len(replay), replay.episodes)
    sampled = [r.sample(8, 6, np.random.default_rng(0)) for r in (replay, copy)]
    assert equal(*sampled)


def test_extending_a_full_ring_pushes_out_the_oldest_and_keeps_the_counts():
    _, episodes = whole_episodes()
    small, slow = make(capacity=11), make(capacity=11)
    for k, episode in enumerate(episodes):
        small.extend(0, episode)
        fill(slow, 0, 10 * k, 3 + k, end=("terminated", "truncated")[k % 2])
    assert (len(small), small.episodes, small.rows) == (len(slow), slow.episodes, slow.rows) == (9, 2, 11)
    assert equal(*(r.sample(8, 6, np.random.default_rng(0)) for r in (small, slow)))


def test_an_episode_that_lacks_its_beginning_does_not_get_one():
    _, (episode, *_) = whole_episodes()
    replay = make()
    replay.extend(0, episode | {"is_first": np.zeros(4, bool)})
    assert not next(replay.iter_episodes())["is_first"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((3, 3), np.float32)}, r"actions of an episode: expected finite numbers of shape \(3, 2\)"),
        ({"reward": np.array([0, np.nan, 0])}, "rewards of an episode"),
        ({"terminated": np.array([True, False, False])}, "goes on after a step"),
        ({"obs": {}}, "observation has"),
        ({"reward": np.zeros(0)}, "an episode of 0 steps"),
        ({"reward": np.zeros(200)}, "an episode of 200 steps: expected 1 to 99"),
    ],
)
def test_an_episode_that_cannot_be_stored_changes_nothing(change, message):
    _, (episode, *_) = whole_episodes()
    replay = make()
    with pytest.raises(ReplayError, match=message):
        replay.extend(0, episode | change)
    assert (len(replay), replay.rows, replay.episodes) == (0, 0, 0)
    replay.begin(0, observation(0))
    with pytest.raises(ReplayError, match="while an episode is open"):
        replay.extend(0, episode)
