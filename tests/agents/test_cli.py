"""The terminal's face: one line for a mistake, exit codes that mean something, nothing written too early."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from agents.cli import main
from agents.experiment import CONFIG_FILE, recorded_options
from agents.stopping import guarded
from envs.options import EnvOptions
from tests.agents.stubs import CountingAgent
from worldmodels.config import dump_yaml, load_yaml

ROOT = Path(__file__).parents[2]
COUNTING = "worldmodels/Counting-v0"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def trainer(monkeypatch):
    """Stands in for the trainer: writes a checkpoint and a line of metrics, and remembers what it was asked."""
    module = ModuleType("agents.trainer")
    module.calls = []

    def train(options, run, *, resume, logger, ranks):
        module.calls.append((options, run, resume))
        logger.log(1, {"train/return": 1.0})
        (run / "checkpoints" / "0").mkdir(parents=True, exist_ok=True)
        (run / "LATEST").write_text("0")
        return SimpleNamespace(evaluation=SimpleNamespace(table=lambda: "a table"), run=run)

    module.train = train
    monkeypatch.setitem(sys.modules, "agents.trainer", module)
    return module


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """A run folder of an agent that plays Counting, and the stand-in that loads it."""
    module = ModuleType("agents.agent")
    module.Agent = SimpleNamespace(load=lambda run: CountingAgent(EnvOptions(id=COUNTING)))
    monkeypatch.setitem(sys.modules, "agents.agent", module)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / CONFIG_FILE).write_text(dump_yaml({"env": {"id": COUNTING}}))
    return run


def text(capsys):
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["imagine"]])
def test_help_shows_examples(command, capsys):
    assert main([*command, "--help"]) == 0
    out, err = text(capsys)
    assert "usage: wm" in out and err == ""
    assert not command or "examples:" in out


MISTAKES = [
    [],
    ["trian"],
    ["train", "horizn=3"],
    ["train", "agent.horizn=3"],
    ["train", "env=cartpol"],
    ["train", "env.id=CartPol-v1"],
    ["train", "env.id=nowhere.at_all:Name-v0"],
    ["train", "steps=-1"],
    ["train", "steps"],
    ["train", "--stps", "3"],
    ["train", "device=cuda:77"],
    ["train", "resume=true"],
    ["train", "resume=true", "run=nowhere"],
    ["train", "--import", "no_such_module_here"],
    ["train", "-m", "run=x"],
    ["train", "-m", "agent.horizn=1,2"],
    ["train", "-m", "env=cartpole,pendulm"],
    ["train", "seed=1,2"],
    ["train", "agent=cloning"],
    ["evaluate"],
    ["evaluate", "nowhere"],
    ["evaluate", "run=folder"],
    ["evaluate", "afile"],
    ["evaluate", "folder"],
    ["evaluate", "damaged"],
    ["evaluate", "folder", "--episodes", "0"],
    ["evaluate", "folder", "--episodes", "many"],
    ["evaluate", "folder", "--video", "x.avi"],
    ["evaluate", "folder", "more"],
    ["imagine", "nowhere", "--out", "x.mp4"],
    ["doctor"],
    ["doctor", "--env", "CartPole-v1", "horizn=3"],
    ["imagine", "folder"],
    ["imagine", "folder", "--out", "x"],
]


@pytest.mark.parametrize("argv", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_2(argv, elsewhere, capsys):  # FAULTS 57, 60
    (elsewhere / "afile").write_text("")
    (elsewhere / "folder").mkdir()
    (elsewhere / "damaged").mkdir()
    (elsewhere / "damaged" / CONFIG_FILE).write_text("env: [")
    before = sorted(elsewhere.rglob("*"))
    assert main(argv) == 2
    out, err = text(capsys)
    assert len(err.splitlines()) == 1 and err.startswith("wm")
    assert out == ""
    assert sorted(elsewhere.rglob("*")) == before


def test_a_folder_given_as_a_key_is_answered_with_the_folder_alone(capsys):
    assert main(["report", "run=runs/mine"]) == 2
    assert "expected the folder alone, 'runs/mine', got 'run=runs/mine'" in text(capsys)[1]


def test_debug_shows_the_traceback():
    from worldmodels.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["train", "--debug", "horizn=3"])


def test_a_mistake_is_found_before_torch_is_loaded(elsewhere):
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / "file").write_text("")
    code = """
