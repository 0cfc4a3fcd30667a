"""Actor and critic: their losses written out, where they are scored, what they weigh, what they follow."""

from itertools import product

import pytest
import torch

from agents.actor_critic import MIN_RANGE, UNIMIX, Actor, ActorCritic
from agents.options import ActorCriticOptions
from agents.returns import lambda_return, percentile_range, visit_weights
from tests.contracts.tools import ACTIONS, small_model, window
from worldmodels.types import Rollout, State

FEATURES = 6
KINDS = list(ACTIONS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def options(**changes):
    return ActorCriticOptions(**({"hidden": 8, "layers": 1, "bins": 41, "limit": 4.0, "horizon": 4} | changes))


def make(kind="discrete", **changes):
    """An actor-critic with weights that are not zero anywhere."""
    policy = ActorCritic(FEATURES, ACTIONS[kind], options(**changes))
    with torch.no_grad():
        for module in (policy.actor, policy.critic, policy.slow_critic, policy.average_actor):
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def scripted(policy, batch=5, steps=4, continuation=None):
    """An `imagine` that returns a fixed rollout whose actions are sampled from the policy."""
    states = State(torch.randn(batch, steps + 1, 4), torch.randn(batch, steps + 1, 2))
    reward = torch.randn(batch, steps) * 5
    keep = torch.rand(batch, steps) if continuation is None else continuation
    with torch.no_grad():
        action = torch.stack([policy.actor.sample(states.features[:, t]) for t in range(steps)], 1)
    rollout = Rollout(states, action, reward, keep, torch.zeros(batch, steps))
    return lambda start, act, horizon: rollout, rollout


@pytest.mark.parametrize("kind", KINDS)
def test_losses_with_the_score_gradient_are_the_sums_written_out(kind):
    policy = make(kind, gradient="score", entropy=0.01, gamma=0.9)
    imagine, rollout = scripted(policy)
    torch.manual_seed(3)
    losses = policy.losses(imagine, rollout.states.index((slice(None), 0)))
    torch.manual_seed(3)
    discount = 0.9 * rollout.continuation
    features = rollout.states.features
    target = lambda_return(rollout.reward, discount, policy.slow_critic(features[:, 1:]).mean, 0.95).detach()
    scale = max(float(percentile_range(target)), MIN_RANGE)
    entropies = policy.actor(features[:, :-1]).entropy()
    actor = critic = 0.0
    for b in range(5):
        weight = 1.0
        for t in range(4):
            here = features[b, t]
            estimate = policy.critic(here)
            advantage = (target[b, t] - estimate.mean) / scale
            log_prob = policy.actor(here).log_prob(rollout.action[b, t])
            actor -= weight * (log_prob * advantage.detach() + 0.01 * entropies[b, t]) / 20
            critic -= weight * estimate.log_prob(target[b, t]) / 20
            weight = weight * float(discount[b, t])
    torch.testing.assert_close(losses.actor, actor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.critic, critic, rtol=1e-4, atol=1e-5)


def test_trap_actor_is_scored_in_the_state_where_it_acted_and_not_in_the_outcome():
    policy = make(gamma=0.0, entropy=0.0, horizon=1)  # without a discount the outcome cannot matter
    _, rollout = scripted(policy, steps=1)
    start = rollout.states.index((slice(None), 0))

    def actor_loss(at):
        policy.return_range.zero_()
        moved = State(rollout.states.context.clone(), rollout.states.z)
        moved.context[:, at] += 3
        other = Rollout(moved, rollout.action, rollout.reward, rollout.continuation, rollout.aleatoric)
        return policy.losses(lambda *_: other, start).actor.item()

    policy.return_range.zero_()
    unmoved = policy.losses(lambda *_: rollout, start).actor.item()
    assert actor_loss(1) == unmoved and abs(actor_loss(0) - unmoved) > 1e-3


def test_trap_continuation_weighs_imagined_steps():
    policy = make()
    dies = torch.ones(5, 4)
    dies[:, 0] = 0.0  # nothing after the first step exists
    _, rollout = scripted(policy, continuation=dies)

    def gradients(reward):
        policy.return_range.zero_()
        other = Rollout(rollout.states, rollout.action, reward, rollout.continuation, rollout.aleatoric)
        losses = policy.losses(lambda *_: other, rollout.states.index((slice(None), 0)))
        (gradient,) = torch.autograd.grad(losses.critic, policy.critic.net[-1].bias)
        return gradient, losses.metrics["imagined_return"]

    later = rollout.reward.clone()
    later[:, 1:] += 1000.0
    for one, other in zip(gradients(rollout.reward), gradients(later), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(visit_weights(0.99 * dies)[:, 1:], torch.zeros(5, 3))


@pytest.mark.parametrize(("kind", "gradient"), list(product(KINDS, ("score", "dynamics"))))
def test_either_gradient_raises_the_probability_of_what_is_rewarded(kind, gradient):
    """Reward is the first number of the action; the actor must come to prefer it, by the reward alone."""
    policy = ActorCritic(FEATURES, ACTIONS[kind], options(gradient=gradient, entropy=0.0, horizon=2, gamma=0.5))
    optimizer = torch.optim.Adam(policy.actor.parameters(), 0.03)

    def imagine(start, act, horizon):
        states, actions = [start], []
        for _ in range(horizon):
            actions.append(act(states[-1].features))
            states.append(start)
        action = torch.stack(actions, 1)
        both = State(torch.stack([s.context for s in states], 1), torch.stack([s.z for s in states], 1))
        return Rollout(both, action, action[..., 0], torch.ones(action.shape[:2]), torch.zeros(action.shape[:2]))

    start = State(torch.randn(64, 4), torch.randn(64, 2))
    before = policy.actor.sample(start.features)[:, 0].mean()
    for _ in range(60):
        losses = policy.losses(imagine, start)
        optimizer.zero_grad()
        losses.actor.backward()
        optimizer.step()
    after = policy.actor.sample(start.features)[:, 0].mean()
    assert after > before + 0.3 and after > 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_the_dynamics_for_continuous_actions_and_the_score_for_the_others(kind):
    assert make(kind).through_dynamics is (kind == "continuous")
    assert make(kind, gradient="score").through_dynamics is False
    assert make(kind, gradient="dynamics").through_dynamics is True


@pytest.mark.parametrize("kind", KINDS)
def test_fast_sampling_has_the_distribution_that_is_scored(kind):
    actor = Actor(FEATURES, ACTIONS[kind], hidden=8, layers=1, norm=True)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    features = torch.randn(FEATURES).expand(100_000, -1)
    fast, slow = actor.sample(features), actor(features).sample()
    assert fast.shape == slow.shape == (100_000, ACTIONS[kind].size)
    error = 4 * (fast.var(0) / 50_000).sqrt() + 1e-3
    assert ((fast.mean(0) - slow.mean(0)).abs() < error).all()
    assert ((fast.square().mean(0) - slow.square().mean(0)).abs() < 2 * error).all()
    assert actor.mode(features[0]).shape == (ACTIONS[kind].size,)
    if kind != "continuous":
        start = 0
        for count in ACTIONS[kind].classes:
            assert (fast[:, start : start + count].sum(-1) == 1).all()
            assert (fast[:, start : start + count].mean(0) > 0.5 * UNIMIX / count).all()
            start += count
    else:
        assert fast.abs().max() <= 1


def test_policy_learns_in_imagination_without_touching_the_world_model():
    model = small_model()
    policy = ActorCritic(model.features_size, ACTIONS["discrete"], options())
    start = model.infer(window()).flatten().detach()
    losses = policy.losses(model.imagine, start)
    grads = torch.autograd.grad(losses.actor + losses.critic, list(model.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in grads)


def test_scale_of_returns_starts_at_the_first_batch_and_then_follows_slowly():
    policy = make(return_rate=0.1)
    policy._follow_range(torch.linspace(0, 100, 101))
    assert policy.return_range.item() == pytest.approx(90)
    policy._follow_range(torch.linspace(0, 1000, 101))
    assert policy.return_range.item() == pytest.approx(0.9 * 90 + 0.1 * 900)


@pytest.mark.parametrize("critic", ["scalar", "two_hot"])
def test_both_critics_grow_to_the_value_of_the_rewards_earned_for_ever(critic):
    policy = make(gamma=0.9, critic=critic)
    imagine, rollout = scripted(policy, continuation=torch.ones(5, 4))
    rollout.reward.fill_(-30.0)
    features = rollout.states.features
    before = policy.slow_critic(features).mean
    losses = policy.losses(imagine, rollout.states.index((slice(None), 0)))
    assert losses.value_scale.item() == pytest.approx(300, rel=1e-4)
    policy.widen(losses.value_scale)
    torch.testing.assert_close(policy.slow_critic(features).mean, before)
    if critic == "scalar":
        assert policy.critic.scale.item() == policy.slow_critic.scale.item() == pytest.approx(300, rel=1e-4)


def test_small_returns_are_not_blown_up():
    policy = make(entropy=0.0)
    imagine, rollout = scripted(policy)
    rollout.reward.mul_(1e-6)
    with torch.no_grad():
        for parameter in (*policy.critic.net[-1].parameters(), *policy.slow_critic.net[-1].parameters()):
            parameter.zero_()
    assert policy.losses(imagine, rollout.states.index((slice(None), 0))).actor.abs() < 1e-4


def test_trap_return_normaliser_and_slow_copies_travel_in_the_state():
    names = set(make().state_dict())
    assert "return_range" in names
    assert {name.split(".")[0] for name in names} == {
        *("actor", "critic", "average_actor", "slow_critic", "return_range")
    }


def test_copies_follow_by_their_rates_and_are_not_trained():
    policy = make(actor_average=0.25, slow_critic=0.5)
    pairs = ((policy.average_actor, policy.actor, 0.25), (policy.slow_critic, policy.critic, 0.5))
    before = [[p.clone() for p in slow.parameters()] for slow, _, _ in pairs]
    policy.follow()
    for (slow, fast, rate), old in zip(pairs, before, strict=True):
        for now, then, target in zip(slow.parameters(), old, fast.parameters(), strict=True):
            torch.testing.assert_close(now, then + rate * (target - then))
        assert not any(p.requires_grad for p in slow.parameters())


def test_a_fresh_critic_says_zero_and_a_fresh_actor_is_nearly_uniform():
    policy = ActorCritic(FEATURES, ACTIONS["discrete"], options())
    features = torch.randn(50, FEATURES)
    assert policy.critic(features).mean.abs().max() == 0
    assert (policy.actor(features).log_probs[0].exp() - 0.25).abs().max() < 0.02
