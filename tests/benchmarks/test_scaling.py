"""What the curves of scaling.py are made of: a line is found again, and memory counts what gradients need."""

import pytest

from benchmarks import scaling


def test_a_line_is_found_and_what_is_none_is_said():
    exact = [{"batch": n, "model_ms": 3 + 0.5 * n} for n in (4, 8, 16)]
    assert scaling.slope(exact, "batch") == "3.0 ms + 0.50 ms x batch, off by 0% at most"
    bent = [{"batch": n, "model_ms": float(n * n)} for n in (4, 8, 16)]
    assert "off by 0%" not in scaling.slope(bent, "batch")


def test_memory_of_imagination_grows_with_batch_times_horizon():
    own = scaling.learner("world_model.ensemble.members=0")
    small, long, wide = (scaling.dream_bytes(own, *size) for size in ((8, 3), (8, 6), (16, 3)))
    assert long == pytest.approx(2 * small, rel=0.2) and wide == pytest.approx(2 * small, rel=0.2)
    context = own.world_model.temporal_prior.context_size
    assert small > 8 * 3 * 4 * context


def test_every_point_has_a_time_for_model_and_policy(monkeypatch):
    monkeypatch.setattr(scaling, "REPEATS", 1)
    times = scaling.update_time(scaling.learner("agent.starts=4", "agent.horizon=2"), 2, 4)
    assert set(times) == {"model_ms", "policy_ms"} and min(times.values()) > 0
