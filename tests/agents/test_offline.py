"""Data of others: what goes in comes out, what cannot be learned from is explained, and what is learned uses it."""

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from agents.actor_critic import Actor
from agents.cli import main
from agents.cloning import clone_loss
from agents.data import episodes, fill, write_data
from agents.experiment import check_run, load_options
from agents.offline import Border, border_of, export, from_npz, from_replay_buffer
from envs.episodes import RecordedEpisode, decode_episode, encode_episode
from envs.spaces import ActionCodec
from tests.learning.tools import TINY, changed, hashes, tiny_run
from worldmodels.errors import ConfigError
from worldmodels.replay import Replay
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Batch, State

PENDULUM = changed(TINY, 'env.id="Pendulum-v1"', "evaluation.every=0", "steps=30")


@pytest.fixture(autouse=True)
def own_minari(tmp_path, monkeypatch):
    """Data sets of this test alone."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def played(env_id, count, seed=0):
    """Random episodes as Minari's buffers and as recorded ones."""
    env, found = gymnasium.make(env_id), []
    env.action_space.seed(seed)
    for k in range(count):
        obs, done = [env.reset(seed=seed + k)[0]], False
        actions, rewards, flags = [], [], []
        while not done:
            actions.append(env.action_space.sample())
            after, reward, terminated, truncated, _ = env.step(actions[-1])
            obs.append(after)
            rewards.append(float(np.float32(reward)))
            flags.append((terminated, truncated and not terminated))
            done = terminated or truncated
        terminations, truncations = np.array(flags).T
        found.append(RecordedEpisode(np.stack(obs), np.stack(actions), np.array(rewards), terminations, truncations))
    env.close()
    return found


def dataset(name, recorded, env_id):
    from minari.data_collector import EpisodeBuffer

    env = gymnasium.make(env_id)
    buffers = [
        EpisodeBuffer(
            observations=e.observations, actions=e.actions, rewards=e.rewards.tolist(),
            terminations=e.terminations.tolist(), truncations=e.truncations.tolist(),
        )
        for e in recorded
    ]  # fmt: skip
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=env.observation_space, action_space=env.action_space, description="test",
        algorithm_name="random", author="nobody", author_email="nobody", code_permalink="nowhere",
        env=env.spec, eval_env=env_id,
    )  # fmt: skip
    env.close()


def same(left, right):
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert np.asarray(getattr(left, name)).dtype.kind == np.asarray(getattr(right, name)).dtype.kind


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_minari_to_replay_to_minari_is_equal(env_id, tmp_path):
    recorded = played(env_id, 3)
    dataset("test/given-v0", recorded, env_id)
    options = changed(TINY, f'env.id="{env_id}"', 'data="minari:test/given-v0"', "evaluation.every=0", "steps=1")
    run = tmp_path / "run"
    with tiny_run(run, options=options) as (trainer, _):
        fill(trainer.replay, "minari:test/given-v0", trainer.agent)
        trainer.save()
        back = export(write_options(run, trainer.options), "test/back-v0")
    assert back.total_episodes == 3
    for given, returned in zip(minari.load_dataset("test/given-v0"), back, strict=True):
        same(given, returned)
    with pytest.raises(ConfigError, match="test/back-v0 already"):
        export(run, "test/back-v0")


def write_options(run, options):
    """The run's configuration, as the command line writes it."""
    from worldmodels.config import dump_yaml, to_mapping

    plain = {k: v for k, v in to_mapping(options).items() if k not in ("run", "resume")}
    (run / "config.yaml").write_text(dump_yaml(plain))
    return run


SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (3, 12, 16), np.uint8),
        "inner": spaces.Dict({"speed": spaces.Box(-5, 5, (2, 2), np.float32), "gear": spaces.Discrete(4, start=-1)}),
        "lamps": spaces.MultiBinary(3),
    }
)


def test_nested_observations_come_back_as_they_were():
    rows = [SPACE.sample() for _ in range(5)]
    obs = {
        "camera": np.stack([r["camera"] for r in rows]),
        "inner": {
            "speed": np.stack([r["inner"]["speed"] for r in rows]),
            "gear": np.array([r["inner"]["gear"] for r in rows]),
        },
        "lamps": np.stack([r["lamps"] for r in rows]),
    }
    codec = ActionCodec(spaces.MultiDiscrete([2, 3]))
    flags = np.array([False, False, False, True])
    given = RecordedEpisode(obs, np.array([[0, 2], [1, 1], [0, 0], [1, 2]]), np.arange(4.0), flags, ~flags & flags)
    back = decode_episode(SPACE, codec, encode_episode(SPACE, codec, given, "episode 0"))
    np.testing.assert_array_equal(back.observations["camera"], obs["camera"])
    np.testing.assert_array_equal(back.observations["inner"]["speed"], obs["inner"]["speed"])
    np.testing.assert_array_equal(back.observations["inner"]["gear"], obs["inner"]["gear"])
    np.testing.assert_array_equal(back.observations["lamps"], obs["lamps"])
    np.testing.assert_array_equal(back.actions, given.actions)


