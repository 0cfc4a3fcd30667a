"""The card: its keys on real runs of both kinds, its measures on models whose answer is known."""

import json
from types import SimpleNamespace

import pytest
import torch

from agents.agent import Agent
from agents.card import acting_rollout, calibrate, card, imagined_minus_real, state_coverage, table
from agents.cli import main
from agents.recordings import part
from tests.agents.test_agent import make_agent
from worldmodels.checkpoint import module_state
from worldmodels.errors import ConfigError
from worldmodels.types import Batch, Rollout, State
from worldmodels.uncertainty import Calibration

KEYS = {
    "gap_auroc",
    "sigma_error",
    "spearman_by_horizon",
    "coverage_90_by_horizon",
    "mace",
    "ood",
    "state_coverage_vs_random",
    "imagined_minus_real",
}


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_card_has_every_number_and_leaves_the_agent_as_it_was(env):
    agent = make_agent(env)
    before = module_state(agent.world_model)["tensors"], torch.get_rng_state()
    values = card(agent, toy_steps=5, alarm_steps=5)
    assert set(values) == KEYS
    assert set(values["spearman_by_horizon"]) == set(values["coverage_90_by_horizon"]) == {"1", "5", "10", "20"}
    assert all(-1 <= v <= 1 for v in values["spearman_by_horizon"].values() if v is not None)
    assert all(0 <= v <= 1 for v in values["coverage_90_by_horizon"].values() if v is not None)
    assert 0 <= values["gap_auroc"] <= 1 and 0 <= values["mace"] <= 1 and values["sigma_error"] > 0
    assert all(set(fault) == {"auroc", "fpr95", "delay_steps"} for fault in values["ood"].values()) and values["ood"]
    json.dumps(values, allow_nan=False)
    assert all(name in table(values) for name in KEYS)
    after = module_state(agent.world_model)["tensors"]
    assert all(torch.equal(value, after[name]) for name, value in before[0].items())
    assert torch.equal(before[1], torch.get_rng_state())


def test_a_model_without_an_ensemble_has_no_card():
    agent = make_agent()
    agent.world_model.ensemble = None
    with pytest.raises(ConfigError, match="ensemble"):
        card(agent)


def test_calibrated_widths_are_saved_with_the_agent(tmp_path):
    agent = make_agent()
    calibrate(agent)
    assert agent.world_model.calibration.fitted
    agent.save(tmp_path / "run")
    again = Agent.load(tmp_path / "run").world_model.calibration
    assert again.fitted and torch.equal(again.widths, agent.world_model.calibration.widths)
    assert not torch.equal(again.widths, Calibration().widths)


def test_imagination_follows_whoever_acts():
    agent = make_agent()
    model, start = agent.world_model, agent.world_model.dream_start(3)

    def imagined(policy):
        torch.manual_seed(1)
        rollout = model.imagine(start, policy, 2)
        return rollout, (rollout.reward, rollout.continuation)

    def acted():
        torch.manual_seed(1)
        return acting_rollout(agent, start, 2)

    def same(ours, theirs):
        return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    assert same(acted(), imagined(agent.policy.average_actor.mode)[1])
    other = lambda features: 1 - agent.policy.average_actor.mode(features)  # noqa: E731
    assert not same(acted(), imagined(other)[1])
    seen = []

    def act(state, memory, *, deterministic):
        seen.append((state, memory, deterministic))
        return other(state.features), len(seen)

    agent.planner = SimpleNamespace(act=act)
    rollout, expected = imagined(other)
    torch.testing.assert_close(acted(), expected)
    assert [memory for _, memory, _ in seen] == [None, 1] and seen[0][2] and seen[0][0] is start
    torch.testing.assert_close(seen[1][0].features, rollout.states.features[:, 1])
    agent.planner, agent.sb3 = None, SimpleNamespace(act=lambda features, *, deterministic: other(features))
    assert same(acted(), expected)


