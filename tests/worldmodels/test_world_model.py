"""The world model's loss and bound against sums written out, and its four ways to go through time."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Bernoulli

from tests.contracts.tools import ACTIONS, OBS, VECTOR, random_obs, small_model, small_options, still, window
from worldmodels.options import ObjectiveOptions
from worldmodels.types import State

FAMILIES = ["gaussian", "categorical"]
PLAIN = ObjectiveOptions(free_nats=0.0, representation=1.0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parts_of(model, batch):
    """Posterior and prior parameters, states and log-likelihood of a window, step by step, in plain Python."""
    rows, steps = batch.is_first.shape
    out = {}
    for b in range(rows):
        state = None
        for t in range(steps):
            obs = {name: value[b : b + 1, t] for name, value in batch.obs.items()}
            start = t == 0 or bool(batch.is_first[b, t])
            if start or state is None:
                context, cache = model.temporal_prior.initial(1)
                prior = model.marginal.table[int(batch.is_first[b, t])][None]
            else:
                context, cache = model.temporal_prior.advance(state, batch.action[b : b + 1, t - 1])
                prior = model.temporal_prior.prior(context)
            posterior = model.encoder.posterior(model.encoder.tokens(obs), context)
            state = State(context, model.family.sample(posterior), cache)
            nats, _ = model.decoder.log_prob(state.features, obs)
            out[b, t] = start, posterior, prior, state, nats
    return out


def member_terms(model, parts):
    """KL(q || p_k) of each member, the mean over every second transition of the window."""
    follows = [(q, state) for (_, t), (start, q, _, state, _) in parts.items() if not start and t % 2]
    posterior = torch.cat([q for q, _ in follows])
    context = torch.cat([state.context for _, state in follows])
    members = model.ensemble(context, model.temporal_prior.previous(context))
    return [model.family.kl(posterior, member).mean() for member in members]


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("posterior", FAMILIES)
def test_terms_and_bound_are_the_sums_written_out(posterior, sees):
    model = still(small_model(small_options(posterior, posterior_sees_context=sees, objective=PLAIN)))
    batch = window(ends=(None, 2, 4), first=(True, False, True))
    output, parts = model.loss(batch), parts_of(model, batch)
    kl = {key: model.family.kl(q, p).squeeze(0) for key, (_, q, p, _, _) in parts.items()}
    starts = torch.stack([kl[key] for key, part in parts.items() if part[0]])
    follows = torch.stack([kl[key] for key, part in parts.items() if not part[0]])
    nats = torch.stack([part[4].squeeze(0) for part in parts.values()])
    reward, continuation = [], []
    for b, t in batch.mask.nonzero().tolist():
        reached = parts[b, t + 1][3].features
        reward.append(-model.reward(reached).log_prob(batch.reward[b, t, None]).squeeze(0))
        target = 1.0 - float(batch.terminated[b, t])
        probability = Bernoulli(logits=model.continuation(reached).logits)
        continuation.append(-probability.log_prob(torch.tensor([target])).squeeze(0))
    expected = {
        "observation": -nats.mean(),
        "reward": torch.stack(reward).mean(),
        "continuation": torch.stack(continuation).mean(),
        "dynamics": follows.mean(),
        "representation": follows.mean(),
        "marginal": starts.mean(),
        "ensemble": sum(member_terms(model, parts)),
    }
    assert set(output.terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value, rtol=1e-4, atol=1e-4, msg=name)
    all_kl = torch.stack(list(kl.values()))
    torch.testing.assert_close(output.bound, (nats - all_kl).mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.total, torch.stack(list(expected.values())).sum(), rtol=1e-4, atol=1e-4)


def test_total_is_the_weighted_sum_and_every_term_has_a_weight():
    weights = ObjectiveOptions(observation=2, reward=3, continuation=5, dynamics=7, representation=11, marginal=13)
    model = small_model(small_options(objective=weights))
    output = model.loss(window())
    assert set(output.terms) == set(vars(weights)) - {"free_nats"}
    expected = sum(getattr(weights, name) * value for name, value in output.terms.items())
    torch.testing.assert_close(output.total, expected)


def test_trap_free_nats_are_applied_after_the_sum_over_latents():
    model = still(small_model())
    batch = window()
    parts = parts_of(model, batch)
    kl = torch.stack([model.family.kl(q, p).squeeze(0) for start, q, p, _, _ in parts.values() if not start])
    nats = float(kl.detach().median())  # some steps are above it, some below
    model.objective = ObjectiveOptions(free_nats=nats)
    output = model.loss(batch)
    torch.testing.assert_close(output.terms["dynamics"], kl.clamp(min=nats).mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.terms["representation"], kl.clamp(min=nats).mean(), rtol=1e-4, atol=1e-4)


def test_bound_uses_neither_free_nats_nor_weights():
    batch = window()
    bounds = []
    for objective in (PLAIN, ObjectiveOptions(free_nats=50.0, dynamics=0.1, representation=0.0, observation=9.0)):
        torch.manual_seed(5)
        bounds.append(small_model(small_options(objective=objective)).loss(batch).bound)
    assert torch.equal(*bounds)


def test_balance_trains_the_prior_by_one_term_and_the_posterior_by_the_other():
    model = small_model(small_options(objective=PLAIN))
    terms = model.loss(window()).terms
    head = model.temporal_prior.head[-1].weight
    posterior = model.encoder.head[-1].weight
    (none,) = torch.autograd.grad(terms["representation"], head, retain_graph=True, allow_unused=True)
    assert none is None or none.abs().max() == 0
    assert torch.autograd.grad(terms["dynamics"], head, retain_graph=True)[0].abs().max() > 0
    assert torch.autograd.grad(terms["representation"], posterior, retain_graph=True)[0].abs().max() > 0
    (marginal,) = torch.autograd.grad(terms["marginal"], posterior, retain_graph=True, allow_unused=True)
    assert marginal is None or marginal.abs().max() == 0


def test_trap_is_first_mask_does_not_fire_a_step_early():
    model = still(small_model())
    batch = window(ends=(2,), first=(True,))  # observation 2 is the last of its episode, 3 the first of the next
    states = model.infer(batch)
    assert (states.context[0, 2] != 0).any()
    assert states.context[0, 3].abs().max() == 0
    assert (states.context[0, 4] != 0).any()
    # the reward of the step into the last observation counts, that of the step that does not exist does not
    losses = []
    for t in (1, 2):
        changed = replace(batch, reward=batch.reward.clone())
        changed.reward[0, t] += 5
        losses.append((model.loss(changed).terms["reward"] - model.loss(batch).terms["reward"]).abs().item())
    assert losses[0] > 1e-3 and losses[1] == 0


def test_trap_reward_and_continuation_belong_to_the_state_that_was_reached():
    model = still(small_model())
    batch = window(ends=(None,), first=(True,), steps=4)
    features = model.infer(batch).features
    expected = -model.reward(features[:, 1:]).log_prob(batch.reward).mean()
    wrong = -model.reward(features[:, :-1]).log_prob(batch.reward).mean()
    found = model.loss(batch).terms["reward"]
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, wrong)


def test_truncation_alone_never_counts_as_an_end():
    model = still(small_model())
    batch = window(ends=(None, 3), first=(True, True))
    assert batch.truncated.any() and not batch.terminated.any()
    without = replace(batch, truncated=torch.zeros_like(batch.truncated))
    assert torch.equal(model.loss(batch).total, model.loss(without).total)
    other = replace(batch, terminated=batch.truncated)
    assert not torch.equal(model.loss(batch).terms["continuation"], model.loss(other).terms["continuation"])


def test_first_latent_of_an_episode_and_of_a_window_have_priors_of_their_own():
    model = still(small_model())
    inside, begins = window(ends=(None,), first=(False,)), window(ends=(None,), first=(True,))
    with torch.no_grad():
        model.marginal.table[1].add_(2.0)
    assert torch.equal(inside.obs["obs"], begins.obs["obs"])
    assert model.loss(begins).terms["marginal"] > model.loss(inside).terms["marginal"] + 1
    assert torch.equal(model.infer(inside).features, model.infer(begins).features)


@pytest.mark.parametrize("sees", [False, True])
def test_filter_ignores_state_and_action_where_an_episode_begins(sees):
    model = small_model(small_options(posterior_sees_context=sees))
    obs, first = random_obs(VECTOR, 3), torch.tensor([True, False, True])
    state = State(torch.randn(3, model.temporal_prior.context_size), torch.randn(3, 4))
    action = torch.eye(4)[:3]
    mixed = model.filter(state, action, obs, first, sample=False)
    fresh = model.filter(None, None, obs, torch.ones(3, dtype=torch.bool), sample=False)
    assert torch.equal(mixed.features[first], fresh.features[first])
    assert (mixed.features[1] != fresh.features[1]).any() and mixed.context[0].abs().max() == 0


def test_filter_samples_or_takes_the_mode():
    model = small_model()
    obs, first = random_obs(VECTOR, 3), torch.ones(3, dtype=torch.bool)
    one, two = (model.filter(None, None, obs, first) for _ in range(2))
    assert not torch.equal(one.z, two.z)
    one, two = (model.filter(None, None, obs, first, sample=False) for _ in range(2))
    assert torch.equal(one.z, two.z)


def test_trap_what_training_does_to_observations_is_done_at_act_time_too():
    model = still(small_model(obs=OBS["mixed"]))
    model.fit_standardizer({"body/joints": torch.randn(50, 2) * 40 + 100, "speed": torch.randn(50, 1) - 30})
    batch = window(OBS["mixed"], ends=(None,), first=(True,))
    trained_on = model.infer(batch).index((slice(None), 0))
    acted_on = model.filter(
        None, None, {name: value[:, 0] for name, value in batch.obs.items()}, torch.ones(1, dtype=torch.bool)
    )
    torch.testing.assert_close(acted_on.features, trained_on.features, rtol=1e-4, atol=1e-5)
    unscaled = {name: value[:, 0].float() for name, value in batch.obs.items()}
    with pytest.raises(TypeError, match="uint8"):
        model.filter(None, None, unscaled, torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("posterior", FAMILIES)
def test_imagination_is_the_loop_written_out(posterior):
    model = still(small_model(small_options(posterior)))
    start = model.infer(window()).index((slice(None), 0))
    plan = torch.eye(4)[torch.randint(4, (2, 3))]
    rollout = model.imagine(start, plan, 3)
    state = start
    for t in range(3):
        context, cache = model.temporal_prior.advance(state, plan[:, t])
        raw = model.temporal_prior.prior(context)
        state = State(context, model.family.mode(raw), cache)
        torch.testing.assert_close(rollout.states.features[:, t + 1], state.features)
        torch.testing.assert_close(rollout.reward[:, t], model.reward(state.features).mean)
        torch.testing.assert_close(rollout.continuation[:, t], model.continuation(state.features).probs)
        torch.testing.assert_close(rollout.aleatoric[:, t], model.family.entropy(raw))
    assert torch.equal(rollout.states.features[:, 0], start.features) and torch.equal(rollout.action, plan)
    assert model.imagine(start, plan, 3, entropy=False).aleatoric.isnan().all()
    asked = model.imagine(start, plan, 3, entropy=False, uncertainty=True)
    assert model.ensemble is not None and asked.members is not None
    torch.testing.assert_close(asked.aleatoric, model.ensemble.family.entropy(asked.members).mean(0))
    model.ensemble = None  # who asks without an ensemble is told the prior's
    asked = model.imagine(start, plan, 3, entropy=False, uncertainty=True)
    torch.testing.assert_close(asked.aleatoric, rollout.aleatoric)
    assert rollout.epistemic is None


def test_policy_acts_in_the_state_before_the_step():
    model = still(small_model())
    start = model.infer(window()).index((slice(None), 0))
    seen = []

    def policy(features):
        seen.append(features)
        return torch.eye(4)[(len(seen) - 1) % 4].expand(2, 4)

    rollout = model.imagine(start, policy, 3)
    assert torch.equal(torch.stack(seen, 1), rollout.states.features[:, :-1])
    assert rollout.action.argmax(-1).tolist() == [[0, 1, 2]] * 2


def test_trap_imagined_reward_is_a_value_and_not_a_logit():
    model = still(small_model())
    with torch.no_grad():
        model.reward.net[-1].weight.zero_()
        model.reward.net[-1].bias.zero_()[18] = 40.0
    rollout = model.imagine(model.infer(window()).index((slice(None), 0)), torch.zeros(2, 3, 4), 3)
    torch.testing.assert_close(rollout.reward, model.reward.bins[18].expand(2, 3))


def test_gradient_flows_from_imagined_reward_to_the_first_action():
    model = small_model(action=ACTIONS["continuous"])
    plan = torch.zeros(2, 4, 2, requires_grad=True)
    start = model.infer(window(action=ACTIONS["continuous"])).index((slice(None), 0)).detach()
    rollout = model.imagine(start, plan, 4)
    (gradient,) = torch.autograd.grad(rollout.reward[:, -1].sum(), plan)
    assert (gradient.abs().amax((0, 2)) > 0).all()
    (early,) = torch.autograd.grad(model.imagine(start, plan, 4).reward[:, 0].sum(), plan)
    assert early[:, 1:].abs().max() == 0


def test_dreams_begin_where_episodes_begin():
    model = small_model()
    with torch.no_grad():
        model.marginal.table[1, :4] = 7.0
        model.marginal.table[1, 4:] = -10.0
    start = model.dream_start(50)
    assert start.context.abs().max() == 0 and (start.z - 7).abs().mean() < 0.2
    assert set(model.decode(start)) == {"obs"}


def test_fit_standardizer_centres_what_the_encoder_reads():
    model = small_model()
    data = torch.randn(500, 3) * 30 + 200
    model.fit_standardizer({"obs": data})
    read = model.standardizer("obs", data)
    assert read.median(0).values.abs().max() < 0.2 and (read.std(0) - 1).abs().max() < 0.2
