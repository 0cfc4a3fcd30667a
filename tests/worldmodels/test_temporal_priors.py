"""Every temporal prior alike: a window equals its steps, nothing crosses an episode, dreams go on where data end."""

from dataclasses import replace
from math import sqrt

import pytest
import torch

from tests.contracts.tools import ACTIONS, random_actions, small_model, small_options, still, window
from worldmodels.dynamics import MarkovPrior, StateSpacePrior, TransformerPrior
from worldmodels.dynamics.attention import AttentionLayer, same_episode, tokens_so_far
from worldmodels.dynamics.scan import LinearScan, linear_scan
from worldmodels.dynamics.state_space import MIN_RATE, SHARPNESS, GatedUnits
from worldmodels.options import MarkovOptions, StateSpaceOptions, TransformerOptions
from worldmodels.types import State

KINDS = ("recurrent", "state_space", "transformer", "markov")
STEPS, WINDOW = 11, 4  # windows are longer than what the transformer's cache holds


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def options(kind, posterior="gaussian", layers=2, **changes):
    return small_options(
        posterior,
        temporal_prior=kind,
        state_space=StateSpaceOptions(deter=8, hidden=8, layers=layers),
        transformer=TransformerOptions(width=8, hidden=8, layers=layers, heads=2, window=WINDOW),
        markov=MarkovOptions(hidden=8, prior_layers=layers),
        **changes,
    )


@pytest.fixture(params=[(k, p, n) for k in KINDS for p in ("gaussian", "categorical") for n in (1, 2)], ids=str)
def prior(request):
    kind, posterior, layers = request.param
    return small_model(options(kind, posterior, layers), action=ACTIONS["continuous"]).temporal_prior


@pytest.fixture(params=KINDS)
def model(request):
    return still(small_model(options(request.param)))


def inputs(prior, batch=4):
    """Latents and actions of a window, and where states begin anew: twice in a row, at the end, early and late."""
    z, action = torch.randn(batch, STEPS + 1, prior.family.width), random_actions(ACTIONS["continuous"], batch, STEPS)
    starts = torch.zeros(batch, STEPS + 1, dtype=torch.bool)
    starts[:, 0] = starts[1, 5] = starts[2, 3] = starts[2, 4] = starts[3, STEPS] = starts[3, 1] = True
    return z, action, starts


def steps_of(prior, z, action, starts):
    """The same window one step after the other: a list of (context, cache)."""
    carried = prior.initial(len(z))
    found = [carried]
    for t in range(1, z.shape[1]):
        context, cache = prior.advance(State(carried[0], z[:, t - 1], carried[1]), action[:, t - 1])
        fresh = prior.initial(len(z))
        context = torch.where(starts[:, t, None], fresh[0], context)
        cache = None if cache is None else torch.where(starts[:, t, None, None], fresh[1], cache)
        carried = (context, cache)
        found.append(carried)
    return found


def test_window_equals_step_by_step_even_when_it_is_longer_than_the_cache(prior):
    z, action, starts = inputs(prior)
    contexts, caches = prior.scan(z, action, starts)
    assert contexts.shape == (4, STEPS + 1, prior.context_size)
    for t, (context, cache) in enumerate(steps_of(prior, z, action, starts)):
        torch.testing.assert_close(contexts[:, t], context, rtol=1e-4, atol=1e-5)
        if cache is not None:
            held = cache[..., -1:] > 0  # tokens that nobody may read are zero in one and old in the other
            held[:, :-1] &= torch.arange(WINDOW - 1, 1, -1)[:, None] <= cache[:, -1:, -1:]
            torch.testing.assert_close(caches[:, t] * held, cache * held, rtol=1e-4, atol=1e-5)
            assert torch.equal(caches[:, t, -1, -1], cache[:, -1, -1])  # so many may be read


def test_where_an_episode_begins_everything_is_zero(prior):
    z, action, starts = inputs(prior)
    contexts, caches = prior.scan(z, action, starts)
    assert contexts[starts].abs().max() == 0 and (contexts[~starts].abs().sum(-1) > 0).all()
    assert caches is None or (caches[..., -1, -1][starts].max() == 0 and caches[..., -1, -1][~starts].min() == 1)


def test_neither_value_nor_gradient_crosses_an_episode_or_runs_back_in_time(prior):
    z, action, starts = inputs(prior)
    z, action = z.requires_grad_(), action.requires_grad_()
    contexts, _ = prior.scan(z, action, starts)
    memory = 1 if isinstance(prior, MarkovPrior) else 3  # steps back that must be felt
    for row, first, last in ((1, 5, 8), (2, 4, 9), (0, 0, 6)):  # steps of the episode that are looked at
        found = torch.autograd.grad(contexts[row, last].square().sum(), (z, action), retain_graph=True)
        for gradient in found:
            reached = gradient.abs().sum(-1) > 0  # (B, steps)
            assert reached[row, max(first, last - memory) : last].all()
            assert memory > 1 or not reached[row, : last - 1].any()
            assert not reached[row, :first].any() and not reached[row, last:].any()
            assert not reached[[b for b in range(4) if b != row]].any()
    other = z.detach().clone()
    other[1, :5], other[2, :4] = 1e6, -1e6
    assert torch.equal(prior.scan(other, action, starts)[0][1:3, 6:], contexts[1:3, 6:])


