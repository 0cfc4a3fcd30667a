"""The collector: seeds of episodes, what acts, what is stored, and the way to a barrier."""

import numpy as np
import pytest
import torch

from agents.agent import Carry
from agents.collector import Collector, random_actions
from envs.options import EnvOptions
from envs.vector import VectorEnv
from tests.agents.stubs import CountingAgent
from tests.contracts.tools import ACTIONS
from worldmodels.errors import CheckpointError
from worldmodels.replay import Replay
from worldmodels.seeding import episode_seed

OPTIONS = EnvOptions(id="worldmodels/Counting-v0")


@pytest.fixture(params=[1, 3])
def collector(request):
    with VectorEnv(OPTIONS, request.param) as envs:
        replay = Replay(envs.obs_specs, envs.action_spec.size, capacity=3000, streams=request.param)
        yield Collector(CountingAgent(), envs, replay, seed=4, rng=np.random.default_rng(0))


def run(collector, steps, *, random=False):
    results = [collector.step(random=random) for _ in range(steps)]
    return sum(taken for taken, _ in results), [episode for _, finished in results for episode in finished]


def test_episode_n_of_stream_i_has_the_seed_that_only_depends_on_them(collector):
    run(collector, 60)
    seen = {}
    for episode in collector.replay.iter_episodes():
        seen.setdefault(episode["stream"], []).append(int(episode["obs"]["obs"][0, 0]))
    for stream, found in seen.items():
        expected = [episode_seed(4, stream, n) % 2**20 for n in range(collector.episodes[stream])]
        assert found == expected[: len(found)] and len(found) >= len(expected) - 1 > 3


@pytest.mark.parametrize("random", [False, True])
def test_every_step_is_stored_as_it_happened(collector, random):
    taken, finished = run(collector, 60, random=random)
    n = collector.envs.num_envs
    assert taken == 60 * n == len(collector.replay)
    stored = [e for e in collector.replay.iter_episodes() if e["terminated"][-1] or e["truncated"][-1]]
    assert sorted((float(e["reward"].sum()), len(e["reward"])) for e in stored) == sorted(finished)
    for episode in stored:  # odd episodes of Counting are truncated, even ones terminate: never merged
        odd = bool(int(episode["obs"]["obs"][0, 0]) % 2)
        assert bool(episode["truncated"][-1]) == odd and bool(episode["terminated"][-1]) == (not odd)
        assert not episode["truncated"][:-1].any() and not episode["terminated"][:-1].any()


@pytest.mark.parametrize("hold", [1, 3])
def test_a_random_action_is_held_from_the_beginning_of_an_episode_on(collector, hold):
    collector.hold = hold
    run(collector, 60, random=True)
    streams = collector.envs.num_envs
    rng = np.random.default_rng(0)
    drawn = np.stack([random_actions(collector.agent.action_spec, streams, rng) for _ in range(60)])  # (60, streams, A)
    at = [0] * streams
    for episode in sorted(collector.replay.iter_episodes(), key=lambda e: e["stream"]):
        stream, actions = episode["stream"], episode["action"]
        first = np.arange(len(actions)) // hold * hold  # the step of the episode whose draw is carried out
        assert np.array_equal(actions, drawn[at[stream] + first, stream])
        at[stream] += len(actions)
    assert at == [60] * streams


def test_the_agent_sees_what_happened_and_starts_anew_with_each_episode(collector):
    """The stub acts by code + steps since is_first: any leak of its carry or of another stream's observation shows."""
    collector.agent.act = _deterministic(collector.agent.act)
    run(collector, 60)
    for episode in collector.replay.iter_episodes():
        codes = episode["obs"]["obs"][:-1, 2].astype(int)
        expected = (codes + np.arange(len(codes))) % 4
        assert episode["action"].argmax(-1).tolist() == expected.tolist()


def _deterministic(act):
    return lambda obs, carry, is_first, *, deterministic: act(obs, carry, is_first, deterministic=True)


def test_after_random_steps_the_agent_starts_from_what_it_sees(collector):
    firsts = []
    act = _deterministic(collector.agent.act)
    collector.agent.act = lambda obs, carry, is_first, **kw: (
        firsts.append(is_first.copy()) or act(obs, carry, is_first, **kw)
    )
    run(collector, 5, random=True)
    assert not firsts  # random steps do not ask the agent
    run(collector, 2)
    assert firsts[0].all() and not (firsts[1] & ~collector._first).all()


