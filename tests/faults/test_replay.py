"""Nothing crosses an episode, nothing aliases, nothing that cannot be used is stored, nothing is waited for."""

import hashlib
import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scipy.stats import chisquare

from worldmodels.errors import ReplayError
from worldmodels.memory import row_bytes
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec

STREAMS, RING = 2, 23
SPECS = {"obs": ObsSpec("vector", (2,))}


def obs(episode, t):
    return {"obs": np.array([episode, t], np.float32)}


def new_replay():
    return Replay(SPECS, 1, capacity=STREAMS * RING, streams=STREAMS)


class Against(RuleBasedStateMachine):
    """The replay against lists: each stream is a list of rows (episode, t, transition or None)."""

    def __init__(self):
        super().__init__()
        self.replay = new_replay()
        self.folder = tempfile.TemporaryDirectory()
        self.model = [[] for _ in range(STREAMS)]
        self.open = [None] * STREAMS
        self.count = 0

    def teardown(self):
        self.folder.cleanup()

    def _push(self, stream, row):
        self.model[stream].append(row)
        del self.model[stream][:-RING]

    @rule(stream=st.integers(0, STREAMS - 1), steps=st.integers(1, 20), end=st.sampled_from("TUB-"))
    def add(self, stream, steps, end):
        if self.open[stream] is None:
            self.count += 1
            self.open[stream] = [self.count, 0]
            self.replay.begin(stream, obs(self.count, 0))
            self._push(stream, (self.count, 0, None))
        episode, t = self.open[stream]
        for k in range(steps):
            last = k == steps - 1
            flags = (last and end in "TB", last and end in "UB")
            # The transition says where it leads from, so that a shift by one row shows.
            self.replay.add(stream, np.array([episode * 100 + t], np.float32), -t, *flags, obs(episode, t + 1))
            self.model[stream][-1] = (episode, t, (episode * 100 + t, -t, *flags))
            t += 1
            self._push(stream, (episode, t, None))
        self.open[stream] = None if end != "-" else [episode, t]

    @precondition(lambda self: any(self.open))
    @rule(stream=st.integers(0, STREAMS - 1))
    def abandon(self, stream):
        self.replay.abandon(stream)
        if self.open[stream]:
            self.model[stream] = [row for row in self.model[stream] if row[0] != self.open[stream][0]]
            self.open[stream] = None

    @precondition(lambda self: any(self.open))
    @rule(stream=st.integers(0, STREAMS - 1))
    def cut(self, stream):
        if self.open[stream]:
            self.replay.cut(stream)
            episode, t, (action, reward, terminated, _) = self.model[stream][-2]
            self.model[stream][-2] = (episode, t, (action, reward, terminated, True))
            self.open[stream] = None

    @precondition(lambda self: not any(self.open))
    @rule(reload=st.booleans())
    def save(self, reload):
        ids, state = self.replay.write_segments(self.folder.name), self.replay.state()
        if reload:
            self.replay = new_replay()
            self.replay.load_segments(self.folder.name, ids)
            self.replay.restore(state)

    @precondition(lambda self: any(self.open))
    @rule()
    def save_in_the_middle(self):
        self.replay.write_segments(self.folder.name)

    @invariant()
    def counts(self):
        rows = [row for stream in self.model for row in stream]
        assert self.replay.rows == len(rows)
        assert len(self.replay) == sum(row[2] is not None for row in rows)
        heads = sum(bool(is_open) for is_open in self.open)
        assert self.replay.episodes == sum(row[2] is None for row in rows) - heads

    @rule(length=st.integers(1, 12), seed=st.integers(0, 1000))
    def sample(self, length, seed):
        windows = [
            stream[i : i + length + 1] for stream in self.model for i in range(len(stream) - length)
        ]  # in the order in which the replay numbers them
        if not windows:
            with pytest.raises(ReplayError):
                self.replay.sample(1, length, np.random.default_rng(seed))
            return
        batch = self.replay.sample(4, length, np.random.default_rng(seed))
        for row, pick in enumerate(np.random.default_rng(seed).integers(len(windows), size=4)):
            window = windows[pick]
            assert batch.obs["obs"][row].tolist() == [[episode, t] for episode, t, _ in window]
            assert batch.is_first[row].tolist() == [t == 0 for _, t, _ in window]
            for k, (episode, t, transition) in enumerate(window[:-1]):
                found = (
                    batch.action[row, k, 0],
                    batch.reward[row, k],
                    batch.terminated[row, k],
                    batch.truncated[row, k],
                )
                assert batch.mask[row, k] == (transition is not None)
                assert tuple(x.item() for x in found) == (transition or (0, 0, False, False))
                following = window[k + 1]
                if transition is None:  # an episode's last row: what follows begins another one
                    assert following[1] == 0 and following[0] != episode and batch.is_first[row, k + 1]
                else:
                    assert following[:2] == (episode, t + 1)


