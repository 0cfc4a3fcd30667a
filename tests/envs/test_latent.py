"""Real environments through a world model: the same features as the agent's own filter, alarms, and what they do."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import DreamVecEnv, LatentObservation, SensorFault, UncertaintyInfo
from envs.faults import offset
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options
from tests.envs.known import MATRIX, PUSH, Linear, linear_model
from tests.learning.tools import train_tiny
from worldmodels.errors import ConfigError
from worldmodels.saved import load_replay, load_world_model
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Encoding
from worldmodels.watch import Nominal, Sight, look, nominal_scores

IGNORED = "ignore:.*(infinity|unwrapped version|recommend).*"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("latent") / "run")


@pytest.mark.filterwarnings(IGNORED)
def test_both_checkers_pass(run):
    world = load_world_model(run)
    watchers = [UncertaintyInfo(CartPoleEnv(), run=run, fallback=name) for name in ("none", "imagine", "stop")]
    watchers.append(UncertaintyInfo(CartPoleEnv(), run=run, fallback="safe", safe_action=1))
    for env in (LatentObservation(CartPoleEnv(), world), *watchers):
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env, warn=False)


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.filterwarnings("ignore:.*Box action space.*")
@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_both_checkers_pass_with_continuous_actions(posterior):
    specs = {"obs": ObsSpec("vector", (3,))}
    world = small_model(small_options(posterior), specs, ActionSpec("continuous", (), 1))
    nominal = Nominal(torch.zeros(99), torch.zeros(99), torch.zeros(99, 3))  # whatever is seen raises the alarm
    real = partial(gymnasium.make, "Pendulum-v1")
    watchers = [UncertaintyInfo(real(), world, nominal=nominal, fallback=name) for name in ("none", "imagine")]
    for env in (LatentObservation(real(), world, sample=True), *watchers):
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env, warn=False)


def test_a_reset_says_as_much_as_a_step(run):
    env = UncertaintyInfo(CartPoleEnv(), run=run)
    _, first = env.reset(seed=0)
    *_, after = env.step(0)
    assert first.keys() == after.keys() >= {"epistemic", "epistemic_p"}
    assert (first["epistemic"], first["epistemic_p"]) == (0.0, 1.0)


def test_features_are_those_of_the_agents_own_filter(run):
    world = load_world_model(run)
    env, raw = LatentObservation(gymnasium.make("CartPole-v1"), world), gymnasium.make("CartPole-v1")
    for seed in (3, 4):  # the second episode starts anew
        shown, obs = env.reset(seed=seed)[0], raw.reset(seed=seed)[0]
        state, action, first = None, None, torch.tensor([True])
        for t in range(8):
            state = world.filter(state, action, {"obs": torch.from_numpy(obs)[None]}, first, sample=False)
            assert env.observation_space.contains(shown)
            np.testing.assert_allclose(shown, state.features[0].detach(), rtol=1e-6)
            action, first = torch.nn.functional.one_hot(torch.tensor([t % 2]), 2).float(), torch.tensor([False])
            shown, obs = env.step(t % 2)[0], raw.step(t % 2)[0]


def test_a_policy_of_the_dream_acts_in_the_environment():
    world = small_model(small_options(), {"obs": ObsSpec("vector", (3,))}, ActionSpec("continuous", (), 1))
    agent = PPO("MlpPolicy", DreamVecEnv(world, 4, horizon=8), n_steps=8, batch_size=16, device="cpu", seed=0).learn(32)
    env = LatentObservation(gymnasium.make("Pendulum-v1"), world)
    obs, _ = env.reset(seed=0)
    pushes = []
    env.env.step, step = lambda action: (pushes.append(action), step(action))[1], env.env.step
    env.step(agent.predict(obs)[0])
    env.step(np.array([0.5], np.float32))
    assert pushes[1] == pytest.approx(1.0)  # half of the torque's range


@pytest.mark.parametrize(
    ("specs", "action", "message"),
    [
        (OBS["vector"], ACTIONS["discrete"], "observations are .*4.* trained with"),
        ({"obs": ObsSpec("vector", (4,))}, ACTIONS["discrete"], "actions are .*2.* trained with"),
    ],
)
def test_an_environment_that_is_not_the_models_is_refused(specs, action, message):
    with pytest.raises(ConfigError, match=message):
        LatentObservation(gymnasium.make("CartPole-v1"), small_model(small_options(), specs, action))


# What is unusual


def test_p_values_count_nominal_scores_at_least_as_high():
    nominal = Nominal(torch.tensor([1.0, 2.0, 2.0, 4.0]), None, torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    sight = Sight(torch.tensor([0.0, 2.0, 3.0, 9.0]), None, torch.tensor([[3.0], [0.5], [9.0], [0.0]]), {})
    p = nominal.p_values(sight)
    torch.testing.assert_close(p["surprise"], torch.tensor([5.0, 4.0, 2.0, 1.0]) / 5)
    torch.testing.assert_close(p["residual"], torch.tensor([[2.0], [4.0], [1.0], [5.0]]) / 5)


def test_sights_of_a_window_are_those_seen_one_by_one(run):
    world, replay = load_world_model(run), load_replay(run)
    episode = next(replay.iter_episodes())
    obs = torch.from_numpy(episode["obs"]["obs"])
    state = world.filter(None, None, {"obs": obs[:1]}, torch.tensor([True]), sample=False)
    sight = look(world, state, torch.from_numpy(episode["action"][:1]), {"obs": obs[1:2]})
    context, _ = world.temporal_prior.advance(state, torch.from_numpy(episode["action"][:1]))
    posterior = world.encoder.posterior(world.encoder.tokens({"obs": obs[1:2]}), context)
    expected = world.family.kl(posterior, world.temporal_prior.prior(context))
    torch.testing.assert_close(sight.surprise, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sight.epistemic, world.uncertainty(state, torch.from_numpy(episode["action"][:1])).epistemic
    )


def test_ordinary_steps_raise_the_alarm_as_rarely_as_stated(run):
    world, replay = load_world_model(run), load_replay(run)
    nominal, fresh = (nominal_scores(world, replay, 3000, seed=seed) for seed in (0, 1))
    sight = Sight(fresh.surprise, fresh.epistemic, fresh.residual, {})
    p = nominal.p_values(sight)
    for name in ("surprise", "epistemic"):
        assert (p[name] < 0.1).float().mean() == pytest.approx(0.1, abs=0.05)
    assert len(nominal.surprise) > 1000 and (nominal.residual.diff(dim=0) >= 0).all()


# What an alarm does, where the model is exact


class Encoder:
    """Reads the latent off the observation."""

    def tokens(self, obs):
        return obs["obs"]

    def encode(self, tokens, context=None, *, sample=True):
        return Encoding(tokens, torch.zeros(tokens.shape[:-1]))

    def latent(self, tokens, context=None, *, sample=True):
        return tokens


def tight():
    """Ordinary steps that are foretold to a thousandth."""
    small = torch.linspace(0, 1e-3, 2000)
    return Nominal(small, None, torch.stack([small, small], -1))


def exact_model():
    model = linear_model()
    model.encoder = Encoder()
    model.standardizer = lambda name, value: value
    model.family.log_prob = lambda raw, z: -(z - raw).abs().sum(-1)
    return model


def watched(fault_at=5, **settings):
    env = SensorFault(gymnasium.wrappers.TimeLimit(Linear(), 15), offset(0.5), start=fault_at, dimensions=[0])
    return UncertaintyInfo(env, exact_model(), nominal=tight(), **settings)


def play(env, action=0.1, steps=12):
    obs, info = env.reset(seed=0)
    rows, infos, ends = [obs], [info], []
    for _ in range(steps):
        obs, _, terminated, truncated, info = env.step(np.array([action], np.float32))
        rows.append(obs)
        infos.append(info)
        ends.append(terminated or truncated)
        if ends[-1]:
            break
    return np.stack(rows), infos, ends


def truth(action=0.1, steps=12):
    z, rows = torch.tensor([1.0, 0.0]), [torch.tensor([1.0, 0.0])]
    for _ in range(steps):
        z = z @ MATRIX.T + torch.tensor([action]) @ PUSH.T
        rows.append(z)
    return torch.stack(rows).numpy()


def test_a_faulty_sensor_raises_the_alarm_at_once_and_is_named():
    _, infos, _ = play(watched())
    assert [info["alarm"] for info in infos[:6]] == [False] * 5 + [True]
    assert infos[5]["sensor_p"][0] < 0.001 < infos[5]["sensor_p"][1] and infos[5]["surprise_p"] < 0.001


def test_what_a_faulty_sensor_says_is_replaced_by_what_was_expected():
    shown, infos, _ = play(watched(fallback="imagine"))
    np.testing.assert_allclose(shown, truth(), rtol=1e-4, atol=1e-5)
    assert all(info["alarm"] for info in infos[5:]) and not any(info["alarm"] for info in infos[:5])
    assert [info["ignored"].tolist() for info in infos] == [[False, False]] * 5 + [[True, False]] * 8
    wrong, _, _ = play(watched(fallback="none"))
    assert np.abs(wrong - truth()).max() > 0.4


def test_the_safe_action_is_taken_after_an_alarm():
    safe = np.array([-1.0], np.float32)
    env = watched(fallback="safe", safe_action=safe)
    taken = []
    inner = env.env.env
    inner.step, step = lambda action: (taken.append(float(action[0])), step(action))[1], inner.step
    play(env, steps=8)
    assert taken[:5] == [pytest.approx(0.1)] * 5 and taken[5] == -1.0


def test_the_episode_stops_at_an_alarm():
    shown, infos, ends = play(watched(fallback="stop"))
    assert len(shown) == 6 and ends == [False] * 4 + [True] and infos[-1]["alarm"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fallback": "pray"}, "fallback: expected one of none, imagine, safe, stop, got 'pray'"),
        ({"fallback": "safe"}, "needs a safe_action"),
        ({"nominal": None}, "give run=PATH or nominal=scores"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        UncertaintyInfo(Linear(), exact_model(), **({"nominal": tight()} | settings))
