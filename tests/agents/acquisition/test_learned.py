"""Acquisitions that learn, and those that ask about the task: what they see, what they remember, where they look."""

from dataclasses import replace

import pytest
import torch

from agents.acquisition import (
    Bonus,
    Count,
    Expected,
    RandomNetworkDistillation,
    TaskAware,
    build_bonus,
    information_gain,
    member_returns,
    member_rollouts,
    observe,
    return_difference,
)
from agents.actor_critic import ActorCritic
from agents.learner import Descent, Learner, apply_gradients
from agents.options import AcquisitionOptions, ActorCriticOptions, PlannerOptions, TrainOptions
from agents.planners import build_planner
from tests.agents.acquisition.test_scores import imagined, make_model
from tests.contracts.tools import ACTIONS, window
from worldmodels.errors import ConfigError
from worldmodels.types import State

CONTINUOUS = ACTIONS["continuous"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Fortune(torch.nn.Module):
    """Scores 1,000 where the first action coordinate is large, else a little."""

    def forward(self, rollout):
        return torch.where(rollout.action[..., 0] > 0.5, 1_000.0, 0.4)


@pytest.fixture
def seen():
    model = make_model()
    batch = window(action=CONTINUOUS)
    states = model.infer(batch).detach()
    return model, states, batch


def test_observed_steps_are_aligned_with_imagined_ones(seen):
    model, states, batch = seen
    observed = observe(model, states, batch)
    rollout = observed.rollout
    assert rollout.reward is batch.reward and observed.mask is batch.mask
    one = model.uncertainty(states.index((slice(None), 2)), batch.action[:, 2])
    torch.testing.assert_close(rollout.epistemic[:, 2], one.epistemic)
    torch.testing.assert_close(rollout.members[:, :, 2], one.members)
    prior = model.temporal_prior.prior(states.context[:, 3])
    torch.testing.assert_close(
        observed.error[:, 2], (model.family.moments(prior)[0] - states.z[:, 3]).square().mean(-1)
    )
    posterior = model.encoder.encode(model.encoder.tokens(batch.obs)).posterior[:, 3]
    torch.testing.assert_close(observed.surprise[:, 2], model.family.kl(posterior, prior))


def train(acquisition, observed, steps=300):
    optimizer = torch.optim.Adam([p for p in acquisition.parameters() if p.requires_grad], 3e-3)
    for _ in range(steps):
        apply_gradients(Descent(acquisition.learn(observed), optimizer, 100.0, acquisition))


def test_distillation_fades_where_it_was_and_stays_where_it_was_not(seen):
    observed = observe(*seen)
    acquisition = RandomNetworkDistillation(seen[0].family.width)
    far = replace(observed.rollout, states=State(observed.rollout.states.context, observed.rollout.states.z + 4))
    before = acquisition(observed.rollout)[observed.mask].mean()
    train(acquisition, observed)
    assert acquisition(observed.rollout)[observed.mask].mean() < 0.05 * before
    assert acquisition(far).mean() > 0.2 * before


@pytest.mark.parametrize("of", ["surprise", "error"])
def test_expected_costs_approach_those_that_were_seen_and_ignore_what_does_not_exist(seen, of):
    observed = observe(*seen)
    acquisition = Expected(seen[0].temporal_prior.context_size, of)
    target = getattr(observed, of)
    target[~observed.mask] = 1e6
    train(acquisition, observed, steps=600)
    found = acquisition(observed.rollout)[observed.mask]
    torch.testing.assert_close(found, target[observed.mask], rtol=0.15, atol=0.05)


def test_count_is_one_over_the_root_of_the_visits(seen):
    observed = observe(*seen)
    acquisition = Count(seen[0].family.width)
    assert (acquisition(observed.rollout) == 1).all()
    for _ in range(3):
        acquisition.learn(observed)
    assert float(acquisition.visits.sum()) == 3 * int(observed.mask.sum())
    cells = acquisition._cell(observed.rollout.states.z[:, 1:])
    for cell, score in zip(cells[observed.mask], acquisition(observed.rollout)[observed.mask], strict=True):
        visits = 3 * int((cells[observed.mask] == cell).sum())
        assert float(score) == pytest.approx((1 + visits) ** -0.5)


def test_members_are_followed_alone_from_first_to_last_step(seen):
    model, states, _ = seen
    start = states.index((slice(None), 1))

    def policy(features):
        return torch.tanh(features[:, :2])

    rollout = member_rollouts(model, start, policy, 3)
    assert rollout.action.shape == (6, 3, 2)
    for k in range(3):
        for b in range(2):
            state = State(start.context[b : b + 1], start.z[b : b + 1])
            for t in range(3):
                action = policy(state.features)
                context, _ = model.temporal_prior.advance(state, action)
                raw = model.ensemble(context, model.temporal_prior.previous(context))[k]
                state = State(context, model.family.moments(raw)[0])
                torch.testing.assert_close(rollout.states.z[2 * k + b, t + 1], state.z[0], rtol=1e-4, atol=1e-5)
    returns = member_returns(model, start, policy, 3, 0.9)
    assert returns.shape == (3, 2)
    weight = torch.stack([torch.ones(6), *(0.9 * rollout.continuation[:, :2]).cumprod(1).unbind(1)], 1)
    torch.testing.assert_close(returns.flatten(), (weight * rollout.reward).sum(1))


def test_each_member_carries_out_its_own_plan(seen):
    model, states, _ = seen
    start, plans = states.index((slice(None), 1)), torch.rand(6, 3, 2) * 2 - 1  # three members, two starts
    rollout = member_rollouts(model, start, plans, 3)
    state, members = start.repeat(3), torch.arange(3).repeat_interleave(2)
    for t in range(3):
        context, _ = model.temporal_prior.advance(state, plans[:, t])
        raw = model.ensemble(context, model.temporal_prior.previous(context))[members, torch.arange(6)]
        state = State(context, model.family.moments(raw)[0])
        torch.testing.assert_close(rollout.states.z[:, t + 1], state.z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rollout.action, plans)


def test_members_are_needed_to_follow_them():
    model = make_model(members=0)
    with pytest.raises(ConfigError, match=r"world_model\.ensemble\.members=5"):
        member_rollouts(model, model.dream_start(2), lambda features: features[:, :2], 3)


def test_what_shifts_all_returns_alike_is_no_reason_to_look():
    shift = torch.tensor([0.0, 10.0, -5.0, 3.0])  # the members disagree wildly about how good everything is
    returns = [shift + 1, shift + 2, shift + torch.tensor([0.0, 1.0, 0.0, 1.0])]
    difference = return_difference(returns)
    torch.testing.assert_close(difference[0, 1], torch.tensor(0.0))
    torch.testing.assert_close(difference[0, 2], torch.tensor(0.25))
    torch.testing.assert_close(difference, difference.t())


def test_task_aware_gain_is_the_gain_near_the_members_trajectories_and_nothing_far_away(seen):
    model, states, _ = seen
    acquisition = TaskAware(model.family.width, width=0.5, horizon=5)
    rollout = imagined(model)
    torch.testing.assert_close(acquisition(rollout), information_gain(rollout))
    acquisition.refresh(model, lambda features: torch.tanh(features[:, :2]), states.flatten())
    z = rollout.states.z.clone()
    z[:, 2] = acquisition.points[7]
    z[:, 3] = acquisition.points[7] + 50
    moved = replace(rollout, states=State(rollout.states.context, z))
    score = acquisition(moved)
    torch.testing.assert_close(score[:, 1], information_gain(rollout)[:, 1])
    torch.testing.assert_close(score[:, 2], torch.zeros(3))
    assert (score <= information_gain(rollout) + 1e-6).all()


def learner_with(name, transition="same", *, agent_name="actor_critic", **changes):
    model = make_model(transition=transition)
    agent = ActorCriticOptions(
        name=agent_name,
        hidden=8,
        layers=1,
        bins=21,
        horizon=4,
        starts=6,
        actor_rate=1e-2,
        acquisition=AcquisitionOptions(name=name, **changes),
    )
    options = TrainOptions(agent=agent)
    policy = ActorCritic(model.features_size, CONTINUOUS, agent)
    return Learner(model, policy, options, bonus=build_bonus(agent.acquisition, model))


@pytest.mark.parametrize("transition", ["same", "flow"])
@pytest.mark.parametrize(
    "name", ["information_gain", "jensen_renyi", "task_aware", "surprise", "rnd", "count", "random_network"]
)
def test_an_update_trains_policy_and_acquisition_and_moves_no_member_by_the_bonus(name, transition):
    learner = learner_with(name, transition, reward=0.0, quantile=0.9)
    before = {k: v.clone() for k, v in learner.bonus.state_dict().items()}
    learner.update(window(action=CONTINUOUS))
    assert learner.fault is None
    changed = {k for k, v in learner.bonus.state_dict().items() if not torch.equal(v, before[k])}
    assert {"scale", "threshold"} <= changed
    moves = {"rnd": "predictor", "surprise": "net", "count": "visits", "task_aware": "points"}
    if name in moves:
        assert any(moves[name] in key for key in changed)
    assert not any("target" in key for key in changed)
    weights = learner.world_model.ensemble.weights.clone()
    states = learner.world_model.infer(window(action=CONTINUOUS)).detach()
    learner.update_policy(states, window(action=CONTINUOUS))
    assert torch.equal(weights, learner.world_model.ensemble.weights)


def test_a_bonus_alone_is_what_the_policy_maximises():
    """The first action's first coordinate is what the acquisition scores; the policy goes there."""
    learner = learner_with("none")
    learner.bonus = Bonus(lambda rollout: rollout.action[..., 0], weight=-1.0, reward=0.0, normalize=False)
    batch = window(action=CONTINUOUS)
    states = learner.world_model.infer(batch).detach()
    for _ in range(60):
        learner.update_policy(states, batch)
    assert learner.policy.actor.mode(states.features)[..., 0].max() < -0.7


def test_returns_end_with_the_value_before_what_is_not_trusted():
    learner = learner_with("none")
    policy = learner.policy
    rollout = imagined(learner.world_model, batch=2)
    rollout = replace(rollout, epistemic_variance=torch.tensor([[0.0, 0, 9, 0], [0, 0, 0, 0]]).unsqueeze(-1))
    start = rollout.states.index((slice(None), 0))
    huge = replace(rollout, reward=rollout.reward + torch.tensor([[0.0, 0, 1e4, 1e4], [0, 0, 0, 0]]))
    bonus = Bonus(lambda r: r.epistemic_variance.mean(-1), weight=0.0, reward=1.0, normalize=False, quantile=0.9)
    bonus.threshold.fill_(1.0)
    losses = []
    for r in (rollout, huge):
        torch.manual_seed(0)
        policy.return_range.zero_()
        policy.options = replace(policy.options, entropy=0.0)
        losses.append(policy.losses(lambda *_, r=r: r, start, bonus))
    torch.testing.assert_close(losses[0].critic, losses[1].critic)
    torch.testing.assert_close(losses[0].metrics["imagined_return"], losses[1].metrics["imagined_return"])


@pytest.mark.parametrize("name", ["disagreement", "rnd"])
def test_a_threshold_that_is_no_number_is_never_taken(name):
    learner = learner_with(name, quantile=0.9)
    learner.update(window(action=CONTINUOUS))
    before = {k: v.clone() for k, v in learner.bonus.state_dict().items()}
    assert torch.isfinite(before["threshold"])
    real = learner.bonus.acquisition
    broken = real.forward if isinstance(real, torch.nn.Module) else real
    spoiled = lambda rollout: broken(rollout) * torch.nan  # noqa: E731
    if isinstance(real, torch.nn.Module):
        real.forward = spoiled
    else:
        learner.bonus.acquisition = spoiled
    learner.update(window(action=CONTINUOUS))
    after = learner.bonus.state_dict()
    assert learner.fault is not None and learner.skipped == 1
    assert not [key for key in before if not torch.equal(before[key], after[key])]


def test_a_threshold_waits_for_the_step_of_its_acquisition():
    learner = learner_with("rnd", quantile=0.9)
    learner.update(window(action=CONTINUOUS))
    before = learner.bonus.threshold.clone()
    handle = learner.bonus.acquisition.predictor[0].weight.register_hook(lambda gradient: gradient * torch.nan)
    learner.update(window(action=CONTINUOUS))
    assert learner.fault is not None and "gradient of acquisition.predictor" in learner.fault
    assert torch.equal(learner.bonus.threshold, before)
    handle.remove()
    learner.update(window(action=CONTINUOUS))
    assert learner.fault is None and not torch.equal(learner.bonus.threshold, before)


def test_a_bonus_that_learns_slows_down_with_the_rest():
    learner = learner_with("rnd")
    learner.slow_down(0.25)
    for optimizer, rate in (
        (learner.bonus_optimizer, learner.options.agent.acquisition.rate),
        (learner.model_optimizer, learner.options.train.model_rate),
    ):
        assert [group["lr"] for group in optimizer.param_groups] == [rate / 4] * len(optimizer.param_groups)


def test_the_bonus_of_a_planner_has_the_scale_of_real_steps():
    learner = learner_with("disagreement", agent_name="planner")
    batch = window(action=CONTINUOUS)
    learner.update(batch)
    states = learner.world_model.infer(batch).detach()
    assert float(learner.bonus.scale) > 0
    observed = observe(learner.world_model, states, batch)
    scores = learner.bonus.acquisition(observed.rollout)[batch.mask]
    learner.bonus.scale.zero_()
    learner.update_bonus(states, batch)
    torch.testing.assert_close(learner.bonus.scale, scores.std())
    torch.testing.assert_close(learner.bonus(observed.rollout)[batch.mask].std(), torch.tensor(1.0), rtol=1e-4, atol=0)
    plain = learner_with("disagreement", agent_name="planner", normalize=False)
    plain.update(batch)
    assert float(plain.bonus.scale) == 0, "without `normalize` there is none"


def test_a_planner_plans_no_further_than_it_trusts():
    """Steps with a large first coordinate pay a fortune and are not trusted; all others pay a little."""
    model = make_model()
    options = ActorCriticOptions(
        name="planner_actor", hidden=8, planner=PlannerOptions(horizon=3, samples=60, iterations=4, noise=0.0)
    )
    policy = ActorCritic(model.features_size, CONTINUOUS, options)
    start = State(torch.randn(4, model.temporal_prior.context_size), torch.randn(4, model.family.width))
    found = {}
    for quantile in (1.0, 0.9):
        bonus = Bonus(Fortune(), weight=1.0, reward=0.0, normalize=False, quantile=quantile)
        bonus.threshold.fill_(0.5)
        planner = build_planner(options, model, policy, CONTINUOUS, bonus)
        torch.manual_seed(0)
        found[quantile] = planner.act(start, None, deterministic=True)[0][:, 0]
    assert found[1.0].min() > 0.5 and found[0.9].max() < 0.5


@pytest.mark.parametrize(
    ("name", "weight", "quantile", "message"),
    [
        ("task_aware", -1.0, 1.0, "task_aware: expected a weight above 0"),
        ("sigma", 1.0, 0.9, r"quantile=0\.9 ends a return with the critic"),
    ],
)
def test_a_planner_without_a_policy_refuses_what_only_a_policy_can_answer(name, weight, quantile, message):
    model = make_model()
    bonus = build_bonus(AcquisitionOptions(name=name, weight=weight, quantile=quantile), model)
    for agent in ("planner", "planner_actor"):
        options = ActorCriticOptions(name=agent, hidden=8)
        policy = ActorCritic(model.features_size, CONTINUOUS, options)
        if agent == "planner":
            with pytest.raises(ConfigError, match=f"{message}.* use agent=planner_actor"):
                build_planner(options, model, policy, CONTINUOUS, bonus)
        else:
            assert build_planner(options, model, policy, CONTINUOUS, bonus) is not None


def test_a_planner_plans_for_the_bonus_while_it_explores_and_for_the_reward_when_it_is_judged():
    """Only the bonus is worth anything: the plan's first coordinate goes where it pays, one way or the other."""
    model = make_model()
    options = ActorCriticOptions(name="planner", hidden=8, planner=PlannerOptions(horizon=3, samples=60, iterations=4))
    policy = ActorCritic(model.features_size, CONTINUOUS, options)
    start = State(torch.randn(4, model.temporal_prior.context_size), torch.randn(4, model.family.width))
    first = torch.ones(4, dtype=torch.bool)

    def act(weight, *, deterministic):
        bonus = Bonus(lambda rollout: rollout.action[..., 0], weight=weight, reward=0.0, normalize=False)
        planner = build_planner(options, model, policy, CONTINUOUS, bonus)
        return planner.act(start, None, deterministic=deterministic, is_first=first)[0][:, 0]

    action = act(5.0, deterministic=False)
    assert action.mean() > 0.7 and action.min() > 0.1
    judged = act(-5.0, deterministic=True)
    assert judged.mean() < -0.7 and judged.max() < -0.1, "pessimism stays"
    torch.manual_seed(3)
    curious = act(5.0, deterministic=True)
    torch.manual_seed(3)
    plain = build_planner(options, model, policy, CONTINUOUS).act(start, None, deterministic=True, is_first=first)[0]
    assert torch.equal(curious, plain[:, 0]), "curiosity is for collecting"
