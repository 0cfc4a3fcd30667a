"""One update: what moves, from which states the policy starts, and that data older than the last episode counts."""

import pytest
import torch

from agents.actor_critic import ActorCritic
from agents.learner import Learner, choose_starts
from agents.options import ActorCriticOptions, LearnerOptions, TrainOptions
from tests.contracts.tools import ACTIONS, small_model, window
from worldmodels.types import State


def make_learner(**changes):
    model = small_model()
    agent = ActorCriticOptions(horizon=3, starts=8, hidden=8, layers=1, bins=21, **changes)
    options = TrainOptions(agent=agent, train=LearnerOptions(model_rate=1e-2))
    torch.manual_seed(3)
    return Learner(model, ActorCritic(model.features_size, ACTIONS["discrete"], options.agent), options)


def numbered(batch):
    """States whose context says which place of the window they are: (B, T+1, 1)."""
    places = torch.arange(batch.is_first.numel(), dtype=torch.float32).view(*batch.is_first.shape, 1)
    return State(places, torch.zeros_like(places))


def test_update_moves_every_learned_part_and_the_copies():
    learner = make_learner()
    learner.update(window())  # Adam's first step does not move what had no gradient, the second one counts
    before = {name: p.clone() for name, p in learner.policy.named_parameters()}
    model_before = {name: p.clone() for name, p in learner.world_model.named_parameters()}
    metrics = learner.update(window(seed=2))
    assert not [name for name, p in learner.policy.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name, p in learner.world_model.named_parameters() if torch.equal(p, model_before[name])]
    assert learner.updates == 2 and learner.skipped == 0
    assert {"model/bound", "model/kl", "model/reward", "policy/actor_loss", "policy/critic_loss"} <= set(metrics)
    assert all(torch.isfinite(value).all() and not value.requires_grad for value in metrics.values())


def test_dreams_along_the_means_draw_no_latent(monkeypatch):
    reached = {}
    for along_means in (True, False):
        learner, rollouts = make_learner(along_means=along_means), []
        imagine = learner.world_model.imagine

        def watched(*args, imagine=imagine, rollouts=rollouts, **kwargs):
            rollouts.append(imagine(*args, **kwargs))
            return rollouts[-1]

        monkeypatch.setattr(learner.world_model, "imagine", watched)
        learner.update(window())
        (rollout,), model = rollouts, learner.world_model
        raw = model.temporal_prior.prior(rollout.states.context[:, 1:])
        reached[along_means] = torch.isclose(rollout.states.z[:, 1:], model.family.mode(raw)).all()
    assert reached[True] and not reached[False]


def test_updates_lower_the_loss_of_a_fixed_batch():
    learner = make_learner()
    losses = [learner.update_model(window())[1]["model/reward"].item() for _ in range(150)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_imagination_starts_from_every_real_state_that_is_not_terminal():
    batch = window(ends=(None, 2, 3), first=(True, False, True))  # row 2 terminates with observation 3
    chosen = set(choose_starts(numbered(batch), batch, 5000).context.flatten().int().tolist())
    assert batch.terminated[2, 2] and batch.truncated[1, 1]
    expected = set(range(21)) - {2 * 7 + 3}  # the truncated end of row 1 goes on as far as anyone knows
    assert chosen == expected


def test_trap_imagination_never_starts_from_an_end_whose_flag_lies_before_the_window():
    batch = window(ends=(0, None), first=(False, True))  # the first observation of row 0 may be a terminal one
    chosen = set(choose_starts(numbered(batch), batch, 5000).context.flatten().int().tolist())
    assert chosen == set(range(14)) - {0}


def test_padding_is_no_start():
    batch = window(ends=(None,), first=(True,))
    batch.obs_mask[:, 4:] = False
    assert choose_starts(numbered(batch), batch, 1000).context.max() == 3


@pytest.mark.parametrize("part", ["model_optimizer", "actor_optimizer", "critic_optimizer"])
def test_each_optimiser_holds_its_own_parameters_and_no_copy(part):
    learner = make_learner()
    held = {id(p) for group in getattr(learner, part).param_groups for p in group["params"]}
    module = {
        "model_optimizer": learner.world_model,
        "actor_optimizer": learner.policy.actor,
        "critic_optimizer": learner.policy.critic,
    }[part]
    assert held == {id(p) for p in module.parameters()}
