"""What a planner wants to know for its task, in a world where that is known: only what lies on the way to the reward.

A point on a plane moves by its action. To the right, where the reward is, two members disagree a little about where it
goes; far to the left they disagree ten times as much. Elsewhere they agree.
"""

from types import SimpleNamespace

import pytest
import torch

from agents.acquisition import build_bonus
from agents.options import AcquisitionOptions, ActorCriticOptions, PlannerOptions
from agents.planners import build_planner
from worldmodels.distributions import GaussianFamily
from worldmodels.specs import ActionSpec
from worldmodels.types import Rollout, State, stack_states
from worldmodels.uncertainty import decompose

ACTION = ActionSpec("continuous", dimensions=2)
PLANNER = PlannerOptions(horizon=4, samples=300, iterations=5, noise=0.0, std=1.0)
OPTIONS = ActorCriticOptions(name="planner", hidden=8, gamma=1.0, planner=PLANNER)


class Fork:
    """A world model whose context is [last z, last action] and whose two members differ as the module says."""

    family = GaussianFamily(2, 0.05)

    def __init__(self, goal=2.0, apart=0.05):
        self.ensemble = self  # its own members
        self.members, self.goal, self.apart = 2, torch.tensor([goal, 0.0]), apart
        self.temporal_prior = SimpleNamespace(
            context_size=4,
            advance=lambda state, action: (torch.cat([state.z, 0.5 * action], -1), None),
            previous=lambda context: context[..., :2],
        )

    def _raw(self, mean):
        return torch.cat([mean, torch.full_like(mean, -20.0)], -1)

    def each(self, context, previous):  # noqa: ARG002
        """(2, N, 4) -> (2, N, 4): member 0 to one side of the mean, member 1 to the other."""
        z, move = context.chunk(2, -1)
        unknown = self.apart * (z[..., :1] > 0.6).float() + 0.5 * (z[..., :1] < -1.1).float()
        sign = torch.tensor([1.0, -1.0]).view(2, 1, 1)
        return self._raw(z + move + sign * unknown * torch.tensor([0.0, 1.0]))

    def reward(self, features):
        return SimpleNamespace(mean=-(features[..., 4:] - self.goal).square().sum(-1))

    def continuation(self, features):
        return SimpleNamespace(probs=torch.ones(features.shape[:-1]))

    def imagine(self, state, plan, horizon, *, uncertainty=False, **_):
        """The mean of both members."""
        states, raws = [state], []
        for t in range(horizon):
            context, _ = self.temporal_prior.advance(states[-1], plan[:, t])
            raws.append(self.each(context.expand(2, -1, -1), None))
            states.append(State(context, raws[-1].mean(0)[..., :2]))
        whole = stack_states(states)
        reward = self.reward(whole.features[:, 1:]).mean
        known = decompose(self.family, torch.stack(raws, 2))._asdict() if uncertainty else {"aleatoric": reward}
        return Rollout(whole, plan, reward, torch.ones_like(reward), **known)


def explored(name, model, starts=3):
    """Where plans that explore lead from the origin: the last latent (starts, 2)."""
    bonus = build_bonus(AcquisitionOptions(name=name, reward=0.0, width=0.15), model)
    planner = build_planner(OPTIONS, model, None, ACTION, bonus)
    torch.manual_seed(0)
    state, memory = State(torch.zeros(starts, 4), torch.zeros(starts, 2)), None
    for _ in range(4):
        action, memory = planner.act(state, memory, deterministic=False)
        state = State(torch.cat([state.z, 0.5 * action], -1), state.z + 0.5 * action)
    return state.z


@pytest.mark.parametrize("goal", [2.0, -2.0])
def test_only_differences_on_the_way_to_the_reward_count(goal):
    assert (explored("information_gain", Fork(goal))[:, 0] < -0.6).all(), "where it knows least, whatever the task"
    assert (goal / 2 * explored("task_aware", Fork(goal))[:, 0] > 0.6).all(), "on the way to the reward"


def test_places_that_count_are_those_of_each_members_own_best_plan():
    """Straight to the goal, half a unit a step; member 0 is carried off to one side, member 1 to the other."""
    model = Fork(apart=0.6)
    bonus = build_bonus(AcquisitionOptions(name="task_aware"), model)
    planner = build_planner(OPTIONS, model, None, ACTION, bonus)
    torch.manual_seed(0)
    starts = State(torch.zeros(2, 4), torch.tensor([[0.0, 0.0], [4.0, 0.0]]))  # on both sides of the goal at (2, 0)
    planner.act(starts, None, deterministic=True)
    assert not bonus.acquisition.ready, "an agent that is judged looks for nothing"
    planner.act(starts, None, deterministic=False)
    points = bonus.acquisition.points.unique(dim=0)
    assert bonus.acquisition.ready and len(points) == 18, "four steps of two members from two starts, and the starts"
    assert points[:, 1].abs().max() < 1
    for side in (points[points[:, 0] < 1.9], points[points[:, 0] > 2.1]):
        assert side[:, 1].max() > 0.08 > -0.08 > side[:, 1].min(), "from each start both members go, and go apart"
