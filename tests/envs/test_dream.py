"""The dream keeps the contracts of both libraries, is a function of its seed, and equals a system that is known."""

import re
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import Agent
from envs import DreamEnv, DreamVecEnv, DreamVectorEnv
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options
from tests.envs.known import START, Linear, advance, linear_model
from tests.learning.tools import train_tiny
from worldmodels.dreams import Dreams, epistemic_quantile, replay_starts
from worldmodels.errors import ConfigError, EnvironmentFault, NonFiniteError
from worldmodels.options import EnsembleOptions
from worldmodels.saved import load_replay, load_world_model
from worldmodels.types import State

MODES = list(AutoresetMode)
IGNORED = "ignore:.*(infinity|unwrapped version|1D|one-dimensional|recommend).*"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dream") / "run"
    train_tiny(folder)
    return folder


def model(obs="vector", action="discrete", posterior="gaussian"):
    return small_model(small_options(posterior), OBS[obs], ACTIONS[action], spread=0.3)


def play(env, steps=25, seed=0):
    """Everything that a dream said, as one array: observations, rewards and flags (steps, n, ...)."""
    env.action_space.seed(seed)
    said = []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        said.append(np.concatenate([obs, np.stack([reward, terminated, truncated], -1)], -1))
    return np.stack(said)


# Both libraries' checkers


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize(
    ("obs", "action", "observation"),
    [*((obs, "discrete", "decoded") for obs in OBS), *(("vector", action, "features") for action in ACTIONS)],
)
def test_both_checkers_pass(obs, action, observation):
    env = DreamEnv(model(obs, action), observation=observation, horizon=5, seed=0, render_mode="rgb_array")
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env, warn=False)


@pytest.mark.filterwarnings(IGNORED)
def test_the_registered_environment_passes_both_checkers_and_dreams_of_its_run(run):
    env = gymnasium.make("worldmodels/Dream-v0", run=str(run), starts="replay", horizon=4, render_mode="rgb_array")
    gymnasium_check(env.unwrapped)
    sb3_check(env, warn=False)
    (features,) = env.observation_space.shape
    assert features == load_world_model(run).features_size
    env.reset(seed=0)
    ended = [env.step(0)[2:4] for _ in range(4)]
    assert ended[-1][0] or ended[-1][1]


def test_make_vec_makes_one_batch(run):
    envs = gymnasium.make_vec("worldmodels/Dream-v0", num_envs=3, run=run)
    assert isinstance(envs.unwrapped, DreamVectorEnv)
    obs, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(obs) and len(obs) == 3


# The vector contract


@pytest.mark.parametrize("mode", MODES)
def test_the_vector_contract_is_that_of_gymnasiums_own_vector(mode):
    """The same exact dreams, stepped one by one by gymnasium and as a batch by us, say the same things."""
    world = linear_model()
    ours = DreamVectorEnv(world, 3, autoreset_mode=mode, horizon=4, observation="decoded")
    theirs = SyncVectorEnv(
        [lambda: DreamEnv(world, horizon=4, observation="decoded")] * 3, autoreset_mode=mode, observation_mode="same"
    )
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    ours.action_space.seed(0)
    for t in range(12):
        action = ours.action_space.sample() * np.array([[1.0], [1.0], [0.1]], np.float32)
        left, right = ours.step(action), theirs.step(action)
        assert_same(left, right)
        over = left[2] | left[3]
        assert over.all() == (t % (5 if mode is AutoresetMode.NEXT_STEP else 4) == 3)
        if mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(EnvironmentFault, match="dreams \\[0, 1, 2\\] are over"):
                ours.step(action)
            mask = over.copy()
            assert_same(ours.reset(options={"reset_mask": mask}), theirs.reset(options={"reset_mask": mask.copy()}))


def assert_same(left, right):
    assert type(left) is type(right), (left, right)
    if isinstance(left, tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, dict):
        assert set(left) == set(right)
        for name in left:
            assert_same(left[name], right[name])
    elif left.dtype == object:
        assert [value is None for value in left] == [value is None for value in right]
        for a, b in zip(left, right, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6) if a is not None else None
    else:
        assert left.shape == right.shape and left.dtype.kind == right.dtype.kind
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)


def test_gymnasiums_own_vector_wrappers_work_on_it():
    from gymnasium.wrappers.vector import RecordEpisodeStatistics

    envs = RecordEpisodeStatistics(DreamVectorEnv(linear_model(), 2, horizon=3, autoreset_mode="SameStep"))
    envs.reset(seed=0)
    for _ in range(3):
        *_, info = envs.step(np.zeros((2, 1), np.float32))
    assert info["episode"]["l"].tolist() == [3, 3]


