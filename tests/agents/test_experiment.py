"""Configuration to options to a run folder: nothing is guessed, nothing is dropped, nothing is written too early."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from agents import compose as compose_module
from agents.compose import compose, config_dir, presets
from agents.experiment import (
    CONFIG_FILE,
    RESUMABLE,
    check_run,
    default_run_name,
    load_options,
    open_run,
    prepare_run,
    recorded_options,
    resume_changes,
)
from agents.options import TrainOptions
from envs.options import EnvOptions
from worldmodels.config import build, load_yaml, to_mapping
from worldmodels.errors import CheckpointError, ConfigError, EnvironmentFault
from worldmodels.lock import RunLock
from worldmodels.run_folder import never_saved


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("env", "world_model", "agent") for name in presets(group)]
)
def test_every_shipped_configuration_is_valid(choice):
    assert load_options([choice]).agent.name in presets("agent")


def test_the_shipped_files_are_those_of_the_checkout():
    assert config_dir() == Path(__file__).parents[2] / "configs"
    assert {"cartpole", "pendulum"} <= set(presets("env"))


def test_without_a_preset_cartpole_is_trained():
    assert load_options([]) == load_options(["env=cartpole"])
    assert load_options([]).env.id == "CartPole-v1"


def test_an_id_alone_takes_the_generic_settings_and_nothing_of_a_preset(tmp_path, monkeypatch):
    for folder in ("env", "world_model", "agent"):
        (tmp_path / folder).mkdir()
        for file in (config_dir() / folder).glob("*.yaml"):
            (tmp_path / folder / file.name).write_text(file.read_text())
    (tmp_path / "train.yaml").write_text((config_dir() / "train.yaml").read_text())
    preset = "# @package _global_\nenv: {id: CartPole-v1, frame_stack: 3}\nagent: {horizon: 7}\n"
    (tmp_path / "env" / "cartpole.yaml").write_text(preset)
    monkeypatch.setattr(compose_module, "config_dir", lambda: tmp_path)
    assert load_options([]).agent.horizon == 7
    alone = load_options(["env.id=Acrobot-v1"])
    assert alone.env == EnvOptions(id="Acrobot-v1")
    assert alone.agent.horizon == TrainOptions().agent.horizon
    both = load_options(["env=cartpole", "env.id=Acrobot-v1", "agent.horizon=9"])
    assert (both.env.id, both.env.frame_stack, both.agent.horizon) == ("Acrobot-v1", 3, 9)


@pytest.mark.parametrize(
    "overrides",
    [["agent.horizon=9", "env=pendulum"], ["env=pendulum", "agent.horizon=9"], ["env=pendulum", "++agent.horizon=9"]],
)
def test_overrides_win_over_presets_in_any_order(overrides):
    options = load_options(overrides)
    assert (options.env.id, options.agent.horizon) == ("Pendulum-v1", 9)


def test_values_keep_their_kind():
    options = load_options(
        [
            "agent.actor_rate=1e-4",
            "env.kwargs.gravity=3",
            "env.wrappers=[mask_velocity]",
            "env.id=a_b:Name/X-v0",
            "seed=7",
        ]
    )
    assert options.agent.actor_rate == 1e-4
    assert options.env.kwargs == {"gravity": 3}
    assert options.env.wrappers == ["mask_velocity"]
    assert options.env.id == "a_b:Name/X-v0"
    assert options.seed == 7


def test_a_run_folder_is_taken_as_it_is_written():
    assert load_options(["run=/tmp/a b (1)=$x,y"]).run == "/tmp/a b (1)=$x,y"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["agent.horizn=3"], "agent: unknown key 'horizn'; did you mean 'horizon'"),
        (["horizon=3"], "unknown key 'horizon'; did you mean 'agent.horizon'"),
        (["env=cartpol"], "env: no preset 'cartpol'; did you mean 'cartpole'.*pendulum"),
        (["env=Walker2d-v5"], "env.id=ID"),
        (["world_model=huge"], "world_model: no preset 'huge'.*default"),
        (["steps"], "expected KEY=VALUE, got 'steps'"),
        (["=3"], "expected KEY=VALUE"),
        (["seed=1,2"], "several values; -m"),
        (["seed=range(1,4)"], "several values; -m"),
        (["~agent.horizon"], "cannot be deleted"),
        (["hydra.sweep.dir=x"], "add -m"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["env=cartpole", "env=pendulum"], "env is given twice"),
        (["steps=${nothing}"], "nothing"),
        (["steps=null"], "steps: expected int"),
        (["agent.gamma=1.5"], "agent.gamma: expected at most 1.0, got 1.5"),
        (["seed=yes"], "seed: expected int, got 'yes'"),
        (["agent.gamma=nan"], "agent.gamma: expected a finite float"),
        (["env=null"], "no preset 'null'"),
        (["resume=true"], "resume=true needs run=PATH"),
        (["resume=yes"], "resume: expected bool"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(overrides, message, tmp_path, monkeypatch):  # FAULTS 57, 58
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_options(overrides)
    assert not list(tmp_path.iterdir())


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load_options(["agent.gamma=2", "steps=0", "replay.lenght=3"])
    assert len(str(caught.value).splitlines()) == 3


def test_composing_writes_nothing_and_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose(["env=pendulum"])["env"] == {"id": "Pendulum-v1"}
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


# Run folders


def options_for(run, **changes):
    return dataclasses.replace(load_options(["env=cartpole", f"run={run}"]), **changes)


def finish(run):
    """Leave behind what a run with one checkpoint leaves."""
    (run / "checkpoints" / "0").mkdir(parents=True)
    (run / "LATEST").write_text("0")


def test_a_run_folder_records_its_configuration(tmp_path):
    options = options_for(tmp_path / "a" / "run", seed=3)
    run = prepare_run(options)
    assert [file.name for file in run.iterdir()] == [CONFIG_FILE]
    assert recorded_options(run) == options
    assert {"run", "resume"}.isdisjoint(load_yaml(run / CONFIG_FILE))


def test_a_folder_in_use_is_left_alone(tmp_path):  # FAULTS 18
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    for prepare in (prepare_run, check_run, lambda options: open_run(options).__enter__()):
        with pytest.raises(CheckpointError, match="exists already.*resume=true run=.*or choose another folder"):
            prepare(options_for(run))
    assert [file.name for file in run.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="exists already"):
        prepare_run(options_for(tmp_path / "file"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"env": EnvOptions(id="CartPol-v1")}, EnvironmentFault, "CartPol"),
        ({"device": "cuda:99"}, ConfigError, "device: cuda:99 is not available"),
        ({"device": "tpu9"}, ConfigError, "device: expected cpu, cuda, cuda:N or mps"),
        ({"device": "mps"}, ConfigError, "device: mps is not available"),
    ],
)
def test_nothing_is_written_where_the_run_cannot_start(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        prepare_run(options_for(tmp_path / "run", **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(CheckpointError, match="cannot be made"):
        prepare_run(options_for(tmp_path / "run"))


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/run: cannot be made"):
        prepare_run(options_for(tmp_path / "file" / "run"))


def test_an_open_run_is_locked(tmp_path):  # FAULTS 17
    with open_run(options_for(tmp_path / "run")) as run:
        finish(run)
        with pytest.raises(CheckpointError, match="in use by pid"), RunLock(run):
            pass
        with (
            pytest.raises(CheckpointError, match="in use by pid"),
            open_run(load_options(["resume=true", f"run={run}"])),
        ):
            pass
    with open_run(load_options(["resume=true", f"run={run}"])) as again:
        assert again == run


def test_a_run_that_failed_before_its_first_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError), open_run(options_for(tmp_path / "run")) as run:
        (run / "metrics.jsonl").write_text("")
        raise ConfigError("later")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError), open_run(options_for(tmp_path / "run")) as run:
        finish(run)
        raise ConfigError("later still")
    assert (tmp_path / "run" / "LATEST").exists()


def test_a_run_that_is_stopped_before_its_first_checkpoint_can_be_resumed(tmp_path):  # FAULTS 1
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), open_run(options_for(run)):
        raise KeyboardInterrupt
    assert never_saved(run)
    with open_run(load_options(["resume=true", f"run={run}"])):
        finish(run)
    assert not never_saved(run)


def test_a_folder_that_was_there_before_is_never_removed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ConfigError), open_run(options_for(run)):
        raise ConfigError("later")
    assert run.is_dir()


def test_names_of_runs_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dataclasses.replace(options_for(None), run=None, seed=4)
    names = set()
    for _ in range(3):
        with open_run(options) as run:
            finish(run)
        names.add(str(run))
    assert len(names) == 3
    assert all(name.startswith("runs/cartpole-v1-seed4-2") for name in names)
    assert not Path(default_run_name(options)).exists()


# Resume


@pytest.fixture
def started(tmp_path):
    run = prepare_run(options_for(tmp_path / "run", seed=5))
    finish(run)
    return run


def test_a_resumed_run_keeps_its_configuration(started):
    options = load_options(["resume=true", f"run={started}"])
    assert options == dataclasses.replace(recorded_options(started), resume=True)
    assert options.seed == 5
    assert resume_changes(options) == {}
    assert load_options(["resume=true", f"run={started}", "env=cartpole", "seed=5"]) == options


def test_what_may_change_is_recorded(started):
    options = load_options(["resume=true", f"run={started}", "steps=9999", "evaluation.every=7"])
    assert resume_changes(options) == {"steps": (5_000, 9_999), "evaluation.every": (1_000, 7)}
    with open_run(options):
        assert recorded_options(started).steps == 9_999
    assert recorded_options(started).evaluation.every == 7


def test_another_preset_is_refused_by_what_it_would_change(started):
    with pytest.raises(ConfigError, match="env.id: 'CartPole-v1' -> 'Pendulum-v1'"):
        load_options(["resume=true", f"run={started}", "env=pendulum"])


def another(kind: Any, value: Any, metadata: Any) -> Any:
    """A valid value of this type that is not `value`."""
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if kind is bool:
        return not value
    if kind in (int, float):
        step = 1 if kind is int else 0.001
        limit = metadata.get("max", metadata.get("below"))
        return value - step if limit is not None and value + step >= limit else value + step
    if kind is str:
        return value + "x"
    if get_origin(kind) is list:
        return ["mask_velocity"]
    if get_origin(kind) is dict:
        return {"x_threshold": 1}
    return "runs/other" if kind == str | None else 50


def leaves(cls=TrainOptions, path=""):
    """(dotted key, type, metadata) of every option."""
    for field in dataclasses.fields(cls):
        kind, key = get_type_hints(cls)[field.name], f"{path}{field.name}"
        only = get_origin(kind) is Literal and len(get_args(kind)) == 1
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{key}.")
        elif key not in ("run", "resume") and not only:
            yield key, kind, field.metadata


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = prepare_run(options_for(tmp_path_factory.mktemp("runs") / "run"))
    finish(run)
    return run


@pytest.mark.parametrize(("key", "kind", "metadata"), list(leaves()), ids=[key for key, *_ in leaves()])
def test_every_key_is_either_allowed_to_change_or_refused_by_name(key, kind, metadata, trained):  # FAULTS 13
    mapping = to_mapping(recorded_options(trained))
    place = mapping
    *sections, name = key.split(".")
    for section in sections:
        place = place[section]
    place[name] = value = another(kind, place[name], metadata)
    changed = build(TrainOptions, mapping | {"resume": True})
    if any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE):
        [(found, (_, new))] = resume_changes(changed).items()
        assert (found, new) == (key, value)
    else:
        with pytest.raises(ConfigError, match=f"{key}.*->"):
            resume_changes(changed)


@pytest.mark.parametrize("content", [None, {}, {"config.yaml": "", "LATEST": ""}, {"checkpoints/x": ""}])
def test_nothing_to_resume_is_said_and_nothing_is_made(content, tmp_path):  # FAULTS 9
    run = tmp_path / "run"
    for name, text in (content or {}).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="no usable checkpoint in .*run"):
        load_options(["resume=true", f"run={run}"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_configuration_of_another_kind_is_refused(started):
    (started / CONFIG_FILE).write_text("model: !!python/object:os.system {}\n")
    with pytest.raises(ConfigError, match="unsupported tag at line 1"):
        load_options(["resume=true", f"run={started}"])
    (started / CONFIG_FILE).write_text("something: else\n")
    with pytest.raises(ConfigError, match="unknown key 'something'"):
        load_options(["resume=true", f"run={started}"])
    with pytest.raises(CheckpointError, match="not a run folder"):
        recorded_options(started / "nowhere")
