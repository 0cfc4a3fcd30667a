"""Imports point one way, heavy libraries stay in their files, and torch-free modules load no torch."""

import ast
import json
import subprocess
import sys

import pytest

from tests.source import PACKAGES, ROOT, file_imports, imports, python_files, relative, within

# From the top: a folder may import itself and what stands after it.
LAYERS = ("scripts", "agents", "envs", "worldmodels")

# These wrap the world model as an environment: the one place where envs/ sees all of worldmodels.
MODEL_ENVIRONMENTS = ("envs/dream.py", "envs/dream_sb3.py", "envs/latent.py")
SHARED_WITH_ENVS = ("worldmodels.specs", "worldmodels.errors", "worldmodels.config")

# Library -> the only files of the packages that may import it; benchmarks/ and tests/ may import anything.
CONFINED = {
    "tensorboard": ("agents/log.py",),
    "torch.utils.tensorboard": ("agents/log.py",),
    "stable_baselines3": ("agents/sb3.py", "agents/sb3_learner.py", "envs/dream_sb3.py"),
    "sb3_contrib": (),
}
NOT_IN_WORLDMODELS = (
    *("gymnasium", "shimmy", "dm_control", "mujoco", "minatar", "ale_py", "minigrid", "minari", "pygame"),
    *("stable_baselines3", "sb3_contrib", "tensorboard", "torch.utils.tensorboard"),
    *("hydra", "omegaconf", "matplotlib", "rich", "imageio"),
)

TORCH_FREE = (
    *("worldmodels", "worldmodels.specs", "worldmodels.errors", "worldmodels.config", "worldmodels.options"),
    *("worldmodels.lock", "agents", "agents.options", "agents.cli", "agents.experiment"),
    *(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("envs")
        if relative(path) not in MODEL_ENVIRONMENTS
    ),
)


def against_direction(module: str, layer: str) -> bool:
    """Whether an import from `layer` points up, or out of the packages into tests and benchmarks."""
    return within(module, *LAYERS[: LAYERS.index(layer)], "tests", "benchmarks", "configs")


def offences(layer: str, path: str, found: list[tuple[str, int]]) -> list[str]:
    """The imports of one file that the architecture does not allow."""
    bad = []
    for module, line in found:
        if (
            against_direction(module, layer)
            or (layer == "worldmodels" and within(module, *NOT_IN_WORLDMODELS))
            or (
                layer == "envs"
                and path not in MODEL_ENVIRONMENTS
                and within(module, "worldmodels")
                and not within(module, *SHARED_WITH_ENVS)
            )
            or any(within(module, library) and path not in files for library, files in CONFINED.items())
        ):
            bad.append(f"{path}:{line} imports {module}")
    return bad


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer):
    files = python_files(layer)
    assert files, f"{layer}/ holds no Python file"
    bad = [offence for path in files for offence in offences(layer, relative(path), file_imports(path))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("layer", "path", "code"),
    [
        ("worldmodels", "worldmodels/a.py", "import gymnasium"),
        ("worldmodels", "worldmodels/a.py", "def f():\n    from torch.utils.tensorboard import SummaryWriter"),
        ("worldmodels", "worldmodels/a.py", "from envs.make import make_env"),
        ("worldmodels", "worldmodels/a.py", "from torch.utils import tensorboard as tb"),
        ("envs", "envs/a.py", "from worldmodels.world_model import WorldModel"),
        ("envs", "envs/a.py", "from worldmodels import options"),
        ("envs", "envs/a.py", "import agents"),
        ("envs", "envs/a.py", "from ..agents import cli"),
        ("envs", "envs/dream.py", "import stable_baselines3"),
        ("agents", "agents/a.py", "import stable_baselines3"),
        ("agents", "agents/a.py", "from importlib import import_module as load\nload('scripts.train')"),
        ("agents", "agents/a.py", "from tests import source"),
        ("scripts", "scripts/a.py", "from tensorboard import program"),
    ],
)
def test_a_wrong_import_is_seen(layer, path, code):
    assert offences(layer, path, imports(ast.parse(code), layer))


@pytest.mark.parametrize(
    ("layer", "path", "code"),
    [
        ("worldmodels", "worldmodels/a.py", "import torch.utils.checkpoint, numpy, zuko\nfrom . import specs"),
        (
            "envs",
            "envs/a.py",
            "import gymnasium\nfrom worldmodels.specs import ObsSpec\nfrom worldmodels import errors",
        ),
        ("envs", "envs/dream_sb3.py", "from worldmodels.world_model import WorldModel\nimport stable_baselines3"),
        ("agents", "agents/log.py", "from torch.utils.tensorboard import SummaryWriter"),
    ],
)
def test_a_right_import_is_let_through(layer, path, code):
    assert not offences(layer, path, imports(ast.parse(code), layer))


# Refuses torch and notes who asked, so that each module is judged alone even after another one has failed.
_WITHOUT_TORCH = """
import importlib, json, sys

class NoTorch:
    asked = False

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            self.asked = True
            raise ImportError("torch is not to be imported here")

guard = NoTorch()
sys.meta_path.insert(0, guard)
result = {}
for name in sys.argv[1:]:
    guard.asked = False
    try:
        importlib.import_module(name)
        result[name] = "asks for torch" if guard.asked else ""
    except ImportError as error:
        result[name] = str(error)
print(json.dumps(result))
"""


def test_torch_free_modules_load_without_torch():
    command = [sys.executable, "-c", _WITHOUT_TORCH, *TORCH_FREE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == dict.fromkeys(TORCH_FREE, "")


def test_every_package_has_an_init_with_a_docstring():
    folders = {path.parent for path in python_files(*PACKAGES)}
    missing = sorted(relative(folder) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing
