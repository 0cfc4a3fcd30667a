"""NaN and infinity in data, losses and gradients: nothing changes, all is counted and named, the run stops in time."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from agents.actor_critic import ActorCritic
from agents.alarm import EXCESS, RewardAlarm
from agents.learner import Descent, Learner, apply_gradients, dump_batch
from agents.log import read_metrics
from agents.options import ActorCriticOptions, LearnerOptions, TrainOptions
from tests.contracts.tools import ACTIONS, VECTOR, small_model, window
from tests.learning.tools import tiny_run
from worldmodels.checkpoint import module_state, optimizer_state
from worldmodels.errors import NonFiniteError
from worldmodels.types import LossOutput

WEIGHTS = (
    "model:temporal_prior.recurrent_gates",
    "model:encoder.head.0.weight",
    "model:decoder.log_scale.0",
    "actor:net.0.weight",
    "critic:net.0.weight",
)
LIMIT = 3


def make_learner(action="discrete"):
    model = small_model(action=ACTIONS[action])
    options = TrainOptions(
        agent=ActorCriticOptions(horizon=3, starts=8, hidden=8, layers=1, bins=21),
        train=LearnerOptions(max_skipped_updates=LIMIT),
    )
    torch.manual_seed(3)
    return Learner(model, ActorCritic(model.features_size, ACTIONS[action], options.agent), options)


def fingerprint(learner):
    """A hash of every parameter, buffer and optimiser state."""
    parts = [module_state(learner.world_model), module_state(learner.policy)]
    parts += [optimizer_state(o) for o in (learner.model_optimizer, learner.actor_optimizer, learner.critic_optimizer)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part["json"]).encode())
        for name, tensor in sorted(part["tensors"].items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def spoil_gradient(learner, name):
    """Make one element of the gradient of one parameter NaN; returns the handle that takes it back."""
    part, _, parameter = name.partition(":")
    module = {"model": learner.world_model, "actor": learner.policy.actor, "critic": learner.policy.critic}[part]
    target = dict(module.named_parameters())[parameter]

    def spoil(gradient):
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = torch.nan
        return spoiled

    return target.register_hook(spoil), parameter, target.numel()


def good_batch(seed=1, action="discrete"):
    return window(VECTOR, ACTIONS[action], seed=seed)


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_bad_observation_skips_the_update_and_is_named(step, value):
    learner = make_learner()
    for k in range(step):
        learner.update(good_batch(k))
    before = fingerprint(learner)
    batch = good_batch()
    batch.obs["obs"][1, 2, :2] = value
    learner.update(batch)
    assert fingerprint(learner) == before
    assert learner.fault == "obs: 2 of 42"
    assert (learner.updates, learner.skipped, learner.skipped_in_a_row) == (step + 1, 1, 1)
    learner.update(good_batch())
    assert learner.fault is None and fingerprint(learner) != before
    assert (learner.skipped, learner.skipped_in_a_row) == (1, 0)


def test_bad_reward_is_named():
    learner = make_learner()
    before = fingerprint(learner)
    batch = good_batch()
    batch.reward[0, 0] = torch.nan
    learner.update(batch)
    assert fingerprint(learner) == before and learner.fault == "reward: 1 of 12"


def test_bad_loss_term_is_named(monkeypatch):
    learner = make_learner()
    learner.update(good_batch())
    before = fingerprint(learner)
    loss = learner.world_model.loss

    def spoiled(batch):
        output = loss(batch)
        bad = output.terms["continuation"] * torch.nan
        return LossOutput(output.total + bad, output.terms | {"continuation": bad}, output.bound, output.states)

    monkeypatch.setattr(learner.world_model, "loss", spoiled)
    learner.update(good_batch())
    assert fingerprint(learner) == before and learner.fault == "loss term continuation: 1 of 1"


@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("name", WEIGHTS)
def test_bad_gradient_of_one_weight_changes_nothing_of_that_step(name, step, action):
    learner = make_learner(action)
    for k in range(step):
        learner.update(good_batch(k, action))
    states, _ = learner.update_model(good_batch(9, action))
    handle, parameter, size = spoil_gradient(learner, name)
    before = fingerprint(learner)
    if name.startswith("model:"):
        learner.update(good_batch(9, action))
    else:
        learner.update_policy(states, good_batch(9, action))
    assert fingerprint(learner) == before
    assert learner.fault == f"gradient of {parameter}: 1 of {size}"
    handle.remove()
    learner.update(good_batch(9, action))
    assert learner.fault is None


@pytest.mark.parametrize("name", WEIGHTS)
def test_run_stops_after_that_many_in_a_row_whichever_part_fails(name):
    learner = make_learner()
    learner.update(good_batch())
    spoil_gradient(learner, name)
    for _ in range(LIMIT - 1):
        learner.update(good_batch())
    with pytest.raises(NonFiniteError, match=rf"{LIMIT} updates in a row .*gradient of .*: 1 of"):
        learner.update(good_batch())
    assert learner.skipped == LIMIT


def test_a_good_update_between_bad_ones_starts_the_count_anew():
    learner = make_learner()
    bad = good_batch()
    bad.obs["obs"][0] = torch.nan
    for _ in range(3):
        for _ in range(LIMIT - 1):
            learner.update(bad)
        learner.update(good_batch())
    assert learner.skipped == 3 * (LIMIT - 1)


def test_scale_of_returns_survives_a_model_that_imagines_nan():
    learner = make_learner()
    learner.update(good_batch())
    states, _ = learner.update_model(good_batch())
    before, scale = fingerprint(learner), learner.policy.return_range.clone()
    with torch.no_grad():
        states.z.fill_(torch.nan)
    learner.update_policy(states, good_batch())
    assert learner.fault is not None and learner.fault.startswith("states: ")
    assert torch.equal(learner.policy.return_range, scale) and fingerprint(learner) == before


def test_apply_gradients_steps_all_or_none_and_clips():
    one, two = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    x = torch.tensor([3.0, 4.0])
    optimizers = [torch.optim.SGD(net.parameters(), 1.0) for net in (one, two)]
    before = [p.clone() for p in (*one.parameters(), *two.parameters())]
    norms, fault = apply_gradients(
        Descent(one(x).sum(), optimizers[0], 1.0, one), Descent(two(x).sum() * torch.inf, optimizers[1], 1.0, two)
    )
    assert fault is not None and torch.isfinite(norms[0])
    assert all(torch.equal(a, b) for a, b in zip(before, (*one.parameters(), *two.parameters()), strict=True))
    norms, fault = apply_gradients(Descent(one(x).sum(), optimizers[0], 1.0, one))
    assert fault is None and norms[0].item() == pytest.approx(26**0.5)  # gradient (3, 4, 1)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before[:2], one.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1.0)


def test_batch_that_stopped_a_run_is_written_whole(tmp_path):
    batch = good_batch()
    batch.obs["obs"][0, 0, 0] = torch.nan
    assert str(tmp_path) in dump_batch(tmp_path, batch)
    found = load_file(tmp_path / "skipped_batch.safetensors")
    assert torch.equal(found["action"], batch.action) and found["obs.obs"].isnan().sum() == 1
    assert set(found) == {*("obs.obs", "action", "reward", "terminated", "truncated", "mask", "is_first", "obs_mask")}
    assert "could not be written" in dump_batch(tmp_path / "missing", batch)


def test_one_line_of_the_log_for_each_skip_and_a_dump_when_the_run_stops(tmp_path):
    with tiny_run(tmp_path / "run", "train.max_skipped_updates=3") as (trainer, said):
        spoil_gradient(trainer.learner, "actor:net.0.weight")
        with pytest.raises(NonFiniteError, match="skipped_batch.safetensors"):
            trainer.loop()
    lines = [line for line in said() if "skipped" in line]
    assert len(lines) == 2 and all("gradient of net.0.weight: 1 of" in line for line in lines)
    assert (tmp_path / "run" / "skipped_batch.safetensors").is_file()


# Row 54: a policy that exploits the model.


def imagined(low, high):
    return {"policy/imagined_reward_min": torch.tensor(low), "policy/imagined_reward_max": torch.tensor(high)}


def test_54_imagined_rewards_are_compared_with_those_that_were_seen():
    alarm, batch = RewardAlarm(), good_batch()
    batch.reward[:] = torch.linspace(-2.0, 3.0, batch.reward.numel()).view_as(batch.reward)
    batch.reward[~batch.mask] = 1e6  # a transition that does not exist says nothing
    low, high = batch.reward[batch.mask].min().item(), batch.reward[batch.mask].max().item()
    assert alarm.check(batch, imagined(low - 1, high + 1)) == ({EXCESS: 0.0}, None)
    metric, text = alarm.check(batch, imagined(0.0, 24_353.0))
    assert metric[EXCESS] == pytest.approx(24_353 - high - (high - low))
    assert text is not None and text.startswith(f"imagined reward 2.435e+04 outside observed [{low:.4g}, {high:.4g}]")
    assert alarm.check(batch, imagined(0.0, 30_000.0))[1] is None  # said once
    assert alarm.check(batch, imagined(0.0, 1.0)) == ({EXCESS: 0.0}, None)
    assert "imagined reward -500" in (alarm.check(batch, imagined(-500.0, 1.0))[1] or "")
    assert alarm.check(batch, {}) == ({}, None)


@pytest.mark.parametrize(("reward", "low", "high"), [(1.0, -0.9, 2.9), (-4.0, -11.9, 3.9), (0.0, -1.9, 1.9)])
def test_54_equal_rewards_say_little_about_how_far_imagined_ones_may_go(reward, low, high):
    alarm, batch = RewardAlarm(), good_batch()
    batch.reward[:] = reward
    assert alarm.check(batch, imagined(low, high)) == ({EXCESS: 0.0}, None)
    assert alarm.check(batch, imagined(low - 0.2, high))[1] is not None
    assert alarm.check(batch, imagined(low, high + 0.2))[0][EXCESS] == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("quantile", [1.0, 0.9])
def test_54_returns_end_where_the_model_is_unsure_if_that_is_asked_for(quantile, tmp_path, monkeypatch):
    sigma = ('agent.acquisition.name="sigma"', "agent.acquisition.weight=0.0", f"agent.acquisition.quantile={quantile}")
    with tiny_run(tmp_path / "run", "agent.starts=64", *sigma) as (trainer, said):
        trainer.save()
        trainer.loop()
        sane = abs(float(trainer.update()["policy/imagined_return"]))
        imagine = trainer.agent.world_model.imagine

        def biased(*args, **kwargs):
            """From the second step on: a fortune, in places that no member knows."""
            rollout = imagine(*args, **kwargs)
            late = torch.tensor([0.0, 1.0, 1.0])
            return replace(
                rollout,
                reward=rollout.reward + 24_353 * late,
                epistemic_variance=rollout.epistemic_variance + 1e6 * late.unsqueeze(-1),
            )

        monkeypatch.setattr(trainer.agent.world_model, "imagine", biased)
        found = float(trainer.update()["policy/imagined_return"])
        assert any("imagined reward 2.43" in line for line in said())  # flagged all the same
    assert abs(found) < 10 * sane + 10 if quantile < 1 else found > 20_000


def test_54_a_biased_reward_head_is_flagged_in_the_same_iteration(tmp_path, monkeypatch):
    with tiny_run(tmp_path / "run") as (trainer, said):
        trainer.save()
        trainer.loop()
        trainer.alarm = RewardAlarm()
        before = len([line for line in said() if "imagined reward" in line])  # what so small a model dreams of
        imagine = trainer.agent.world_model.imagine

        def biased(*args, **kwargs):
            rollout = imagine(*args, **kwargs)
            return replace(rollout, reward=rollout.reward + 24_353)

        monkeypatch.setattr(trainer.agent.world_model, "imagine", biased)
        trainer.update()
        [line] = [line for line in said() if "imagined reward" in line][before:]
        assert line.startswith(f"step {trainer.step:,}: imagined reward 2.435e+04 outside observed [1, 1]")
        trainer.update()
        assert len([line for line in said() if "imagined reward" in line]) == before + 1
    logged = [line[EXCESS] for line in read_metrics(tmp_path / "run") if EXCESS in line]
    assert logged[-1] > 24_000 > max(logged[:-1])
