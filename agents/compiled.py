"""`train.compile`: torch.compile of what is repeated most, kept between runs; refused where nothing can compile."""

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from worldmodels.errors import ConfigError

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment's variable that says where compiled code is kept."""
COMPILERS = ("g++", "clang++", "c++")
P = ParamSpec("P")
R = TypeVar("R")


def check_compiler() -> None:
    """Raise ConfigError where there is no C++ compiler, or no header of Python for what it compiles."""
    given = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([given] if given else COMPILERS)):
        looked = given or ", ".join(COMPILERS)
        raise ConfigError(f"train.compile: no C++ compiler found (looked for {looked}); install one or leave it out")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ConfigError(f"train.compile: {header} is missing; install Python's development files or leave it out")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled at its first call for each shape; random numbers are those of the function itself.

    What was compiled is kept in the user's cache, or where TORCHINDUCTOR_CACHE_DIR says.
    Raises: ConfigError: see `check_compiler`.
    """
    check_compiler()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault(CACHE, str(home / "worldmodels" / "inductor"))
    import torch

    return torch.compile(function, dynamic=False, options={"fallback_random": True})
