"""The loop: when it learns, what it learns from, what it keeps. Resume and seeds: tests/faults/test_trainer.py."""

import json

import numpy as np
import pytest
import torch

from agents.trainer import Interrupted, train
from tests.learning.tools import TINY, changed, tiny_run
from worldmodels.checkpoint import load
from worldmodels.distributions.gaussian import squash


def recorded_updates(trainer, monkeypatch):
    """(step, batch) of every update, without learning anything."""
    seen = []
    monkeypatch.setattr(trainer.learner, "update", lambda batch: seen.append((trainer.step, batch)) or {})
    return seen


def test_updates_are_those_that_the_steps_have_earned(tmp_path, monkeypatch):
    with tiny_run(tmp_path / "run", "train.updates_per_step=0.3", "train.every=5") as (trainer, _):
        seen = recorded_updates(trainer, monkeypatch)
        trainer.loop()
    steps = [step for step, _ in seen]
    assert min(steps) >= 30 and steps[:3] == [steps[0]] * 3  # warmup_updates=3 at the end of the warm-up
    learned_for = steps[-1] - steps[0]
    assert len(seen) == 3 + int(0.3 * learned_for + 1e-9)
    assert all((b - a) % 5 == 0 for a, b in zip(steps, steps[1:], strict=False))


def test_trap_training_only_on_the_latest_rollout(tmp_path, monkeypatch):
    options = changed(TINY, 'env.id="worldmodels/Counting-v0"', "steps=200", "train.updates_per_step=2.0")
    with tiny_run(tmp_path / "run", options=options) as (trainer, _):
        seen = recorded_updates(trainer, monkeypatch)
        trainer.loop()
        late = [batch for step, batch in seen if step > 150]
        sampled = {int(e) for batch in late for e in batch.obs["obs"][..., 0].flatten().tolist()}
        stored = {int(episode["obs"]["obs"][0, 0]) for episode in trainer.replay.iter_episodes()}
        first = {int(e["obs"]["obs"][0, 0]) for e in list(trainer.replay.iter_episodes())[:5]}
    assert first <= sampled and len(sampled) > 0.8 * len(stored)


def test_windows_are_shorter_while_the_replay_is(tmp_path, monkeypatch):
    with tiny_run(tmp_path / "run", "train.warmup_steps=3", "train.every=1", "replay.length=64") as (trainer, _):
        seen = recorded_updates(trainer, monkeypatch)
        trainer.loop()
    lengths = [batch.action.shape[1] for _, batch in seen]
    assert lengths[0] <= 5 and max(lengths) == 64 and lengths == sorted(lengths)


def test_standardiser_is_fitted_once_to_the_warm_up(tmp_path, monkeypatch):
    fits = []
    with tiny_run(tmp_path / "run") as (trainer, _):
        fit = trainer.agent.world_model.fit_standardizer
        monkeypatch.setattr(
            trainer.agent.world_model, "fit_standardizer", lambda obs: (fits.append((trainer.step, obs)), fit(obs))
        )
        trainer.loop()
        ((step, obs),) = fits
        assert len(obs["obs"]) >= step == 30
        center, spread = trainer.agent.world_model.standardizer.moments("obs")
        torch.testing.assert_close(center, obs["obs"].mean(0), rtol=1e-4, atol=1e-5)
        read = trainer.agent.world_model.standardizer("obs", obs["obs"])
        torch.testing.assert_close(read, squash(obs["obs"], center, spread))
    with tiny_run(tmp_path / "raw", "world_model.trunk.standardize=false") as (trainer, _):
        trainer.loop()
        assert trainer.agent.world_model.standardizer.moments("obs")[1].tolist() == [1, 1, 1, 1]


