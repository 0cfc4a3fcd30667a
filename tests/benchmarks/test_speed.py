"""The speed table: what is counted, what is compared, and that the sizes are those that others were measured at."""

import json

import pytest
import torch
from torch import nn

from benchmarks.__main__ import PEERS, main, row
from benchmarks.speed import loop, measure, works
from benchmarks.speed.measure import Measurement
from worldmodels.dynamics import RecurrentPrior


def test_measure_counts_products_and_each_parameter_once():
    layer, x = nn.Linear(30, 20), torch.randn(10, 30)
    calls = []
    found = measure.measure(lambda: calls.append(layer(x)), modules=(layer, layer))
    assert found.flops == 2 * 10 * 30 * 20 and found.parameters == 30 * 20 + 20
    assert len(calls) == measure.WARMUPS + measure.REPEATS and found.repeats == measure.REPEATS
    assert found.min_s <= found.median_s <= found.max_s


def test_measure_ends_early_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    calls = []
    assert measure.measure(lambda: calls.append(1)).repeats == 1 and len(calls) == 2  # one of them counts operations


def test_row_divides_by_the_best_peer_and_shares_by_processor_time():
    found = Measurement(median_s=0.5, min_s=0.4, max_s=0.7, cpu_s=2.0, repeats=5, flops=10**12, note="bfloat16")
    line = row("W1", found, {"float32": 1e12, "bfloat16": 2e12})
    assert "0.5 s (0.4 to 0.7; 5)" in line and "| 25% |" in line
    assert f"r2dreamer {PEERS['seconds']['W1']['r2dreamer']:g} s, 3.18 times ours |" in line
    assert f"r2dreamer {PEERS['processor_seconds']['seconds']['W1']['r2dreamer']:g} s, 1.41 times ours |" in line
    assert row("collect", found, {"float32": 1e12, "bfloat16": 2e12}).endswith("| - | - | bfloat16 |")


@pytest.mark.parametrize(("obs", "least", "most"), [("vector", 3.0e6, 3.6e6), ("image", 3.5e6, 5.6e6)])
def test_the_sizes_are_the_compared_ones(obs, least, most):
    own = works.learner(obs, 512, "float32")
    modules = (own.world_model, own.policy.actor, own.policy.critic)
    assert least <= sum(p.numel() for module in modules for p in module.parameters()) <= most
    assert own.world_model.encoder.sees_context and own.world_model.ensemble is None
    prior = own.world_model.temporal_prior
    assert isinstance(prior, RecurrentPrior)
    assert (prior.deter, prior.blocks, own.world_model.family.width) == (512, 8, 32 * 16)
    assert (own.options.agent.starts, own.options.agent.horizon) == (1024, 15)
    batch = works.window(works.OBS[obs], works.ACTION, works.BATCH, works.LENGTH)
    assert batch.action.shape == (16, 64, 6) and batch.obs["obs"].shape[:2] == (16, 65)


def test_the_command_prints_and_writes_what_it_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loop, "STEPS", 5)
    threads = torch.get_num_threads()
    try:
        assert main(["--only", "loop", "--threads", "1", "--json", str(tmp_path / "speed.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "speed.json").read_text())
    assert set(found) == {"collect", "sample", "environment", "guarded"}
    assert all(one["median_s"] > 0 and one["amount"] == 5 for one in found.values())
    assert capsys.readouterr().out.count("\n| ") == 5
