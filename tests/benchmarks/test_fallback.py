"""The fallback benchmark: what the faults are, and what stands around the environment."""

import gymnasium
import numpy as np
import pytest

from benchmarks.fallback import ONSET, faults, watched
from envs import SensorFault
from envs.faults import Reading


@pytest.mark.parametrize(
    ("name", "expected"), [("drop", 0.0), ("freeze", 7.0), ("offset", 5.0), ("miscalibration", 4.5)]
)
def test_faults_are_in_standard_deviations_of_ordinary_episodes(name, expected):
    reading = Reading(np.array([3.0]), np.array([7.0]), 0, np.random.default_rng(0))
    assert faults(2.0)[name](reading) == pytest.approx(expected)


def test_noise_has_the_spread_of_ordinary_episodes():
    rng = np.random.default_rng(0)
    said = [faults(2.0)["noise"](Reading(np.array([3.0]), np.array([7.0]), 0, rng))[0] for _ in range(4000)]
    assert np.mean(said) == pytest.approx(3.0, abs=0.15) and np.std(said) == pytest.approx(2.0, rel=0.05)


def test_without_a_fallback_the_fault_alone_stands_around_the_environment():
    wrap = watched(None, None, "none", faults(2.0)["offset"], 2)
    env, sound = wrap(gymnasium.make("Pendulum-v1")), gymnasium.make("Pendulum-v1")
    assert isinstance(env, SensorFault)
    env.reset(seed=0), sound.reset(seed=0)
    for t in range(1, ONSET + 3):
        apart = env.step(np.ones(1, np.float32))[0] - sound.step(np.ones(1, np.float32))[0]
        np.testing.assert_allclose(apart, [0, 0, 2.0 if t >= ONSET else 0.0], atol=1e-6)
    assert watched(None, None, "none", None, 0)(sound) is sound