Against.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAgainstLists = Against.TestCase


class AgainstLong(Against):
    """The same, ten thousand times."""


AgainstLong.TestCase.settings = settings(max_examples=10_000, stateful_step_count=30, deadline=None)
TestAgainstListsLong = pytest.mark.slow(AgainstLong.TestCase)


def filled(lengths, capacity=10_000, streams=1):
    replay = Replay(SPECS, 1, capacity=capacity, streams=streams)
    for number, length in enumerate(lengths):
        stream = number % streams
        replay.begin(stream, obs(number, 0))
        for t in range(length):
            replay.add(stream, np.array([t], np.float32), number, t == length - 1, False, obs(number, t + 1))
    return replay


def test_every_start_is_equally_likely():
    replay = filled([3, 1, 7, 2, 5, 9, 4, 4], streams=2)
    length, draws = 4, 50_000
    starts = [(e, t) for stream in range(2) for e, t in _rows(replay, stream)[:-length]]
    batch = replay.sample(draws, length, np.random.default_rng(1))
    found, counts = np.unique(batch.obs["obs"][:, 0].numpy(), axis=0, return_counts=True)
    assert sorted(map(tuple, found.astype(int).tolist())) == sorted(starts)
    assert chisquare(counts).pvalue > 0.001


def _rows(replay, stream):
    return [
        (int(e), int(t))
        for episode in replay.iter_episodes()
        if episode["stream"] == stream
        for e, t in episode["obs"]["obs"].tolist()
    ]


@pytest.mark.parametrize("length", range(1, 9))
def test_what_is_masked_has_no_influence(length):
    """With episodes shorter than the window, masked entries are zero and carry no gradient."""
    replay = filled([1 + n % length for n in range(30)])
    batch = replay.sample(32, length, np.random.default_rng(0))
    assert length < 2 or not batch.mask.all()
    for tensor in (batch.action.squeeze(-1), batch.reward, batch.terminated, batch.truncated):
        assert not tensor[~batch.mask].any()
    weight = torch.ones(1, requires_grad=True)

    def loss(reward):
        return (((weight * reward) ** 2) * batch.mask).sum() / batch.mask.sum()

    other = torch.where(batch.mask, batch.reward, torch.full_like(batch.reward, 1e6))
    gradients = [torch.autograd.grad(loss(reward), weight)[0] for reward in (batch.reward, other)]
    assert torch.equal(*gradients) and torch.equal(loss(batch.reward), loss(other))


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ([], r"replay holds 0 episodes \(0 steps\); sampling needs 65 observations"),
        ([20, 20, 1], r"replay holds 3 episodes \(41 steps\); sampling needs 65 observations in a row"),
    ],
)
def test_too_little_data_is_an_error_and_no_wait(lengths, text):
    replay, rng = filled(lengths), np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(ReplayError, match=text):
        replay.sample(16, 64, rng)
    assert rng.bit_generator.state == before  # nothing was drawn and drawn again in the hope of more


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made():
    code = """
import resource
from worldmodels.replay import Replay
from worldmodels.errors import ReplayError
from worldmodels.specs import ObsSpec
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 2_000_000_000, resource.RLIM_INFINITY))
specs = {"image": ObsSpec("image", (64, 64, 3)), "other": ObsSpec("image", (64, 64, 3))}
try:
    Replay(specs, 4, capacity=1_000_000, streams=1)
except ReplayError as error:
    print(error)
Replay(specs, 4, capacity=70_000, streams=1)
print("fits")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refusal, fits = done.stdout.splitlines()
    assert refusal.startswith("replay needs 24.6 GB for 1,000,000 rows of image (64, 64, 3) uint8 + other (64, 64, 3)")
    assert "GB available: lower capacity to 7" in refusal and fits == "fits"


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    """Row 38 on several processes: each sees all free memory, and their replays have to fit together."""
    monkeypatch.setattr("worldmodels.memory.available_bytes", lambda: 1_000_000)
    specs = {"obs": ObsSpec("vector", (4,))}
    rows = 900_000 // row_bytes(specs, 1)
    Replay(specs, 1, capacity=rows)
    with pytest.raises(ReplayError, match="lower capacity"):
        Replay(specs, 1, capacity=rows, sharers=2)
    Replay(specs, 1, capacity=rows // 2, sharers=2)


def test_a_full_replay_takes_no_more_memory():
    """In a process of its own: what other tests have freed would be taken up without growing."""
    done = subprocess.run([sys.executable, "-c", FILL_FOUR_TIMES], capture_output=True, text=True, check=True)
    needed, before, *sizes = json.loads(done.stdout)
    assert sizes[0] - before > 0.9 * needed  # the pages are really counted
    assert all(abs(size - sizes[0]) < 0.01 * needed for size in sizes[1:])


FILL_FOUR_TIMES = """
import json, resource
import numpy as np
from worldmodels.replay import Replay
from worldmodels.specs import ObsSpec

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

