"""Returns against sums written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.returns import lambda_return, percentile_range, visit_weights


def slow_lambda_return(reward, discount, value, lambda_, t):
    """The mixture of all n-step returns from step t, with weights (1 - lambda) lambda^(n - 1) and the rest on the last.

    reward[k], discount[k] belong to the step from s_k to s_{k+1}; value[k] to s_{k+1}.
    """
    last, total = len(reward), 0.0
    for n in range(1, last - t + 1):
        ret, weight = 0.0, 1.0
        for k in range(t, t + n):
            ret += weight * reward[k]
            weight *= discount[k]
        ret += weight * value[t + n - 1]
        total += ret * (lambda_ ** (n - 1)) * (1 - lambda_ if t + n < last else 1.0)
    return total


@given(st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.95, 1.0]), st.integers(0, 10_000))
def test_trap_lambda_return_is_the_mixture_of_n_step_returns_without_a_shift(steps, lambda_, seed):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, steps)), rng.normal(size=(2, steps))
    discount = rng.uniform(0, 1, (2, steps)) * (rng.uniform(size=(2, steps)) > 0.2)
    found = lambda_return(*(torch.from_numpy(x) for x in (reward, discount, value)), lambda_)
    expected = [
        [slow_lambda_return(reward[b], discount[b], value[b], lambda_, t) for t in range(steps)] for b in range(2)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_trap_bootstrap_is_from_the_state_reached_and_stops_where_the_episode_does():
    reward = torch.tensor([[1.0, 1.0, 1.0]])
    value = torch.tensor([[10.0, 20.0, 40.0]])  # of s_1, s_2, s_3
    go_on = torch.full((1, 3), 0.5)
    assert lambda_return(reward, go_on, value, 0.0).tolist() == [[6.0, 11.0, 21.0]]
    assert lambda_return(reward, go_on, value, 1.0).tolist() == [[1 + 0.5 + 0.25 + 5, 1 + 0.5 + 10, 21]]
    dies = torch.tensor([[0.5, 0.0, 0.5]])  # s_2 is terminal
    assert lambda_return(reward, dies, value, 1.0).tolist() == [[1.5, 1.0, 21.0]]


@pytest.mark.parametrize("gamma", [0.9, 0.997])
def test_constant_reward_with_its_own_value_is_a_fixed_point(gamma):
    fixed = 1 / (1 - gamma)
    ones = torch.ones(2, 50, dtype=torch.float64)
    found = lambda_return(ones, gamma * ones, fixed * ones, 0.95)
    torch.testing.assert_close(found, fixed * ones)


def test_gradient_reaches_rewards_discounts_and_values():
    leaves = [torch.rand(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda r, d, v: lambda_return(r, d, v, 0.8), leaves)


def test_visit_weights_are_the_product_of_the_discounts_before():
    discount = torch.tensor([[0.9, 0.5, 0.0, 0.7]])
    torch.testing.assert_close(visit_weights(discount), torch.tensor([[1.0, 0.9, 0.45, 0.0]]))


def test_percentile_range_is_numpys_and_ignores_outliers():
    values = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    low, high = np.quantile(values.numpy(), [0.05, 0.95])
    assert percentile_range(values).item() == pytest.approx(high - low, rel=1e-5)
    values[0, 0] = 1e9
    assert percentile_range(values).item() < 5
