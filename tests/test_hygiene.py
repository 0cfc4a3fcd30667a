"""No file of the project can run code out of data, hide an error or move parameters beside the learner."""

import ast
from pathlib import Path

import pytest

from tests.source import ROOT, calls, imports, python_files, relative, tree, within

SOURCE = python_files("worldmodels", "envs", "agents", "scripts", "benchmarks")
LEARNER = "agents/learner.py"

# Modules that build objects, and so run code, out of bytes.
UNPICKLERS = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle")
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    # Hydra's ways from a name in a configuration to the object of that name.
    *("hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method"),
    *("hydra.utils.get_object", "os.system", "os.popen"),
}
# A test that sleeps is slow on a fast machine and wrong on a slow one.
SLEEPS = ("time.sleep", "asyncio.sleep")


def code_out_of_data(module: ast.Module) -> list[tuple[int, str]]:
    """Every import or call by which data could become code, as (line, name)."""
    found = [(line, name) for name, line in imports(module) if within(name, *UNPICKLERS)]
    for name, call in calls(module):
        allows_pickle = any(
            word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            for word in call.keywords
        )
        shell = any(word.arg == "shell" for word in call.keywords) and within(name, "subprocess")
        if allows_pickle or shell or name in FORBIDDEN_CALLS:
            found.append((call.lineno, name))
    return found


def optimiser_steps(module: ast.Module) -> list[int]:
    """Lines that step an optimiser: `.step()` with nothing in it, or on what is called optimiser, scaler or scheduler.

    An environment's `step` takes an action, so it is told apart by its argument.
    """
    return [
        call.lineno
        for _, call in calls(module)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "step"
        and (
            not (call.args or call.keywords)
            or any(word in ast.unparse(call.func.value).lower() for word in ("optim", "scaler", "scheduler"))
        )
    ]


def swallowed_errors(module: ast.Module) -> list[int]:
    """Lines that catch every kind of error and then neither raise nor look at what they caught."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or _catches_all(node.type)):
            inside = [inner for statement in node.body for inner in ast.walk(statement)]
            used = any(isinstance(inner, ast.Name) and inner.id == node.name for inner in inside)
            if not used and not any(isinstance(inner, ast.Raise) for inner in inside):
                found.append(node.lineno)
    suppressing = (call for name, call in calls(module) if name == "contextlib.suppress")
    return found + [call.lineno for call in suppressing if any(_catches_all(kind) for kind in call.args)]


def _catches_all(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(one, ast.Name) and one.id in ("Exception", "BaseException") for one in kinds)


def sleeps(module: ast.Module) -> list[int]:
    """Lines that sleep."""
    return [call.lineno for name, call in calls(module) if name in SLEEPS]


def _places(path: Path, lines: list[int]) -> list[str]:
    return [f"{relative(path)}:{line}" for line in lines]


def test_nothing_turns_data_into_code():
    assert len(SOURCE) > 10
    bad = [f"{relative(path)}:{line} {name}" for path in SOURCE for line, name in code_out_of_data(tree(path))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "import torch as t\nt.load('a')",
        "from torch import load as get\nget('a', weights_only=True)",
        "import yaml\nyaml.load('a', Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load\nunsafe_load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import numpy as np\nnp.load('a', allow_pickle=flag)",
        "eval('1')",
        "exec('1')",
        "__import__(name)",
        "import importlib\nimportlib.import_module('pickle')",
        "from hydra.utils import instantiate\ninstantiate({})",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_code_out_of_data_is_seen(code):
    assert code_out_of_data(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.compile(f)",
        "import numpy as np\nnp.load('a', allow_pickle=False)",
        "import yaml\nyaml.safe_load('a')",
        "from safetensors.torch import load\nload(b'')",
    ],
)
def test_harmless_calls_are_let_through(code):
    assert not code_out_of_data(ast.parse(code))


def test_no_configuration_names_a_class_path():
    presets = sorted((ROOT / "configs").rglob("*.yaml"))
    assert presets
    assert not [relative(path) for path in presets if "_target_" in path.read_text() or "!!" in path.read_text()]


def test_only_the_learner_steps_an_optimiser():
    files = [path for path in python_files("worldmodels", "envs", "agents", "scripts") if relative(path) != LEARNER]
    bad = [place for path in files for place in _places(path, optimiser_steps(tree(path)))]
    assert not bad, "\n".join(bad)
    assert optimiser_steps(tree(ROOT / LEARNER)), f"{LEARNER} steps no optimiser: has it moved?"


@pytest.mark.parametrize("code", ["self.adam.step()", "optimizer.step(closure)", "scaler.step(opt)", "a[0].step()"])
def test_an_optimiser_step_is_seen(code):
    assert optimiser_steps(ast.parse(code))


@pytest.mark.parametrize("code", ["env.step(action)", "envs.step(indices, actions)", "step()"])
def test_an_environment_step_is_let_through(code):
    assert not optimiser_steps(ast.parse(code))


def test_no_error_is_swallowed():
    bad = [place for path in SOURCE for place in _places(path, swallowed_errors(tree(path)))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept (OSError, Exception):\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    g()",
        "from contextlib import suppress\nwith suppress(BaseException):\n    f()",
    ],
)
def test_a_swallowed_error_is_seen(code):
    assert swallowed_errors(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept BaseException:\n    g()\n    raise",
        "try:\n    f()\nexcept Exception as error:\n    report(error)",
        "from contextlib import suppress\nwith suppress(FileNotFoundError):\n    f()",
    ],
)
def test_a_handled_error_is_let_through(code):
    assert not swallowed_errors(ast.parse(code))


def test_no_test_sleeps():
    bad = [place for path in python_files("tests") for place in _places(path, sleeps(tree(path)))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("code", ["import time\ntime.sleep(1)", "from time import sleep as nap\nnap(1)"])
def test_a_sleep_is_seen(code):
    assert sleeps(ast.parse(code))


def test_no_code_is_taken_from_elsewhere():
    """Formulas are derived anew from the papers that are named; code of others has licences of its own."""
    words = ("copied from", "adapted from", "ported from", "taken from http", "copyright (c)", "gpl")
    for path in SOURCE:
        text = path.read_text(encoding="utf-8").lower()
        assert not [word for word in words if word in text], relative(path)