def test_the_best_agent_by_its_evaluations_is_kept_and_ties_go_to_the_later_one(tmp_path, monkeypatch):
    scores = iter([1.0, 3.0, 3.0, 2.0])
    kept = []
    with tiny_run(tmp_path / "run") as (trainer, _):
        measure = trainer._measure

        def scored(agent, episodes, seed):
            result = measure(agent, episodes, seed)
            object.__setattr__(result, "mean", next(scores))
            return result

        monkeypatch.setattr(trainer, "_measure", scored)
        for step in (10, 20, 30, 40):
            trainer.step = step
            trainer.evaluate()
            kept.append(trainer.best["json"]["step"])
            with torch.no_grad():
                next(trainer.agent.policy.parameters()).add_(1)
    assert kept == [10, 20, 30, 30] and trainer.best["json"]["score"] == 3.0


def test_evaluations_use_episodes_of_their_own_and_the_last_one_others(tmp_path, monkeypatch):
    seeds = []
    with tiny_run(tmp_path / "run") as (trainer, _):
        measure = trainer._measure
        monkeypatch.setattr(
            trainer, "_measure", lambda a, n, seed: seeds.append(range(seed, seed + n)) or measure(a, n, seed)
        )
        trainer.save()
        trainer.loop()
        trainer.finish()
    flat = [seed for block in seeds for seed in block]
    assert len(seeds) >= 3 and len(set(flat)) == len(flat)


def test_first_checkpoint_is_at_step_zero_before_anything_was_collected(tmp_path):
    with tiny_run(tmp_path / "run") as (trainer, _):
        trainer.save()
        assert load(tmp_path / "run").step == 0 and len(trainer.replay) == 0


def test_an_episode_that_does_not_end_is_cut_so_that_a_barrier_comes(tmp_path):
    options = changed(TINY, 'env.id="Pendulum-v1"', "train.checkpoint_every=20", "steps=60", "evaluation.every=0")
    with tiny_run(tmp_path / "run", options=options) as (trainer, _):
        trainer.save()
        trainer.loop()
        lengths = [len(e["reward"]) for e in trainer.replay.iter_episodes()]
        assert trainer.barrier == trainer.step and max(lengths) <= 40
        assert all(e["truncated"][-1] and not e["terminated"].any() for e in trainer.replay.iter_episodes())


def test_train_says_where_an_interrupted_run_resumes_from(tmp_path, monkeypatch):
    from agents import trainer as module
    from agents.log import Logger

    options = changed(TINY, "evaluation.every=0")
    calls = []
    update = module.Trainer.update

    def stop(self):
        calls.append(self.step)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(module.Trainer, "update", stop)
    (tmp_path / "run").mkdir()
    with Logger(tmp_path / "run", tensorboard=False) as logger, pytest.raises(Interrupted) as stopped:
        train(options, tmp_path / "run", resume=False, logger=logger)
    assert stopped.value.step == calls[-1] > stopped.value.barrier == load(tmp_path / "run").step > 0
    assert np.isfinite(stopped.value.step)


def test_a_run_that_is_finished_again_keeps_the_card_of_the_agent_that_it_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.trainer.Trainer._draw", lambda self, kept: None)
    file = tmp_path / "run" / "evaluation.json"
    with tiny_run(tmp_path / "run") as (trainer, _):
        trainer.save()
        trainer.loop()
        trainer.finish()
        plain = json.loads(file.read_text())
        for card, kept in (({"mace": 0.01}, True), ({"mace": 0.01, "train_steps": 7}, False)):
            file.write_text(json.dumps(plain | card))
            trainer.finish()
            assert json.loads(file.read_text()) == (plain | card if kept else plain)


@pytest.mark.parametrize("what", ["agents.film.dream_film", "agents.plots.learning_curve"])
def test_a_run_whose_film_or_curve_fails_is_finished_all_the_same(what, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no display")

    monkeypatch.setattr(what, fails)
    with tiny_run(tmp_path / "run") as (trainer, _):
        trainer.save()
        trainer.loop()
        with pytest.warns(RuntimeWarning, match="the run is finished, but not all of it was drawn.*no display"):
            result = trainer.finish()
    assert (tmp_path / "run" / "evaluation.json").is_file() and result.evaluation.episodes == 2
