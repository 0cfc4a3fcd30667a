"""Trajectory sampling against the loop written out: which member leads which row, to its end or for one step."""

import pytest
import torch

from agents.planners import member_imagine
from tests.learning.tools import TINY, changed, tiny_run
from worldmodels.build import build_world_model
from worldmodels.errors import ConfigError
from worldmodels.options import EnsembleOptions, GaussianOptions, RecurrentOptions, TrunkOptions, WorldModelOptions
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.types import State

SPECS = {"obs": ObsSpec("vector", (3,))}
ACTION = ActionSpec("continuous", dimensions=2)


def model(members=3):
    torch.manual_seed(0)
    return build_world_model(
        WorldModelOptions(
            trunk=TrunkOptions(units=8, layers=1),
            gaussian=GaussianOptions(size=4),
            recurrent=RecurrentOptions(deter=8, hidden=8),
            ensemble=EnsembleOptions(members=members, units=8),
        ),
        SPECS,
        ACTION,
    )


def quiet(world_model, monkeypatch):
    """No noise: the mean is what is sampled, so that every row says which member led it."""
    monkeypatch.setattr(world_model.family, "sample", world_model.family.mode)
    monkeypatch.setattr(world_model.ensemble.family, "sample", world_model.family.mode)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_row_follows_its_member_to_the_end(rows, monkeypatch):
    world_model = model()
    quiet(world_model, monkeypatch)
    torch.manual_seed(1)
    start, plan = world_model.dream_start(rows), torch.rand(rows, 4, 2)
    with torch.no_grad():
        found = member_imagine(world_model, every_step=False)(start, plan, 4)
        for n in range(rows):
            state = start.index(slice(n, n + 1))
            for t in range(4):
                context, _ = world_model.temporal_prior.advance(state, plan[n : n + 1, t])
                raw = world_model.ensemble(context, world_model.temporal_prior.previous(context))[n % 3]
                state = State(context, world_model.family.mode(raw))
                torch.testing.assert_close(found.states.z[n, t + 1], state.z[0])
                torch.testing.assert_close(found.reward[n, t], world_model.reward(state.features).mean[0])
                torch.testing.assert_close(found.continuation[n, t], world_model.continuation(state.features).probs[0])


def test_dealt_anew_every_member_leads_as_often_and_rows_stay_in_their_places(monkeypatch):
    world_model = model()
    quiet(world_model, monkeypatch)
    start = world_model.dream_start(1)
    many, plan = State(start.context.expand(300, -1), start.z.expand(300, -1)), torch.zeros(300, 2, 2)
    plan[150:] = 0.9
    with torch.no_grad():
        torch.manual_seed(0)
        found = member_imagine(world_model, every_step=True)(many, plan, 2)
        for half, value in ((slice(0, 150), 0.0), (slice(150, 300), 0.9)):
            context, _ = world_model.temporal_prior.advance(start, torch.full((1, 2), value))
            members = world_model.family.mode(
                world_model.ensemble(context, world_model.temporal_prior.previous(context))
            )
            distance = (found.states.z[half, 1].unsqueeze(1) - members[:, 0]).abs().amax(-1)  # (150, K)
            assert distance.min(-1).values.max() < 1e-5  # each row is where its own action leads, by some member
            assert torch.bincount(distance.argmin(-1), minlength=3).min() > 30
        assert len((found.states.z[:150, 2] * 1e4).round().unique(dim=0)) == 9  # every pair of members


def test_uncertainty_is_asked_for(monkeypatch):
    world_model = model()
    start, plan = world_model.dream_start(5), torch.rand(5, 3, 2)
    with torch.no_grad():
        asked = member_imagine(world_model, every_step=False, uncertainty=True)(start, plan, 3)
        expected = world_model.uncertainty(asked.states.index((slice(None), slice(-1))), plan)
    assert asked.epistemic is not None
    torch.testing.assert_close(asked.epistemic, expected.epistemic)
    assert member_imagine(world_model, every_step=False)(start, plan, 3).epistemic is None


def test_without_an_ensemble_it_is_refused():
    with pytest.raises(ConfigError, match="agent.planner.members asks for an ensemble"):
        member_imagine(model(members=0), every_step=False)


@pytest.mark.parametrize("members", ["rollout", "step"])
def test_an_agent_plans_by_members(members, tmp_path):
    options = changed(
        TINY, 'agent.name="planner"', f'agent.planner.members="{members}"', "agent.planner.particles=3",
        "agent.planner.horizon=3", "agent.planner.samples=6", "agent.planner.iterations=2", "evaluation.every=0",
        "steps=40", "world_model.ensemble.members=3", "world_model.ensemble.units=8",
    )  # fmt: skip
    with tiny_run(tmp_path / "run", options=options) as (trainer, _):
        trainer.loop()
        assert trainer.step >= 40 and trainer.learner.updates > 0
