"""The table of alarms: a row for every fault, severe and minor, and for every attack."""

import pytest

from benchmarks.ood import main
from tests.agents.test_agent import make_agent


@pytest.mark.slow
def test_every_fault_and_every_attack_has_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.ood.EPSILONS", (0.1,))
    make_agent("Pendulum-v1").save(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--episodes", "2", "--fit-steps", "5", "--attack"]) == 0
    rows = [line.split(" | ")[0].removeprefix("| ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    physics = {"gravity", "mass", "action_gain"}
    assert {f"severe {name}" for name in physics | {"offset", "noise", "dropped", "frozen", "miscalibrated"}} < set(
        rows
    )
    assert {f"minor {name}" for name in physics | {"offset", "noise", "miscalibrated"}} < set(rows)
    assert {"FGSM", "PGD", "PGD, adaptive"} < set(rows)
