"""Many runs from one command: Hydra's multirun, with its sweepers and launchers. No torch here.

`wm train -m seed=0,1,2` runs `job` once for every combination, each in a folder of its own below
`multirun/DATE/TIME/`. A launcher plugin (`hydra/launcher=joblib`, `submitit_slurm`) runs them elsewhere.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agents.compose import GROUPS, config_dir, hydra_overrides, plain_mapping
from agents.options import TrainOptions
from worldmodels.config import build, check_keys
from worldmodels.errors import ConfigError

# Hydra would put a .hydra folder and a log file into every run's folder, which has to be empty.
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "sweep-joblib"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_ray_launcher", "ray"),
    "ray_aws": ("hydra_ray_launcher", "ray"),
}
"""Value of `hydra/launcher` -> the plug-in that has it, and the extra of this project that brings it."""
_IMPORTS = "imports"  # carries --import to a job that a launcher starts in another process; no key of a run
_OWN_FOLDER = "every run of a sweep has a folder of its own; hydra.sweep.dir=PATH says where"


def multirun(overrides: Sequence[str], *, modules: Sequence[str] = ()) -> int:
    """Train once for every combination of the values that `overrides` list, and return the exit code.

    Args:
        overrides: as for one run; `KEY=A,B` lists values, `hydra.*` and `hydra/*` set Hydra's own options.
        modules: what every job imports first.

    Raises:
        ConfigError: an unknown key or preset, or a launcher that is not installed, before the first job starts.
    """
    import hydra

    lines = hydra_overrides(overrides, sweep=True)
    _check(lines)
    given = [line.partition("=")[0] for line in lines]
    quiet = [line for line in QUIET if line.partition("=")[0] not in given]
    argv = ["--multirun", f"--config-dir={config_dir()}", "--config-name=train", *quiet, *lines]
    before, sys.argv = sys.argv, ["wm", *argv, f"++{_IMPORTS}=[{','.join(modules)}]"]
    try:
        hydra.main(version_base="1.3", config_path=None)(job)()
    except SystemExit as end:  # from `job`, or from Hydra after it said what is wrong
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return 0


def job(config: Any) -> None:  # noqa: ANN401 - what Hydra composed
    """Train the one run that `config` describes, in the folder that Hydra made for it.

    Raises:
        SystemExit: the run failed; it says why and ends the sweep, with the exit code of `wm train`.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from agents.cli import import_modules, train_run
    from agents.stopping import guarded

    mapping = plain_mapping(OmegaConf.to_container(config, resolve=True))
    modules = mapping.pop(_IMPORTS, [])
    folder, task = HydraConfig.get().runtime.output_dir, HydraConfig.get().overrides.task

    def run() -> int:
        import_modules(modules)
        print("run of the sweep:", *(line.lstrip("+") for line in task if not line.startswith(f"++{_IMPORTS}=")))
        return train_run(replace(build(TrainOptions, mapping), run=folder))

    code = guarded(run)
    if code:
        raise SystemExit(code)


def _check(lines: Sequence[str]) -> None:
    """Raise ConfigError for keys that no run has; whether the values fit is seen when their turn comes."""
    mapping: dict[str, Any] = {}
    for key, _, value in (line.lstrip("+").partition("=") for line in lines):
        if key == "hydra/launcher" and not _is_there(value):
            module, extra = LAUNCHERS[value]
            name = module.replace("_", "-")
            raise ConfigError(
                f"hydra/launcher={value} needs {name}, which is not installed: pip install 'worldmodels[{extra}]'"
                f" (in a checkout: pip install '.[{extra}]')"
            )
        if key in ("run", "resume"):
            raise ConfigError(f"{key}= cannot be combined with -m: {_OWN_FOLDER}")
        if key in GROUPS or key.split(".")[0].split("/")[0] == "hydra":
            continue
        section, *rest = key.split(".")
        place = mapping
        for name in rest:
            place, section = place.setdefault(section, {}), name
        place[section] = None
    check_keys(mapping, TrainOptions)


def _is_there(launcher: str) -> bool:
    """Whether a launcher can be loaded; of those that are not known Hydra itself says so."""
    if launcher not in LAUNCHERS:
        return True
    try:
        return importlib.util.find_spec(f"hydra_plugins.{LAUNCHERS[launcher][0]}") is not None
    except ModuleNotFoundError:  # no plug-in at all
        return False
