"""The benchmarks of dreams: their settings exist, their tables say what was measured, every contender steps."""

import pytest

from agents import Agent
from agents.experiment import load_options
from benchmarks.control import ROWS, Result, table
from benchmarks.dream import contenders, evaluation_seconds, quartiles, step_rates
from tests.learning.tools import train_tiny


@pytest.mark.parametrize("name", ROWS)
def test_settings_of_every_row_exist(name):
    row = ROWS[name]
    options = load_options([*row.settings, f"steps={row.steps}"])
    if row.allowed is None:  # the return at the end counts: an evaluation falls on the last step
        assert name in options.env.id and row.steps % row.every == 0
    else:
        assert name.split("-")[0] in (options.agent.name.split("_")[0], options.agent.sb3.algorithm.lower())


def test_the_table_holds_medians_and_what_was_allowed():
    runs = [Result("ppo-cartpole", seed, steps, 10.0, 500.0) for seed, steps in ((100, 1000), (101, 1500), (102, None))]
    row = table(runs).splitlines()[-1]
    assert "**1,500** (1,000; 1,500; > 3,000)" in row and "| 4,352 |" in row
    never = [Result("sac-pendulum", seed, None, None, -900.0) for seed in (100, 101)]
    assert "**> 1,500**" in table(never).splitlines()[-1]
    short = [Result("planner-pendulum", 100, None, None, -500.0, curve=[(300, -500.0)])]
    assert "**> 300** (> 300)" in table(short).splitlines()[-1]


def test_a_row_without_allowed_steps_says_what_was_reached_after_all_of_them():
    runs = [
        Result("reacher-easy", seed, None, None, last, 60.0, kept, [(36_000, 1.0), (40_000, last)])
        for seed, last, kept in ((100, 900.0, 910.0), (101, 700.0, 950.0), (102, 880.0, 890.0))
    ]
    text = table(runs)
    assert "**880** (900; 700; 880)" in text and "**910** (910; 950; 890)" in text and "| 40,000 |" in text
    assert "allowed" not in text and "allowed" in table([*runs, Result("sac-pendulum", 100, 750, 40.0, -150.0)])


def test_every_contender_steps_and_both_evaluations_are_timed(tmp_path):
    agent = Agent.load(train_tiny(tmp_path / "run"))
    rates = step_rates(contenders(agent, 4), 4, 1)
    assert len(rates) == 7 and all(len(values) == 1 and values[0] > 0 for values in rates.values())
    assert set(evaluation_seconds(agent, 2, 1)) == {"wm evaluate", "evaluate_policy"}
    assert quartiles([1.0, 2.0, 3.0]) == (1.0, 2.0, 3.0) and quartiles([5.0]) == (5.0, 5.0, 5.0)
