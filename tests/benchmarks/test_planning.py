"""The benchmarks of plans: what is counted is what runs, both planners plan, and a perfect model is the environment."""

import sys

import pytest
import torch

from benchmarks.perfect_model import returns
from benchmarks.planning import main, products, seconds, w4, w5


def test_products_are_two_operations_for_each_multiply_add_and_nothing_else():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert products(lambda: (a @ b).exp().sum()) == pytest.approx(2 * 3 * 5 * 7 / 1e9)


@pytest.mark.parametrize("build", [w4, w5])
def test_both_planners_plan_at_the_sizes_that_are_said(build):
    planner, state = build()
    plans = []

    def score(candidates):
        plans.append(candidates.shape)
        return candidates.sum((-1, -2))

    family = planner.search.family
    found = planner.search(score, family.initial(1, planner.horizon), torch.zeros(1, 0, planner.horizon, family.size))
    assert found.plan.shape == (1, planner.horizon, family.size)
    assert sum(shape[1] for shape in plans) == planner.search.samples * planner.search.iterations + 1
    assert planner.objective.of(state)(found.plan.unsqueeze(1)).isfinite().all()
    assert len(seconds(lambda: None, 3)) == 3


def test_a_peer_that_is_not_installed_is_named_with_its_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mbrl.models", None)
    with pytest.raises(SystemExit):
        main(["--beside-mbrl"])
    assert "pip install mbrl" in capsys.readouterr().err.splitlines()[-1]


def test_a_search_with_the_true_equations_swings_up_and_stays():
    found = returns(range(2), horizon=25, samples=24)
    assert found.shape == (2,) and found.min() > -450 and found.max() < 0
