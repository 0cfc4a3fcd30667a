"""What every world model must do, whatever it is made of: one list of combinations, one list of promises."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.contracts.tools import (
    ACTIONS,
    OBS,
    cut,
    random_actions,
    random_obs,
    small_model,
    small_options,
    still,
    window,
)
from worldmodels.options import ObjectiveOptions

EVERY_KIND = [  # every observation kind with every family and posterior
    (posterior, obs, sees, 1 + k % 2, k % 3 == 0, list(ACTIONS)[k % 3])
    for k, (posterior, obs, sees) in enumerate(product(("gaussian", "categorical"), OBS, (False, True)))
]
EVERY_PART = [  # every combination of the other parts, on vectors
    (posterior, "vector", sees, blocks, core, action)
    for posterior, sees, blocks, core, action in product(
        ("gaussian", "categorical"), (False, True), (1, 2), (False, True), ACTIONS
    )
]


FLOWS = {  # a bijection as the encoder, a flow as the transition prior, and both
    "flow encoder": {"encoder": "flow"},
    "flow transition": {"transition": "flow"},
    "flow both": {"encoder": "flow", "transition": "flow"},
}
EVERY_FLOW = [
    (name, "vector", sees, 1, False, action)
    for name, sees, action in product(FLOWS, (False, True), ACTIONS)
    if not (sees and "encoder" in FLOWS[name])
] + [("flow transition", "mixed", False, 1, False, "discrete")]

PARALLEL = {  # temporal priors that are trained in parallel over time, with both families and with the flows
    f"{prior} {name}": changes | {"temporal_prior": prior}
    for prior in ("state_space", "transformer")
    for name, changes in {"gaussian": {}, "categorical": {"posterior": "categorical"}, **FLOWS}.items()
} | {
    "markov gaussian": {"temporal_prior": "markov"},
    "markov categorical": {"temporal_prior": "markov", "posterior": "categorical"},
}
EVERY_PARALLEL = [(name, "vector", False, 1, False, action) for name, action in product(PARALLEL, ACTIONS)]
SPECIAL = FLOWS | PARALLEL


@pytest.fixture(
    params=list(dict.fromkeys(EVERY_KIND + EVERY_PART + EVERY_FLOW + EVERY_PARALLEL)),
    ids=lambda p: "-".join(map(str, p)),
)
def case(request):
    """A model with no free nats, the specs it was made from, and the options."""
    posterior, obs, sees, blocks, core, action = request.param
    options = small_options(
        SPECIAL.get(posterior, {}).get("posterior", "gaussian" if posterior in SPECIAL else posterior),
        blocks=blocks,
        core_layers=int(core),
        posterior_sees_context=sees,
        objective=ObjectiveOptions(free_nats=0.0),
        **{key: value for key, value in SPECIAL.get(posterior, {}).items() if key != "posterior"},
    )
    return small_model(options, OBS[obs], ACTIONS[action]), OBS[obs], ACTIONS[action]


def gradients(model, batch):
    torch.manual_seed(2)
    output = model.loss(batch)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(output.total, parameters, allow_unused=True)
    return output, dict(zip(names, found, strict=True))


def test_loss_is_finite_and_its_gradient_reaches_every_parameter(case):
    model, obs, action = case
    output, found = gradients(model, window(obs, action))
    assert torch.isfinite(output.total) and torch.isfinite(output.bound)
    assert not output.bound.requires_grad and not output.states.z.requires_grad
    silent = [name for name, g in found.items() if g is None or not torch.isfinite(g).all() or g.abs().max() == 0]
    assert not silent


def test_nothing_leaks_from_where_no_transition_exists(case):
    model, obs, action = case
    batch = window(obs, action, ends=(None, 2, 0), first=(True, False, True))
    output, found = gradients(model, batch)
    gone = ~batch.mask
    spoiled = replace(
        batch,
        action=torch.where(gone.unsqueeze(-1), 100 * random_actions(action, 3, 6) + 7, batch.action),
        reward=torch.where(gone, torch.full_like(batch.reward, 1e3), batch.reward),
        terminated=batch.terminated | gone,
        truncated=batch.truncated | gone,
    )
    other, other_found = gradients(model, spoiled)
    assert torch.equal(output.total, other.total) and torch.equal(output.bound, other.bound)
    assert torch.equal(output.states.features, other.states.features)
    assert all(torch.equal(found[name], other_found[name]) for name in found)


def test_an_observation_that_does_not_count_changes_neither_loss_nor_gradient(case):
    model, obs, action = case
    batch = window(obs, action, ends=(None,), first=(True,))
    batch.obs_mask[:, 5:] = False  # padding after the end of the data
    batch.mask[:, 4:] = False
    output, found = gradients(model, batch)
    padding = random_obs(obs, 1, 7)
    other = {name: torch.cat([value[:, :5], padding[name][:, 5:]], 1) for name, value in batch.obs.items()}
    changed, other_found = gradients(model, replace(batch, obs=other))
    torch.testing.assert_close(output.total, changed.total, rtol=1e-5, atol=1e-5)
    for name in found:
        torch.testing.assert_close(found[name], other_found[name], rtol=1e-3, atol=1e-5)


def test_a_window_over_an_episodes_end_equals_the_two_episodes_apart(case):
    model, obs, action = case
    model = still(model)
    batch = window(obs, action, ends=(2,), first=(True,))
    packed = model.infer(batch).features
    apart = [model.infer(cut(batch, 0, 0, 2)).features, model.infer(cut(batch, 0, 3, 6)).features]
    torch.testing.assert_close(packed, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


def test_no_gradient_crosses_an_episode(case):
    model, obs, action = case
    batch = window(obs, action, ends=(2,), first=(True,))
    batch.action.requires_grad_()
    after = model.infer(batch).features[:, 3:].square().sum()
    (gradient,) = torch.autograd.grad(after, batch.action)
    assert gradient[:, :3].abs().max() == 0 and gradient[:, 3:5].abs().max() > 0


@pytest.mark.parametrize("sample", [False, True])
def test_a_latent_alone_is_that_of_the_encoding(case, sample):
    model, obs, _ = case
    context = torch.randn(3, model.temporal_prior.context_size) if model.encoder.sees_context else None
    tokens = model.encoder.tokens(random_obs(obs, 3))
    torch.manual_seed(1)
    encoding = model.encoder.encode(tokens, context, sample=sample)
    torch.manual_seed(1)
    assert torch.equal(model.encoder.latent(tokens, context, sample=sample), encoding.z)


def test_filtering_step_by_step_equals_inferring_the_window(case):
    model, obs, action = case
    model = still(model)
    batch = window(obs, action, ends=(None, 2), first=(True, True))
    states = model.infer(batch)
    state = None
    for t in range(7):
        now = {name: value[:, t] for name, value in batch.obs.items()}
        before = batch.action[:, t - 1] if t else None
        state = model.filter(state, before, now, batch.is_first[:, t], sample=False)
        torch.testing.assert_close(state.features, states.features[:, t], rtol=1e-4, atol=1e-4)


def test_imagination_has_the_shapes_it_says(case):
    model, obs, action = case
    start = model.infer(window(obs, action)).flatten()  # (14, ...)
    rollout = model.imagine(start, lambda features: random_actions(action, len(features)), 3)
    assert rollout.states.features.shape == (14, 4, model.features_size)
    assert rollout.action.shape == (14, 3, action.size)
    for value in (rollout.reward, rollout.continuation, rollout.aleatoric):
        assert value.shape == (14, 3) and torch.isfinite(value).all()
    assert ((rollout.continuation > 0) & (rollout.continuation < 1)).all()
    for name, likelihood in model.decode(rollout.states).items():
        assert likelihood.batch_shape == (14, 4), name


def test_imagination_and_inference_follow_the_same_dynamics(case):
    model, obs, action = case
    batch = window(obs, action, ends=(None,), first=(True,))
    states = still(model).infer(batch)
    rollout = model.imagine(states.index((slice(None), 0)), batch.action[:, :1], 1)
    torch.testing.assert_close(rollout.states.context[:, 1], states.context[:, 1], rtol=1e-4, atol=1e-5)
