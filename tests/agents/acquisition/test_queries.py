"""Batches of questions against determinants and Gaussian conditioning; made-up questions score high and stay likely."""

import pytest
import torch

from agents.acquisition import (
    disagreement,
    information_batch,
    information_gain,
    reward_queries,
    synthesise,
    transition_queries,
)
from tests.agents.acquisition.test_scores import make_model
from tests.agents.acquisition.tools import generator
from worldmodels.errors import ConfigError
from worldmodels.types import State


def draws(members, points, width, seed=0):
    """Correlated members' means (K, N, Z)."""
    mix = torch.randn(points, points, generator=generator(seed)).double()
    return torch.einsum("knz,nm->kmz", torch.randn(members, points, width, generator=generator(seed + 1)).double(), mix)


def test_joint_information_is_that_of_the_determinant_and_greedy():
    mean, noise = draws(50, 6, 2), 0.1 + torch.rand(6, 2, generator=generator(5)).double()
    left = mean - mean.mean(0)

    def joint(chosen):
        total = 0.0
        for d in range(2):
            covariance = left[:, chosen, d].t() @ left[:, chosen, d] / 50
            total += float(0.5 * torch.logdet(torch.eye(len(chosen)) + covariance / noise[chosen, d]))
        return total

    selection = information_batch(mean, noise, 4)
    chosen: list[int] = []
    for _ in range(4):
        chosen.append(max((i for i in range(6) if i not in chosen), key=lambda i: joint([*chosen, i])))
    assert selection.index.tolist() == chosen
    assert float(selection.score.sum()) == pytest.approx(joint(chosen), rel=1e-6)


def test_a_copy_of_a_question_adds_little():
    mean = draws(40, 5, 1)
    mean[:, 1] = mean[:, 0] = 10 * mean[:, 0]
    selection = information_batch(mean, torch.full((5, 1), 0.01), 5)
    assert selection.index[0] in (0, 1)
    order = selection.index.tolist()
    assert order.index(1 - order[0]) == 4 and float(selection.score[-1]) < 0.4  # 1/2 log 2 is left of a copy


def test_transitions_that_are_asked_for_are_uncertain_and_tell_no_less_together_than_the_best_one_by_one():
    torch.manual_seed(0)
    model = make_model()
    context, z = torch.randn(8, model.temporal_prior.context_size), torch.randn(8, model.family.width)
    states, action = State(context.repeat(2, 1), z.repeat(2, 1)), (torch.rand(8, 2) * 2 - 1).repeat(2, 1)
    with torch.no_grad():
        selection = transition_queries(model, states, action, 3)
        single = model.uncertainty(states, action)
    assert int(selection.index[0]) % 8 == int(single.epistemic.argmax()) % 8
    assert float(selection.score[0]) == pytest.approx(float(single.epistemic.max()), rel=1e-4)
    best = single.epistemic.topk(3).indices  # a point and its copy among them
    mean, _ = model.family.moments(single.members[:, best])
    naive = information_batch(mean, single.aleatoric_variance[best].clamp(min=1e-4), 3)
    assert float(selection.score.sum()) >= float(naive.score.sum()) - 1e-4
    with pytest.raises(ConfigError, match="Gaussian"):
        transition_queries(make_model("categorical"), states, action, 3)


def test_rewards_that_are_asked_for_take_the_variance_that_conditioning_says():
    answers = draws(200, 5, 1, seed=3).squeeze(-1)
    quantity = answers @ torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5], dtype=torch.double)
    both = torch.cat([answers, quantity.unsqueeze(1)], 1)
    covariance = torch.cov(both.t(), correction=0)
    selection = reward_queries(answers, quantity, 0.3, 3)
    index = selection.index
    within = covariance[index][:, index] + 0.3 * torch.eye(3)
    across = covariance[-1, index]
    taken = across @ torch.linalg.solve(within, across)
    assert float(selection.score.sum()) == pytest.approx(float(taken), rel=1e-6)


def test_a_reward_that_decides_nothing_is_not_asked_for():
    relevant, irrelevant = torch.randn(100, generator=generator(0)), 20 * torch.randn(100, generator=generator(1))
    irrelevant = irrelevant - relevant * (irrelevant @ relevant) / (relevant @ relevant)  # unrelated in these draws too
    irrelevant = irrelevant - irrelevant.mean()
    answers = torch.stack([irrelevant, relevant], 1)
    assert answers.var(0).argmax() == 0, "by disagreement alone the irrelevant one would be asked for"
    assert reward_queries(answers, 3 * relevant, 0.1, 1).index.tolist() == [1]


@pytest.mark.parametrize("acquisition", [information_gain, disagreement])
def test_synthesised_queries_score_higher_than_random_ones_and_are_decoded(acquisition):
    torch.manual_seed(0)
    model = make_model()
    start = State(torch.randn(4, model.temporal_prior.context_size), torch.randn(4, model.family.width))
    seen: list[float] = []
    found = synthesise(model, start, acquisition, action_size=2, horizon=5, steps=60, progress=seen.append)
    assert found.score.shape == (4, 5) and found.obs["obs"].shape == (4, 6, 3)
    assert found.rollout.action.abs().max() <= 1
    with torch.no_grad():
        random = [
            acquisition(model.imagine(start, torch.rand(4, 5, 2) * 2 - 1, 5, uncertainty=True)).sum() for _ in range(20)
        ]
    assert float(found.score.sum()) > max(float(score) for score in random)
    assert seen[-1] > seen[0]
    torch.testing.assert_close(found.rollout.states.z[:, 0], start.z)


def test_queries_stay_nearer_to_what_is_likely_where_likelihood_weighs_more():
    torch.manual_seed(0)
    model = make_model()
    start = State(torch.randn(3, model.temporal_prior.context_size), torch.randn(3, model.family.width))
    surprise = []
    for plausible in (0.0, 100.0):
        torch.manual_seed(1)
        rollout = synthesise(
            model, start, disagreement, action_size=2, horizon=4, steps=40, plausible=plausible
        ).rollout
        raw = model.temporal_prior.prior(rollout.states.context[:, 1:])
        mean, std = model.family.moments(raw)
        surprise.append(float(((rollout.states.z[:, 1:] - mean) / std).square().mean().detach()))
    assert surprise[1] < 0.2 * surprise[0]


def test_queries_need_latents_that_can_be_moved():
    with pytest.raises(ConfigError, match="posterior=gaussian"):
        synthesise(
            make_model("categorical"),
            State(torch.zeros(1, 1), torch.zeros(1, 1)),
            disagreement,
            action_size=2,
            horizon=2,
        )