capacity = 4000
replay = Replay({"image": ObsSpec("image", (64, 64, 3))}, 2, capacity=capacity)
image = {"image": np.full((64, 64, 3), 255, np.uint8)}
sizes = [replay.memory_bytes(), resident()]
for step in range(4 * capacity):
    if step % 100 == 0:
        replay.begin(0, image)
    replay.add(0, np.zeros(2, np.float32), 0.0, step % 100 == 99, False, image)
    if step % capacity == capacity - 1:
        sizes.append(resident())
assert replay.rows == capacity
print(json.dumps(sizes))
"""


def test_loading_again_and_again_changes_nothing(tmp_path):
    replay = filled([5] * 40, capacity=150, streams=2)
    ids, state = replay.write_segments(tmp_path), replay.state()
    loaded = Replay(SPECS, 1, capacity=150, streams=2)
    for _ in range(5):
        loaded.load_segments(tmp_path, ids)
        loaded.restore(state)
        assert (len(loaded), loaded.rows, loaded.episodes) == (len(replay), replay.rows, replay.episodes)
        assert loaded.write_segments(tmp_path) == ids
    assert len(list(tmp_path.iterdir())) == len(ids)


IMAGE = ObsSpec("image", (2, 2, 3))
BAD = [
    (IMAGE, np.zeros((2, 2, 3), np.float32), "'x' \\(image\\) has dtype float32, expected uint8"),
    (IMAGE, np.zeros((2, 2, 3), bool), "has dtype bool, expected uint8"),
    (IMAGE, np.zeros((2, 2, 1), np.uint8), r"'x' has shape \(2, 2, 1\), expected \(2, 2, 3\)"),
    (ObsSpec("vector", (2,)), np.array([0, np.nan], np.float32), r"'x' is not finite: nan at \(1,\)"),
    (ObsSpec("vector", (2,)), np.array([np.inf, 0], np.float32), "'x' is not finite: inf"),
    (ObsSpec("vector", (2,)), np.array([1e300, 0]), "'x' is not finite: inf"),
    (ObsSpec("vector", (2,)), np.array([1j, 0]), "has dtype complex128"),
    (ObsSpec("vector", (2,)), np.array(["a", "b"]), "has dtype <U1"),
    (ObsSpec("vector", (2,)), np.array([None, 1.0]), "has dtype object"),
    (ObsSpec("discrete", (), (3,)), np.array(3), "'x' is 3, expected 0 to below"),
    (ObsSpec("discrete", (), (3,)), np.array(-1), "'x' is -1"),
    (ObsSpec("discrete", (), (3,)), np.array(1.0), "has dtype float64"),
]


@pytest.mark.parametrize(("spec", "value", "text"), BAD)
def test_what_cannot_be_stored_is_refused_by_name_and_nothing_changes(spec, value, text):
    good = {"x": np.zeros(spec.shape, spec.dtype), "y": np.zeros(1, np.float32)}
    replay = Replay({"y": ObsSpec("vector", (1,)), "x": spec}, 1, capacity=10)
    with pytest.raises(ReplayError, match=text):
        replay.begin(0, good | {"x": value})
    replay.begin(0, good)
    replay.add(0, np.zeros(1, np.float32), 0.0, False, False, good)
    before = _hash(replay)
    with pytest.raises(ReplayError, match=text):
        replay.add(0, np.ones(1, np.float32), 1.0, True, False, good | {"x": value, "y": np.ones(1, np.float32)})
    assert _hash(replay) == before and len(replay) == 1 and replay.episodes == 0


@pytest.mark.parametrize(
    ("action", "reward", "text"),
    [
        ([np.nan], 0.0, "action is"),
        ([np.inf], 0.0, "action is"),
        ([1e300], 0.0, "action is"),
        ([0.0, 0.0], 0.0, "expected 1 finite"),
        ([0.0], np.nan, "reward is nan"),
        ([0.0], -np.inf, "reward is -inf"),
        ([0.0], 1e39, "reward is 1e\\+39, expected a finite float32"),
    ],
)
def test_actions_and_rewards_are_finite(action, reward, text):
    replay = Replay(SPECS, 1, capacity=10)
    replay.begin(0, obs(0, 0))
    with pytest.raises(ReplayError, match=text):
        replay.add(0, np.array(action), reward, False, False, obs(0, 1))
    assert len(replay) == 0 and replay.rows == 1


def test_missing_and_unknown_names_are_refused():
    replay = Replay(SPECS, 1, capacity=10)
    for wrong in ({}, {"other": np.zeros(2, np.float32)}, obs(0, 0) | {"other": np.zeros(2, np.float32)}):
        with pytest.raises(ReplayError, match="expected \\['obs'\\]"):
            replay.begin(0, wrong)


def _hash(replay):
    sha = hashlib.sha256()
    for episode in replay.iter_episodes():
        for value in (*episode["obs"].values(), episode["action"], episode["reward"], episode["is_first"]):
            sha.update(value.tobytes())
        sha.update(episode["terminated"].tobytes() + episode["truncated"].tobytes())
    return sha.hexdigest()


def _all(batch):
    flags = (batch.terminated, batch.truncated, batch.mask, batch.is_first, batch.obs_mask)
    return [*batch.obs.values(), batch.action, batch.reward, *flags]


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_batch_owns_its_memory(batch_size):
    replay = filled([9] * 20)
    before = _hash(replay)
    batch = replay.sample(batch_size, 4, np.random.default_rng(0))
    kept = [tensor.clone() for tensor in _all(batch)]
    pointers = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in _all(batch)]
    for tensor in _all(batch):
        assert tensor.is_contiguous()
        shifted = tensor.clone()
        shifted[:, :-1] = tensor[:, 1:].clone()
        tensor[:, :-1] = tensor[:, 1:].clone()
        assert torch.equal(tensor, shifted)
        tensor.fill_(1)
    ends = sorted(pointers)
    assert all(left[1] <= right[0] for left, right in zip(ends, ends[1:], strict=False))
    assert _hash(replay) == before
    again = replay.sample(batch_size, 4, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(_all(again), kept, strict=True))


def test_storage_does_not_alias_what_was_added():
    replay = Replay(SPECS, 1, capacity=10)
    value, action = np.zeros(2, np.float32), np.zeros(1, np.float32)
    replay.begin(0, {"obs": value})
    for step in range(1, 4):
        value[:], action[:] = step, step  # the environment's own array, used again at every step
        replay.add(0, action, 0.0, step == 3, False, {"obs": value})
    (episode,) = replay.iter_episodes()
    assert episode["obs"]["obs"][:, 0].tolist() == [0, 1, 2, 3] and episode["action"][:, 0].tolist() == [1, 2, 3]
