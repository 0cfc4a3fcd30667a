"""The compiled step against the plain one, the same checkpoint with both, and one line where nothing can compile."""

import json
from pathlib import Path

import pytest
import torch

from agents import compiled as module
from agents.cli import main
from tests.contracts.tools import ACTIONS, OBS, small_model, small_options
from tests.learning.tools import TINY, changed, tiny_run
from worldmodels.checkpoint import load
from worldmodels.errors import ConfigError


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own look at what it compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # what torch's own compiler imports
@pytest.mark.parametrize("posterior", ["gaussian", "categorical"])
def test_compiled_imagination_is_the_plain_one_to_rounding(posterior):
    model = small_model(small_options(posterior, blocks=2), OBS["vector"], ACTIONS["continuous"])
    start = model.dream_start(6)
    plan = torch.rand(6, 4, ACTIONS["continuous"].size) * 2 - 1
    results = []
    for step in (None, module.compiled(model.one_step)):
        model.compiled_step = step
        torch.manual_seed(1)
        rollout = model.imagine(start, plan.clone().requires_grad_(), 4)
        loss = rollout.reward.sum() + rollout.states.features.square().sum()
        gradients = torch.autograd.grad(loss, list(model.temporal_prior.parameters()), allow_unused=True)
        results.append((rollout, [g for g in gradients if g is not None]))
    (plain, gradients), (fast, others) = results
    assert not torch.equal(plain.states.context[:, 1], start.context)
    torch.testing.assert_close(fast.states.features, plain.states.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.reward, plain.reward, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # what torch's own compiler imports
def test_a_run_that_is_compiled_leaves_the_same_kind_of_checkpoint_and_goes_on_without(tmp_path):
    options = changed(TINY, "evaluation.every=0", "steps=60", "train.checkpoint_every=60")
    shapes = []
    for name, flag in (("plain", "false"), ("fast", "true")):
        with tiny_run(tmp_path / name, f"train.compile={flag}", options=options) as (trainer, _):
            trainer.save()
            trainer.loop()
        parts = load(tmp_path / name).parts
        shapes.append({n: {k: tuple(v.shape) for k, v in part["tensors"].items()} for n, part in parts.items()})
    assert shapes[0] == shapes[1]
    with tiny_run(tmp_path / "fast", options=options) as (trainer, _):
        trainer.resume()
        assert trainer.learner.updates == load(tmp_path / "fast").parts["counters"]["json"]["updates"] > 0


def test_every_imagined_step_is_the_one_that_would_be_compiled(monkeypatch, tmp_path):
    asked = []

    def stand_in(function):
        return lambda *inputs: asked.append(len(inputs)) or function(*inputs)

    monkeypatch.setattr("agents.learner.compiled", stand_in)
    with tiny_run(tmp_path / "run", "train.compile=true", "evaluation.every=0") as (trainer, _):
        trainer.save()
        trainer.loop()
        assert asked == [2] * (trainer.options.agent.horizon * trainer.learner.updates)


def test_without_a_compiler_the_option_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["train", "env=cartpole", "train.compile=true"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "wm: train.compile: no C++ compiler found (looked for no-such-compiler); install one or leave it out\n"
    )
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/" + name)
    with pytest.raises(ConfigError, match="Python.h is missing"):
        module.check_compiler()


def test_what_was_compiled_is_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(module.CACHE, "chosen")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(module, "check_compiler", lambda: None)
    assert module.compiled(json.dumps) is json.dumps and module.os.environ[module.CACHE] == "chosen"
    monkeypatch.delenv(module.CACHE)
    module.compiled(json.dumps)
    assert Path(module.os.environ[module.CACHE]) == tmp_path / "worldmodels" / "inductor"
    monkeypatch.delenv(module.CACHE)