def test_a_dream_that_is_reset_alone_leaves_the_others_where_they_were():
    envs = DreamVectorEnv(model(), 4, autoreset_mode="Disabled", horizon=None, seed=3)
    obs, _ = envs.reset(seed=0)
    mask = np.array([False, True, False, True])
    after, _ = envs.reset(options={"reset_mask": mask})
    assert (after[~mask] == obs[~mask]).all() and not (after[mask] == obs[mask]).all(1).any()
    for bad in (np.zeros(4, bool), np.ones(3, bool), np.ones(4)):
        with pytest.raises(EnvironmentFault, match="reset_mask"):
            envs.reset(options={"reset_mask": bad})


# Randomness


@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_a_dream_is_a_function_of_its_seed_alone(posterior):
    world = model(posterior=posterior)
    env = DreamVectorEnv(world, 5, autoreset_mode="SameStep", horizon=6, seed=1)
    other = DreamVectorEnv(world, 5, autoreset_mode="SameStep", horizon=6, seed=99)
    env.reset(seed=7)
    first = play(env)
    torch.rand(13)  # what others draw does not matter
    other.reset(seed=7)
    assert (play(other) == first).all()
    env.reset(seed=8)
    assert not (play(env) == first).all()
    env.reset(seed=[7, 8, 9, 10, 11])
    listed = play(env)
    env.reset(seed=[7, 8, 9, 10, 12])
    assert not (play(env) == listed).all()


def test_a_dream_leaves_the_global_generator_alone():
    world = model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    env = DreamVecEnv(world, 4, seed=0)
    env.reset()
    env.step(np.zeros(4, int))
    assert (torch.rand(3) == expected).all()


def test_stable_baselines_seeds_it():
    env = DreamVecEnv(model(), 4, horizon=5)
    said = []
    for seed in (3, 3, 4):
        env.seed(seed)
        first = env.reset()
        said.append(np.concatenate([first, *(env.step(np.zeros(4, int))[0] for _ in range(8))]))
    assert (said[0] == said[1]).all() and not (said[0] == said[2]).all()


# What happens


def test_a_dream_of_a_known_linear_system_is_that_system():
    env = DreamVecEnv(linear_model(), 6, horizon=None)
    z = np.repeat(START.numpy()[None], 6, 0)
    assert (env.reset()[:, -2:] == z).all()
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(200):
        action = rng.uniform(-1, 1, (6, 1)).astype(np.float32)
        action[:3] = 1.0  # pushed until they leave
        obs, reward, done, infos = env.step(action)
        z, expected, goes_on = (value.numpy() for value in advance(torch.from_numpy(z), torch.from_numpy(action)))
        np.testing.assert_allclose(reward, expected, rtol=1e-5)
        assert (done == (goes_on == 0)).all()
        for i in np.flatnonzero(done):
            np.testing.assert_allclose(infos[i]["terminal_observation"][-2:], z[i], rtol=1e-5)
            assert infos[i]["TimeLimit.truncated"] is False
            z[i] = START.numpy()
        np.testing.assert_allclose(obs[:, -2:], z, rtol=1e-4, atol=1e-5)
        ends += int(done.sum())
    assert ends > 5


