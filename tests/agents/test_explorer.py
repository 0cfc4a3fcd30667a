"""agent=explorer: what it collects for, what it leaves, and that a stopped run goes on as if it had not been."""

from dataclasses import replace

import pytest
import torch

from agents.agent import Agent
from agents.experiment import load_options, open_run
from agents.log import Logger
from agents.trainer import train
from worldmodels.checkpoint import load

LINES = [
    *("agent=explorer", "env.id=worldmodels/ProbePolicy-v0", "env.kwargs={continuous: true}", "steps=80"),
    *("agent.horizon=3", "agent.starts=16", "agent.hidden=16", "world_model.trunk.units=16", "train.warmup_updates=5"),
    *("world_model.ensemble.units=8", "train.warmup_steps=30", "train.every=5", "train.checkpoint_every=40"),
    *("replay.batch=4", "replay.length=4", "evaluation.every=40", "evaluation.episodes=2", "evaluation.num_envs=2"),
    *("evaluation.final_episodes=4", "agent.explorer.task_updates=20"),
]


def run(folder, *changes, steps=80, resume=False):
    changed = {line.split("=")[0] for line in changes}
    options = load_options([*(line for line in LINES if line.split("=")[0] not in changed), f"run={folder}", *changes])
    options = replace(options, steps=steps, resume=resume)
    with open_run(options) as path, Logger(path) as logger:
        return train(options, path, resume=resume, logger=logger)


def tensors(folder):
    return {f"{part}/{k}": v for part, s in load(folder).parts.items() for k, v in s["tensors"].items()}


@pytest.mark.parametrize("name", ["information_gain", "rnd"])
def test_an_interrupted_exploration_goes_on_as_if_it_had_not_been(tmp_path, name):
    changes = [f"agent.acquisition.name={name}"]
    if name == "information_gain":
        changes += ["agent.acquisition.center=true", "agent.explorer.wander=0.2"]
    run(tmp_path / "whole", *changes)
    run(tmp_path / "parts", *changes, steps=40)
    run(tmp_path / "parts", *changes, resume=True)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert "bonus/scale" in whole and ("bonus/mean" in whole) == (name == "information_gain")
    assert ("bonus_optimizer" in load(tmp_path / "whole").parts) == (name == "rnd")
    assert whole.keys() == parts.keys()
    assert not [key for key in whole if not torch.equal(whole[key], parts[key])]


def test_the_kept_agent_is_the_task_policy_in_the_explorers_model(tmp_path):
    run(tmp_path / "run")
    kept, explorer = Agent.load(tmp_path / "run"), Agent.load(tmp_path / "run", which="latest")
    for own, other in zip(kept.world_model.parameters(), explorer.world_model.parameters(), strict=True):
        assert torch.equal(own, other)
    different = [
        not torch.equal(own, other)
        for own, other in zip(kept.policy.actor.parameters(), explorer.policy.actor.parameters(), strict=True)
    ]
    assert any(different)
    assert kept.bonus is not None and float(kept.bonus.scale) > 0


@pytest.mark.slow
def test_a_task_is_solved_by_a_model_that_was_explored_out_of_curiosity_alone(tmp_path):
    """The reward is 1 - (a - cue / 2)^2; the explorer never sees it as a goal."""
    result = run(
        tmp_path / "run",
        "agent.explorer.task_updates=400",
        "evaluation.every=0",
        "agent.gamma=0.9",
        "agent.entropy=0.0001",
        "train.updates_per_step=1",
        "evaluation.final_episodes=40",
        steps=300,
    )
    assert result.evaluation.mean > 0.9