import sys
from agents.cli import main
for argv in (["train", "horizn=3"], ["train", "run=run"], ["evaluate", "nowhere"], ["train", "--help"]):
    main(argv)
    assert "torch" not in sys.modules, argv
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_in_use_is_said_before_torch_is_loaded(elsewhere, trainer):  # FAULTS 17
    assert main(["train", "run=mine"]) == 0
    code = """
import sys
from agents.cli import main
assert main(["train", "resume=true", "run=mine"]) == 2
assert "torch" not in sys.modules
"""
    from worldmodels.lock import RunLock

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with RunLock("mine"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "run directory is in use by pid" in done.stderr


# train


def test_train_hands_over_checked_options_and_a_locked_folder(trainer, capsys):
    assert main(["train", "env=pendulum", "--import", "json", "steps=70", "run=here", "seed=3"]) == 0
    [(options, run, resume)] = trainer.calls
    assert (options.env.id, options.steps, options.seed, resume) == ("Pendulum-v1", 70, 3, False)
    assert recorded_options("here") == options
    assert run == Path("here")


def test_a_run_is_never_begun_twice_and_can_be_resumed(trainer, capsys):  # FAULTS 18
    assert main(["train", "run=here"]) == 0
    before = {file: file.read_bytes() for file in Path("here").rglob("*") if file.is_file()}
    assert main(["train", "run=here", "steps=7"]) == 2
    assert "resume=true run=here" in text(capsys)[1]
    assert {file: file.read_bytes() for file in Path("here").rglob("*") if file.is_file()} == before
    assert main(["train", "run=here", "resume=true", "steps=7"]) == 0
    assert "changed: steps: 5000 -> 7" in text(capsys)[0]
    assert trainer.calls[-1][0].steps == 7 and trainer.calls[-1][2] is True
    assert main(["train", "run=here", "resume=true", "seed=7"]) == 2
    assert "seed: 0 -> 7" in text(capsys)[1]


def test_a_module_of_the_users_is_found_in_the_current_folder(elsewhere, trainer, capsys):
    (elsewhere / "my_envs.py").write_text(
        "import gymnasium\ngymnasium.register('Named-v0', entry_point='envs.toy:Counting')\nprint('imported')\n"
    )
    assert main(["train", "--import", "my_envs", "env.id=Named-v0", "run=here"]) == 0
    assert trainer.calls[0][0].env.id == "Named-v0"
    assert "imported" in text(capsys)[0]
    (elsewhere / "broken_envs.py").write_text("1 / 0\n")
    assert main(["train", "--import", "broken_envs"]) == 2
    assert text(capsys)[1] == "wm: --import broken_envs: ZeroDivisionError: division by zero\n"


def test_every_combination_of_a_sweep_has_a_folder_of_its_own(trainer, capsys):
    assert main(["train", "-m", "env=cartpole,pendulum", "seed=3,4", "steps=9", "hydra.sweep.dir=sweep"]) == 0
    runs = [(options.env.id, options.seed, options.steps) for options, _, _ in trainer.calls]
    assert runs == [(name, seed, 9) for name in ("CartPole-v1", "Pendulum-v1") for seed in (3, 4)]
    folders = [Path(run) for _, run, _ in trainer.calls]
    assert len(set(folders)) == 4
    assert all(folder.parent == Path("sweep").resolve() for folder in folders)
    assert [recorded_options(folder).seed for folder in folders] == [3, 4, 3, 4]
    assert not list(Path("sweep").rglob(".hydra"))
    assert main(["train", "-m", "seed=1,2", "--import", "json"]) == 0
    assert len(list(Path("multirun").glob("*/*/[01]"))) == 2


def test_a_sweep_stops_at_the_first_run_that_fails(trainer, capsys):
    assert main(["train", "-m", "env.id=CartPole-v1,Nothing-v9,Pendulum-v1"]) == 2
    assert len(trainer.calls) == 1
    err = text(capsys)[1]
    assert "Nothing-v9" in err and "Traceback" not in err


def test_a_package_that_hides_ours_is_named_in_one_line(elsewhere):
    (elsewhere / "envs").mkdir()
    (elsewhere / "envs" / "__init__.py").write_text("raise SystemExit('imported')\n")
    code = f"import sys; sys.path[:0] = [{str(elsewhere)!r}]; sys.path.append({str(ROOT)!r})\n"
    code += "from agents.cli import main; sys.exit(main(['train']))"
    site = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import sys; sys.path += {site!r}\n" + code
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'envs'" in done.stderr and str(elsewhere / "envs") in done.stderr


def test_a_folder_named_envs_where_wm_is_started_does_no_harm(elsewhere):
    (elsewhere / "envs").mkdir()
    (elsewhere / "envs" / "__init__.py").write_text("raise SystemExit('imported')\n")
    code = f"import sys; sys.path[:1] = [{str(ROOT)!r}]\n"  # a console command has no current folder on its path
    code += "from agents.cli import main; sys.exit(main(['train', '--import', 'json', 'horizon=3']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == (
        "wm: unknown key 'horizon'; did you mean 'agent.horizon' or 'agent.planner.horizon' or 'agent.sb3.horizon'?\n"
    )


