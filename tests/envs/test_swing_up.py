"""The cart-pole of PILCO against mechanics that were written down another way, and against gymnasium's checker."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.integrate import solve_ivp

from envs.make import make_env
from envs.options import EnvOptions
from envs.swing_up import CART, GRAVITY, LENGTH, POLE, CartPoleSwingUp, swing_up_rates, swing_up_reward

STATE = np.array([0.3, -0.8, 2.1, 1.7])


def points_of_the_rod(state, count=2_001):
    """Places and velocities (count, 2) of the rod's pieces, by its geometry alone."""
    x, speed, theta, turn = state
    s = (np.arange(count) + 0.5)[:, None] / count * LENGTH
    place = np.array([x, 0]) + s * np.array([-np.sin(theta), np.cos(theta)])
    velocity = np.array([speed, 0]) + s * turn * np.array([-np.cos(theta), -np.sin(theta)])
    return place, velocity


def energy(state):
    """Kinetic and potential energy in J, summed over the pieces."""
    place, velocity = points_of_the_rod(state)
    pieces = 0.5 * (velocity**2).sum(1) + GRAVITY * place[:, 1]
    return 0.5 * CART * state[1] ** 2 + POLE * pieces.mean()


def roll(state, seconds, force, friction):
    found = solve_ivp(lambda _, y: swing_up_rates(y, force, friction), (0, seconds), state, rtol=1e-10, atol=1e-10)
    return found.y.T, found.t


def test_without_friction_and_force_the_energy_stays():
    states, _ = roll(STATE, 5.0, 0.0, 0.0)
    values = [energy(state) for state in states]
    assert np.ptp([state[2] for state in states]) > 1, "it has to move"
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_force_and_friction_give_the_energy_that_they_work():
    """dE/dt = (force - friction x') x', by finite differences along the exact motion."""
    step = 1e-5
    for force in (-10.0, 0.0, 4.0):
        for state in (STATE, np.array([0.0, 1.5, 0.4, -3.0])):
            rate = swing_up_rates(state, force, 0.1)
            gained = (energy(state + step * rate) - energy(state - step * rate)) / (2 * step)
            assert gained == pytest.approx((force - 0.1 * state[1]) * state[1], abs=1e-4)


def test_without_a_force_from_outside_the_momentum_stays():
    states, _ = roll(STATE, 3.0, 0.0, 0.0)
    momenta = [CART * state[1] + POLE * points_of_the_rod(state)[1][:, 0].mean() for state in states]
    np.testing.assert_allclose(momenta, momenta[0], atol=1e-7)


def test_short_steps_of_the_environment_are_the_exact_motion():
    env = CartPoleSwingUp(step_s=1e-4)
    env.reset(seed=1)
    env._state = STATE.copy()
    for _ in range(5_000):
        obs, *_ = env.step(np.array([0.5], np.float32))
    x, speed, theta, turn = roll(STATE, 0.5, 5.0, 0.1)[0][-1]
    np.testing.assert_allclose(obs, [x, speed, np.sin(theta), np.cos(theta), turn], atol=5e-3)


def test_a_step_is_one_of_eulers_and_forces_are_limited():
    env = CartPoleSwingUp()
    env.reset(seed=0)
    for action, force in ((0.3, 3.0), (7.0, 10.0)):
        env._state = STATE.copy()
        env.step(np.array([action], np.float32))
        np.testing.assert_allclose(env._state, STATE + 0.1 * swing_up_rates(STATE, force), rtol=1e-5)


def test_only_the_goal_is_free_and_hanging_costs_all():
    assert swing_up_reward(0.0, 0.0) == 0
    assert swing_up_reward(0.0, np.pi) == pytest.approx(-1, abs=1e-4)
    assert swing_up_reward(0.25, 0.0) == pytest.approx(np.exp(-0.5) - 1)
    env = CartPoleSwingUp()
    obs, _ = env.reset(seed=0)
    assert obs[3] == pytest.approx(-1, abs=0.01) and abs(obs[[0, 1, 2, 4]]).max() < 0.1, "it hangs, nearly at rest"


def test_it_passes_the_checker_and_lasts_25_steps():
    check_env(CartPoleSwingUp(), skip_render_check=True)
    make_env(EnvOptions(id="worldmodels/CartPoleSwingUp-v0", strict=True)).close()
    whole = gymnasium.make("worldmodels/CartPoleSwingUp-v0", disable_env_checker=True)
    whole.reset(seed=0)
    ends = [whole.step(np.zeros(1, np.float32))[2:4] for _ in range(25)]
    assert ends == [(False, False)] * 24 + [(False, True)]


def test_the_observation_stays_within_its_bounds_whatever_is_done():
    bound = CartPoleSwingUp().observation_space.high
    for seed, pattern in enumerate(([1.0], [-1.0], [1.0, -1.0], [1.0] * 3 + [-1.0] * 3, [1.0] * 6 + [-1.0] * 6)):
        env = CartPoleSwingUp()
        env.reset(seed=seed)
        for step in range(25):
            obs, *_ = env.step(np.array([pattern[step % len(pattern)]], np.float32))
            assert (abs(obs) <= bound).all() and env.observation_space.contains(obs)
