"""The recurrent temporal prior: the hand-written gradient, the window against the plain loop, resets."""

from itertools import product

import pytest
import torch

from tests.contracts.tools import ACTIONS, random_actions, small_model, small_options
from worldmodels.distributions import GaussianFamily
from worldmodels.dynamics import RecurrentPrior
from worldmodels.dynamics.gru import REMEMBER, GruScan, gru_cell
from worldmodels.types import State

BLOCKS = [1, 2]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def scan_inputs(blocks, *, steps=5, batch=3, size=2, dtype=torch.float64):
    inputs = torch.randn(steps, blocks, batch, 3 * size, dtype=dtype, requires_grad=True)
    weight = torch.randn(blocks, size, 3 * size, dtype=dtype, requires_grad=True)
    keep = torch.ones(steps, batch, 1, dtype=dtype)
    keep[1, 0] = keep[3, 1] = keep[4, 1] = keep[0, 2] = 0
    return inputs, weight, keep


def plain_scan(inputs, weight, keep):
    """The same cell written out, one block and one row at a time."""
    steps, blocks, batch, width = inputs.shape
    size = width // 3
    rows = []
    for b in range(batch):
        row = []
        h = [torch.zeros(size, dtype=inputs.dtype) for _ in range(blocks)]
        for t in range(steps):
            for g in range(blocks):
                gates = inputs[t, g, b] + h[g] @ weight[g]
                reset, candidate, update = gates[:size], gates[size : 2 * size], gates[2 * size :]
                new = torch.tanh(torch.sigmoid(reset) * candidate)
                open_ = torch.sigmoid(update)
                h[g] = (open_ * new + (1 - open_) * h[g]) * keep[t, b, 0]
            row.append(torch.stack(h))
        rows.append(torch.stack(row))
    return torch.stack(rows, 2)  # (T, G, B, D/G)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_scan_equals_the_plain_loop(blocks):
    inputs, weight, keep = scan_inputs(blocks)
    torch.testing.assert_close(GruScan.apply(inputs, weight, keep), plain_scan(inputs, weight, keep))


@pytest.mark.parametrize("blocks", BLOCKS)
def test_scan_gradient_equals_autograds_through_the_plain_loop(blocks):
    inputs, weight, keep = scan_inputs(blocks)
    direction = torch.randn(5, blocks, 3, 2, dtype=torch.float64)
    own = torch.autograd.grad((GruScan.apply(inputs, weight, keep) * direction).sum(), (inputs, weight))
    expected = torch.autograd.grad((plain_scan(inputs, weight, keep) * direction).sum(), (inputs, weight))
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_scan_passes_gradcheck_with_resets(blocks):
    inputs, weight, keep = scan_inputs(blocks)
    assert torch.autograd.gradcheck(lambda x, w: GruScan.apply(x, w, keep), (inputs, weight))


def test_scan_refuses_a_second_derivative_rather_than_giving_a_wrong_one():
    inputs, weight, keep = scan_inputs(1)
    out = GruScan.apply(inputs, weight, keep)
    (first,) = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_no_gradient_crosses_a_reset():
    inputs, weight, keep = scan_inputs(1)
    out = GruScan.apply(inputs, weight, keep)
    (gradient,) = torch.autograd.grad(out[2:, :, 0].sum(), inputs)  # row 0 begins anew after step 1
    assert gradient[:2, :, 0].abs().max() == 0 and gradient[2:, :, 0].abs().min() > 0
    assert gradient[:, :, 1:].abs().max() == 0


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_do_not_see_each_other(blocks):
    prior = prior_of(("gaussian", blocks, 0))
    h = torch.randn(2, prior.deter, requires_grad=True)
    out = prior._cell(h, torch.randn(2, prior.embed[0].out_features))
    (gradient,) = torch.autograd.grad(out[:, 0].sum(), h)
    assert gradient[:, : prior.block].abs().min() > 0
    assert (gradient[:, prior.block :] == 0).all()


