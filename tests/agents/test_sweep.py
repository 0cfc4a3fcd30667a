"""Sweeps in other processes: joblib runs every combination, a missing launcher is named with its command."""

import os
import sys
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

from agents import sweep
from agents.cli import main
from agents.experiment import recorded_options

# Takes the place of the trainer, in whatever process the run has been sent to.
STAND_IN = """
import os, sys, types
from types import SimpleNamespace

def train(options, run, *, resume, logger, ranks):
    (run / "process").write_text(str(os.getpid()))
    return SimpleNamespace(evaluation=SimpleNamespace(table=lambda: "a table"), run=run)

module = types.ModuleType("agents.trainer")
module.train = train
sys.modules["agents.trainer"] = module
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("agents.trainer", "stand_in"):  # this process imports the stand-in too; afterwards it is gone
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_joblib_trains_every_combination_in_other_processes(elsewhere, capsys):
    (elsewhere / "stand_in.py").write_text(STAND_IN)
    words = ["env=cartpole", "seed=3,4", "steps=9", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    try:
        assert main(["train", "-m", "--import", "stand_in", *words, "hydra.sweep.dir=all"]) == 0
        folders = sorted(Path("all").glob("*/"))
        assert [recorded_options(folder).seed for folder in folders] == [3, 4]
        assert os.getpid() not in {int((folder / "process").read_text()) for folder in folders}
        assert main(["train", "-m", *words[1:], "env.id=Nothing-v9", "hydra.sweep.dir=bad"]) == 2
        assert "Traceback" not in capsys.readouterr().err
    finally:
        get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize(
    ("launcher", "extra"), [("joblib", "sweep-joblib"), ("submitit_slurm", "slurm"), ("ray", "ray")]
)
def test_a_launcher_that_is_not_installed_is_named_with_its_command(launcher, extra, elsewhere, monkeypatch, capsys):
    monkeypatch.setitem(sweep.LAUNCHERS, launcher, ("hydra_nothing_launcher", extra))
    assert main(["train", "-m", "seed=0,1", f"hydra/launcher={launcher}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"wm: hydra/launcher={launcher} needs hydra-nothing-launcher, which is not installed: pip ")
    assert f"pip install 'worldmodels[{extra}]'" in said and len(said.splitlines()) == 1
    assert not list(elsewhere.iterdir())


def test_every_launcher_has_an_extra_of_its_name():
    import tomllib

    from tests.source import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in sweep.LAUNCHERS.values():
        assert extras[extra][0].startswith(module.replace("_", "-") + ">=")
