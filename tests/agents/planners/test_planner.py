"""The planner around the search: memory, exploration, what a plan is worth; and the pure functions under it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.agent import Agent
from agents.experiment import load_options
from agents.planners import (
    CEM,
    CategoricalPlans,
    Found,
    GaussianPlans,
    Objective,
    Planner,
    colour,
    elite_weights,
    exponential_weights,
    plan_return,
    trusted_return,
)
from tests.agents.planners.systems import CONTINUOUS, DISCRETE, HORIZON, Linear, searches
from worldmodels.errors import ConfigError
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import Rollout, State

X = torch.tensor([[0.4, -0.2], [-0.3, 0.5]])


def state(x=X):
    return State(x[:, :0], x)


class Recorder:
    """A search that finds what it is told and remembers what it was given."""

    def __init__(self, found, family=CONTINUOUS):
        self.found, self.family, self.given = found, family, []
        self.kept = found.kept.shape[1]

    def __call__(self, score, belief, extra):
        self.given.append((belief, extra))
        return self.found


def recorder(kept=2):
    belief = torch.arange(2 * HORIZON * 4.0).view(2, HORIZON, 4)
    plans = torch.arange(2 * kept * HORIZON * 2.0).view(2, kept, HORIZON, 2) / 100
    return Recorder(Found(plans[:, 0], belief, plans))


def test_the_next_search_begins_one_step_later():
    search = recorder()
    planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON)
    action, memory = planner.act(state(), None, deterministic=True)
    assert torch.equal(action, search.found.plan[:, 0])
    planner.act(state(), memory, deterministic=True)
    belief, extra = search.given[1]
    assert torch.equal(belief[:, :-1], search.found.belief[:, 1:])
    assert torch.equal(belief[:, -1:], CONTINUOUS.initial(2, 1))
    assert torch.equal(extra[:, :, :-1], search.found.kept[:, :, 1:])
    assert (extra[:, :, -1] != search.found.kept[:, :, -1]).any()


def test_where_an_episode_begins_nothing_is_remembered():
    search = recorder()
    planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON)
    _, memory = planner.act(state(), None, deterministic=True)
    planner.act(state(), memory, deterministic=True, is_first=torch.tensor([True, False]))
    belief, extra = search.given[1]
    assert torch.equal(belief[0], CONTINUOUS.initial(1, HORIZON)[0]) and torch.equal(belief[1], memory.belief[1])
    assert not torch.equal(extra[0], memory.kept[0]) and torch.equal(extra[1], memory.kept[1])


def test_proposals_are_candidates():
    search = recorder(kept=1)
    proposed = torch.full((2, 3, HORIZON, 2), 0.5)
    planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON, proposals=lambda s, h: proposed)
    planner.act(state(), None, deterministic=True)
    assert torch.equal(search.given[0][1][:, 1:], proposed)


def test_plans_of_scouts_are_candidates_only_while_it_explores():
    search = recorder(kept=1)
    scouted = torch.full((2, 3, HORIZON, 2), 0.5)
    planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON, scouts=lambda s, h: scouted)
    planner.act(state(), None, deterministic=True)
    planner.act(state(), None, deterministic=False)
    (_, judged), (_, exploring) = search.given
    assert judged.shape[1] == 1 and torch.equal(exploring[:, 1:], scouted)


def test_an_episode_begins_alike_with_and_without_a_memory():
    given = []
    for remembered in (False, True):
        search = recorder()
        planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON)
        memory = planner.act(state(), None, deterministic=True)[1] if remembered else None
        torch.manual_seed(0)
        planner.act(state(), memory, deterministic=True, is_first=torch.ones(2, dtype=torch.bool))
        given.append((*search.given[-1], torch.rand(1)))
    assert all(torch.equal(a, b) for a, b in zip(*given, strict=True))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_every_planner_acts_under_inference_mode_and_steers_to_the_origin(name):
    planner = Planner(searches(CONTINUOUS)[name], Objective(Linear().imagine, 1.0), horizon=HORIZON)
    system, x, memory = Linear(), X.clone(), None
    with torch.inference_mode():
        torch.manual_seed(0)
        for _ in range(6):
            action, memory = planner.act(state(x), memory, deterministic=True)
            assert action.shape == (2, 2) and not action.requires_grad
            x = x @ system.A.T + action @ system.B.T
    assert x.abs().max() < 0.05


def test_noise_explores_only_where_it_may():
    search = recorder()
    planner = Planner(search, Objective(Linear().imagine, 1.0), horizon=HORIZON, noise=0.3)
    assert torch.equal(planner.act(state(), None, deterministic=True)[0], search.found.plan[:, 0])
    torch.manual_seed(0)
    moved = torch.stack([planner.act(state(), None, deterministic=False)[0] for _ in range(400)])
    assert abs(float((moved - search.found.plan[:, 0]).std()) - 0.3) < 0.03


def test_exploring_discrete_actions_are_uniform_as_often_as_asked():
    torch.manual_seed(0)
    action = torch.eye(3)[torch.zeros(6000, dtype=torch.long)]
    moved = DISCRETE.explore(action, 0.3)
    assert abs(float((moved != action).any(-1).float().mean()) - 0.3 * 2 / 3) < 0.02
    assert torch.equal(moved.sum(-1), torch.ones(6000))


def rollout(n=3, h=4):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, h + 1, 2, generator=generator)
    reward, continuation = (torch.rand(n, h, generator=generator) for _ in range(2))
    return Rollout(State(z[..., :0], z), torch.zeros(n, h, 1), reward, continuation, torch.zeros(n, h))


def test_plan_return_against_a_slow_sum():
    r, value, bonus = rollout(), torch.tensor([1.0, -2.0, 3.0]), torch.rand(3, 4)
    for n in range(3):
        weight, total = 1.0, 0.0
        for t in range(4):
            total += weight * float(r.reward[n, t] + bonus[n, t])
            weight *= 0.9 * float(r.continuation[n, t])
        assert float(plan_return(r, 0.9, value, bonus)[n]) == pytest.approx(total + weight * float(value[n]), rel=1e-5)


def test_trusted_return_against_a_slow_sum():
    r, value, bonus = rollout(), torch.randn(3, 5), torch.rand(3, 4)
    trusted = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
    found = trusted_return(r, 0.9, value, trusted, bonus)
    for n, last in enumerate((2, 0, 4)):
        weight, total = 1.0, 0.0
        for t in range(last):
            total += weight * float(r.reward[n, t] + bonus[n, t])
            weight *= 0.9 * float(r.continuation[n, t])
        assert float(found[n]) == pytest.approx(total + weight * float(value[n, last]), rel=1e-5)
    assert float(found[2]) == pytest.approx(float(plan_return(r, 0.9, value[:, -1], bonus)[2]), rel=1e-6)
    spoiled = r.reward.clone()
    spoiled[0, 2:] = 1e9  # what is not trusted is not counted
    assert trusted_return(replace(r, reward=spoiled), 0.9, value, trusted, bonus)[0] == found[0]


def test_a_bonus_turns_the_plan_and_its_sign_turns_it_back():
    system = Linear()

    def act(weight):
        bonus = lambda r: weight * r.states.z[:, 1:, 0]  # noqa: E731 - as an acquisition would score positions
        torch.manual_seed(0)
        planner = Planner(searches(CONTINUOUS)["cem"], Objective(system.imagine, 1.0, bonus=bonus), horizon=HORIZON)
        return planner.act(state(torch.zeros(1, 2)), None, deterministic=True)[0][0, 0]

    assert act(1.0) > 0.2 and act(-1.0) < -0.2 and abs(act(0.0)) < 0.05


def test_value_counts_at_the_end_of_a_plan():
    system = Linear()
    objective = Objective(system.imagine, 1.0, value=lambda features: 7 * features[:, 0])
    plans = torch.zeros(2, 1, HORIZON, 2)
    end = system.imagine(state(), plans[:, 0], HORIZON).states.z[:, -1, 0]
    plain = Objective(system.imagine, 1.0).of(state())(plans)
    torch.testing.assert_close(objective.of(state())(plans), plain + 7 * end.unsqueeze(1))


def test_a_plan_that_ends_early_needs_to_know_what_the_state_there_is_worth():
    with pytest.raises(ConfigError, match="needs a value of the state there"):
        Objective(Linear().imagine, 1.0, trust=lambda rollout: rollout.reward > 0)


def test_particles_are_averaged():
    def noisy(start, plan, horizon):
        r = Linear().imagine(start, plan, horizon)
        r.reward = r.reward + torch.randn(len(plan), 1)
        return r

    plans = torch.zeros(2, 50, HORIZON, 2)
    torch.manual_seed(0)
    one = Objective(noisy, 1.0).of(state())(plans).std(-1)
    many = Objective(noisy, 1.0, particles=64).of(state())(plans).std(-1)
    torch.testing.assert_close(one / many, torch.full((2,), 8.0), rtol=0.3, atol=0)


@pytest.mark.parametrize("members", ["none", "rollout"])
def test_without_particles_chance_ranks_no_candidate(members):
    options = load_options(["env=pendulum", "agent=planner", f"agent.planner.members={members}"])
    agent = Agent(options, {"obs": ObsSpec("vector", (3,))}, ActionSpec("continuous", (), 1))
    for parameter in agent.world_model.reward.parameters():  # an untrained head says 0 everywhere
        torch.nn.init.normal_(parameter)
    start = agent.world_model.dream_start(1)
    plans = torch.randn(1, 1, 4, 1).expand(1, 50, -1, -1)
    assert agent.planner is not None
    found = agent.planner.objective.of(start)(plans)
    torch.testing.assert_close(found, found[:, :1].expand_as(found), rtol=1e-4, atol=1e-4)
    drawn = replace(agent.planner.objective, imagine=agent.world_model.imagine).of(start)(plans)
    assert drawn.unique().numel() > 40


@pytest.mark.parametrize("horizon", [2, 7, 20])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_spectrum_and_variance_one(horizon, exponent):
    matrix = colour(torch.eye(horizon, dtype=torch.float64), exponent)  # the linear map of white noise
    torch.testing.assert_close((matrix.T @ matrix).diagonal(), torch.ones(horizon, dtype=torch.float64))
    power = torch.fft.rfft(matrix, dim=0).abs().square().sum(1)[1:]  # of each frequency but the lowest
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64)[1:]
    slope = power * frequency**exponent
    torch.testing.assert_close(slope, slope[0].expand_as(slope), rtol=1e-5, atol=0)


def test_weights_of_the_elite():
    scores = torch.tensor([[3.0, 1.0, 2.0, -torch.inf], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    assert elite_weights(scores, 2).tolist() == [[0.5, 0, 0.5, 0], [1, 0, 0, 0]]
    weights = exponential_weights(scores, 3, 0.5)
    best = np.exp([2 * (3 - 3), 2 * (1 - 3), 2 * (2 - 3)])
    np.testing.assert_allclose(weights[0], [*(best / best.sum()), 0], rtol=1e-5)
    assert weights[1].tolist() == [1, 0, 0, 0]


def test_fits_are_weighted_moments():
    plans, weights = torch.rand(1, 50, 3, 2), torch.rand(1, 50)
    weights /= weights.sum()
    mean, std = GaussianPlans(2, min_std=0.0).fit(plans, weights).chunk(2, -1)
    numpy_mean = np.average(plans[0], axis=0, weights=weights[0])
    np.testing.assert_allclose(mean[0], numpy_mean, rtol=1e-5)
    variance = np.average((plans[0].numpy() - numpy_mean) ** 2, axis=0, weights=weights[0])
    np.testing.assert_allclose(std[0], variance**0.5, rtol=1e-4)
    discrete = CategoricalPlans((2, 3))
    drawn = discrete.draw(discrete.initial(1, 3), 50)
    fitted = discrete.fit(drawn, weights)
    np.testing.assert_allclose(
        fitted[0, :, :2], 0.98 * np.average(drawn[0], axis=0, weights=weights[0])[:, :2] + 0.01, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(fitted[..., 2:].sum(-1), torch.ones(1, 3))


def test_the_shown_example_works():
    text = (Path(__file__).parents[3] / "docs" / "planning.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "planning.md", "exec"), {})


def test_a_fit_never_collapses():
    plans = torch.zeros(1, 5, HORIZON, 2)
    assert (GaussianPlans(2, min_std=0.1).fit(plans, torch.full((1, 5), 0.2))[..., 2:] == 0.1).all()
    ones = DISCRETE.fit(torch.eye(3)[torch.zeros(1, 5, HORIZON, dtype=torch.long)], torch.full((1, 5), 0.2))
    assert ones.min() > 0 and isinstance(CEM(DISCRETE).samples, int)