def test_cell_remembers_at_the_start():
    h = torch.randn(3, 4)
    assert torch.equal(gru_cell(torch.cat([h, h, torch.full((3, 4), -1e4)], -1), h), h)
    half = gru_cell(torch.cat([torch.full((3, 4), 1e4), torch.zeros(3, 8)], -1), h)
    torch.testing.assert_close(half, h / 2)
    sizes = {"deter": 8, "hidden": 4, "prior_layers": 1, "norm": True}
    for blocks, core_layers in product(BLOCKS, (0, 1)):
        prior = RecurrentPrior(GaussianFamily(2), 1, blocks=blocks, core_layers=core_layers, **sizes)
        reset, candidate, update = prior.input_gates.bias.view(prior.blocks, 3, prior.block).unbind(1)
        assert (update == REMEMBER).all() and not reset.any() and not candidate.any()


PARTS = list(product(("gaussian", "categorical"), BLOCKS, (0, 1)))  # posterior, blocks, layers before the gates


def prior_of(part):
    posterior, blocks, core_layers = part
    model = small_model(small_options(posterior, blocks=blocks, core_layers=core_layers))
    return model.temporal_prior


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_window_equals_step_by_step(part):
    prior = prior_of(part)
    z, action = torch.randn(3, 6, prior.family.width), random_actions(ACTIONS["discrete"], 3, 5)
    starts = torch.zeros(3, 6, dtype=torch.bool)
    starts[:, 0] = starts[1, 3] = starts[2, 5] = True
    scanned, _ = prior.scan(z, action, starts)
    assert scanned.shape == (3, 6, prior.context_size)
    for row in range(3):
        context, _ = prior.initial(1)
        for t in range(6):
            if t > 0:
                context, _ = prior.advance(State(context, z[row : row + 1, t - 1]), action[row : row + 1, t - 1])
            if starts[row, t]:
                context, _ = prior.initial(1)
            torch.testing.assert_close(scanned[row, t], context[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_trap_episode_boundary_zeroes_context_latent_and_action(part):
    prior = prior_of(part)
    z, action = torch.randn(2, 5, prior.family.width), random_actions(ACTIONS["discrete"], 2, 4)
    starts = torch.zeros(2, 5, dtype=torch.bool)
    starts[:, 0] = starts[0, 2] = True
    scanned, _ = prior.scan(z, action, starts)
    assert scanned[0, 2].abs().max() == 0  # h, last latent and last action alike
    assert (scanned[1, 2] != 0).any() and (scanned[0, 1] != 0).any() and (scanned[0, 3] != 0).any()


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_context_carries_last_latent_and_last_action_at_the_right_step(part):
    prior = prior_of(part)
    z, action = torch.randn(2, 5, prior.family.width), random_actions(ACTIONS["discrete"], 2, 4)
    starts = torch.zeros(2, 5, dtype=torch.bool)
    starts[:, 0] = True
    scanned, _ = prior.scan(z, action, starts)
    if not prior.family.ordered:
        assert scanned.shape[-1] == prior.deter
        return
    assert torch.equal(scanned[:, 1:, prior.deter : prior.deter + prior.family.width], z[:, :-1])
    assert torch.equal(scanned[:, 1:, prior.deter + prior.family.width :], action)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_context_does_not_depend_on_later_steps(part):
    prior = prior_of(part)
    z, action = torch.randn(1, 6, prior.family.width), random_actions(ACTIONS["discrete"], 1, 5)
    starts = torch.zeros(1, 6, dtype=torch.bool)
    before, _ = prior.scan(z, action, starts)
    z[:, 3:], action[:, 3:] = torch.randn(1, 3, prior.family.width), 0
    after, _ = prior.scan(z, action, starts)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


def test_ordered_prior_predicts_a_change_of_the_last_latent():
    prior = prior_of(("gaussian", 1, 0))
    context = torch.randn(2, prior.context_size)
    with torch.no_grad():
        for parameter in prior.head.parameters():
            parameter.zero_()
    mean, _ = prior.prior(context).chunk(2, -1)
    torch.testing.assert_close(mean, context[:, prior.deter : prior.deter + prior.family.width])
    assert prior(context).mean.shape == (2, prior.family.width)
