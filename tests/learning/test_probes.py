"""Each probe environment needs one capability, and the real trainer learns it in a few hundred updates.

From a constant to a memory: where one fails, what comes after it need not be looked at.
"""

import pytest
import torch

from tests.learning.probes import learned, probe_options, values
from tests.learning.tools import tiny_run

SHORT = ("train.warmup_updates=150", "steps=240", "agent.horizon=3")
LONG = ("train.warmup_updates=300", "steps=220", "agent.horizon=10", "agent.slow_critic=1.0", "agent.critic_rate=0.005")
CONTROL = ("train.warmup_updates=200", "steps=220", "agent.horizon=2", "agent.actor_rate=0.01")
MEMORY = (
    *("train.warmup_steps=400", "steps=420", "train.model_rate=0.005", "replay.batch=32", "replay.length=12"),
    *("agent.horizon=4", "agent.actor_rate=0.01", "agent.starts=128"),
)


def mean_return(trainer, episodes=40):
    """Of the averaged actor's most probable actions."""
    return trainer._measure(trainer.agent, episodes, 10).mean


def test_value_of_a_constant_reward(tmp_path):
    with learned(tmp_path, probe_options("ProbeConstant", {"reward": 3.0}), *SHORT) as trainer:
        assert values(trainer, [[0.0]]) == pytest.approx([3.0], abs=0.1)


def test_value_depends_on_what_is_observed(tmp_path):
    with learned(tmp_path, probe_options("ProbeObservation"), *SHORT) as trainer:
        assert values(trainer, [[-1.0]], [[1.0]]) == pytest.approx([-1.0, 1.0], abs=0.1)


def test_value_of_a_later_reward_is_discounted(tmp_path):
    probe = probe_options("ProbeDiscount", {"steps": 2})
    with learned(tmp_path, probe, *SHORT, "train.warmup_updates=200", "agent.horizon=4") as trainer:
        found = [*values(trainer, [[0.0]]), *values(trainer, [[0.0], [0.5]])]
    assert found == pytest.approx([0.9, 1.0], abs=0.05)


def test_action_matters(tmp_path):
    with learned(tmp_path, probe_options("ProbeAction", {"continuous": True}), *CONTROL) as trainer:
        assert mean_return(trainer) > 0.95


@pytest.mark.parametrize("continuous", [False, True])
def test_the_right_action_depends_on_what_is_observed(continuous, tmp_path):
    probe = probe_options("ProbePolicy", {"continuous": continuous})
    with learned(tmp_path, probe, *CONTROL, f"train.warmup_updates={300 if continuous else 200}") as trainer:
        assert mean_return(trainer) > 0.8  # without a look no policy earns more than 0, a continuous one 0.75


def test_model_remembers_a_cue_over_two_steps(tmp_path):
    """Four pasts that differ in the first observation and in the last action alone, and their rewards."""
    options = probe_options("ProbeMemory", {"delay": 2})
    with tiny_run(tmp_path / "run", *MEMORY, options=options) as (trainer, _):
        while trainer.step < 400 or not trainer.collector.idle:
            trainer.collector.draining = trainer.step >= 400
            trainer.step += trainer.collector.step(random=True)[0]
        for _ in range(400):
            trainer.learner.update_model(trainer.replay.sample(32, 12, trainer.replay_rng))
        model = trainer.agent.world_model
        cue = torch.tensor([-1.0, -1.0, 1.0, 1.0])
        answer = torch.tensor([0, 1, 0, 1])
        wait = torch.eye(2)[[0, 1, 0, 1]]
        nothing, ask = torch.zeros(4, 2), torch.tensor([0.0, 1.0]).expand(4, 2)
        state = None
        with torch.no_grad():
            for t, obs in enumerate((torch.stack([cue, torch.zeros(4)], -1), nothing, ask)):
                state = model.filter(state, wait if t else None, {"obs": obs}, torch.full((4,), t == 0), sample=False)
            assert state is not None
            reward = model.imagine(state, torch.eye(2)[answer].unsqueeze(1), 1).reward[:, 0]
    assert reward.tolist() == pytest.approx((cue * (2 * answer - 1)).tolist(), abs=0.3)


@pytest.mark.slow
def test_policy_uses_its_memory_over_two_steps(tmp_path):
    probe = probe_options("ProbeMemory", {"delay": 2})
    with learned(tmp_path, probe, *MEMORY, "train.warmup_updates=1200") as trainer:
        assert mean_return(trainer) > 0.9  # without a memory no policy earns more than 0 on average


def test_time_limit_is_not_death(tmp_path):
    """An episode that was truncated after one step goes on for ever: V = 1 / (1 - 0.8), within 1 %."""
    probe = probe_options("TimeLimit", {"ends": "truncated"})
    with learned(tmp_path, probe, *LONG, "train.warmup_updates=400", "agent.gamma=0.8") as trainer:
        assert values(trainer, [[-1.0]], [[1.0]]) == pytest.approx([5.0, 5.0], rel=0.01)


def test_termination_is_death(tmp_path):
    """The same environment where the end is real: V = 1, within 1 %."""
    probe = probe_options("TimeLimit", {"ends": "terminated"})
    with learned(tmp_path, probe, *LONG, "agent.gamma=0.8") as trainer:
        assert values(trainer, [[-1.0]], [[1.0]]) == pytest.approx([1.0, 1.0], rel=0.01)
