"""What the doctor proposes: fits the observations, never overrules the user, and counts updates as the trainer does."""

import pytest

from agents import proposal
from agents.experiment import load_options
from agents.proposal import propose
from worldmodels.specs import ActionSpec, ObsSpec

TINY = [
    *("env.id=worldmodels/ProbePolicy-v0", "replay.batch=2", "replay.length=4", "agent.starts=4", "agent.hidden=8"),
    *("world_model.trunk.units=8", "world_model.recurrent.deter=8", "world_model.heads.units=8"),
]
ACTION = ActionSpec("discrete", (2,))


def vector(size):
    return {"obs": ObsSpec("vector", (size,))}


@pytest.mark.parametrize("changes", [[], ["train.warmup_steps=3000"], ["train.full_rate_steps=20000"]])
def test_updates_are_those_that_the_trainer_makes(changes):
    options = load_options(["env.id=CartPole-v1", *changes])
    train, owed = options.train, float(options.train.warmup_updates)
    for step in range(train.warmup_steps, 10_000):
        owed += train.updates_per_step * min(1.0, train.full_rate_steps / step)
    assert proposal._updates(options, 10_000) == pytest.approx(owed, rel=0.01)


def test_a_slow_environment_is_worth_more_updates_and_everything_is_measured():
    fast = propose(TINY, vector(1), ACTION, step_s=1e-9)
    slow = propose(TINY, vector(1), ACTION, step_s=1e9)
    assert (fast.options.train.updates_per_step, slow.options.train.updates_per_step) == (0.5, 2.0)
    assert "train.updates_per_step=2.0" in slow.overrides and slow.parameters > 1000
    assert all(seconds > 0 for seconds in slow.seconds.values())
    command = str(slow).splitlines()[-1].partition("wm train ")[2].split()
    assert load_options(command) == slow.options


def test_what_the_user_has_set_is_never_overruled():
    given = [*TINY, "train.updates_per_step=0.25"]
    assert propose(given, vector(1), ACTION, step_s=1e9).options.train.updates_per_step == 0.25


def test_sizes_follow_the_observations_and_the_replay_fits(monkeypatch):
    monkeypatch.setattr(proposal, "_measured", lambda options: (1e-3, 1e-2, 7))
    monkeypatch.setattr(proposal, "available_bytes", lambda: 10**9)
    sizes = {}
    for n in (4, 30, 100):
        model = propose(["env.id=CartPole-v1"], vector(n), ACTION, step_s=0.0).options.world_model
        sizes[n] = (model.gaussian.size, model.trunk.units, model.recurrent.deter)
    assert sizes[4] < sizes[30] < sizes[100]
    pixels = propose(["env.id=CartPole-v1"], {"obs": ObsSpec("image", (64, 64, 3))}, ACTION, step_s=0.0)
    assert "convolutions" in pixels.encoder and pixels.replay_bytes <= 0.25 * 10**9
    assert pixels.options.replay.capacity == 20_000