# Signals

CHILD = """
import signal, sys, types
module = types.ModuleType("agents.trainer")
class Interrupted(KeyboardInterrupt):
    step, barrier = 4120, 4000
def train(options, run, *, resume, logger, ranks):
    (run / "checkpoints").mkdir()
    (run / "LATEST").write_text("0")
    try:
        print("training", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        while sys.argv[1] == "stuck":
            try:
                print("stuck", flush=True)
                signal.pause()
            except KeyboardInterrupt:
                continue
        raise Interrupted
module.train = train
sys.modules["agents.trainer"] = module
from agents.cli import main
sys.exit(main(["train", "run=here"]))
"""


def child(mode):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, mode], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if line.strip() == "training")
    return process, lines


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_cleanly(number, code):  # FAULTS 3
    process, _ = child("once")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == "wm: interrupted at 4,120, resumes from 4,000"
    assert not (Path("here") / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(number):
    process, lines = child("stuck")
    process.send_signal(number)
    assert next(line for line in lines if line.strip() == "stuck")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert guarded(lambda: 5) == 5
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# evaluate and imagine


def test_evaluate_prints_a_table_and_writes_both_files(agent, elsewhere, capsys):
    assert main(["evaluate", str(agent), "--episodes", "6", "--seed", "9", "--json", "copy.json"]) == 0
    out, _ = text(capsys)
    stored = json.loads((agent / "evaluation.json").read_text())
    assert json.loads((elsewhere / "copy.json").read_text()) == stored
    assert (stored["episodes"], stored["seed"], stored["env_id"]) == (6, 9, COUNTING)
    assert f"{stored['mean']:,.2f}" in out and "6 (seeds 9 to 14)" in out


@pytest.mark.parametrize(("card_of", "kept"), [(1234, True), (999, False)])
def test_a_card_stays_with_its_checkpoint_and_goes_with_another(card_of, kept, agent, elsewhere):
    stored = agent / "evaluation.json"
    stored.write_text(json.dumps({"train_steps": card_of, "mean": -7.0, "gap_auroc": 0.5, "ood": {"offset": {}}}))
    assert main(["evaluate", str(agent), "--episodes", "3", "--seed", "5", "--json", "copy.json"]) == 0
    found = json.loads(stored.read_text())
    assert {"gap_auroc": 0.5, "ood": {"offset": {}}}.items() <= found.items() if kept else "gap_auroc" not in found
    assert found["train_steps"] == 1234 and found["mean"] != -7.0 and len(found["returns"]) == 3
    assert json.loads((elsewhere / "copy.json").read_text()) == found


@pytest.mark.parametrize("content", ["{", "[1]", "\x00", None])
def test_a_damaged_evaluation_is_replaced(content, agent):
    if content is not None:
        (agent / "evaluation.json").write_text(content)
    assert main(["evaluate", str(agent), "--episodes", "3"]) == 0
    assert json.loads((agent / "evaluation.json").read_text())["episodes"] == 3


def test_stochastic_is_handed_on(agent):
    assert main(["evaluate", str(agent), "--episodes", "6"]) == 0
    sure = json.loads((agent / "evaluation.json").read_text())["returns"]
    assert main(["evaluate", str(agent), "--episodes", "6", "--stochastic"]) == 0
    assert json.loads((agent / "evaluation.json").read_text())["returns"] != sure


def test_an_environment_with_other_observations_is_refused(agent, capsys):
    assert main(["evaluate", str(agent), "--env", "CartPole-v1"]) == 2
    assert "CartPole-v1: its observations are" in text(capsys)[1]
    assert not (agent / "evaluation.json").exists()


def test_evaluate_films_the_first_episode(agent, monkeypatch, capsys):
    from agents import film

    asked = []
    monkeypatch.setattr(film, "episode_film", lambda *a, **k: asked.append(k) or np.zeros((3, 16, 16, 3), np.uint8))
    assert main(["evaluate", str(agent), "--episodes", "1", "--seed", "4", "--video", "film.gif"]) == 0
    assert asked == [{"seed": 4, "deterministic": True}]
    assert Path("film.gif").read_bytes().startswith(b"GIF8")


def test_imagine_writes_a_film_and_says_how_far_dreams_are_off(agent, monkeypatch, capsys):
    from agents import film, quality

    asked = []
    monkeypatch.setattr(film, "dream_film", lambda *a, **k: asked.append(k) or np.zeros((3, 16, 16, 3), np.uint8))
    found = SimpleNamespace(table=lambda: "the errors")
    monkeypatch.setattr(quality, "model_quality", lambda agent, env: found)
    assert main(["imagine", str(agent), "--out", "film.mp4", "--seed", "2", "--context", "5"]) == 0
    assert asked == [{"context": 5, "horizon": 60, "seed": 2}]
    assert Path("film.mp4").stat().st_size > 100
    said = text(capsys)[0]
    assert "film.mp4" in said and "in brackets what the model expected" in said and said.endswith("the errors\n")
    assert main(["imagine", str(agent), "--out", "nowhere/film.mp4"]) == 2


CANARY = "import pathlib\npathlib.Path('canary').touch()\nimport gymnasium\n"
CANARY += f"gymnasium.register('Evil-v0', entry_point='envs.toy:Counting')\n# {COUNTING}\n"


@pytest.mark.parametrize("command", [["evaluate"], ["imagine", "--out", "x.gif"], ["train", "resume=true"]], ids=str)
def test_an_id_in_a_run_imports_nothing_unless_it_is_named(command, agent, elsewhere, monkeypatch, capsys):  # FAULTS 28
    (elsewhere / "evil_canary.py").write_text(CANARY)
    mapping = load_yaml(agent / CONFIG_FILE) | {"env": {"id": "evil_canary:Evil-v0"}}
    (agent / CONFIG_FILE).write_text(dump_yaml(mapping))
    (agent / "checkpoints").mkdir()
    folder = f"run={agent}" if command[0] == "train" else str(agent)
    assert main([*command, folder]) == 2
    err = text(capsys)[1]
    assert "evil_canary" in err and "--import evil_canary" in err and len(err.splitlines()) == 1
    assert not Path("canary").exists()


def test_an_id_with_a_module_is_used_once_it_is_named(agent, elsewhere, capsys, monkeypatch):
    (elsewhere / "good_envs.py").write_text(CANARY)
    monkeypatch.delitem(sys.modules, "good_envs", raising=False)
    (agent / CONFIG_FILE).write_text(dump_yaml({"env": {"id": "good_envs:Evil-v0"}}))
    assert main(["evaluate", str(agent), "--episodes", "2", "--env", "good_envs:Evil-v0"]) == 0
    assert main(["evaluate", str(agent), "--episodes", "2", "--import", "good_envs"]) == 0
    assert Path("canary").exists()


def test_the_doctor_says_what_is_wrong_and_how_to_begin(monkeypatch, capsys):
    monkeypatch.setattr("agents.proposal._measured", lambda options: (1e-3, 1e-2, 7))
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 9.0, 9.0))
    assert main(["doctor", "--env", "worldmodels/ProbePolicy-v0", "--steps", "50"]) == 0
    out, _ = text(capsys)
    assert (
        "\nbegin with                wm train env.id=worldmodels/ProbePolicy-v0\n" in out and "nothing to mend" in out
    )
    assert "busy" not in out
    monkeypatch.setattr("os.getloadavg", lambda: (8 * os.cpu_count(), 0.0, 0.0))
    assert main(["doctor", "--env", "worldmodels/ProbePolicy-v0", "--steps", "50"]) == 0
    out, _ = text(capsys)
    [line] = [line for line in out.splitlines() if line.startswith("note  machine")]
    assert f"busy: {8 * os.cpu_count():.1f} processes have shared {os.cpu_count()} processors" in line
    assert main(["doctor", "--env", "worldmodels/Faulty-v0", "env.kwargs={fault: raises}"]) == 2
    out, _ = text(capsys)
    assert "\nwrong contract" in out and "Mend this first" in out
    assert main(["doctor", "--env", "Nowhere-v0"]) == 2


