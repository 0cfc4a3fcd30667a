"""Training from fixed data: nothing is collected, the source is only read, and stopping changes no byte of the end."""

import hashlib

import numpy as np
import pytest

from agents.cli import main
from agents.data import fill
from agents.experiment import check_run, load_options
from tests.learning.tools import TINY, changed, hashes, tiny_run
from worldmodels.checkpoint import load
from worldmodels.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of CartPole, and the episodes that it stored."""
    run = tmp_path_factory.mktemp("source") / "run"
    with tiny_run(run, "evaluation.every=0") as (trainer, _):
        trainer.save()
        trainer.loop()
        return str(run), list(trainer.replay.iter_episodes())


def started(run, source, *assignments):
    return tiny_run(run, f'data="{source}"', "evaluation.every=0", *assignments)


def files(folder):
    """Every file below the folder, with what is in it and when it was written."""
    found = [file for file in folder.rglob("*") if file.is_file()]
    return {f: (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in found}


def begin(trainer):
    fill(trainer.replay, trainer.options.data, trainer.agent)
    trainer.save()


def test_data_arrives_whole_and_nothing_is_collected(source, tmp_path, monkeypatch):
    run, episodes = source
    with started(tmp_path / "run", run) as (trainer, _):
        monkeypatch.setattr(trainer.envs, "step", lambda *a: pytest.fail("the environment was stepped"))
        begin(trainer)
        trainer.loop()
        held = list(trainer.replay.iter_episodes())
        assert trainer.step == 120 and trainer.learner.updates == 3 + int(0.2 * 119 + 1e-9) - 0
    assert len(held) == len(episodes) > 1
    for mine, theirs in zip(held, episodes, strict=True):
        for name in ("action", "reward", "terminated", "truncated", "is_first"):
            np.testing.assert_array_equal(mine[name], theirs[name])
        np.testing.assert_array_equal(mine["obs"]["obs"], theirs["obs"]["obs"])


def test_stopped_and_resumed_equals_uninterrupted_and_needs_the_source_no_more(source, tmp_path, monkeypatch):
    run, _ = source
    with started(tmp_path / "whole", run) as (trainer, _):
        begin(trainer)
        trainer.loop()
        whole = hashes(trainer)
    with started(tmp_path / "stopped", run) as (trainer, _):
        begin(trainer)
        update, count = trainer.learner.update, []

        def stopping(batch):
            count.append(1)
            if len(count) == 17:
                raise KeyboardInterrupt
            return update(batch)

        monkeypatch.setattr(trainer.learner, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            trainer.loop()
        assert 0 < trainer.barrier == load(tmp_path / "stopped").step < trainer.step
    with started(tmp_path / "stopped", "moved/away") as (trainer, _):
        trainer.resume()
        trainer.loop()
        assert hashes(trainer) == whole


def test_the_source_is_not_touched_even_where_it_is_damaged(source, tmp_path):
    run = tmp_path / "source"
    with tiny_run(run, "evaluation.every=0") as (trainer, _):
        trainer.save()
        trainer.loop()
    newest = load(run)
    (newest.path / "counters.json").write_bytes(b"{}")
    before = files(run)
    with started(tmp_path / "run", run) as (trainer, _):
        fill(trainer.replay, str(run), trainer.agent)
        assert 0 < len(trainer.replay) < newest.step  # the checkpoint before it
    assert files(run) == before


def test_a_damaged_segment_is_refused(tmp_path):
    run = tmp_path / "source"
    with tiny_run(run, "evaluation.every=0") as (trainer, _):
        trainer.save()
        trainer.loop()
    segment = sorted((run / "segments").iterdir())[0]
    segment.write_bytes(segment.read_bytes()[:-1] + b"x")
    message = r"cannot be learned from\n(.*segment \S+ has another SHA-256\n?){3}"
    with started(tmp_path / "run", run) as (trainer, _), pytest.raises(CheckpointError, match=message):
        fill(trainer.replay, str(run), trainer.agent)


def test_data_of_another_environment_is_refused(source, tmp_path):
    options = changed(TINY, 'env.id="Pendulum-v1"')
    with (
        tiny_run(tmp_path / "run", options=options) as (trainer, _),
        pytest.raises(ConfigError, match=r"observations and actions .* choose the environment"),
    ):
        fill(trainer.replay, source[0], trainer.agent)


def test_more_data_than_the_replay_holds_is_refused_with_the_capacity_to_set(source, tmp_path):
    rows = sum(len(e["reward"]) + 1 for e in source[1])
    with (
        started(tmp_path / "run", source[0], "replay.capacity=50") as (trainer, _),
        pytest.raises(ConfigError, match=f"set replay.capacity={rows}"),
    ):
        fill(trainer.replay, source[0], trainer.agent)
    with started(tmp_path / "fits", source[0], f"replay.capacity={rows}") as (trainer, _):
        fill(trainer.replay, source[0], trainer.agent)
        assert trainer.replay.rows == rows


def test_the_capacity_to_set_is_that_of_all_processes_where_each_takes_every_second_episode(source, tmp_path):
    shares = [source[1][rank::2] for rank in (0, 1)]
    own = [sum(len(e["reward"]) + 1 for e in share) for share in shares]
    for rank, rows in enumerate(own):
        every = slice(rank, None, 2)
        with (
            started(tmp_path / f"small{rank}", source[0], "replay.capacity=20") as (trainer, _),
            pytest.raises(ConfigError, match=f"{rows} rows, too many for the replay: set replay.capacity={2 * rows}$"),
        ):
            fill(trainer.replay, source[0], trainer.agent, every)
        with started(tmp_path / f"fits{rank}", source[0], f"replay.capacity={rows}") as (trainer, _):
            fill(trainer.replay, source[0], trainer.agent, every)
            assert trainer.replay.rows == rows


def test_fewer_episodes_than_processes_are_said_as_what_they_are(source, tmp_path):
    count = len(source[1])
    with (
        started(tmp_path / "run", source[0]) as (trainer, _),
        pytest.raises(ConfigError, match=f"holds {count} of the episodes that {count + 1} processes share"),
    ):
        fill(trainer.replay, source[0], trainer.agent, slice(count, None, count + 1))


def test_an_agent_saved_to_act_holds_nothing_to_learn_from(source, tmp_path):
    with started(tmp_path / "run", source[0]) as (trainer, _):
        trainer.agent.save(tmp_path / "acts")
        with pytest.raises(CheckpointError, match="saved to act"):
            fill(trainer.replay, str(tmp_path / "acts"), trainer.agent)


def test_a_run_stopped_before_its_first_barrier_holds_nothing(source, tmp_path):
    with tiny_run(tmp_path / "stopped") as (trainer, _):
        trainer.save()
    with (
        started(tmp_path / "run", source[0]) as (trainer, _),
        pytest.raises(ConfigError, match="holds no episode"),
    ):
        fill(trainer.replay, str(tmp_path / "stopped"), trainer.agent)


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_folder_without_a_checkpoint_is_refused_before_anything_is_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"data: expected a run folder with a checkpoint, .* got {place};"):
        check_run(load_options([f"data={place}", "run=new"]))
    assert not (tmp_path / "new").exists()


def test_wm_train_from_the_data_of_a_run(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["world_model.recurrent.deter=8", "world_model.trunk.units=8", "agent.starts=8", "agent.horizon=3"]
    lines = [f"data={source[0]}", "run=new", "steps=30", "evaluation.final_episodes=2", "train.warmup_updates=2", *tiny]
    assert main(["train", "env=cartpole", *lines]) == 0
    assert "mean return" in capsys.readouterr().out
    assert load(tmp_path / "new").step == 30 and load_options(["resume=true", "run=new"]).data == source[0]


def test_data_is_taken_as_it_is_written():
    assert load_options(["data=runs/a=b,c [1]"]).data == "runs/a=b,c [1]"
