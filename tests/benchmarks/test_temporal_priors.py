"""The table over temporal priors: the same data for each, nothing measured twice, medians that say `never`."""

import argparse
import math

import numpy as np
import pytest

from benchmarks import temporal_priors
from benchmarks.temporal_priors import Hand, missing, quality, table


def arguments(**changes):
    given = {"parts": ["quality"], "tasks": ["cartpole"], "priors": ["recurrent", "transformer"], "seeds": [0, 1]}
    return argparse.Namespace(**(given | {"steps": None, "updates": 5} | changes))


def row(prior, seed, **values):
    return {"task": "cartpole", "prior": prior, "seed": seed} | values


def test_what_is_there_is_not_measured_again_and_other_settings_are():
    rows = [row("recurrent", 0, part="quality", updates=5), row("transformer", 1, part="quality", updates=6)]
    assert len(list(missing(arguments(), rows))) == 3
    assert len(list(missing(arguments(parts=["quality", "time", "solve"]), rows))) == 3 + 1 + 4  # one timing of all
    rows += [row("recurrent", 1, part="quality", updates=5)]
    rows += [row("transformer", seed, part="quality", updates=5) for seed in (0, 1)]
    assert not list(missing(arguments(), rows))


def test_a_model_is_judged_the_same_way_twice_and_every_prior_by_the_same_windows(monkeypatch):
    for name, value in {"SEEN": 3, "HORIZONS": (1, 4), "HELD_WINDOWS": 8, "TRAINING_STEPS": 150}.items():
        monkeypatch.setattr(temporal_priors, name, value)
    monkeypatch.setattr(temporal_priors, "HELD_STEPS", 200)
    judged, whole = [], temporal_priors.whole_windows
    monkeypatch.setattr(temporal_priors, "whole_windows", lambda *given: judged.append(whole(*given)) or judged[-1])
    rows = [quality("cartpole-no-velocity", prior, 3, 2) for prior in ("transformer", "transformer", "state_space")]
    assert rows[0] == rows[1] and len(rows[0]["errors"]) == 2 and math.isfinite(rows[0]["bound"])
    assert rows[2]["errors"] != rows[0]["errors"] and rows[2]["parameters"] != rows[0]["parameters"]
    seen = [batch.obs["obs"] for batch in judged]
    assert seen[0].shape == (8, 8, 2) and (seen[0] == seen[2]).all() and judged[0].mask.all()


def test_the_hand_balances_without_a_velocity_and_begins_anew_with_every_episode():
    hand = Hand("discrete", 2, seed=0)
    hand.rng = type("Never", (), {"uniform": lambda *_: 0.0, "random": lambda *_: 1.0})()
    action, carry = hand.act({"obs": np.array([[0.0, 0.1]])}, None, np.array([True]), deterministic=False)
    assert action.tolist() == [[0, 1]]
    action, carry = hand.act({"obs": np.array([[0.0, 0.05]])}, carry, np.array([False]), deterministic=False)
    assert action.tolist() == [[1, 0]]  # it falls back fast
    action, _ = hand.act({"obs": np.array([[0.0, 0.05]])}, carry, np.array([True]), deterministic=False)
    assert action.tolist() == [[0, 1]]


@pytest.mark.parametrize(("solved", "shown"), [((250, None, 750), "750 (250; > 1,000; 750)"), ((None,), "> 1,000")])
def test_the_table_counts_runs_that_never_solved_as_slowest(solved, shown):
    runs = [row("recurrent", k, part="solve", solved=s, end=1_000, last=100.0 + k) for k, s in enumerate(solved)]
    fits = [row("recurrent", k, part="quality", bound=float(k), errors=[1, 2, 3, 4], parameters=7) for k in range(3)]
    text = table(runs + fits)
    assert shown in text and "1.00 (0.00 to 2.00)" in text and "recurrent | 7" in text