def test_the_command_line_writes_the_card_beside_the_evaluation(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    make_agent().save(run)
    monkeypatch.setattr("agents.card.known_noise", lambda build, **_: SimpleNamespace(gap_auroc=1.0, sigma_error=0.1))
    monkeypatch.setattr("agents.card.ood_card", lambda *_, **__: {"offset": {"auroc": 1.0}})
    file = tmp_path / "card.json"
    assert main(["evaluate", str(run), "--episodes", "2", "--card", "--json", str(file)]) == 0
    stored = json.loads(file.read_text())
    assert KEYS < set(stored) and {"mean", "returns"} < set(stored)
    assert json.loads((run / "evaluation.json").read_text()) == stored
    assert "spearman_by_horizon" in capsys.readouterr().out


def played(reward, mask=None):
    reward = torch.as_tensor(reward, dtype=torch.float32)
    real = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    first = torch.zeros(len(reward), reward.shape[1] + 1, dtype=torch.bool)
    first[:, 0] = True
    obs = torch.randn(*first.shape, 2)
    return Batch({"obs": obs}, torch.zeros(*reward.shape, 1), reward, ~real & False, ~real & False, real, first,
                 torch.cat([first[:, :1], real], 1))  # fmt: skip


class Believer(SimpleNamespace):
    """An agent whose model promises `promise` a step and an end after the first step with chance 1 - `survival`."""

    def __init__(self, promise, survival=1.0):
        def imagine(start, policy, horizon):
            flat = torch.ones(len(start.z), horizon)
            return Rollout(start, flat.unsqueeze(-1), promise * flat, survival * flat, flat)

        def infer(batch, *, sample):
            assert not sample
            return State(batch.obs["obs"], batch.obs["obs"])

        standardizer = type("Plain", (), {"positions": {"obs": 0}, "__call__": lambda self, name, value: value})()
        prior = SimpleNamespace(context_size=2)
        model = SimpleNamespace(
            infer=infer, imagine=imagine, device="cpu", standardizer=standardizer, temporal_prior=prior
        )
        policy = SimpleNamespace(average_actor=SimpleNamespace(mode=None))
        super().__init__(world_model=model, policy=policy, planner=None, sb3=None)


def test_imagined_minus_real_is_a_share_of_the_lead_over_chance():
    good, chance = played(torch.full((3, 10), 2.0)), played(torch.zeros(3, 10))
    assert imagined_minus_real(Believer(2.0), good, chance) == pytest.approx(0.0)
    assert imagined_minus_real(Believer(3.0), good, chance) == pytest.approx(0.5)
    assert imagined_minus_real(Believer(1.0), good, chance) == pytest.approx(-0.5)
    assert imagined_minus_real(Believer(3.0), good, chance, horizon=5) == pytest.approx(0.5)
    # a model that expects an end after each step with chance one half: 2 (1 + 1/2 + ...) against 20
    assert imagined_minus_real(Believer(2.0, 0.5), good, chance) == pytest.approx(4 * (1 - 2**-10) / 20 - 1, abs=1e-4)


def test_state_coverage_counts_cells_and_a_small_region_has_few():
    torch.manual_seed(0)
    wide, narrow = played(torch.zeros(8, 60)), played(torch.zeros(8, 60))
    narrow.obs["obs"] = 0.1 * narrow.obs["obs"]
    agent = Believer(0.0)
    assert state_coverage(agent, wide, wide) == 1.0
    assert state_coverage(agent, narrow, wide) < 0.3 and state_coverage(agent, wide, narrow) > 3
    gone = torch.zeros(8, 60, dtype=torch.bool)
    with pytest.raises(ConfigError, match="visited"):
        state_coverage(agent, wide, part(played(torch.zeros(8, 60), gone), slice(0, 1)))


def test_each_fault_has_a_line_of_its_own():
    from agents.card import table

    lines = table({"ood": {"drop": {"auroc": 1.0}, "drift": {"auroc": None}}, "by_horizon": {"1": 0.5, "5": None}})
    assert [line.strip() for line in lines.splitlines()] == [
        f"{'ood':<26}drop: auroc 1.000",
        "drift: auroc -",
        f"{'by_horizon':<26}1: 0.500  5: -",
    ]