def test_a_window_runs_without_a_single_step_exactly_where_the_prior_says_so(prior, monkeypatch):
    """A loop over time is a loop of graph nodes; a parallel prior has as many for 40 steps as for 10."""

    def nodes(steps):
        z, action = torch.randn(1, steps + 1, prior.family.width, requires_grad=True), torch.zeros(1, steps, 2)
        contexts, _ = prior.scan(z, action, torch.zeros(1, steps + 1, dtype=torch.bool))
        seen, waiting = set(), [contexts.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        return len(seen)

    monkeypatch.setattr(prior, "advance", None)
    if prior.parallel:
        assert nodes(10) == nodes(40)
    assert prior.parallel == isinstance(prior, StateSpacePrior | TransformerPrior | MarkovPrior)


def test_imagination_from_a_replayed_state_goes_on_as_the_window_would(model):
    batch = window(steps=8, ends=(None, 2), first=(True, False))
    states = model.infer(batch)
    plan = torch.eye(4)[torch.randint(4, (2, 6))]
    for t in (0, 5, 8):
        rollout = model.imagine(states.index((slice(None), t)), plan, 6)
        z = torch.cat([states.z[:, :t], rollout.states.z], 1)
        starts = torch.cat([batch.starts[:, : t + 1], torch.zeros(2, 6, dtype=torch.bool)], 1)
        contexts, _ = model.temporal_prior.scan(z, torch.cat([batch.action[:, :t], plan], 1), starts)
        torch.testing.assert_close(contexts[:, t:], rollout.states.context, rtol=1e-4, atol=1e-5)


def test_states_of_a_rollout_can_be_gone_on_from(model):
    states = model.infer(window(steps=8, ends=(None, 2), first=(True, False)))
    plan = torch.eye(4)[torch.randint(4, (2, 6))]
    rollout = model.imagine(states.index((slice(None), 8)), plan, 6, uncertainty=True)
    again = model.uncertainty(rollout.states.index((slice(None), slice(-1))), plan)
    torch.testing.assert_close(again.epistemic, rollout.epistemic, rtol=1e-4, atol=1e-5)
    rest = model.imagine(rollout.states.index((slice(None), 2)), plan[:, 2:], 4)
    torch.testing.assert_close(rest.states.features, rollout.states.features[:, 2:], rtol=1e-4, atol=1e-5)


def test_a_stream_with_episodes_that_end_apart_is_filtered_as_the_window_is_inferred(model):
    batch = window(steps=9, ends=(None, 2, 6), first=(True, True, False))
    expected, state = model.infer(batch), None
    for t in range(10):
        obs = {name: value[:, t] for name, value in batch.obs.items()}
        state = model.filter(state, batch.action[:, t - 1] if t else None, obs, batch.starts[:, t], sample=False)
        torch.testing.assert_close(state.features, expected.features[:, t], rtol=1e-4, atol=1e-5)


def test_gradients_run_through_dreams_to_the_first_action(model):
    start = model.infer(window()).index((slice(None), 4)).detach()
    plan = torch.rand(2, 7, 4, requires_grad=True)
    rollout = model.imagine(start, plan, 7)
    (gradient,) = torch.autograd.grad(rollout.reward[:, -1].sum(), plan)
    assert torch.isfinite(gradient).all() and (gradient[:, 0].abs().sum(-1) > 0).all()


def test_bfloat16_products_stay_near_float32(prior):
    z, action, starts = inputs(prior)
    exact, _ = prior.scan(z, action, starts)
    with torch.autocast("cpu", torch.bfloat16):
        contexts, _ = prior.scan(z, action, starts)
        stepped = steps_of(prior, z, action, starts)
    assert contexts.dtype == torch.float32 and stepped[-1][0].dtype == torch.float32
    near = {"rtol": 0.05, "atol": 0.05 * exact.abs().max().item()}
    torch.testing.assert_close(contexts, exact, **near)
    torch.testing.assert_close(torch.stack([context for context, _ in stepped], 1), exact, **near)


# the scan of a linear recurrence


def recurrence(decay, drive):
    hidden, rows = torch.zeros_like(drive[:, 0]), []
    for t in range(drive.shape[1]):
        hidden = decay[:, t] * hidden + drive[:, t]
        rows.append(hidden)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 33])
