"""Presets and KEY=VALUE overrides to one plain mapping, through Hydra's compose API. No torch here.

Nothing is written and the working directory stays. Whether the keys exist and the values fit is `build`'s to say, so
that Hydra's own errors are never what a user reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodels.errors import ConfigError
from worldmodels.spelling import suggestion

GROUPS = ("world_model", "agent", "env")
DEFAULT_PRESET = "cartpole"
AS_WRITTEN = ("run=", "data=")
"""Keys whose values are paths, in which Hydra's own syntax has no meaning."""


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the installed package, or `configs/` of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "_configs"
    return installed if (installed / "train.yaml").is_file() else here.parent / "configs"


def presets(group: str) -> list[str]:
    """Return the names that `group=NAME` accepts."""
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def compose(overrides: Sequence[str], *, defaults: bool = True) -> dict[str, Any]:
    """Return the configuration that presets and `KEY=VALUE` overrides describe, as plain data.

    Keys that no file and no override sets are absent. Without `env=` and `env.id=` the preset is `cartpole`; an id
    given without a preset takes the generic defaults.

    Args:
        overrides: Hydra's override syntax; `run=PATH` and `data=PATH` are taken as they are written.
        defaults: whether groups that are not named take their default file (train.yaml) or none (resume.yaml).

    Raises:
        ConfigError: an override that cannot be read, or a preset that does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    written = dict(line.split("=", 1) for line in overrides if line.startswith(AS_WRITTEN))
    rest = [line for line in overrides if not line.startswith(AS_WRITTEN)]
    lines = hydra_overrides(rest, preset=DEFAULT_PRESET if defaults else None)
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            config = OmegaConf.to_container(
                hydra_compose("train" if defaults else "resume", overrides=lines), resolve=True
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error
    return plain_mapping(config) | written


def plain_mapping(config: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever Hydra composed
    """Return what Hydra composed without the groups that hold nothing."""
    if not isinstance(config, dict):
        raise ConfigError(f"expected a mapping, got {config!r}")
    return {str(key): value for key, value in config.items() if not (key in GROUPS and value is None)}


def hydra_overrides(overrides: Sequence[str], *, preset: str | None = DEFAULT_PRESET, sweep: bool = False) -> list[str]:
    """Return the overrides as Hydra is to see them: groups first, and keys that no file names allowed.

    Args:
        overrides: what the user typed.
        preset: of the environment, where neither `env=` nor `env.id=` is given.
        sweep: whether several values (`seed=0,1`) and Hydra's own keys (`hydra.sweep.dir=`) are allowed.

    Raises:
        ConfigError: an override that cannot be read, or a preset that does not exist.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    groups: dict[str, str] = {}
    values: dict[str, str] = {}
    for line in overrides:
        try:
            override = parser.parse_override(line)
        except HydraException as error:
            raise ConfigError(f"expected KEY=VALUE, got {line!r}: {_first_line(error)}") from error
        key = override.key_or_group
        if not key:
            raise ConfigError(f"expected KEY=VALUE, got {line!r}")
        if override.is_delete():
            raise ConfigError(f"{line!r}: keys cannot be deleted; set {key}=VALUE instead")
        if override.is_sweep_override() and not sweep:
            raise ConfigError(f"{line!r} gives several values; -m runs them one after the other")
        if key in groups or key in values:
            raise ConfigError(f"{key} is given twice; leave one of them out")
        if key.split(".")[0].split("/")[0] == "hydra":
            if not sweep:
                raise ConfigError(f"{line!r}: Hydra's own keys are for sweeps; add -m")
            values[key] = line
        elif key in GROUPS:
            _check_presets(key, line.partition("=")[2].split(","))
            groups[key] = line.lstrip("+")
        else:
            values[key] = "++" + line.lstrip("+")
    if preset is not None and "env" not in groups and "env.id" not in values:
        groups["env"] = f"env={preset}"
    return [*groups.values(), *values.values()]


def _check_presets(group: str, names: Sequence[str]) -> None:
    known = presets(group)
    for name in (name.strip() for name in names):
        if name in known:
            continue
        near = suggestion(name, siblings=known, given=[], places=[], path="", listing=False)
        own = "; an environment that is no preset is named by env.id=ID" if group == "env" else ""
        raise ConfigError(f"{group}: no preset {name!r}{near} (presets: {', '.join(known)}{own})")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