def test_a_policy_trained_in_the_dream_of_a_perfect_model_is_the_one_trained_in_the_environment():
    def train(env):
        agent = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=4, seed=0, device="cpu")
        agent.learn(1024)
        return agent

    dreamt = train(DreamVecEnv(linear_model(), 4, horizon=16, observation="decoded"))
    real = train(DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(Linear(), 16)] * 4))
    untrained = PPO("MlpPolicy", DummyVecEnv([Linear]), seed=0, device="cpu")
    moved = 0.0
    for own, other, start in zip(
        dreamt.policy.parameters(), real.policy.parameters(), untrained.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
        moved = max(moved, float((own - start).detach().abs().max()))
    assert moved > 0.01  # they have learned something to agree on


def test_ends_are_drawn_from_the_continuation_head():
    world = model()
    torch.nn.init.zeros_(world.continuation.net[-1].weight)
    torch.nn.init.constant_(world.continuation.net[-1].bias, 2.0)
    dreams = Dreams(world, 20_000, horizon=None, seed=0)
    step = dreams.step(torch.nn.functional.one_hot(torch.zeros(20_000, dtype=torch.long), 4).float())
    assert step.terminated.float().mean() == pytest.approx(1 - float(torch.sigmoid(torch.tensor(2.0))), abs=0.01)
    assert not step.truncated.any()


def test_a_bonus_is_added_with_its_weight():
    def tiredness(rollout):
        assert rollout.reward.shape == (3, 1) and rollout.states.z.shape[:2] == (3, 2)
        return rollout.action.square().sum(-1)

    action = np.array([[0.5], [1.0], [0.0]], np.float32)
    rewards = []
    for weight in (0.0, -2.0):
        env = DreamVecEnv(linear_model(), 3, bonus=tiredness, bonus_weight=weight)
        env.reset()
        _, reward, _, infos = env.step(action)
        rewards.append(reward)
        assert [info["bonus"] for info in infos] == [0.25, 1.0, 0.0]
    np.testing.assert_allclose(rewards[1], rewards[0] - 2 * action[:, 0] ** 2, rtol=1e-6)


def test_starts_are_those_given():
    z = torch.tensor([[0.5, 0.25], [2.0, -1.0]])
    starts = State(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), z)
    obs = DreamVecEnv(linear_model(), 500, starts=starts, seed=0).reset()
    rows = {tuple(row) for row in obs.tolist()}
    assert rows == {(1.0, 2.0, 3.0, 0.5, 0.25), (4.0, 5.0, 6.0, 2.0, -1.0)}


def test_starts_from_replay_are_posterior_states_of_the_run(run):
    world, replay = load_world_model(run), load_replay(run)
    starts = replay_starts(world, replay, 300, seed=0)
    env = DreamVecEnv(run=run, num_envs=50, starts="replay", observation="decoded", seed=0)
    assert 200 < len(starts.z) < 400
    seen = np.concatenate([episode["obs"]["obs"] for episode in replay.iter_episodes()])
    shown = env.reset()
    assert shown.shape == (50, 4) and np.isfinite(shown).all()
    assert not np.allclose(shown[0], shown[1]) and np.abs(shown).max() < 10 * np.abs(seen).max()


def test_no_start_is_the_end_of_an_episode():
    from tests.contracts.tools import window

    batch = window(ends=(3, 3), first=(True, True))
    assert not (batch.alive[:, 1:] & batch.terminated).any() and batch.alive.sum() == batch.alive.numel() - 1
    batch = window(ends=(0, None), first=(False, False))
    assert not batch.alive[0, 0]


def test_a_flow_dreams_and_decodes_too():
    world = small_model(small_options(encoder="flow", temporal_prior="recurrent"), OBS["vector"])
    env = DreamVecEnv(world, 3, observation="decoded", seed=0)
    assert env.reset().shape == (3, 3) and np.isfinite(env.step(np.zeros(3, int))[0]).all()


def test_frames_are_the_decoded_observation():
    env = DreamVecEnv(model("rgb 17x23"), 3, observation="decoded", seed=0)
    obs = env.reset()
    frames = env.get_images()
    off = np.abs(np.stack(frames).astype(int) - obs)  # both are decoded, one of them may round the other way
    assert off.max() <= 1 and env.render("rgb_array").shape[-1] == 3
    assert DreamEnv(model(), seed=0).render() is None
    bars = DreamEnv(model(), seed=0, render_mode="rgb_array").render()
    assert bars.dtype == np.uint8 and bars.shape == (36, 192, 3) and len(np.unique(bars.reshape(-1, 3), axis=0)) > 2


