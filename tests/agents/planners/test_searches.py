"""Every search against known optima: a linear-quadratic system, all plans of a small table, and scores that fail."""

import pytest
import torch

from agents.planners import Objective
from tests.agents.planners.systems import CONTINUOUS, DISCRETE, HORIZON, Linear, Table, nothing, searches
from worldmodels.errors import NonFiniteError
from worldmodels.types import State

X = torch.tensor([[0.4, -0.2], [-0.3, 0.5], [0.0, 0.1]])
EVERY = pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])


def solve(name, family, score, batch):
    torch.manual_seed(0)
    return searches(family)[name](score, family.initial(batch, HORIZON), nothing(family, batch))


@EVERY
def test_linear_quadratic_optimum(name):
    system = Linear()
    score = Objective(system.imagine, 1.0).of(State(X[:, :0], X))
    found = solve(name, CONTINUOUS, score, len(X))
    action, best = system.optimum(X)
    assert action.abs().max() < 0.9  # the range of actions does not bind
    torch.testing.assert_close(found.plan[:, 0], action, atol=0.03, rtol=0)
    torch.testing.assert_close(score(found.plan.unsqueeze(1))[:, 0], best, atol=2e-3, rtol=0)


@EVERY
def test_best_of_all_discrete_plans(name):
    table, start = Table(), torch.arange(5)
    score = table.score(start)
    found = solve(name, DISCRETE, score, 5)
    assert ((found.plan == 0) | (found.plan == 1)).all() and (found.plan.sum(-1) == 1).all()
    torch.testing.assert_close(score(found.plan.unsqueeze(1))[:, 0], table.optimum(start))


@EVERY
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_candidate_without_a_finite_score_ranks_last(name, bad):  # FAULTS 53
    def score(plans):  # rises towards +1 in every action, but where the first is positive nothing is known
        value = 0.1 * plans.sum((-1, -2)) - 100.0  # every true score is negative: a zero in their place would win
        return torch.where(plans[:, :, 0, 0] > 0, bad, value)

    found = solve(name, CONTINUOUS, score, 2)
    assert torch.isfinite(found.belief).all() and torch.isfinite(found.plan).all()
    assert (found.plan[:, 0, 0] <= 0).all()
    if name != "gradient":  # which stops where the scores do
        assert (found.plan[:, 1:] > 0.5).all()


@EVERY
def test_nothing_finite_is_an_error_that_names_the_environments(name):  # FAULTS 53
    def score(plans):
        return torch.where(torch.tensor([[False], [True]]), torch.nan, plans.sum((-1, -2)))

    with pytest.raises(NonFiniteError, match=r"every one of \d+ plans .*environments \[1\]"):
        solve(name, CONTINUOUS, score, 2)


@EVERY
def test_same_seed_same_plan_and_candidates_from_before_are_used(name):
    def score(plans):  # a needle: only a plan that was given is good
        return -(plans - 0.9).square().sum((-1, -2)) + 50 * (plans == 0.25).all(-1).all(-1)

    plain = [solve(name, CONTINUOUS, score, 2) for _ in range(2)]
    assert torch.equal(plain[0].plan, plain[1].plan) and torch.equal(plain[0].belief, plain[1].belief)
    needle = torch.full((2, 1, HORIZON, 2), 0.25)
    found = searches(CONTINUOUS)[name](score, CONTINUOUS.initial(2, HORIZON), needle)
    if name in ("icem", "gradient"):  # these carry out the best that they have seen; the others the belief's mean
        torch.testing.assert_close(found.plan, needle[:, 0])
        torch.testing.assert_close(found.kept[:, 0], needle[:, 0])
    else:
        assert not torch.equal(found.plan, plain[0].plan)


@EVERY
def test_environments_do_not_mix(name):
    def score(plans):
        goal = torch.tensor([-0.8, 0.0, 0.8])[:, None, None, None]
        return -0.1 * (plans - goal).square().sum((-1, -2))

    found = solve(name, CONTINUOUS, score, 3)
    for row, goal in zip(found.plan, (-0.8, 0.0, 0.8), strict=True):
        torch.testing.assert_close(row, torch.full_like(row, goal), atol=0.1, rtol=0)