# With the real trainer

TINY = [
    *("train", "env=cartpole", "steps=100", "train.warmup_steps=50", "train.warmup_updates=2"),
    *("train.updates_per_step=0.05", "evaluation.every=50", "evaluation.episodes=2", "evaluation.num_envs=2"),
    *("evaluation.final_episodes=3", "replay.batch=2", "replay.length=8", "agent.starts=4", "run=here"),
]


def test_from_an_empty_folder_to_a_film(capsys):
    assert main(TINY) == 0
    out, err = text(capsys)
    assert "mean return" in out and "learning_curve.png" in out and "run folder: here\n" in err
    assert main(["train", "resume=true", "run=here", "steps=150"]) == 0
    assert "resuming from step 1" in text(capsys)[1]
    assert main(["evaluate", "here", "--episodes", "4", "--video", "episode.gif"]) == 0
    stored = json.loads(Path("here/evaluation.json").read_text())
    assert stored["episodes"] == 4 and stored["returns"] == [float(length) for length in stored["lengths"]]
    assert main(["imagine", "here", "--out", "dream.gif", "--horizon", "5", "--context", "3"]) == 0
    assert "steps ahead" in text(capsys)[0]
    assert all(Path(name).stat().st_size > 1000 for name in ("dream.gif", "episode.gif", "here/learning_curve.png"))
    assert main(["evaluate", "here", "--env", "Pendulum-v1"]) == 2


def test_the_run_folder_is_named_once_there_is_one(capsys):
    refused = ["train", "agent=sb3", "env=pendulum", "agent.sb3.algorithm=DQN", "run=nowhere"]
    assert main(refused) == 2
    assert "DQN cannot do" in text(capsys)[1] and not Path("nowhere").exists()
    main(refused)
    assert "run folder" not in "".join(text(capsys))


def test_a_signal_in_training_leaves_a_run_that_can_be_resumed():  # FAULTS 3
    command = [sys.executable, "-m", "agents.cli", *TINY, "steps=100000"]
    command.remove("steps=100")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert next(line for line in iter(process.stderr.readline, "") if line.startswith("step "))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert re.fullmatch(r"wm: interrupted at [0-9,]+, resumes from [0-9,]+", err.splitlines()[-1])
    assert "Traceback" not in err
    assert main(["train", "resume=true", "run=here", "steps=60"]) == 0
