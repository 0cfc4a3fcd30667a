"""Whole runs: same seed, same bytes; looking changes nothing; stopped and resumed equals uninterrupted."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from agents.collector import Collector
from agents.learner import Learner
from agents.trainer import Trainer
from tests.learning.tools import TINY, changed, hashes, part_hash, tiny_run
from worldmodels.checkpoint import list_checkpoints, load, save
from worldmodels.errors import CheckpointError


def finished(run, *assignments, resume=False, **kwargs):
    """Hashes of every part after a run to its end, the final evaluation included."""
    with tiny_run(run, *assignments, **kwargs) as (trainer, _):
        trainer.resume() if resume else trainer.save()
        trainer.loop()
        return hashes(trainer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its hashes, and every step at which its loop came by."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return finished(run), run


def test_same_seed_same_bytes_and_another_seed_other_bytes(whole, tmp_path):
    assert finished(tmp_path / "again") == whole[0]
    other = finished(tmp_path / "other", "seed=1")
    for name in ("world_model", "policy", "model_optimizer", "rows", "random", "replay_rng"):
        assert other[name] != whole[0][name], name


def test_same_bytes_after_other_random_numbers_were_drawn_in_this_process(whole, tmp_path):
    torch.rand(17), np.random.rand(5)
    assert finished(tmp_path / "run") == whole[0]


@pytest.mark.parametrize(
    "toggle",
    [
        "evaluation.every=0",
        "evaluation.every=17",
        "evaluation.episodes=1",
        "evaluation.num_envs=1",
        "evaluation.seed=5",
        "train.log_every=1000",
        "train.keep=1",
        "tensorboard",
        "no progress",
    ],
)
def test_looking_does_not_change_what_is_learned(toggle, whole, tmp_path):
    assignments = [toggle] if "=" in toggle else []
    after = finished(
        tmp_path / "run", *assignments, tensorboard=toggle == "tensorboard", progress=toggle != "no progress"
    )
    expected = dict(whole[0])
    for looks in ("acting", "counters"):  # which agent is kept, and when it was looked at, may differ
        after.pop(looks), expected.pop(looks)
    assert after == expected


def stop_at(trainer, monkeypatch, where, count):
    """Raise KeyboardInterrupt at the `count`-th call of `where`."""
    owner, name = {
        "collect": (trainer.collector, "step"),
        "update": (trainer.learner, "update"),
        "policy": (trainer.learner, "update_policy"),
        "environment": (trainer.envs, "step"),
        "evaluate": (trainer, "_measure"),
        "save": (trainer.replay, "write_segments"),
    }[where]
    original, calls = getattr(owner, name), []

    def stopping(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        *(("collect", count) for count in (1, 31, 64, 100)),
        *(("environment", count) for count in (35, 90)),
        *(("update", count) for count in (1, 4, 12)),
        *(("policy", count) for count in (2, 9)),
        *(("evaluate", count) for count in (1, 2)),
        *(("save", count) for count in (2, 3)),
    ],
)
def test_stopped_anywhere_and_resumed_equals_uninterrupted(where, count, whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with tiny_run(run) as (trainer, _):
        trainer.save()
        stop_at(trainer, monkeypatch, where, count)
        with pytest.raises(KeyboardInterrupt):
            trainer.loop()
        stopped, barrier = trainer.step, trainer.barrier
    assert load(run).step == barrier <= stopped
    assert finished(run, resume=True) == whole[0]


def test_stopped_again_and_again_equals_uninterrupted(whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for k in range(4):
        with tiny_run(run) as (trainer, _):
            trainer.resume() if k else trainer.save()
            stop_at(trainer, monkeypatch, "collect", 45 + 7 * k)
            with pytest.raises(KeyboardInterrupt):
                trainer.loop()
    assert finished(run, resume=True) == whole[0]


def test_two_streams_and_a_posterior_that_sees_its_context_resume_alike(tmp_path, monkeypatch):
    other = (
        *("env.num_envs=2", 'world_model.posterior="categorical"', "world_model.posterior_sees_context=true"),
        *("evaluation.every=0", "steps=140"),
    )
    with tiny_run(tmp_path / "whole", *other) as (trainer, _):
        trainer.save()
        trainer.loop()
        expected, last = hashes(trainer), trainer.learner.updates
    run = tmp_path / "run"
    with tiny_run(run, *other) as (trainer, _):
        trainer.save()
        stop_at(trainer, monkeypatch, "update", last)
        with pytest.raises(KeyboardInterrupt):
            trainer.loop()
        assert trainer.barrier > 0
    assert finished(run, *other, resume=True) == expected


def test_resuming_many_times_without_training_changes_nothing(whole):
    for _ in range(5):
        with tiny_run(whole[1]) as (trainer, _):
            trainer.resume()
            assert hashes(trainer) == whole[0]


def test_a_finished_run_that_is_given_more_steps_goes_on_from_its_end_and_always_alike(whole, tmp_path):
    longer = []
    for name in ("one", "two"):
        assert finished(tmp_path / name) == whole[0]
        longer.append(finished(tmp_path / name, "steps=180", resume=True))
    assert longer[0] == longer[1] and longer[0]["counters"] != whole[0]["counters"]


def test_barriers_come_where_the_interval_says_and_no_episode_is_open(tmp_path):
    with tiny_run(tmp_path / "run", "train.keep=10") as (trainer, _):
        trainer.save()
        trainer.loop()
        assert trainer.collector.idle
    steps = sorted(entry.step for entry in list_checkpoints(tmp_path / "run"))
    assert steps[0] == 0 and steps[-1] == trainer.step >= TINY.steps
    for before, after in pairwise(steps):
        due = min((before // 40 + 1) * 40, TINY.steps)
        assert due <= after < due + 40 + 1  # an episode that lasts longer than an interval is cut


def test_final_result_is_that_of_the_kept_agent_and_training_does_not_notice(whole, tmp_path):
    run = tmp_path / "run"
    with tiny_run(run) as (trainer, _):
        trainer.save()
        trainer.loop()
        before = hashes(trainer)
        result = trainer.finish()
        assert hashes(trainer) == before == whole[0]
    assert result.evaluation.train_steps == trainer.best["json"]["step"]
    assert result.evaluation.episodes == 2 and (run / "evaluation.json").is_file()


# Completeness: what is registered comes back, and what is not registered is on a list with its reason.

NOT_STATE = {
    Trainer: {
        *("options", "run", "envs", "logger"),  # given anew by whoever resumes
        *("agent", "learner", "replay", "replay_rng", "collect_rng"),  # parts of their own
        *("collector", "best", "alarm"),
        "collapsed",  # whether it was said
        "ranks",  # the processes of the run: given anew
        "idle",  # at a barrier no episode is open
        "_eval_envs",  # every evaluation resets them with seeds of its own
    },
    Learner: {
        *("world_model", "policy", "options"),
        *("model_optimizer", "actor_optimizer", "critic_optimizer"),  # parts of their own
        *("sb3", "bonus", "bonus_optimizer"),  # parts too, where the run has them
        "autocast",  # a function of the options
        "ranks",
        "fault",  # says what happened in the last update alone
    },
    Collector: {
        *("agent", "envs", "replay", "seed", "rng", "first_stream"),
        "draining",  # set at every turn of the loop
        *("hold", "_wander", "_stretch"),  # given anew
        *("_open", "_first", "_return", "_length", "_obs", "_carry"),  # of open episodes; at a barrier there is none
        *("_left", "_repeated"),  # of the same: they begin anew with the next episode
    },
}
REGISTERED = {
    Trainer: {"step", "barrier", "owed", "evaluations", "evaluated", "next_update", "next_log", "warm", "collected"},
    Learner: {"updates", "skipped", "skipped_in_a_row"},
    Collector: {"episodes"},
}


def test_every_attribute_is_registered_or_known_to_be_no_state(whole):
    with tiny_run(whole[1]) as (trainer, _):
        for part in (trainer, trainer.learner, trainer.collector):
            assert set(vars(part)) == NOT_STATE[type(part)] | REGISTERED[type(part)], type(part)


def test_every_tensor_of_every_module_is_registered_or_constant(whole):
    with tiny_run(whole[1]) as (trainer, _):
        state = trainer.state()
        for name, module in (("world_model", trainer.agent.world_model), ("policy", trainer.agent.policy)):
            everything = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            missing = set(everything) - set(state[name]["tensors"])
            assert {key.rpartition(".")[2] for key in missing} <= {"bins"}, missing  # a function of the options
            attributes = {
                f"{path}.{key}"
                for path, child in module.named_modules()
                for key, value in vars(child).items()
                if isinstance(value, torch.Tensor)
            }
            assert not attributes, "a tensor that is neither a parameter nor a buffer does not travel"


def perturbed(tensor, k):
    """Every element changed."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if tensor.is_floating_point():
        return tensor + 0.5 + 0.01 * k
    return tensor + 1


