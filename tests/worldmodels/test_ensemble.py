"""The ensemble: its product against member by member, bootstrap, clipping, and that it disturbs nothing."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from agents.learner import Descent, apply_gradients
from agents.learner import _model_groups as model_groups
from tests.contracts.tools import ACTIONS, VECTOR, small_model, small_options, window
from worldmodels.build import build_world_model
from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.dynamics import Ensemble, Epinet
from worldmodels.errors import ConfigError
from worldmodels.options import EnsembleOptions
from worldmodels.types import State

FAMILIES = {"gaussian": GaussianFamily(3), "categorical": CategoricalFamily(2, 3)}


def ensemble(family="gaussian", *, members=4, layers=2, **changes):
    torch.manual_seed(0)
    options = {"units": 6, "prior_scale": 0.5, "keep": 0.7, "clip": 10.0, "norm": False} | changes
    return Ensemble(FAMILIES[family], 5, members=members, layers=layers, **options)


def perceptron(row, sizes, x, *, norm):
    """One member, from its flat row of weights."""
    for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight, row = row[: inputs * outputs].reshape(inputs, outputs), row[inputs * outputs :]
        bias, row = row[:outputs], row[outputs:]
        x = x @ weight + bias
        if layer < len(sizes) - 2:
            x = F.silu(F.layer_norm(x, (outputs,)) if norm else x)
    assert len(row) == 0
    return x


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_batched_product_is_every_member_by_itself_plus_its_prior_function(family, layers, norm):
    model = ensemble(family, layers=layers, norm=norm)
    context, previous = torch.randn(2, 7, 5), torch.randn(2, 7, FAMILIES[family].width)
    together = model(context, previous)
    assert together.shape == (4, 2, 7, FAMILIES[family].parameters)
    for k in range(4):
        raw = perceptron(model.weights[k], model.sizes, context, norm=norm)
        prior = 0.5 * perceptron(model.prior_weights[k], model.prior_sizes, context, norm=False)
        if family == "gaussian":
            mean, s = raw.chunk(2, -1)
            expected = torch.cat([mean + prior + previous, s], -1)
        else:
            expected = raw + prior
        torch.testing.assert_close(together[k], expected)


def test_members_share_neither_weights_nor_prior_functions():
    model = ensemble()
    for rows in (model.weights, model.prior_weights):
        assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.5
    assert [name for name, _ in model.named_parameters()] == ["weights"]
    assert set(model.state_dict()) == {"weights", "prior_weights"}


def test_bootstrap_is_a_pure_function_of_the_transitions_number_and_independent_between_members():
    model = ensemble(members=6)
    rows = torch.arange(40_000)
    seen = model.sees(rows)
    assert seen.shape == (6, 40_000)
    assert (seen.float().mean(1) - 0.7).abs().max() < 0.01
    assert torch.corrcoef(seen.float()).fill_diagonal_(0).abs().max() < 0.02
    neighbours = torch.corrcoef(torch.stack([seen[0, :-1], seen[0, 1:]]).float())
    assert neighbours[0, 1].abs() < 0.02
    shuffled = torch.randperm(40_000)
    assert torch.equal(model.sees(rows[shuffled].view(2, -1)), seen[:, shuffled].view(6, 2, -1))
    assert ensemble(keep=1.0).sees(rows).all()


def test_a_member_does_not_learn_from_what_it_does_not_see():
    model = small_model(small_options(ensemble=EnsembleOptions(members=3, units=8, keep=0.5)))
    batch = window(steps=5, ends=(None, None), first=(True, True))
    numbers = torch.arange(100)
    first_only = model.ensemble.sees(numbers)[0] & ~model.ensemble.sees(numbers)[1]
    batch.rows = torch.arange(12).view(2, 6)
    batch.rows[0, 5] = numbers[first_only][0]  # member 0 alone sees the transition that leads there

    def found():
        torch.manual_seed(1)
        return torch.autograd.grad(model.loss(batch).terms["ensemble"], model.ensemble.weights)[0]

    before = found()
    batch.obs["obs"][0, 5] += 1.0  # where that transition leads to, and none starts
    after = found()
    assert (after[0] - before[0]).abs().max() > 1e-6
    torch.testing.assert_close(after[1], before[1], rtol=1e-4, atol=1e-6)


def test_each_members_gradient_is_clipped_by_itself_and_none_is_zero():
    model = ensemble(clip=0.5)
    context, previous = torch.randn(32, 5), torch.randn(32, 3)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1e6]).view(4, 1, 1)
    (clipped,) = torch.autograd.grad((model(context, previous).square() * scale).sum(), model.weights)
    model.clip = 1e30
    (free,) = torch.autograd.grad((model(context, previous).square() * scale).sum(), model.weights)
    assert (free.norm(dim=-1) > 0).all() and free[0].norm() < 0.5 < free[2].norm()
    for k in range(4):
        torch.testing.assert_close(clipped[k], free[k] * min(1.0, 0.5 / float(free[k].norm())))


@pytest.mark.parametrize("posterior", FAMILIES)
def test_it_trains_beside_the_model_and_changes_nothing_of_it(posterior):
    """The same numbers with and without an ensemble: initial weights, random draws, losses, clipped steps."""
    batch, results = window(ends=(None, 2), first=(True, False)), []
    for members in (0, 3):
        options = small_options(posterior, ensemble=EnsembleOptions(members=members, units=8, clip=1e9))
        torch.manual_seed(0)
        model = build_world_model(options, VECTOR, ACTIONS["discrete"])
        after_build = torch.rand(1)
        optimizer = torch.optim.Adam(model_groups(model), 1e-2)
        for _ in range(3):
            norms, fault = apply_gradients(Descent(model.loss(batch).total, optimizer, 0.1, model))
            assert fault is None and norms[0] > 0.1
        state = {name: value for name, value in model.named_parameters() if not name.startswith("ensemble.")}
        results.append((after_build, norms[0], state))
    (draw, norm, state), (other_draw, other_norm, other) = results
    assert torch.equal(draw, other_draw) and torch.equal(norm, other_norm)
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("kind", ["ensemble", "epinet"])
def test_its_loss_reaches_all_of_its_own_parameters_and_no_other(kind):
    model = small_model(small_options(ensemble=EnsembleOptions(members=2, units=8, kind=kind)))
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(model.loss(window()).terms["ensemble"], parameters, allow_unused=True)
    reached = {name for name, g in zip(names, found, strict=True) if g is not None and g.abs().max() > 0}
    assert reached == {name for name in names if name.startswith("ensemble.")}


@pytest.mark.parametrize("posterior", FAMILIES)
def test_imagination_and_real_transitions_are_judged_alike(posterior):
    model = small_model(small_options(posterior))
    start = model.infer(window()).flatten()
    plan = torch.eye(4)[torch.randint(4, (14, 3))]
    plain = model.imagine(start, plan, 3)
    assert plain.epistemic is None and plain.members is None and plain.epistemic_variance is None
    rollout = model.imagine(start, plan, 3, uncertainty=True)
    said = model.uncertainty(rollout.states.index((slice(None), slice(0, 3))), rollout.action)
    for name, value in said._asdict().items():
        torch.testing.assert_close(getattr(rollout, name), value, msg=name)
    width, raw = model.family.width, model.family.parameters
    assert rollout.epistemic.shape == rollout.aleatoric.shape == (14, 3)
    assert rollout.epistemic_variance.shape == rollout.aleatoric_variance.shape == (14, 3, width)
    assert rollout.members.shape == (2, 14, 3, raw)
    assert (rollout.epistemic >= 0).all()
    one = model.uncertainty(State(start.context[0], start.z[0]), plan[0, 0])
    torch.testing.assert_close(one.epistemic, said.epistemic[0, 0])


@pytest.mark.parametrize("kind", ["ensemble", "epinet"])
@pytest.mark.parametrize("posterior", FAMILIES)
def test_trap_bonus_has_a_gradient_in_the_action(posterior, kind):
    model = small_model(small_options(posterior, ensemble=EnsembleOptions(members=2, units=8, kind=kind)))
    start = model.infer(window()).flatten()
    plan = torch.rand(14, 3, 4, requires_grad=True)
    rollout = model.imagine(start, plan, 3, uncertainty=True)
    (gradient,) = torch.autograd.grad(rollout.epistemic.sum(), plan)
    assert (gradient.abs().amax((0, 2)) > 0).all()


def test_without_an_ensemble_nothing_is_said_and_asking_is_a_mistake():
    model = small_model(small_options(ensemble=EnsembleOptions(members=0)))
    assert model.ensemble is None
    start = model.infer(window()).flatten()
    assert model.imagine(start, torch.zeros(14, 2, 4), 2, uncertainty=True).epistemic is None
    with pytest.raises(ConfigError, match="no ensemble"):
        model.uncertainty(start, torch.zeros(14, 4))
    assert "ensemble" not in model.loss(window()).terms


def test_rows_are_optional_and_move_with_the_batch():
    batch = replace(window(), rows=torch.arange(14).view(2, 7))
    assert torch.equal(batch.to("cpu").rows, batch.rows)
    assert replace(batch, rows=None).to("cpu").rows is None


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epinet_is_its_sum_written_out_and_answers_alike_for_shared_and_own_contexts(family):
    torch.manual_seed(0)
    latent = FAMILIES[family]
    model = Epinet(latent, 5, members=3, units=6, layers=2, prior_scale=0.5, keep=0.7, norm=False)
    context, previous = torch.randn(7, 5), torch.randn(7, latent.width)
    together = model(context, previous)
    for k in range(3):
        index = model.indices[k]
        phi = model.trunk(context)
        own = model.difference(torch.cat([phi, index.expand(7, -1)], -1)).unflatten(-1, (-1, len(index))) @ index
        functions = [perceptron(row, model.prior_sizes, context, norm=False) for row in model.prior_weights]
        prior = 0.5 * sum(i * f for i, f in zip(index, functions, strict=True)) / len(index) ** 0.5
        raw = model.base(phi) + own
        expected = latent.shift(raw, previous + prior) if latent.ordered else raw + prior
        torch.testing.assert_close(together[k], expected)
    for members in (model, ensemble(family)):
        count = members.members
        own = members.each(context.expand(count, 7, 5), previous.expand(count, 7, -1))
        torch.testing.assert_close(own, members(context, previous))