def test_draining_finishes_open_episodes_and_begins_none(collector):
    run(collector, 7)
    begun = list(collector.episodes)
    assert not collector.idle
    collector.draining = True
    for _ in range(12):
        if collector.idle:
            break
        collector.step(random=False)
    assert collector.idle and collector.episodes == begun
    assert collector.state()["json"]["episodes"] == begun
    collector.draining = False
    collector.step(random=False)
    assert all(now >= before for now, before in zip(collector.episodes, begun, strict=True))


def test_cut_ends_open_episodes_as_truncated(collector):
    run(collector, 30)
    collector.cut()
    assert collector.idle
    for episode in collector.replay.iter_episodes():
        assert episode["terminated"][-1] or episode["truncated"][-1]


def test_state_is_refused_within_an_episode_and_for_another_number_of_streams(collector):
    run(collector, 1, random=True)
    if not collector.idle:
        with pytest.raises(CheckpointError, match="no episode is open"):
            collector.state()
    with pytest.raises(CheckpointError, match="expected"):
        collector.restore({"tensors": {}, "json": {"episodes": [0] * 7}})


def test_a_resumed_collector_goes_on_with_the_next_seeds(collector):
    collector.restore({"tensors": {}, "json": {"episodes": [5] * collector.envs.num_envs}})
    collector.step(random=False)
    first = collector.replay._columns["obs/obs"][:, 0, 0]
    assert first.tolist() == [episode_seed(4, i, 5) % 2**20 for i in range(collector.envs.num_envs)]


@pytest.mark.parametrize("kind", ACTIONS)
def test_random_actions_are_uniform_and_encoded(kind):
    spec = ACTIONS[kind]
    actions = random_actions(spec, 20_000, np.random.default_rng(0))
    assert actions.shape == (20_000, spec.size) and actions.dtype == np.float32
    if kind == "continuous":
        assert abs(actions.mean()) < 0.02 and actions.min() < -0.99 and actions.max() > 0.99
        return
    for block in torch.from_numpy(actions).split(spec.classes, -1):
        assert (block.sum(-1) == 1).all()
        assert (block.mean(0) - 1 / block.shape[-1]).abs().max() < 0.02


class Resting:
    """Says zero at every step, and remembers what it is told that it did."""

    def __init__(self):
        self.told = []

    def initial_carry(self, batch):
        return Carry(None, None)

    def act(self, obs, carry, is_first, *, deterministic):
        self.told.append((bool(is_first[0]), None if carry.action is None else carry.action[0].tolist()))
        action = np.zeros((len(is_first), 2), dtype=np.float32)
        return action, Carry(None, torch.from_numpy(action))


def test_who_wanders_repeats_one_random_action_and_is_told_what_was_done():
    with VectorEnv(EnvOptions(id="worldmodels/Maze-v0"), 1) as envs:
        replay, agent = Replay(envs.obs_specs, 2, capacity=6000, streams=1), Resting()
        collector = Collector(agent, envs, replay, seed=0, rng=np.random.default_rng(1), wander=0.05, stretch=6.0)
        run(collector, 5_000)
    runs, wandering = [], 0
    for episode in replay.iter_episodes():
        done = episode["action"]
        new = np.append(True, (done[1:] != done[:-1]).any(1))
        lengths = np.diff(np.append(np.flatnonzero(new), len(done)))
        moving = done[np.flatnonzero(new)].any(1)
        wandering += int(lengths[moving].sum())
        runs += lengths[moving & (np.flatnonzero(new) + lengths < len(done))].tolist()  # the end of an episode cuts
    assert 4.8 < np.mean(runs) < 7.2 and max(runs) > 15
    assert 0.17 < wandering / 5_000 < 0.30  # 0.05 of the steps at rest begin 6 steps: 6 / (6 + 20) = 0.23
    stored = [a.tolist() for episode in replay.iter_episodes() for a in episode["action"]]
    told = [action for first, action in agent.told if not first]
    kept = [a for k, a in enumerate(stored) if (k + 1) % 100]  # the last action of an episode is told to nobody
    assert told == kept[: len(told)] and len(told) > 4_900


def test_without_wandering_no_random_number_is_drawn(collector):
    before = collector.rng.bit_generator.state
    run(collector, 20)
    assert collector.rng.bit_generator.state == before