def test_each_perturbed_part_comes_back_to_the_bit(whole, tmp_path):
    """Every registered leaf is changed, saved, and restored into a fresh trainer."""
    with tiny_run(whole[1]) as (trainer, _):
        trainer.resume()
        parts = trainer.state()
        names = ("world_model", "policy", "model_optimizer", "actor_optimizer", "critic_optimizer", "acting")
        for k, name in enumerate(names):
            parts[name]["tensors"] = {key: perturbed(value, k) for key, value in parts[name]["tensors"].items()}
        for key, value in parts["counters"]["json"].items():
            parts["counters"]["json"][key] = (not value) if isinstance(value, bool) else value + 3
        parts["collector"]["json"]["episodes"] = [7]
        for rng in ("replay_rng", "collect_rng"):
            parts[rng]["json"]["state"]["state"] += 12345
        torch.rand(3)
        parts["random"] = trainer.state()["random"]
        expected = {name: part_hash(part) for name, part in parts.items()}
        save(whole[1].parent, 1, parts)
    (tmp_path / "run").mkdir()
    with tiny_run(tmp_path / "fresh") as (fresh, _):
        before = {name: part_hash(part) for name, part in fresh.state().items()}
        fresh.restore(load(whole[1].parent).parts)
        fresh.replay.load_segments(whole[1] / "segments", load(whole[1]).segments)
        after = {name: part_hash(part) for name, part in fresh.state().items()}
    assert after == expected
    assert [name for name in expected if before[name] == expected[name]] == ["specs"]


def test_a_part_that_is_missing_or_of_another_environment_is_refused(whole, tmp_path):
    parts = load(whole[1]).parts
    with tiny_run(tmp_path / "fresh") as (fresh, _):
        before = hashes(fresh)
        with pytest.raises(CheckpointError, match="no critic_optimizer, random"):
            fresh.restore({k: v for k, v in parts.items() if k not in ("random", "critic_optimizer")})
        assert hashes(fresh) == before
    other = changed(TINY, 'env.id="Acrobot-v1"')
    with tiny_run(tmp_path / "other", options=other) as (fresh, _):
        with pytest.raises(CheckpointError, match="other observations or actions"):
            fresh.restore(parts)


def test_the_collector_refuses_to_be_saved_in_the_middle_of_an_episode(tmp_path):
    with tiny_run(tmp_path / "run") as (trainer, _):
        trainer.collector.step(random=True)
        with pytest.raises(CheckpointError, match="no episode is open"):
            trainer.save()
        assert trainer.barrier == 0
