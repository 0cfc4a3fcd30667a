"""What is shipped, what it needs, and that the built wheel works outside the checkout."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.source import PACKAGES, ROOT, file_imports, python_files

# One worker does all of this file, so that the wheel is built once.
pytestmark = pytest.mark.xdist_group("packaging")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = PROJECT["tool"]["setuptools"]["packages"]
PROVIDERS = importlib.metadata.packages_distributions()
# box2d and what needs a cluster are left to those who ask for it; the rest is what tests and benchmarks run on.
LOCKED_EXTRAS = sorted(set(PROJECT["project"]["optional-dependencies"]) - {"box2d", "slurm", "ray"})

PEERS = {"mbrl"}
"""What a benchmark is timed beside where somebody has installed it: never needed, and asked for by a flag."""


def locked() -> dict[str, str]:
    """Canonical name -> version of every line of the lock file."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), "NAME==VERSION and nothing else"
    return {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in pins)}


def declared(*extras: str) -> list[Requirement]:
    """The direct dependencies of the project with those extras."""
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves files behind, and would ship those of an earlier build."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    others = [name for name in ("tests", "scripts", "benchmarks") if (ROOT / name).is_dir()]
    for folder in (*PACKAGES, "configs", *others):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_every_package_is_listed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in python_files(*PACKAGES)}
    assert sorted(SHIPPED) == sorted(found | {"agents._configs"})


def test_wheel_holds_exactly_the_packages_and_the_configurations(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    modules = {path.relative_to(ROOT).as_posix() for path in python_files(*PACKAGES)}
    presets = {f"agents/_configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert presets
    assert sorted(names) == sorted(modules | presets | {f"{package}/py.typed" for package in PACKAGES})


def test_wheel_carries_command_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "wm = agents.cli:main" in text["entry_points.txt"]
    assert "MIT License" in text["LICENSE"]
    assert text["top_level.txt"].split() == sorted(PACKAGES)


def test_lock_pins_all_that_is_needed_and_it_is_what_runs():
    pins = locked()
    waiting, seen, wrong = declared(*LOCKED_EXTRAS), set(), []
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        installed = importlib.metadata.distribution(name)
        public = installed.version.partition("+")[0]
        if pins.get(name) != public or not requirement.specifier.contains(public, prereleases=True):
            wrong.append(f"{requirement}: locked {pins.get(name)}, installed {installed.version}")
        for extra in requirement.extras or {""}:
            if (name, extra) in seen or name == "torch":  # what torch needs differs by platform: pip chooses it
                continue
            seen.add((name, extra))
            needs = map(Requirement, installed.requires or [])
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    assert not wrong, "\n".join(wrong)


def test_every_imported_library_is_declared():
    extras = set(PROJECT["project"]["optional-dependencies"])
    wrong = []
    for path in python_files(*PACKAGES, "scripts", "benchmarks"):
        # What only developers install is there for benchmarks, not for the packages.
        allowed = declared(*(extras if path.is_relative_to(ROOT / "benchmarks") else extras - {"dev"}))
        names = {canonicalize_name(requirement.name) for requirement in allowed}
        for module, line in file_imports(path):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names or top in (*PACKAGES, "scripts", "benchmarks", "tests"):
                continue
            if top in PEERS and path.is_relative_to(ROOT / "benchmarks"):
                continue
            if not names.intersection(map(canonicalize_name, PROVIDERS.get(top, []))):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {top}, which pyproject.toml does not name")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A fresh environment's bin folder: the wheel is installed there, its dependencies are those of this one."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = home / "lib" / version / "site-packages"
    # Our site-packages as a plain folder: the link to the checkout that lies in it is not followed from there.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return scripts


def outside(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder outside the checkout, with nothing that could lead back to it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_installed_packages_are_those_of_the_wheel(installed, tmp_path):
    code = "import worldmodels, envs, agents; print(worldmodels.__file__, envs.__file__, agents.__file__, sep='\\n')"
    done = outside([installed / "python", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    places = [Path(line) for line in done.stdout.split()]
    assert len(places) == 3
    assert all(place.is_relative_to(installed.parent) for place in places)


def test_installed_command_trains_outside_the_checkout(installed, tmp_path):
    settings = ["steps=60", "train.warmup_steps=20", "train.warmup_updates=1", "evaluation.final_episodes=2"]
    done = outside([installed / "wm", "train", "env=cartpole", "run=first", *settings], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "first"
    assert (run / "config.yaml").is_file()
    assert (run / "LATEST").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_installed_command_answers_a_mistake_in_one_line(installed, tmp_path):
    done = outside([installed / "wm", "train", "env=cartpole", "run=first", "stepps=60"], tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "steps" in done.stderr
    assert not list(tmp_path.iterdir())
