"""Ranks, AUROC and rank correlation against scipy, scikit-learn and the obvious count."""

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from worldmodels.uncertainty import auroc, spearman


@pytest.fixture(params=[1.0, 0.0], ids=["distinct", "ties"])
def pair(request):
    torch.manual_seed(0)
    a, b = torch.randn(40), torch.randn(60) + 0.5
    return (a, b) if request.param else (a.round(), b.round())


def test_auroc_is_the_share_of_pairs_in_the_right_order(pair):
    a, b = pair
    wins = (b[:, None] > a).double() + 0.5 * (b[:, None] == a).double()
    assert auroc(a, b) == pytest.approx(float(wins.mean()))
    assert auroc(a, b) == pytest.approx(roc_auc_score([0] * 40 + [1] * 60, torch.cat([a, b]).numpy()))


def test_trap_auroc_is_one_sided():
    assert auroc(torch.zeros(3), torch.ones(3)) == 1.0
    assert auroc(torch.ones(3), torch.zeros(3)) == 0.0


def test_spearman_is_scipys_and_zero_for_a_constant(pair):
    a, b = pair
    assert spearman(a, b[:40]) == pytest.approx(spearmanr(a.numpy(), b[:40].numpy()).statistic)
    assert spearman(torch.full((40,), 2.0), a) == 0.0
