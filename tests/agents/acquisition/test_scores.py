"""Scores of imagined steps against closed forms, and what every one of them must and must not do."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from agents.acquisition import (
    Bonus,
    build_acquisition,
    build_bonus,
    disagreement,
    information_gain,
    jensen_renyi,
    observe,
    pessimism,
    register_acquisition,
    sigma,
    upper_confidence,
)
from agents.acquisition.bonus import _BUILDERS
from agents.options import AcquisitionOptions
from envs import DreamVecEnv
from tests.contracts.tools import ACTIONS, small_model, small_options, window
from worldmodels.distributions import CategoricalFamily, GaussianFamily
from worldmodels.errors import ConfigError
from worldmodels.options import EnsembleOptions
from worldmodels.types import Rollout, State

NAMES = tuple(_BUILDERS)
OF_MEMBERS = ("disagreement", "sigma", "information_gain", "jensen_renyi", "task_aware")
DIFFERENTIABLE = tuple(name for name in NAMES if name != "count")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_model(posterior="gaussian", members=3, **changes):
    """A small model with three members whose weights are not zero anywhere."""
    options = small_options(posterior, ensemble=EnsembleOptions(members=members, units=8), **changes)
    return small_model(options, action=ACTIONS["continuous"], spread=0.3)


def imagined(model, horizon=4, batch=3, action="continuous", actions=None):
    start = State(torch.randn(batch, model.temporal_prior.context_size), torch.randn(batch, model.family.width))
    if actions is None:
        actions = torch.rand(batch, horizon, ACTIONS[action].size) * 2 - 1
    return model.imagine(start, actions, horizon, uncertainty=True)


def build(name, model):
    return build_acquisition(AcquisitionOptions(name=name), model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_every_acquisition_scores_each_step_once(name, posterior):
    model = make_model(posterior)
    score = build(name, model)(imagined(model))
    assert score.shape == (3, 4) and torch.isfinite(score).all()
    if name != "random_network":
        assert (score >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_acquisition_is_a_bonus_and_a_penalty_of_dreams(name):
    """The same dream with and without it: the reward differs by the weighted score of the step that was taken."""
    model = make_model()
    score, rewards = build(name, model), []
    for weight in (0.0, -2.0):
        dreams = DreamVecEnv(model, 4, bonus=score, bonus_weight=weight, seed=0)
        dreams.reset()
        _, reward, _, infos = dreams.step(np.full((4, 2), 0.5, np.float32))
        rewards.append(reward)
    given = np.array([info["bonus"] for info in infos])
    assert np.isfinite(given).all() and np.abs(given).max() > 0
    np.testing.assert_allclose(rewards[1], rewards[0] - 2 * given, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_score_depends_on_the_time_index(name):
    """The same transitions in another order have the same scores in that order."""
    model = make_model()
    rollout = imagined(model, horizon=5)
    acquisition = build(name, model)
    order = torch.tensor([3, 0, 4, 2, 1])

    def shuffle(x, dim=1):
        return None if x is None else x.index_select(dim, order)

    states = rollout.states
    moved = replace(
        rollout,
        states=State(
            torch.cat([states.context[:, :1], shuffle(states.context[:, 1:])], 1),
            torch.cat([states.z[:, :1], shuffle(states.z[:, 1:])], 1),
        ),
        action=shuffle(rollout.action),
        reward=shuffle(rollout.reward),
        continuation=shuffle(rollout.continuation),
        aleatoric=shuffle(rollout.aleatoric),
        epistemic=shuffle(rollout.epistemic),
        epistemic_variance=shuffle(rollout.epistemic_variance),
        aleatoric_variance=shuffle(rollout.aleatoric_variance),
        members=shuffle(rollout.members, 2),
    )
    torch.testing.assert_close(acquisition(moved), shuffle(acquisition(rollout)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_score_has_a_gradient_in_every_action_that_leads_to_it(name):
    model = make_model()
    actions = (torch.rand(3, 4, ACTIONS["continuous"].size) * 1.6 - 0.8).requires_grad_()
    acquisition = build(name, model)
    if isinstance(acquisition, torch.nn.Module):
        for parameter in acquisition.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    score = acquisition(imagined(model, actions=actions))
    (gradient,) = torch.autograd.grad(score[:, -1].sum(), actions)
    assert (gradient[:, -1].abs().sum(-1) > 0).all(), "the last action decides the last step's score"
    (gradient,) = torch.autograd.grad(
        build(name, model)(imagined(model, actions=actions))[:, 0].sum(), actions, allow_unused=True
    )
    assert gradient is None or (gradient[:, 1:] == 0).all(), "no later action does"


@pytest.mark.parametrize("name", OF_MEMBERS)
@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_identical_members_score_zero(name, posterior):
    model = make_model(posterior)
    with torch.no_grad():
        for tensor in (model.ensemble.weights, model.ensemble.prior_weights):
            tensor.copy_(tensor[:1].expand_as(tensor))
        score = build(name, model)(imagined(model))
    torch.testing.assert_close(score, torch.zeros_like(score), atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", OF_MEMBERS)
def test_members_are_needed_where_members_are_asked(name):
    model = make_model(members=0)
    with pytest.raises(ConfigError, match="world_model.ensemble.members=5"):
        build(name, model)
    states = State(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2))
    with pytest.raises(ConfigError, match="uncertainty=True"):
        information_gain(Rollout(states, torch.zeros(1, 1, 1), *(torch.zeros(1, 1) for _ in range(3))))


def rollout_of(mean, std, family, reward=0.0):
    """A rollout whose members (K, B, H, Z) have these means and standard deviations."""
    s = 3 + 2 * torch.logit((std - family.min_std) / 2)
    members = torch.cat([mean, s], -1)
    found_mean, found_std = family.moments(members)
    torch.testing.assert_close((found_mean, found_std), (mean, std))
    batch, horizon, width = mean.shape[1:]
    zero = torch.zeros(batch, horizon)
    states = State(torch.zeros(batch, horizon + 1, 1), torch.zeros(batch, horizon + 1, width))
    epistemic, aleatoric = mean.var(0, correction=0), std.square().mean(0)
    gain = 0.5 * (1 + epistemic / aleatoric).log().sum(-1)
    return Rollout(states, zero.unsqueeze(-1), zero + reward, zero, zero, gain, epistemic, aleatoric, members)


def test_information_gain_is_that_of_a_linear_gaussian_model_in_closed_form():
    """y = w x + noise, w ~ N(0, P): one observation at x tells 1/2 log(1 + x' P x / s^2) nats about w.

    Members are draws of w; with many of them the score must be the exact gain, from the determinants of P before and
    after.
    """
    torch.manual_seed(1)
    covariance, noise = torch.tensor([[1.0, 0.6], [0.6, 0.5]]), 0.3
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0], [0.1, 0.1]])  # (H, 2)
    w = torch.randn(20_000, 2) @ torch.linalg.cholesky(covariance).t()
    mean = (w @ inputs.t()).view(-1, 1, 4, 1)
    rollout = rollout_of(mean, torch.full_like(mean, noise), GaussianFamily(1, 0.01))
    exact = []
    for x in inputs:
        posterior = torch.linalg.inv(torch.linalg.inv(covariance) + torch.outer(x, x) / noise**2)
        exact.append(0.5 * (torch.logdet(covariance) - torch.logdet(posterior)))
    torch.testing.assert_close(information_gain(rollout)[0], torch.stack(exact), rtol=0.02, atol=0.01)


def test_disagreement_is_the_variance_of_the_means_and_sigma_its_root():
    mean = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]).view(3, 1, 1, 2)
    rollout = rollout_of(mean, torch.full_like(mean, 0.5), GaussianFamily(2, 0.01), reward=2.0)
    expected = (4 + 0 + 4) / 3 / 2
    torch.testing.assert_close(disagreement(rollout), torch.full((1, 1), expected))
    torch.testing.assert_close(sigma(rollout), torch.full((1, 1), expected**0.5))
    torch.testing.assert_close(upper_confidence(rollout, 0.5), 2 + 0.5 * sigma(rollout))
    torch.testing.assert_close(pessimism(rollout, 3.0), 2 - 3 * sigma(rollout))


def test_jensen_renyi_is_the_integral_over_a_grid():
    mean, std = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.4, 0.7, 1.1])
    x = torch.linspace(-12, 12, 40_001)
    density = torch.distributions.Normal(mean, std).log_prob(x.unsqueeze(-1)).exp()  # (N, K)
    quadratic = [-(p.square().sum() * (x[1] - x[0])).log() for p in (density.mean(1), *density.t())]
    expected = quadratic[0] - torch.stack(quadratic[1:]).mean()
    family = GaussianFamily(1, 0.01)
    found = jensen_renyi(rollout_of(mean.view(3, 1, 1, 1), std.view(3, 1, 1, 1), family), family)
    torch.testing.assert_close(found.squeeze(), expected, rtol=1e-4, atol=1e-5)


def test_jensen_renyi_of_members_that_are_far_apart_is_log_k_and_of_categoricals_a_sum():
    family = GaussianFamily(2, 0.01)
    mean = 100.0 * torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 1, 2)
    found = jensen_renyi(rollout_of(mean, torch.full_like(mean, 0.5), family), family)
    assert float(found) == pytest.approx(log(4), rel=1e-5)
    groups = CategoricalFamily(2, 2, unimix=0.0)
    logits = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]]).log().clamp(min=-40)
    states = State(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4))
    zero = torch.zeros(1, 1)
    rollout = Rollout(states, zero.unsqueeze(-1), zero, zero, zero, members=logits.view(2, 1, 1, 4))
    assert float(jensen_renyi(rollout, groups)) == pytest.approx(log(2), rel=1e-5)


def test_pure_noise_scores_nothing_where_members_agree_on_it():
    """A television: spread 1, no member knows better. A gap: little spread, members apart."""
    family = GaussianFamily(1, 0.01)
    mean = torch.tensor([[0.0, -0.5], [0.0, 0.5]]).view(2, 1, 2, 1)
    std = torch.tensor([1.0, 0.1]).view(1, 1, 2, 1).expand(2, 1, 2, 1)
    rollout = rollout_of(mean, std, family)
    for score in (information_gain(rollout), disagreement(rollout), jensen_renyi(rollout, family)):
        assert score[0, 0].abs() < 1e-6 < 0.1 < score[0, 1]


def test_bonus_weighs_scales_and_leaves_the_reward_its_share():
    family = GaussianFamily(1, 0.01)
    mean = torch.randn(4, 6, 5, 1)
    rollout = rollout_of(mean, torch.full_like(mean, 0.5), family, reward=3.0)
    score = disagreement(rollout)
    plain = Bonus(disagreement, weight=-2.0, reward=0.5, normalize=False)
    shaped, trusted = plain.apply_to(rollout)
    assert trusted is None
    torch.testing.assert_close(shaped.reward, 1.5 - 2 * score)
    torch.testing.assert_close(rollout.reward + plain(rollout), 1.5 - 2 * score)
    scaled = Bonus(disagreement, weight=1.0, reward=0.0, normalize=True)
    shaped, _ = scaled.apply_to(rollout)
    torch.testing.assert_close(shaped.reward, score / score.std(), rtol=1e-4, atol=1e-5)
    small = replace(rollout, epistemic_variance=rollout.epistemic_variance * 1e-3)
    for _ in range(1_000):
        shaped, _ = scaled.apply_to(small)
    assert float(shaped.reward.std()) == pytest.approx(1, rel=0.05), "the scale follows scores that fade"


@pytest.mark.parametrize("normalize", [True, False])
def test_a_centred_bonus_is_zero_in_the_mean_and_keeps_what_tells_steps_apart(normalize):
    variance = torch.rand(6, 5, 3) + 4
    zero = torch.zeros(6, 5)
    rollout = Rollout(State(torch.zeros(6, 6, 1), torch.zeros(6, 6, 3)), zero, zero, zero, zero)
    rollout = replace(rollout, epistemic_variance=variance)
    score = disagreement(rollout)
    bonus = Bonus(disagreement, weight=2.0, reward=1.0, normalize=normalize, center=True)
    shaped, _ = bonus.apply_to(rollout)
    expected = 2 * (score - score.mean()) / (score.std() if normalize else 1)
    torch.testing.assert_close(shaped.reward, expected, rtol=1e-4, atol=1e-4)
    faded = replace(rollout, epistemic_variance=variance * 0.01)
    for _ in range(2_000):
        shaped, _ = bonus.apply_to(faded)
    assert abs(float(shaped.reward.mean())) < 0.01 * float(shaped.reward.std()), "the mean follows scores that fade"


def test_steps_beyond_the_datas_quantile_are_not_trusted_nor_is_what_follows():
    bonus = Bonus(disagreement, weight=0.0, reward=1.0, normalize=False, quantile=0.9)
    variance = torch.tensor([[0.1, 0.2, 5.0, 0.1], [0.1, 0.1, 0.1, 0.1]]).unsqueeze(-1)
    zero = torch.zeros(2, 4)
    states = State(torch.zeros(2, 5, 1), torch.zeros(2, 5, 1))
    rollout = Rollout(states, zero.unsqueeze(-1), zero, zero, zero, epistemic_variance=variance)
    assert bonus.apply_to(rollout)[1].all(), "before any data everything is trusted"
    bonus.threshold.fill_(1.0)
    assert bonus.apply_to(rollout)[1].tolist() == [[True, True, False, False], [True] * 4]


def test_threshold_is_the_quantile_of_real_steps():
    model = make_model()
    batch = window(action=ACTIONS["continuous"])
    states = model.infer(batch).detach()
    bonus = Bonus(disagreement, weight=0.0, reward=1.0, normalize=False, quantile=0.8)
    lesson = bonus.learn(model, states, batch)
    assert lesson.loss is None and torch.isinf(bonus.threshold), "it moves once the step was accepted"
    assert bonus.accept(lesson.moved) is None
    scores = disagreement(observe(model, states, batch).rollout)[batch.mask]
    assert float((scores <= bonus.threshold).float().mean()) == pytest.approx(0.8, abs=1 / len(scores))


def test_names_are_found_missed_with_a_hint_and_added():
    model = make_model()
    assert build_bonus(AcquisitionOptions(), model) is None
    with pytest.raises(ConfigError, match="did you mean 'disagreement'"):
        build_bonus(AcquisitionOptions(name="disagrement"), model)
    with pytest.raises(ConfigError, match="one of this name already"):
        register_acquisition("rnd")

    @register_acquisition("constant")
    def constant(model, options):
        return lambda rollout: torch.ones_like(rollout.reward)

    try:
        bonus = build_bonus(AcquisitionOptions(name="constant", weight=0.5, normalize=False), model)
        torch.testing.assert_close(bonus(imagined(model)), torch.full((3, 4), 0.5))
    finally:
        del _BUILDERS["constant"]