def npz(file, recorded, **changes):
    """Episodes in one file."""
    arrays = {
        "length": np.array([len(e.rewards) for e in recorded]),
        "obs": np.concatenate([e.observations for e in recorded]),
        "action": np.concatenate([e.actions for e in recorded]),
        "reward": np.concatenate([e.rewards for e in recorded]),
        "terminated": np.concatenate([e.terminations for e in recorded]),
        "truncated": np.concatenate([e.truncations for e in recorded]),
    }
    arrays.update(changes)
    np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    return file


def read(folder, env_id):
    border = border_of(env_id)
    codec = ActionCodec(border.spaces()[1])
    return [decode_episode(border.spaces()[0], codec, episode) for episode in episodes(str(folder), border)]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_an_npz_becomes_a_data_folder(env_id, tmp_path):
    recorded = played(env_id, 3)
    folder = from_npz(npz(tmp_path / "data.npz", recorded), tmp_path / "data", env=env_id)
    for given, stored in zip(recorded, read(folder, env_id), strict=True):
        np.testing.assert_allclose(given.actions, stored.actions, atol=1e-6)
        np.testing.assert_array_equal(given.observations, stored.observations)
        np.testing.assert_array_equal(given.rewards, stored.rewards)
        np.testing.assert_array_equal(given.terminations, stored.terminations)
        np.testing.assert_array_equal(given.truncations, stored.truncations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminated": None}, r"has no terminated \(it has action, length, obs, reward, truncated\)"),
        ({"length": np.array([0, 5])}, "whole numbers of at least 1"),
        ({"reward": np.zeros(3)}, "reward has 3 rows, the lengths ask for"),
        ({"action": np.array([None] * 5, object)}, "expected an .npz of plain arrays"),
        ({"obs": "float text"}, "expected numbers"),
        ({"action": "outside"}, "episode 0: action .* outside"),
        ({"obs": "too wide"}, r"shape \(\d+, 5\), expected \(\d+, 4\)"),
        ({"obs": "not finite"}, "not finite"),
        ({"reward": "words"}, "episode 0: rewards have dtype <U3, expected numbers"),
        ({"reward": "nan"}, "episode 0: rewards hold nan, expected finite numbers"),
        ({"reward": "column"}, r"episode 0: rewards have shape \(\d+, 1\), expected one number for each step"),
        ({"action": "words"}, "episode 0: actions have dtype <U3, expected numbers"),
        ({"action": "halves"}, "episode 0: actions hold 0.5, expected whole numbers"),
        ({"truncated": "words"}, "episode 0: truncations have dtype <U3, expected numbers"),
        ({"terminated": "halves"}, "episode 0: terminations hold 0.5, expected 0 or 1"),
        ({"truncated": "all"}, "episode 0 goes on after step 0, which is marked terminated or truncated: split it"),
    ],
)
def test_an_npz_that_cannot_be_used_is_explained(changes, message, tmp_path):
    recorded = played("CartPole-v1", 2)
    rows = sum(len(e.rewards) for e in recorded)
    strange = {
        "float text": np.array([["a"] * 4] * (rows + 2)),
        "outside": np.full(rows, 7),
        "too wide": np.zeros((rows + 2, 5), np.float32),
        "not finite": np.full((rows + 2, 4), np.nan, np.float32),
        "words": np.array(["yes"] * rows),
        "nan": np.full(rows, np.nan),
        "column": np.ones((rows, 1)),
        "halves": np.full(rows, 0.5),
        "all": np.ones(rows, bool),
    }
    changes = {k: strange[v] if isinstance(v, str) else v for k, v in changes.items()}
    from worldmodels.errors import WorldModelsError

    with pytest.raises(WorldModelsError, match=message):
        from_npz(npz(tmp_path / "data.npz", recorded, **changes), tmp_path / "data", env="CartPole-v1")
    assert not (tmp_path / "data" / "LATEST").exists()


