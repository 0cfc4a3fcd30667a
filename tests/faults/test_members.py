"""Row 56: uncertainty that collapsed because members are identical is flagged, once, and sound members are not."""

import json

import pytest
import torch

from tests.learning.tools import tiny_run


@pytest.mark.parametrize("same", [True, False])
def test_members_that_became_one_are_said_once(tmp_path, same):
    with tiny_run(tmp_path / "run", "world_model.ensemble.members=3") as (trainer, said):
        if same:
            ensemble = trainer.agent.world_model.ensemble
            ensemble.prior_scale, ensemble.keep = 0.0, 1.0
            with torch.no_grad():
                ensemble.weights.copy_(ensemble.weights[:1].expand_as(ensemble.weights))
        trainer.loop()
    warnings = [line for line in said() if "members of the ensemble agree" in line]
    assert len(warnings) == int(same)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    differences = [line["train/member_difference"] for line in logged if "train/member_difference" in line]
    assert len(differences) > 1
    assert all((value < 1e-3) == same for value in differences)
