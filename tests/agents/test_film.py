"""Dreams beside reality: the right action at the right step, bands that hold, films that play."""

import subprocess
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from agents import panels
from agents.dream import SAMPLES, Recording, dream, record
from agents.film import can_render, dream_film, episode_film, gif_bytes, save_video
from agents.panels import dream_frames, to_rgb
from envs.options import EnvOptions
from envs.toy import counting_step
from tests.agents.stubs import CountingAgent
from tests.agents.test_agent import make_agent
from worldmodels.errors import ConfigError
from worldmodels.specs import ObsSpec
from worldmodels.types import Rollout, State

COUNTING = EnvOptions(id="worldmodels/Counting-v0", kwargs={"longest": 60})


def long_seed(steps):
    """A seed whose Counting episode has at least `steps` steps."""
    agent = CountingAgent(COUNTING)
    lengths = ((seed, len(record(agent, COUNTING, steps=99, seed=seed, draw=False))) for seed in range(1000))
    return next(seed for seed, length in lengths if length >= steps)


class Physics(torch.nn.Module):
    """A world model that knows the physics of Counting: its latent is the observation, its context is unused."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.device, self.noise, self.seen = torch.device("cpu"), noise, []

    def filter(self, state, action, obs, is_first, *, sample):
        assert not sample
        assert is_first.tolist() == [not self.seen]
        if self.seen:
            after, _ = counting_step(state.z[0].numpy(), int(action.argmax()))
            np.testing.assert_array_equal(obs["obs"][0].numpy(), after)
        self.seen.append(obs["obs"])
        return State(torch.zeros(1, 1), obs["obs"])

    def imagine(self, state, plan, horizon, *, uncertainty):
        assert plan.shape[:2] == (len(state.z), horizon)
        z, rewards = [state.z], []
        for t in range(horizon):
            steps = [counting_step(o.numpy(), int(a.argmax())) for o, a in zip(z[-1], plan[:, t], strict=True)]
            z.append(torch.from_numpy(np.stack([obs for obs, _ in steps])))
            rewards.append(torch.tensor([reward for _, reward in steps]))
        z = torch.stack(z, 1)
        z = z + self.noise * torch.randn_like(z)
        entropy = torch.arange(horizon).float().expand(len(state.z), horizon)
        return Rollout(State(torch.zeros(*z.shape[:2], 1), z), plan, torch.stack(rewards, 1), entropy, entropy)

    def decode(self, states):
        return {"obs": SimpleNamespace(mode=states.z)}


@pytest.mark.parametrize("context", [1, 2, 5, 16, 29, 30, 500])
def test_a_perfect_model_dreams_what_happens(context):
    agent, seed = CountingAgent(COUNTING), long_seed(30)
    recording = record(agent, COUNTING, steps=30, seed=seed, draw=False)
    model = Physics()
    dreamt = dream(model, agent.obs_specs, recording, context=context, seed=0)
    seen = min(context, 30)
    assert dreamt.context == seen
    np.testing.assert_array_equal(dreamt.obs["obs"], recording.obs["obs"])
    np.testing.assert_array_equal(dreamt.reward[seen - 1 :], recording.reward[seen - 1 :])
    np.testing.assert_array_equal(dreamt.low["obs"][seen:], recording.obs["obs"][seen:])
    assert np.isnan(dreamt.reward[: seen - 1]).all() and np.isnan(dreamt.low["obs"][:seen]).all()
    np.testing.assert_array_equal(dreamt.aleatoric[seen - 1 :], np.arange(30 - seen + 1))
    assert len(model.seen) == seen  # what comes later is never shown


def test_the_band_holds_nine_tenths_of_the_dreams():
    agent = CountingAgent(COUNTING)
    recording = record(agent, COUNTING, steps=20, seed=long_seed(20), draw=False)
    dreamt = dream(Physics(noise=2.0), agent.obs_specs, recording, context=4, seed=0)
    width = (dreamt.high["obs"] - dreamt.low["obs"])[4:]
    assert abs(width.mean() / (2 * 1.645 * 2.0) - 1) < 0.15  # Gaussian quantiles from SAMPLES draws
    again = dream(Physics(noise=2.0), agent.obs_specs, recording, context=4, seed=0)
    np.testing.assert_array_equal(dreamt.high["obs"], again.high["obs"])
    assert SAMPLES >= 20


def test_recording_is_aligned_and_ends_with_the_episode():
    agent = CountingAgent()
    recording = record(agent, EnvOptions(id="worldmodels/Counting-v0"), steps=50, seed=7, draw=False)
    obs = recording.obs["obs"]
    for (before, after), action, reward in zip(pairwise(obs), recording.action, recording.reward, strict=True):
        expected, value = counting_step(before, int(action.argmax()))
        np.testing.assert_array_equal(after, expected)
        assert reward == value
    assert len(recording) < 50 and len(obs) == len(recording) + 1


def test_a_film_of_numbers_shows_picture_and_curves():
    agent = CountingAgent(EnvOptions(id="CartPole-v1"))
    agent.world_model = Physics()
    agent.world_model.imagine = lambda state, plan, horizon, uncertainty: Rollout(
        State(state.context[:, None].expand(-1, horizon + 1, -1), state.z[:, None].expand(-1, horizon + 1, -1)),
        plan, torch.ones(SAMPLES, horizon), torch.ones(SAMPLES, horizon), torch.ones(SAMPLES, horizon),
        torch.full((SAMPLES, horizon), 2.0),
    )  # fmt: skip
    agent.world_model.filter = lambda state, action, obs, is_first, sample: State(torch.zeros(1, 1), obs["obs"])
    frames = dream_film(agent, context=4, horizon=6, seed=0)
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    assert 2 < len(frames) <= 10
    changed = (frames[0] != frames[-1]).any(-1)
    assert changed[:, : frames.shape[2] // 3].any(), "the environment's picture stands still"
    assert changed[:, frames.shape[2] // 2 :].any(), "the cursor stands still"


def test_an_environment_that_cannot_be_drawn_is_filmed_as_curves():
    agent = CountingAgent(COUNTING)
    agent.world_model = Physics()
    assert not can_render(COUNTING)
    assert can_render(EnvOptions(id="CartPole-v1"))
    frames = dream_film(agent, context=4, horizon=10, seed=long_seed(20))
    assert len(frames) == 14
    assert (frames[0] != frames[-1]).any()


def test_an_episode_of_one_step_is_a_film_of_two_frames():
    options = EnvOptions(id="worldmodels/Counting-v0", kwargs={"longest": 1})
    agent = CountingAgent(options)
    agent.world_model = Physics()
    assert len(dream_film(agent, seed=3)) == 2


def test_an_episode_without_a_step_is_refused():
    options = EnvOptions(
        id="worldmodels/Faulty-v0", kwargs={"fault": "nan_obs", "at": 1, "length": 5}, non_finite="truncate"
    )
    agent = CountingAgent(options)
    agent.world_model = Physics()
    with pytest.raises(ConfigError, match="seed 3 has no step"):
        dream_film(agent, seed=3)


def test_image_tasks_show_reality_dream_and_difference():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, size=(9, 16, 16, 3)).astype(np.uint8)
    agent = CountingAgent(COUNTING)
    recording = record(agent, COUNTING, steps=8, seed=long_seed(20), draw=False)
    dreamt = dream(Physics(), agent.obs_specs, recording, context=4, seed=0)
    specs = {"image": ObsSpec("image", (16, 16, 3))}
    same = replace(dreamt, recording=replace(recording, obs={"image": truth}), obs={"image": truth}, low={}, high={})
    other = replace(same, obs={"image": 255 - truth})
    alike, unlike = (dream_frames(value, specs, title="x")[5] for value in (same, other))
    right = slice(alike.shape[1] * 7 // 10, alike.shape[1] * 9 // 10)
    assert (alike[150:300, right] == 0).all(), "equal pictures have a black difference"
    assert (unlike[150:300, right] > 0).any()
    np.testing.assert_array_equal(alike[150:300, 50:250], unlike[150:300, 50:250])  # reality


def test_every_number_of_channels_becomes_a_colour():
    grey = np.full((2, 4, 4, 1), 7, np.uint8)
    assert (to_rgb(grey) == 7).all() and to_rgb(grey).shape == (2, 4, 4, 3)
    colour = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.testing.assert_array_equal(to_rgb(colour), colour)
    np.testing.assert_array_equal(to_rgb(np.concatenate([colour * 0, colour], -1), frame_stack=2), colour)
    planes = np.zeros((2, 4, 4, 10), np.uint8)
    planes[0, 0, 0, 4] = planes[0, 0, 1, 5] = 255
    picture = to_rgb(planes)
    assert picture[0, 0, 0].any() and picture[0, 0, 1].any()
    assert (picture[0, 0, 0] != picture[0, 0, 1]).any() and not picture[1].any()


@pytest.mark.parametrize("size", [(64, 64), (63, 51), (20, 33)])
def test_an_mp4_plays_and_has_every_frame(tmp_path, size):
    frames = np.zeros((12, *size, 3), np.uint8)
    frames[6:] = 220
    path = save_video(tmp_path / "film.mp4", frames, fps=10)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    height, width = (side + side % 2 for side in size)
    pictures = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, height, width, 3)
    assert len(pictures) == 12
    assert b" 10 fps" in decoded.stderr
    assert pictures[3].mean() < 20 and pictures[9].mean() > 200


def test_a_gif_moves(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, size=(4, 24, 24, 3)).astype(np.uint8)
    path = save_video(tmp_path / "film.gif", frames, fps=10)
    assert path.read_bytes() == gif_bytes(frames, fps=10)
    with Image.open(path) as image:
        assert image.n_frames == 4 and image.info["duration"] == 100


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        save_video(tmp_path / "film.avi", np.zeros((2, 8, 8, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_episode_is_filmed_from_reset_to_end_with_its_return():
    frames = episode_film(CountingAgent(EnvOptions(id="CartPole-v1")), seed=0)
    again = episode_film(CountingAgent(EnvOptions(id="CartPole-v1")), seed=0, steps=3)
    assert len(again) == 4 and len(frames) > 5
    right = frames.shape[2] // 2
    assert (frames[0] != frames[-1])[:, :right].any(), "the environment's picture stands still"
    assert (frames[0] != frames[-1])[:, right:].any(), "the curves stand still"


def test_an_episode_that_cannot_be_drawn_is_filmed_as_curves():
    frames = episode_film(CountingAgent(COUNTING), seed=long_seed(10), steps=10)
    assert len(frames) == 11 and (frames[0] != frames[-1]).any()


def test_a_recorded_step_has_the_uncertainty_of_the_state_that_it_was_taken_in(monkeypatch):
    """The ensemble is asked about the state and the action that acting has just remembered."""
    agent = make_agent("Pendulum-v1")
    own, asked = agent.act, []

    def act(*arguments, **options):
        action, carry = own(*arguments, **options)
        asked.append(agent.world_model.uncertainty(carry.state, carry.action))
        return action, carry

    monkeypatch.setattr(agent, "act", act)
    recording = record(agent, agent.env_options, steps=4, seed=0, draw=False, ask=True)
    np.testing.assert_array_equal(recording.epistemic, [float(said.epistemic) for said in asked])
    np.testing.assert_array_equal(recording.aleatoric, [float(said.aleatoric) for said in asked])
    assert record(agent, agent.env_options, steps=4, seed=0, draw=False).epistemic is None
    agent.world_model.ensemble = None
    monkeypatch.setattr(agent, "act", own)
    assert record(agent, agent.env_options, steps=4, seed=0, draw=False, ask=True).epistemic is None


def test_what_is_drawn_into_an_episode_is_its_return_and_its_uncertainty(monkeypatch):
    rows = []
    monkeypatch.setattr(panels, "_film", lambda head, pictures, curves, count: rows.extend([head, *curves]))
    reward, zero = np.float32([1.0, 2.0, 4.0]), np.zeros(3, np.float32)
    recording = Recording({}, np.zeros((3, 1), np.float32), reward, None, zero + 0.5, zero - 1.0)
    panels.episode_frames(recording, title="x")
    head, *curves = rows
    assert head == "x: return 7.00 in 3 steps"
    assert [label for label, _ in curves] == ["return", "reward", "uncertainty\n(nats)"]
    lines = []
    for _, draw in curves:
        axis = Figure().add_subplot()
        draw(axis)
        lines += [line.get_ydata().tolist() for line in axis.lines]
    assert lines == [[1, 3, 7], [1, 2, 4], [-1, -1, -1], [0.5, 0.5, 0.5]]
    rows.clear()
    panels.episode_frames(replace(recording, epistemic=None, aleatoric=None), title="x")
    assert [label for label, _ in rows[1:]] == ["return", "reward"]
