"""Exported policies of Stable-Baselines3: the same actions after loading, measured by `wm evaluate`, and no pickle."""

import json
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.cli import main
from agents.evaluate import evaluate
from agents.sb3 import SETTINGS, WEIGHTS, export, load_policy
from envs import DreamVecEnv, EnvOptions, LatentObservation
from envs.spaces import encode_obs
from tests.contracts.tools import small_model, small_options
from tests.envs.tools import Scripted
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.specs import ActionSpec, ObsSpec

ALGORITHMS = {"PPO": PPO, "A2C": A2C, "DQN": DQN, "SAC": SAC, "TD3": TD3}
SPACES = {
    "discrete": ("MlpPolicy", spaces.Discrete(5)),
    "multi_discrete": ("MlpPolicy", spaces.MultiDiscrete([3, 4])),
    "channels first": ("CnnPolicy", spaces.Box(0, 255, (3, 40, 36), np.uint8)),
    "channels last": ("CnnPolicy", spaces.Box(0, 255, (40, 36, 3), np.uint8)),
    "dict": (
        "MultiInputPolicy",
        spaces.Dict(
            {"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Discrete(3), "c": spaces.Box(-1, 1, (2, 2))}
        ),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(name):
    env = "Pendulum-v1" if name in ("SAC", "TD3") else "CartPole-v1"
    return ALGORITHMS[name]("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, device="cpu", seed=0), env


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_loaded_policy_does_what_the_model_did(name, tmp_path):
    model, env_id = made(name)
    policy = load_policy(export(model, tmp_path / "policy"))
    env = gymnasium.make(env_id)
    obs = np.stack([env.observation_space.sample() for _ in range(8)]).clip(-5, 5)
    assert np.array_equal(policy.predict(obs)[0], model.predict(obs, deterministic=True)[0])
    assert np.array_equal(policy.predict(obs[0])[0], model.predict(obs[0], deterministic=True)[0])
    assert policy.env_id == env_id and policy.train_steps == 0
    encoded = {"obs": obs}
    actions, _ = policy.act(encoded, None, np.zeros(8, bool), deterministic=True)
    assert actions.shape == (8, policy.action_spec.size)


@pytest.mark.parametrize("name", SPACES)
def test_observations_of_every_kind_reach_the_policy_as_the_library_gives_them(name, tmp_path):
    kind, space = SPACES[name]
    model = PPO(kind, DummyVecEnv([lambda: Scripted(space)]), n_steps=2, batch_size=2, device="cpu", seed=0)
    policy = load_policy(export(model, tmp_path / "policy"))
    rows = [space.sample() for _ in range(6)]
    encoded = [encode_obs(space, row) for row in rows]
    stacked = {key: np.stack([row[key] for row in encoded]) for key in encoded[0]}
    actions, _ = policy.act(stacked, None, np.zeros(6, bool), deterministic=True)
    expected = [model.predict(row, deterministic=True)[0] for row in rows]
    assert actions.argmax(-1).tolist() == [int(action) for action in expected]


def test_the_statistics_of_vecnormalize_travel_with_it(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu", seed=0).learn(128)
    policy = load_policy(export(model, tmp_path / "policy"))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(policy.predict(obs)[0], model.predict(env.normalize_obs(obs), deterministic=True)[0])
    assert not np.array_equal(policy.predict(obs)[0], model.predict(obs, deterministic=True)[0])
    assert policy.train_steps == 128


def test_wm_evaluate_measures_it(tmp_path, capsys):
    model, _ = made("PPO")
    folder = export(model, tmp_path / "policy")
    assert main(["evaluate", str(folder), "--episodes", "3", "--seed", "5", "--json", str(tmp_path / "e.json")]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    by_hand = []
    env = gymnasium.make("CartPole-v1")
    for seed in (5, 6, 7):
        obs, total, over = env.reset(seed=seed)[0], 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(int(model.predict(obs, deterministic=True)[0]))
            total, over = total + float(reward), terminated or truncated
        by_hand.append(total)
    assert found["returns"] == by_hand and found["env_id"] == "CartPole-v1"
    assert main(["evaluate", str(folder), "--env", "Pendulum-v1", "--episodes", "1"]) == 2
    assert "the agent was trained with" in capsys.readouterr().err


def test_a_policy_of_the_dream_is_exported_and_acts_in_the_environment(tmp_path):
    world = small_model(small_options(), {"obs": ObsSpec("vector", (4,))}, ActionSpec("discrete", (2,)))
    model = PPO("MlpPolicy", DreamVecEnv(world, 4, horizon=8), n_steps=8, batch_size=16, device="cpu", seed=0).learn(32)
    policy = load_policy(export(model, tmp_path / "policy"))
    assert policy.env_id is None
    env = LatentObservation(gymnasium.make("CartPole-v1"), world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mean, _ = evaluate_policy(policy, env, n_eval_episodes=2)
    assert mean > 0
    assert main(["evaluate", str(tmp_path / "policy")]) == 2


def test_stochastic_actions_follow_the_seed(tmp_path):
    model, env_id = made("PPO")
    policy = load_policy(export(model, tmp_path / "policy"))
    runs = [
        evaluate(policy, EnvOptions(id=env_id), episodes=4, seed=seed, num_envs=2, deterministic=False).returns
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_nothing_in_the_folder_is_code_and_damage_is_said(tmp_path):
    model, _ = made("PPO")
    folder = export(model, tmp_path / "policy")
    assert sorted(path.name for path in folder.iterdir()) == [SETTINGS, WEIGHTS]
    with pytest.raises(CheckpointError, match="exists already"):
        export(model, folder)
    settings = json.loads((folder / SETTINGS).read_text())
    for key, value, message in (
        ("policy", "os.system", "names what this version does not know"),
        ("format", "other", "not an exported policy of the format"),
        ("observation_space", {"kind": "os.system"}, "names what this version does not know"),
        ("arguments", settings["arguments"] | {"activation_fn": "eval"}, "names what this version does not know"),
    ):
        (folder / SETTINGS).write_text(json.dumps(settings | {key: value}))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            load_policy(folder)
    (folder / SETTINGS).write_text(json.dumps(settings))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(folder)
    with pytest.raises(CheckpointError, match="policy.json is missing"):
        load_policy(tmp_path)


def test_what_cannot_be_rebuilt_is_refused(tmp_path):
    class Odd(torch.nn.Tanh):
        pass

    with pytest.raises(ConfigError, match="activation_fn is Odd, expected one of Tanh"):
        export(PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": Odd}, device="cpu"), tmp_path / "a")
    with pytest.raises(ConfigError, match="use_sde"):
        export(PPO("MlpPolicy", "Pendulum-v1", use_sde=True, device="cpu"), tmp_path / "b")
    assert not (tmp_path / "a").exists()
