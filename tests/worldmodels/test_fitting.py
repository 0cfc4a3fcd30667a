"""The one small fit: Adam as torch has it, and nothing changed where something is not finite."""

import pytest
import torch

from worldmodels.errors import NonFiniteError
from worldmodels.fitting import minimise


def test_it_is_torchs_adam_with_a_falling_rate():
    target = torch.tensor([1.0, -2.0, 3.0])
    own, theirs = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    losses = minimise([own], lambda: (own - target).square().sum(), steps=50, rate=0.1)
    optimizer = torch.optim.Adam([theirs], 0.1)
    for step in range(50):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 50)
        optimizer.zero_grad()
        loss = (theirs - target).square().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([theirs], 10.0)
        optimizer.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(own, theirs)


def test_what_is_not_finite_stops_the_fit_before_it_changes_anything():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(NonFiniteError, match="loss nan .* at step 0"):
        minimise([x], lambda: x.sum() * torch.nan, steps=5, rate=0.1)
    assert x.tolist() == [1, 1]


def test_parameters_that_the_loss_does_not_know_stay_as_they_are():
    x, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    minimise([x, unused], lambda: x.sum(), steps=3, rate=0.1)
    assert unused.tolist() == [1, 1] and (x < 1).all()