def test_linear_scan_is_the_loop(steps):
    decay, drive = torch.rand(3, steps, 5, dtype=torch.float64), torch.randn(3, steps, 5, dtype=torch.float64)
    decay[0, steps // 2] = decay[1, 0] = decay[2, -1] = 0
    torch.testing.assert_close(linear_scan(decay, drive), recurrence(decay, drive), rtol=1e-12, atol=1e-12)


def test_linear_scan_is_exact_to_rounding_over_long_windows_of_every_decay():
    decay = torch.linspace(0, 1, 65).expand(1, 2000, 65).contiguous()
    drive = torch.randn(1, 2000, 65)
    error = linear_scan(decay, drive).double() - recurrence(decay.double(), drive.double())
    assert error.abs().max() < 1e-4


def test_linear_scan_passes_gradcheck_with_states_that_begin_anew():
    decay = torch.rand(2, 6, 3, dtype=torch.float64)
    decay[0, 2] = decay[1, 5] = 0
    drive = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LinearScan.apply, (decay.requires_grad_(), drive))


def test_linear_scan_refuses_a_second_derivative_rather_than_giving_a_wrong_one():
    drive = torch.randn(1, 3, 2, requires_grad=True)
    (first,) = torch.autograd.grad(
        LinearScan.apply(torch.rand(1, 3, 2), drive).square().sum(), drive, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# the gated units of the state space


def test_gated_units_are_their_formula():
    layer, x = GatedUnits(3, 4, longest=20.0), torch.randn(5, 3)
    decay, drive = layer(x)
    remember, admit, value = (x @ layer.gates[0].weight.T + layer.gates[0].bias).chunk(3, -1)
    rate = SHARPNESS * (1 + layer.memory.exp()).log() * remember.sigmoid() + MIN_RATE
    torch.testing.assert_close(decay, (-rate).exp())
    torch.testing.assert_close(drive, (1 - decay**2).sqrt() * admit.sigmoid() * value)


def test_half_open_gates_remember_from_one_step_to_the_longest():
    layer = GatedUnits(3, 5, longest=81.0)
    with torch.no_grad():
        layer.gates[0].weight.zero_(), layer.gates[0].bias.zero_()
    decay, drive = layer(torch.randn(1, 3))
    torch.testing.assert_close(-1 / decay.log()[0], torch.tensor([1.0, 3.0, 9.0, 27.0, 81.0]), rtol=0.01, atol=0)
    assert (drive == 0).all()


@pytest.mark.parametrize("gate", [-200.0, 200.0])
def test_shut_and_open_gates_have_finite_gradients(gate):
    layer = GatedUnits(2, 3, longest=20.0)
    with torch.no_grad():
        layer.gates[0].bias.fill_(gate)
    decay, drive = layer(torch.randn(4, 2))
    found = torch.autograd.grad((decay + drive).sum(), list(layer.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in found)


# attention


def test_attention_is_the_loop_over_heads_and_tokens_written_out():
    layer = AttentionLayer(6, hidden=5, heads=2, window=3).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 6, 6, dtype=torch.float64)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[:, 0] = starts[1, 4] = True
    found, _ = layer(x, same_episode(starts, 3))
    query, key = (layer.norm(x) @ layer.look[0].weight.T).chunk(2, -1)
    value = x @ layer.show[0].weight.T
    for b in range(2):
        for t in range(6):
            begin = 4 if b == 1 and t >= 4 else 0
            heads = []
            for g in range(2):
                part = slice(3 * g, 3 * g + 3)
                visible = range(max(begin, t - 2), t + 1)
                scores = [query[b, t, part] @ key[b, s, part] / sqrt(3) + layer.age[g, t - s] for s in visible]
                share = torch.stack(scores).softmax(0)
                heads.append(sum(w * value[b, s, part] for w, s in zip(share, visible, strict=True)))
            mixed = x[b, t] + torch.cat(heads) @ layer.mix[0].weight.T
            torch.testing.assert_close(found[b, t], mixed + layer.feed(mixed), rtol=1e-10, atol=1e-10)


def test_who_sees_whom_and_how_many_there_were():
    starts = torch.tensor([[True, False, False, True, False, False]])
    seen = [["".join(map(str, row)) for row in rows] for rows in same_episode(starts, 2).int().tolist()]
    assert seen == [["100000", "110000", "011000", "000100", "000110", "000011"]]
    assert tokens_so_far(starts).tolist() == [[1, 2, 3, 1, 2, 3]]


# the cache


def test_caches_of_windows_and_rollouts_are_views_of_one_row_of_tokens():
    model = small_model(options("transformer"))
    size = model.temporal_prior.token_size
    states = model.infer(window(steps=8))
    assert states.cache.shape == (2, 9, WINDOW - 1, size)
    assert states.cache.untyped_storage().nbytes() == 4 * 2 * (WINDOW - 1 + 8) * size
    start = states.index((slice(None), 4))
    with torch.no_grad():
        rollout = model.imagine(start, torch.zeros(2, 6, 4), 6)
    assert rollout.states.cache.shape == (2, 7, WINDOW - 1, size)
    assert rollout.states.cache.untyped_storage().nbytes() == 4 * 2 * (WINDOW - 1 + 6) * size


def test_a_state_without_its_cache_is_refused():
    model = small_model(options("transformer"))
    start = model.dream_start(2)
    with pytest.raises(ValueError, match="needs its cache"):
        model.imagine(replace(start, cache=None), torch.zeros(2, 1, 4), 1)
