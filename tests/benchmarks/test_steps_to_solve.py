"""The count of transitions: rewards that are given are those of the environments, and runs end when they are due."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.agent import Agent
from agents.experiment import load_options
from benchmarks.steps_to_solve import TASKS, KnownReward, table, transitions
from envs.vector import VectorEnv

TINY = (
    "train.warmup_updates=3",
    "train.updates_per_step=0.1",
    "world_model.ensemble.members=2",
    "world_model.ensemble.units=8",
    "world_model.recurrent.deter=4",
    "world_model.recurrent.hidden=8",
    "replay.batch=2",
    "replay.length=4",
    "agent.planner.horizon=2",
    "agent.planner.samples=4",
    "agent.planner.iterations=1",
    "agent.acquisition.task_horizon=2",
)


@pytest.mark.parametrize("name", TASKS)
def test_the_reward_that_is_given_is_that_of_the_environment(name):
    if name == "reacher":
        pytest.importorskip("mujoco")
    task = TASKS[name]
    rng = np.random.default_rng(0)
    with VectorEnv(load_options([f"env={task.env}"]).env, 1) as environments:
        obs = environments.reset([0], [3])["obs"]
        for _ in range(20):
            action = rng.uniform(-1, 1, (1, environments.action_spec.size)).astype(np.float32)
            before, result = obs.copy(), environments.step([0], action)
            obs = result.obs["obs"]
            seen = before if name == "pendulum" else obs  # gymnasium's pendulum pays for the state that is left
            given = task.reward(torch.from_numpy(seen), torch.from_numpy(action))
            assert float(given) == pytest.approx(float(result.reward[0]), abs=2e-4)


def test_a_known_reward_reads_what_is_decoded_and_the_last_action():
    options = load_options(["env=cartpole-swing-up", "agent=planner"])
    with VectorEnv(options.env, 1) as environments:
        model = Agent(options, environments.obs_specs, environments.action_spec).world_model
    head = KnownReward(model, lambda obs, action: obs.sum(-1) + 10 * action[..., 0])
    start, plan = model.dream_start(3), torch.rand(3, 4, 1)
    rollout = model.imagine(start, plan, 4)
    expected = model.decode(rollout.states.index((slice(None), slice(1, None))))["obs"].mode.sum(-1) + 10 * plan[..., 0]
    torch.testing.assert_close(head(rollout.states.features[:, 1:]).mean, expected)
    assert not list(head.parameters()), "nothing of it is learned, and the model is not its child"


@pytest.mark.parametrize("method", ["random", "task_aware"])
def test_a_run_ends_at_the_first_evaluation_that_solves_it_or_with_its_budget(method):
    task = replace(TASKS["cartpole-swing-up"], budget=75)
    for threshold, solved, evaluations in ((-26.0, 50, 1), (1.0, None, 2)):
        row = transitions(replace(task, threshold=threshold), method, 0, known=True, settings=TINY)
        assert row["solved"] == solved and [step for step, _ in row["curve"]] == [50, 75][:evaluations]
        assert all(-25 <= value <= 0 for _, value in row["curve"])


def test_the_table_shows_every_seed_and_a_median_that_is_not_reached():
    rows = [
        {"task": "reacher", "method": "greedy", "reward": "known", "seed": 100 + k, "solved": n}
        for k, n in enumerate((250, None, None))
    ]
    line = table(rows).splitlines()[-1]
    assert "100 to 102 | 250, over 400, over 400 | over 400 | 400" in line