def test_training_logs_see_returns_and_evaluate_policy_runs():
    env = DreamVecEnv(linear_model(), 4, horizon=8)
    agent = PPO("MlpPolicy", env, n_steps=16, seed=0, device="cpu")
    agent.learn(64)
    assert len(agent.ep_info_buffer) == 8 and {info["l"] for info in agent.ep_info_buffer} == {8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=4)
    assert np.isfinite(mean)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"starts": "anywhere"}, "starts: expected prior or replay, got 'anywhere'"),
        ({"starts": "replay"}, "starts='replay' needs the experience of a run"),
        ({"quantile": 0.9}, "quantile needs the experience of a run"),
        ({"observation": "pixels"}, "observation: expected features or decoded, got 'pixels'"),
        ({"horizon": 0}, "at least one copy and one step"),
        ({"horizont": 5}, "a dream has no horizont; it has run, horizon"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DreamVecEnv(model(), 2, **settings)


def test_what_is_no_world_model_is_refused():
    with pytest.raises(ConfigError, match="expected a world model, an agent or run=PATH, got Linear"):
        DreamEnv(Linear())
    with pytest.raises(ConfigError, match="got nothing: pass one, such as run='runs/mine'"):
        DreamEnv()
    with pytest.raises(ConfigError, match="drawn as rgb_array, got 'human'"):
        DreamEnv(model(), render_mode="human")


def test_dreams_are_truncated_where_uncertainty_passes_the_quantile_of_the_data(tmp_path):
    folder = train_tiny(tmp_path / "run", "world_model.ensemble.members=3")
    world, replay = load_world_model(folder), load_replay(folder)
    limit = epistemic_quantile(world, replay, 0.5, count=2000, seed=0)
    wide = epistemic_quantile(world, replay, 0.9, count=2000, seed=0)
    assert 0 < limit < wide
    starts = replay_starts(world, replay, 500, seed=0)
    dreams = Dreams(world, 400, horizon=None, starts=starts, epistemic_limit=limit, seed=0)
    step = dreams.step(torch.nn.functional.one_hot(torch.zeros(400, dtype=torch.long), 2).float())
    passed = step.details["epistemic"] > limit
    assert (step.truncated == (passed & ~step.terminated)).all() and 0.2 < passed.float().mean() < 0.8
    env = DreamVecEnv(run=folder, num_envs=8, quantile=0.5, seed=0)
    env.reset()
    _, _, _, infos = env.step(np.zeros(8, int))
    assert all(np.isfinite(info["epistemic"]) and np.isfinite(info["aleatoric"]) for info in infos)


def test_truncation_by_uncertainty_needs_an_ensemble():
    world = small_model(small_options(ensemble=EnsembleOptions(members=0)))
    with pytest.raises(ConfigError, match="needs a world model with an ensemble"):
        Dreams(world, 2, horizon=None, epistemic_limit=1.0, seed=0)
    env = DreamVecEnv(world, 1)
    env.reset()
    assert "epistemic" not in env.step(np.zeros(1, int))[3][0]
    asked, not_asked = DreamVecEnv(model(), 1), DreamVecEnv(model(), 1, uncertainty=False)
    details = []
    for env in (asked, not_asked):
        env.reset()
        details.append(
            set(env.step(np.zeros(1, int))[3][0]) - {"terminal_observation", "TimeLimit.truncated", "episode"}
        )
    assert details[0] - details[1] == {"epistemic"}


def test_actions_outside_the_space_are_refused():
    env = DreamVecEnv(model(action="multi_discrete"), 2)
    env.reset()
    with pytest.raises(EnvironmentFault, match="outside the action space"):
        env.step(np.array([[0, 3], [0, 0]]))
    with pytest.raises(EnvironmentFault, match="got 3 actions for 2 dreams"):
        env.step(np.zeros((3, 2), int))
    env = DreamVecEnv(linear_model(), 1)
    with pytest.raises(EnvironmentFault, match="not within"):
        env.step(np.array([[np.nan]]))


def test_a_model_that_runs_away_is_said():
    world = model()
    with torch.no_grad():
        world.temporal_prior.head[-1].bias.fill_(float("nan"))
    env = DreamVecEnv(world, 2)
    with pytest.raises(NonFiniteError, match="the dream left the numbers"):
        env.step(np.zeros(2, int))


def test_the_page_about_dreams_does_what_it_shows(run, tmp_path, monkeypatch):
    """Its blocks, one after the other, with a small run and few steps."""
    page = (Path(__file__).parents[2] / "docs" / "dream.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for code in blocks:
        code = code.replace("runs/first", str(run)).replace("100_000", "64").replace("n_steps=32", "n_steps=4")
        exec(compile(code, "dream.md", "exec"), names)
    assert len(blocks) == 4 and names["env"].reset(seed=0)[1]["physics"] == {"gravity": 1.5}
    assert names["action"] in (0, 1)


@pytest.mark.slow
def test_the_example_of_the_readme_runs_as_printed(tmp_path, monkeypatch, capsys):
    """A run of CartPole's preset, then the page's own lines: PPO learns in the dream and acts in reality."""
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        if "DreamVecEnv" in block
    ]
    monkeypatch.chdir(tmp_path)
    Agent.train("cartpole", steps=3_000, run="runs/quickstart", evaluation__every=0, evaluation__final_episodes=1)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    mean = float(capsys.readouterr().out.strip().split()[-4].rstrip(","))
    assert mean > 150  # chance: 22