def test_other_dtypes_in_a_later_episode_are_refused(tmp_path):
    first, second = played("CartPole-v1", 2)
    mixed = [first, RecordedEpisode(second.observations.astype(np.float64), *list(vars(second).values())[1:])]
    from agents.data import encoded

    border = border_of("CartPole-v1")
    with pytest.raises(ConfigError, match="episode 1 of here has arrays of float64, int64, the first one of float32"):
        list(encoded(mixed, *border.spaces(), "here"))


def test_spaces_that_do_not_match_are_refused(tmp_path):
    dataset("test/given-v0", played("CartPole-v1", 1), "CartPole-v1")
    with (
        tiny_run(tmp_path / "run", options=PENDULUM) as (trainer, _),
        pytest.raises(ConfigError, match=r"has observations Box.*the environment has Box"),
    ):
        fill(trainer.replay, "minari:test/given-v0", trainer.agent)


@pytest.mark.parametrize("name", ["test/absent-v0", "no version", ""])
def test_a_data_set_that_is_not_there_is_named_before_anything_is_written(name, tmp_path):
    with pytest.raises(ConfigError, match="data: "):
        check_run(load_options([f"data=minari:{name}", f"run={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def constant(steps, count, reward=1.0, terminated=True):
    episode = {
        "obs": {"obs": np.zeros((steps + 1, 4), np.float32)},
        "action": np.tile(np.array([1, 0], np.float32), (steps, 1)),
        "reward": np.full(steps, reward, np.float32),
        "terminated": np.arange(steps) == steps - 1 if terminated else np.zeros(steps, bool),
        "truncated": np.zeros(steps, bool),
    }
    return [episode] * count


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        (constant(5, 3), ["every reward is 1; episodes differ by their length alone"]),
        (constant(5, 3, terminated=False), ["none of 3 episodes terminates", "no policy is better than another"]),
        ([*constant(5, 3), *constant(4, 1, reward=0.5)], []),
    ],
)
def test_what_a_user_should_know_is_said(given, notes, tmp_path):
    border = border_of("CartPole-v1")
    folder = write_data(tmp_path / "data", given, border)
    said = fill(Replay(border.obs_specs, 2, capacity=100), str(folder), border)
    assert len(said) == len(notes) and all(note in line for note, line in zip(notes, said, strict=True))


def test_episodes_of_one_step_are_refused(tmp_path):
    border = border_of("CartPole-v1")
    folder = write_data(tmp_path / "data", constant(1, 3), border)
    with pytest.raises(ConfigError, match="every one of the 3 episodes .* has one step"):
        fill(Replay(border.obs_specs, 2, capacity=100), str(folder), border)
    mixed = write_data(tmp_path / "mixed", [*constant(1, 3), *constant(6, 1)], border)
    fill(Replay(border.obs_specs, 2, capacity=100), str(mixed), border)


@pytest.mark.parametrize(
    ("given", "lines", "message"),
    [
        (5, ["env=cartpole", "agent.acquisition.name=sigma", "world_model.ensemble.members=0"],
         "asks members that can disagree: set world_model.ensemble.members=5"),
        (5, ["env=pendulum"], "obs vector (4,) and choices (2,), the environment has obs vector (3,) and 1 numbers: "
         "choose the environment that the data came from"),
        (5, ["env=cartpole", "agent=sb3", "agent.sb3.algorithm=SAC"], "SAC cannot do discrete actions; choose one of"),
        (1, ["env=cartpole"], "has one step, and a world model learns what follows what: record whole episodes"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_in_one_line_and_leaves_nothing(given, lines, message, tmp_path, capsys):
    folder = write_data(tmp_path / "data", constant(given, 3), border_of("CartPole-v1"))
    assert main(["train", f"data={folder}", f"run={tmp_path / 'run'}", *lines]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wm: ")]
    assert len(said) == 1 and message in said[0] and not (tmp_path / "run").exists()


def buffered(env_id, size, steps, *, envs=1, scaled=True):
    """A buffer that a Stable-Baselines3 algorithm would have filled with these steps, and what happened."""
    made = [gymnasium.make(env_id) for _ in range(envs)]
    space = made[0].action_space
    space.seed(0)
    buffer = ReplayBuffer(size, made[0].observation_space, space, n_envs=envs)
    obs = np.stack([env.reset(seed=k)[0] for k, env in enumerate(made)])
    log = []
    for _ in range(steps):
        actions = np.stack([space.sample() for _ in made])
        results = [env.step(a) for env, a in zip(made, actions, strict=True)]
        after = np.stack([r[0] for r in results])
        done = np.array([r[2] or r[3] for r in results])
        infos = [{"TimeLimit.truncated": r[3] and not r[2]} for r in results]
        stored = actions / 2 if scaled and env_id == "Pendulum-v1" else actions
        buffer.add(obs, after, stored.reshape(envs, -1), np.array([r[1] for r in results]), done, infos)
        log.append((obs, actions, after, done))
        obs = np.stack([env.reset()[0] if d else a for env, a, d in zip(made, after, done, strict=True)])
    for env in made:
        env.close()
    return buffer, log


@pytest.mark.parametrize(("size", "steps"), [(300, 250), (100, 130)])
@pytest.mark.parametrize(("env_id", "scaled"), [("CartPole-v1", True), ("Pendulum-v1", True), ("Pendulum-v1", False)])
def test_a_replay_buffer_becomes_a_data_folder(env_id, scaled, size, steps, tmp_path):
    buffer, log = buffered(env_id, size * 2, steps, envs=2, scaled=scaled)
    kept = min(size, steps)
    found = read(from_replay_buffer(buffer, tmp_path / "data", scaled=scaled), env_id)
    assert sum(len(e.rewards) for e in found) == 2 * kept
    for env in range(2):
        mine = log[-kept:]
        own = found[: len(found)] if env else found
        flat = np.concatenate([e.observations[:-1] for e in own])[env * kept : (env + 1) * kept]
        np.testing.assert_array_equal(flat, np.stack([obs[env] for obs, *_ in mine]))
        actions = np.concatenate([e.actions for e in own])[env * kept : (env + 1) * kept]
        np.testing.assert_allclose(actions, np.stack([a[env] for _, a, *_ in mine]), atol=1e-6)
        after = np.concatenate([e.observations[1:] for e in own])[env * kept : (env + 1) * kept]
        np.testing.assert_array_equal(after, np.stack([a[env] for _, _, a, _ in mine]))
    ended = sum(bool(e.terminations[-1]) for e in found)
    assert ended == (sum(int(done.sum()) for *_, done in log[-kept:]) if env_id == "CartPole-v1" else 0)
    assert all(e.terminations[-1] != e.truncations[-1] for e in found)


def test_a_dict_buffer_too_and_one_without_last_observations_is_refused(tmp_path):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    buffer = DictReplayBuffer(10, space, spaces.Discrete(2))
    for t in range(5):
        obs, after = ({"a": np.full((1, 2), k / 9, np.float32), "b": np.array([k % 3])} for k in (t, t + 1))
        buffer.add(obs, after, np.array([[t % 2]]), np.array([1.0]), np.array([t == 2]), [{}])
    folder = from_replay_buffer(buffer, tmp_path / "data")
    stored = list(episodes(str(folder), Border(space, spaces.Discrete(2))))
    assert [len(e["reward"]) for e in stored] == [3, 2] and stored[0]["terminated"][-1] and stored[1]["truncated"][-1]
    assert stored[0]["obs"]["b"].tolist() == [0, 1, 2, 0]
    small = ReplayBuffer(
        10, space["a"], spaces.Discrete(2), optimize_memory_usage=True, handle_timeout_termination=False
    )
    with pytest.raises(ConfigError, match="optimize_memory_usage=False"):
        from_replay_buffer(small, tmp_path / "other")
    with pytest.raises(ConfigError, match="no episode to write"):
        from_replay_buffer(ReplayBuffer(10, space["a"], spaces.Discrete(2)), tmp_path / "empty")


def batch_of(action, mask):
    shape = action.shape[:2]
    false, first = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape[0], shape[1] + 1, dtype=torch.bool)
    return Batch({}, action, torch.zeros(shape), false, false, mask, first, ~first)


@pytest.mark.parametrize("spec", [ActionSpec("continuous", dimensions=2), ActionSpec("discrete", (3,))])
def test_clone_loss_is_the_sum_written_out(spec):
    torch.manual_seed(0)
    actor = Actor(5, spec, hidden=8, layers=1, norm=False)
    states = State(torch.randn(2, 4, 2), torch.randn(2, 4, 3))
    action = torch.rand(2, 3, 2) - 0.5 if spec.kind == "continuous" else torch.eye(3)[torch.randint(3, (2, 3))]
    mask = torch.tensor([[True, True, False], [True, False, True]])
    expected, count = 0.0, 0
    for b in range(2):
        for t in range(3):
            if mask[b, t]:
                expected -= float(actor(states.features[b, t]).log_prob(action[b, t]).detach())
                count += 1
    loss = clone_loss(actor, states, batch_of(action, mask))
    assert float(loss.detach()) == pytest.approx(expected / count, rel=1e-5)
    if spec.kind == "continuous":  # at the edge the loss is that of an action just inside
        edge, inside = (clone_loss(actor, states, batch_of(torch.full((2, 3, 2), x), mask)) for x in (1.0, 0.99))
        assert torch.equal(edge, inside) and edge.isfinite()


def test_cloning_learns_what_the_data_does_and_moves_nothing_else(tmp_path):
    recorded = played("CartPole-v1", 20)
    always = [RecordedEpisode(e.observations, np.ones_like(e.actions), e.rewards, e.terminations, e.truncations)
              for e in recorded]  # fmt: skip
    folder = from_npz(npz(tmp_path / "data.npz", always), tmp_path / "data", env="CartPole-v1")
    options = changed(
        TINY,
        'agent.name="cloning"',
        f'data="{folder}"',
        "steps=100",
        "evaluation.every=0",
        "train.updates_per_step=1.0",
    )
    with tiny_run(tmp_path / "run", options=options) as (trainer, _):
        fill(trainer.replay, str(folder), trainer.agent)
        trainer.save()
        before = hashes(trainer)
        trainer.loop()
        after = hashes(trainer)
        obs = {"obs": np.concatenate([e.observations for e in recorded])[:50]}
        action, _ = trainer.agent.act(obs, trainer.agent.initial_carry(50), np.ones(50, bool), deterministic=True)
    assert (action.argmax(-1) == 1).all()
    assert after["critic_optimizer"] == before["critic_optimizer"] and after["policy"] != before["policy"]


def test_pessimism_and_truncation_learn_from_data_and_need_members(tmp_path):
    folder = from_npz(npz(tmp_path / "data.npz", played("CartPole-v1", 4)), tmp_path / "data", env="CartPole-v1")
    options = changed(TINY, f'data="{folder}"', "steps=30", "evaluation.every=0", "world_model.ensemble.members=2")
    options = changed(options, "world_model.ensemble.units=8", 'agent.acquisition.name="sigma"')
    learned = {}
    for name, lines in {
        "plain": ["agent.acquisition.weight=0.0"],
        "pessimism": ["agent.acquisition.weight=-1.0"],
        "truncation": ["agent.acquisition.weight=0.0", "agent.acquisition.quantile=0.5"],
    }.items():
        with tiny_run(tmp_path / name, *lines, options=options) as (trainer, _):
            fill(trainer.replay, str(folder), trainer.agent)
            trainer.save()
            trainer.loop()
            learned[name] = hashes(trainer)
    assert len({parts["policy"] for parts in learned.values()}) == 3
    with (
        pytest.raises(ConfigError, match=r"set world_model.ensemble.members=5"),
        tiny_run(tmp_path / "none", "world_model.ensemble.members=0", options=options),
    ):
        pass


def test_online_steps_follow_the_data_and_a_resumed_run_is_the_same(tmp_path):
    folder = from_npz(npz(tmp_path / "data.npz", played("CartPole-v1", 4)), tmp_path / "data", env="CartPole-v1")
    options = changed(TINY, f'data="{folder}"', "steps=50", "online_steps=60", "evaluation.every=0")
    with tiny_run(tmp_path / "whole", options=options) as (trainer, _):
        fill(trainer.replay, str(folder), trainer.agent)
        given = len(trainer.replay)
        trainer.save()
        trainer.loop()
        whole = hashes(trainer)
        assert trainer.step >= 110 and trainer.collected == trainer.step - 50 == len(trainer.replay) - given
    offline = changed(options, "online_steps=0")
    with tiny_run(tmp_path / "run", options=offline) as (trainer, _):
        fill(trainer.replay, str(folder), trainer.agent)
        trainer.save()
        trainer.loop()
        assert trainer.step == 50 and trainer.collected == 0
    with tiny_run(tmp_path / "run", options=options) as (trainer, _):
        trainer.resume()
        trainer.loop()
        assert trainer.collected == trainer.step - 50
        resumed = hashes(trainer)
    assert resumed["collector"] == whole["collector"]


def test_online_steps_without_data_are_refused():
    with pytest.raises(ConfigError, match="online_steps: only a run from fixed data"):
        check_run(load_options(["online_steps=5"]))


def test_obs_specs_of_a_border_are_those_of_the_environment():
    assert border_of("CartPole-v1").obs_specs == {"obs": ObsSpec("vector", (4,))}
