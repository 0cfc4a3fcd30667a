"""The shell scripts, with stand-ins for what they start: which steps they take, and when they take none."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

# Stands for an interpreter: makes a .venv with itself in it, notes what pip is asked for, passes the rest on.
_INTERPRETER = f"""#!/usr/bin/env bash
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip "*) echo "${{@:5}}" >> pip.log; [ ! -e pip.fails ] ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""
_PIP = [
    "install torch==2.0",
    "install --requirement requirements.lock",
    "install --no-deps --no-build-isolation --editable .",
]
# Stands for `wm`: notes its arguments and makes the run folder.
_WM = """#!/usr/bin/env bash
echo "$*" >> wm.log
for word in "$@"; do case "$word" in run=*) mkdir -p "${word#run=}" ;; esac; done
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the scripts, a lock of two packages and a stand-in interpreter."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.lock").write_text("torch==2.0\nnumpy==2.0\n")
    (tmp_path / "pyproject.toml").write_text("")
    write_program(tmp_path / "python", _INTERPRETER)
    return tmp_path


def run_script(checkout: Path, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(checkout / "python"), **settings}
    command = ["bash", str(checkout / "scripts" / name), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120)


def test_setup_installs_torch_first_then_the_lock_then_the_project(checkout):
    done = run_script(checkout, "setup.sh")
    assert done.returncode == 0, done.stderr
    assert lines_of(checkout / "pip.log") == _PIP
    assert len(done.stdout.splitlines()) == 5


def test_setup_does_nothing_when_up_to_date(checkout):
    run_script(checkout, "setup.sh")
    done = run_script(checkout, "setup.sh")
    assert done.stdout == "setup: .venv is up to date\n"
    assert lines_of(checkout / "pip.log") == _PIP


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_setup_installs_again_when_a_file_changed(checkout, name):
    run_script(checkout, "setup.sh")
    with (checkout / name).open("a") as file:
        file.write("\n")
    run_script(checkout, "setup.sh")
    assert lines_of(checkout / "pip.log") == _PIP * 2


def test_a_setup_that_failed_is_not_taken_for_done(checkout):
    (checkout / "pip.fails").touch()
    assert run_script(checkout, "setup.sh").returncode != 0
    (checkout / "pip.fails").unlink()
    assert "ready" in run_script(checkout, "setup.sh").stdout


def test_setup_refuses_an_old_interpreter(checkout):
    write_program(checkout / "python", "#!/usr/bin/env bash\nexit 1\n")
    done = run_script(checkout, "setup.sh")
    assert done.returncode == 2
    assert "3.11" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def ready(checkout) -> Path:
    """A checkout that is set up, with the stand-in for `wm`."""
    write_program(checkout / "scripts" / "setup.sh", "")
    write_program(checkout / ".venv" / "bin" / "wm", _WM)
    return checkout


def test_quickstart_takes_a_fresh_folder_each_time(ready):
    for _ in range(2):
        done = run_script(ready, "quickstart.sh", "steps=100")
        assert done.returncode == 0, done.stderr
    assert lines_of(ready / "wm.log") == [
        "train env=cartpole run=runs/quickstart steps=100",
        "evaluate runs/quickstart",
        "imagine runs/quickstart --out runs/quickstart/videos/dream.mp4",
        "train env=cartpole run=runs/quickstart-2 steps=100",
        "evaluate runs/quickstart-2",
        "imagine runs/quickstart-2 --out runs/quickstart-2/videos/dream.mp4",
    ]


def test_quickstart_goes_on_with_a_folder_that_is_named(ready):
    for _ in range(2):
        run_script(ready, "quickstart.sh", RUN="runs/mine")
    assert "train env=cartpole run=runs/mine resume=true" in lines_of(ready / "wm.log")


def test_quickstart_says_where_things_are(ready):
    run = ready / "runs" / "mine"
    (run / "videos").mkdir(parents=True)
    for name in ("evaluation.json", "learning_curve.png", "tensorboard", "videos/film.mp4"):
        (run / name).touch()
    done = run_script(ready, "quickstart.sh", RUN="runs/mine")
    shown = done.stdout.partition("what is in runs/mine")[2]
    assert all(f"runs/mine/{path.name}" in shown or path.name == "videos" for path in run.iterdir())
    assert "runs/mine/videos/film.mp4" in shown
    assert not any(line.startswith("imagine") for line in lines_of(ready / "wm.log"))


def test_quickstart_stops_where_training_fails(checkout):
    write_program(checkout / "scripts" / "setup.sh", "")
    write_program(checkout / ".venv" / "bin" / "wm", "#!/usr/bin/env bash\necho $* >> wm.log\nexit 3\n")
    assert run_script(checkout, "quickstart.sh").returncode == 3
    assert len(lines_of(checkout / "wm.log")) == 1


def test_continuous_integration_runs_the_test_script(tmp_path):
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    write_program(tmp_path / "scripts" / "test.sh", "pwd\nexit 7\n")
    done = subprocess.run([str(tmp_path / ".ci" / "run")], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == (str(tmp_path.resolve()), 7)
