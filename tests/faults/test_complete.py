"""Row 10: whatever a run has changed comes back, in every kind of run, also what somebody adds tomorrow."""

import pytest
import torch

from tests.faults.graph import leaves
from tests.learning.tools import hashes, tiny_run
from worldmodels.checkpoint import load

NOT_STATE = frozenset(
    {
        *("options", "run", "envs", "logger", "_eval_envs"),  # given anew, or reset by whoever uses them
        *("agent.options", "learner.options", "agent.run", "agent.train_steps"),  # for people
        *("learner.fault", "alarm._sounding", "collapsed"),  # of the last update alone
        *("collector.envs", "collector.draining"),  # set at every turn of the loop
        # The ring's unwritten rows are whatever the memory held; the written ones are compared as episodes.
        *(f"replay.{name}" for name in ("_columns", "_flat", "_obs", "_action", "_reward", "_flags")),
        "replay._segments._columns",
        *(f"collector.{name}" for name in ("_open", "_first", "_return", "_length", "_obs", "_carry")),  # open episodes
        *(f"collector.{name}" for name in ("_left", "_repeated")),  # of the action that is repeated there
    }
)
"""Paths below the trainer that a checkpoint need not hold, with the reason."""
PLAN = ("agent.planner.horizon=3", "agent.planner.samples=4", "agent.planner.iterations=1", "agent.planner.elites=2")
KINDS = {
    "default": (),
    "categorical": ('world_model.posterior="categorical"', "world_model.posterior_sees_context=true"),
    "two streams": ("env.num_envs=2",),
    "flow": ('world_model.encoder="flow"',),
    "planner": ('agent.name="planner"', *PLAN),
    "planner and policy": ('agent.name="planner_actor"', *PLAN),
    "curious": ('agent.acquisition.name="rnd"',),
    "counting": ('agent.acquisition.name="count"', "agent.acquisition.quantile=0.9"),
    "explorer": ('agent.name="explorer"', 'agent.acquisition.name="information_gain"', "agent.acquisition.reward=0.0"),
    "continuous": ('env.id="Pendulum-v1"', "env.max_episode_steps=20"),
}


def differing(one, two):
    """Paths at which two object graphs differ."""
    return sorted(path for path in one.keys() | two.keys() if one.get(path, "missing") != two.get(path, "missing"))


@pytest.mark.parametrize("kind", KINDS)
def test_10_everything_that_a_run_changed_is_the_same_after_a_resume(kind, tmp_path):
    run = tmp_path / "run"
    with tiny_run(run, *KINDS[kind]) as (trainer, _):
        trainer.save()
        trainer.loop()
        after = leaves(trainer, without=NOT_STATE)
        rows, drawn = hashes(trainer)["rows"], torch.rand(3)
    with tiny_run(run, *KINDS[kind]) as (fresh, _):
        before = leaves(fresh, without=NOT_STATE)
        fresh.resume()
        resumed = leaves(fresh, without=NOT_STATE)
        assert hashes(fresh)["rows"] == rows
        assert torch.equal(torch.rand(3), drawn)  # the global generator
    assert differing(after, resumed) == []
    changed = differing(before, after)
    assert len(changed) > 100 and len(after) > 300
    for part in ("agent.world_model", "learner.model_optimizer", "replay", "best", "step"):
        assert any(path.startswith(part) for path in changed), part


def test_10_a_number_that_nobody_registered_is_found(tmp_path):
    """The test above fails where state is left out: a plain number, and a tensor somewhere below."""
    run = tmp_path / "run"
    with tiny_run(run) as (trainer, _):
        trainer.save()
        trainer.agent.policy.forgotten = torch.ones(2)
        trainer.learner.seen = 5
        after = leaves(trainer, without=NOT_STATE)
    with tiny_run(run) as (fresh, _):
        fresh.restore(load(run).parts)
        assert differing(after, leaves(fresh, without=NOT_STATE)) == ["agent.policy.forgotten", "learner.seen"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_19_saved_on_one_device_and_loaded_on_the_other(first, second, tmp_path):
    run = tmp_path / "run"
    with tiny_run(run, f'device="{first}"') as (trainer, _):
        trainer.save()
        trainer.loop()
        after = {name: value.cpu() for name, value in trainer.agent.world_model.state_dict().items()}
    with tiny_run(run, f'device="{second}"') as (fresh, _):
        fresh.resume()
        assert next(fresh.agent.world_model.parameters()).device.type == second
        assert all(torch.equal(after[k], v.cpu()) for k, v in fresh.agent.world_model.state_dict().items())
        fresh.update()
        assert fresh.learner.fault is None


def test_29_no_secret_of_the_environment_is_written(tmp_path, monkeypatch):
    secret = "hunter2-5f1a77e0"
    for name in ("API_TOKEN", "AWS_SECRET_ACCESS_KEY", "TOKEN"):
        monkeypatch.setenv(name, secret)
    run = tmp_path / "run"
    with tiny_run(run, tensorboard=True) as (trainer, _):
        from agents.experiment import _write_config

        _write_config(trainer.options)
        trainer.save()
        trainer.loop()
        trainer.finish()
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 20 and {"config.yaml", "metrics.jsonl", "evaluation.json"} <= {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
