"""A bank of filters: the Kalman filter where that is exact, the broken sensor named, ignored and trusted again."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.envs.known import MATRIX, PUSH, START, Point, linear_model
from worldmodels.errors import ConfigError
from worldmodels.sensors import BROAD, SensorBank, correct, log_evidence
from worldmodels.specs import ObsSpec
from worldmodels.types import State

MOTION, READING = 0.03, 0.05
"""Standard deviations of what moves the system and of its sensors."""


class Moved(Point):
    """A latent that is moved by noise: raw parameters are its mean."""

    def sample(self, raw):
        return raw + MOTION * torch.randn_like(raw)


def noisy_model():
    model = linear_model()
    model.family = Moved()
    model.standardizer = lambda name, value: value
    return model


def kalman(readings, actions, variances):
    """The means (T, 2) of the Kalman filter from a known start; variances: of the sensors at each step, (T, 2)."""
    mean, spread, means = START.double(), torch.zeros(2, 2).double(), []
    matrix, push = MATRIX.double(), PUSH.double()
    for seen, action, variance in zip(readings.double(), actions.double(), variances.double(), strict=True):
        mean = matrix @ mean + push @ action
        spread = matrix @ spread @ matrix.T + MOTION**2 * torch.eye(2).double()
        gain = spread @ torch.linalg.inv(spread + variance.diag())
        mean = mean + gain @ (seen - mean)
        spread = (torch.eye(2).double() - gain) @ spread
        means.append(mean)
    return torch.stack(means).float()


def world(steps, seed=0):
    """True states (T, 2), actions (T, 1) and readings (T, 2) of the system."""
    torch.manual_seed(seed)
    z, states, actions = START, [], 0.5 * torch.randn(steps, 1)
    for action in actions:
        z = MATRIX @ z + PUSH @ action + MOTION * torch.randn(2)
        states.append(z)
    truth = torch.stack(states)
    return truth, actions, truth + READING * torch.randn(steps, 2)


def follow(readings, actions, *, particles=64, **settings):
    """What the bank believes after each step: expected (T, 2), ignored (T, 2), probability (T, 3)."""
    bank = SensorBank(noisy_model(), torch.full((2,), READING), particles=particles, **settings)
    bank.begin(State(torch.zeros(1, 3), START[None]))
    said = [bank.step(a[None], {"obs": o[None]}) for a, o in zip(actions, readings, strict=True)]
    expected, ignored = torch.stack([b.expected["obs"] for b in said]), torch.stack([b.ignored for b in said])
    return expected, ignored, torch.stack([b.probability for b in said])


def test_one_correction_is_that_of_kalman_for_many_particles():
    torch.manual_seed(0)
    spread = torch.tensor([[0.5, 0.2], [0.2, 0.3]])
    z = MultivariateNormal(torch.tensor([1.0, -1.0]), spread).sample((200_000,))
    reader, variance, seen = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.1]]), torch.tensor([0.2])
    corrected = correct(z[None], z[None] @ reader.T, seen, variance)
    evidence = log_evidence(z[None] @ reader.T, seen, variance)
    whole = reader @ spread @ reader.T + variance
    gain = spread @ reader.T / whole
    mean = torch.tensor([1.0, -1.0]) + gain[:, 0] * (seen - (reader @ torch.tensor([1.0, -1.0])))
    torch.testing.assert_close(corrected[0].mean(0), mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(corrected[0].T.cov(), spread - gain @ reader @ spread, atol=5e-3, rtol=0)
    expected = MultivariateNormal(reader @ torch.tensor([1.0, -1.0]), whole).log_prob(seen)
    torch.testing.assert_close(evidence[0], expected, atol=1e-2, rtol=0)


def test_with_sound_sensors_the_bank_is_the_kalman_filter():
    _, actions, readings = world(40)
    expected, ignored, probability = follow(readings, actions, particles=4000)
    assert not ignored.any() and (probability[:, 0] > 0.9).all()
    exact = kalman(readings, actions, torch.full((40, 2), READING**2))
    torch.testing.assert_close(expected, exact, atol=5e-3, rtol=0)


def test_without_a_velocity_it_is_the_kalman_filter_of_positions():
    truth, actions, readings = world(90)
    readings[20:, 1] = 3.0  # far from anything that happens
    expected, ignored, _ = follow(readings, actions, particles=4000)
    assert not ignored[:20].any() and (ignored[20:] == torch.tensor([False, True])).all()
    variances = torch.full((90, 2), READING**2)
    variances[20:, 1] = BROAD**2
    exact = kalman(readings, actions, variances)
    torch.testing.assert_close(expected[50:], exact[50:], atol=1e-2, rtol=0)
    assert (expected - truth)[20:, 1].abs().mean() < 0.15 < (readings - truth)[20:, 1].abs().mean()


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("fault", ["drop", "freeze", "offset", "noise"])
def test_the_broken_sensor_is_named_and_heals(broken, fault):
    truth, actions, readings = world(200, seed=1)
    own = readings[30:90, broken]
    readings[30:90, broken] = {
        "drop": torch.zeros(60),
        "freeze": readings[29, broken].expand(60),
        "offset": own + 1.0,
        "noise": own + torch.randn(60),
    }[fault]
    expected, ignored, _ = follow(readings, actions)
    assert not ignored[:30].any() and not ignored[190:].any()
    assert ignored[35:90, broken].float().mean() > 0.8 and ignored[:, 1 - broken].float().mean() < 0.05
    better, worse = (expected - truth)[35:90, broken], (readings - truth)[35:90, broken]
    assert better.square().mean() < 0.5 * worse.square().mean()


def test_a_model_without_vectors_is_refused():
    model = linear_model()
    model.obs_specs = {"picture": ObsSpec("image", (8, 8, 1))}
    with pytest.raises(ConfigError, match="vector observations"):
        SensorBank(model, torch.zeros(0))
