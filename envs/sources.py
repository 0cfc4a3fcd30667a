"""Where environment ids come from: libraries are imported when an id asks for them, and their quirks mended.

Each quirk mended here would make an episode depend on more than its seed, or a state task need a display.
"""

import difflib
import importlib
import logging
import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator, registry

from envs.pixels import is_headless
from worldmodels.errors import EnvironmentFault

EXTRAS = {
    "minatar": "minatar",
    "ale_py": "atari",
    "shimmy": "mujoco",
    "dm_control": "mujoco",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.box2d": "box2d",
    "minigrid": "minigrid",
}
"""Start of an entry point or name of a module -> the extra that installs it."""


def find_spec(env_id: str) -> EnvSpec:
    """The registered spec of an id, importing the library that registers it.

    Raises: EnvironmentFault where it is unknown (with the nearest ids) or its library is missing (with the command).
    """
    module, _, name = env_id.rpartition(":")
    register = _family(name)
    try:
        if module:
            importlib.import_module(module)
        elif register is not None:
            register()
    except ImportError as error:
        if not module:
            raise missing_extra(env_id, error) from error
        raise EnvironmentFault(
            f"{env_id}: module {module!r} cannot be imported ({error}). Install it, or run where it lies."
        ) from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        near = difflib.get_close_matches(name, registry, n=4, cutoff=0.6)
        hint = f"Nearest: {', '.join(near)}." if near else "Is the module that registers it imported (--import)?"
        raise EnvironmentFault(f"unknown environment id {env_id!r}. {hint}") from error


def finds_by_itself(env_id: str) -> bool:
    """Whether another process finds this id too, because the id says what to import."""
    return ":" in env_id or _family(env_id) is not None


def missing_extra(env_id: str, error: Exception) -> EnvironmentFault:
    """The error for a library that is not installed, with the command that installs it."""
    spec = registry.get(env_id)
    entry = str(spec.entry_point) if spec is not None else ""
    name = getattr(error, "name", None) or ""
    for start, extra in EXTRAS.items():
        if entry.startswith(start) or name.split(".")[0] == start:
            return EnvironmentFault(f"{env_id} needs a library: pip install 'worldmodels[{extra}]' ({error})")
    return EnvironmentFault(f"{env_id} needs a library that is not installed: {error}")


def render_modes(spec: EnvSpec) -> tuple[str, ...] | None:
    """What the environment class says that it renders; None where the class is hidden in a function."""
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    metadata = getattr(creator, "metadata", None)
    return tuple(metadata.get("render_modes") or ()) if isinstance(metadata, dict) else None


def prepare_rendering(spec: EnvSpec) -> None:
    """Make off-screen rendering possible on a machine without a display. Called only where something renders."""
    if spec.namespace == "dm_control":
        _give_dm_control_a_renderer()
    elif str(spec.entry_point).startswith("gymnasium.envs.mujoco") and is_headless():
        os.environ.setdefault("MUJOCO_GL", "egl")  # it would take GLFW, which needs a display


def mend(env: gymnasium.Env, spec: EnvSpec) -> gymnasium.Env:
    """The environment without its library's quirks."""
    return MinAtarEpisode(env) if spec.namespace == "MinAtar" else env


class MinAtarEpisode(gymnasium.Wrapper):
    """MinAtar's sticky action no longer survives a reset, and it renders without seaborn."""

    COLOURS = np.array(
        [(0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)]
        + [(0, 114, 178), (213, 94, 0), (204, 121, 167), (255, 255, 255), (150, 150, 150), (100, 60, 160)],
        dtype=np.uint8,
    )
    """Black, then one colour for each layer (Okabe and Ito's palette, told apart with colour blindness)."""

    SCALE = 16
    """Pixels a cell."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Forget the last action of the episode before."""
        self.env.unwrapped.game.last_action = 0  # type: ignore[attr-defined]
        return self.env.reset(seed=seed, options=options)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """uint8 (160, 160, 3): the topmost layer of each cell in its colour."""
        state = self.env.unwrapped.game.state()  # type: ignore[attr-defined]  # (10, 10, layers)
        top = (state * (np.arange(state.shape[2]) + 1)).max(axis=2)
        return np.kron(self.COLOURS[top], np.ones((self.SCALE, self.SCALE, 1), dtype=np.uint8))


def _family(name: str) -> Callable[[], None] | None:
    """What registers the ids that begin as this one does."""
    return _FAMILIES.get(name.split("/" if "/" in name else "-", 1)[0])


def _register_minatar() -> None:
    if "MinAtar/Breakout-v1" in registry:
        return
    # Importing minatar complains through the root logger that seaborn is missing, and would configure that logger.
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        module = importlib.import_module("minatar.gym")
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(silent)
    module.register_envs()


def _register_ale() -> None:
    if "ALE/Pong-v5" in registry:
        return
    ale: Any = importlib.import_module("ale_py")
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # no banner for every environment
    gymnasium.register_envs(ale)


def _register_dm_control() -> None:
    if "dm_control/cartpole-swingup-v0" in registry:
        return
    # dm_control opens an OpenGL library when it is imported, unless told not to; a renderer is given to it when
    # something is rendered. The variable is the user's: it is put back.
    chosen = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        gymnasium.register_envs(importlib.import_module("shimmy"))
        importlib.import_module("dm_control.suite")
    finally:
        if chosen is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = chosen


def _give_dm_control_a_renderer() -> None:
    """OpenGL of MUJOCO_GL where that is set; EGL without a display, GLFW with one."""
    render: Any = importlib.import_module("dm_control._render")
    if render.BACKEND != render.constants.NO_RENDERER[0]:
        return
    backend = os.environ.get("MUJOCO_GL", "egl" if is_headless() else "glfw").lower()
    names = {"egl": "pyopengl.egl_renderer:EGLContext", "glfw": "glfw_renderer:GLFWContext"}
    names["osmesa"] = "pyopengl.osmesa_renderer:OSMesaContext"
    if backend not in names:
        raise EnvironmentFault(f"MUJOCO_GL={backend} renders nothing: unset it, or choose {', '.join(names)}.")
    module, name = names[backend].split(":")
    try:
        render.Renderer = getattr(importlib.import_module(f"dm_control._render.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise EnvironmentFault(
            f"no OpenGL by {backend} here ({error}): install libegl1, or set MUJOCO_GL to {', '.join(names)}."
        ) from error
    render.BACKEND = backend


def _register_minigrid() -> None:
    gymnasium.register_envs(importlib.import_module("minigrid"))


def _register_toy() -> None:
    importlib.import_module("envs.toy")
    importlib.import_module("envs.explore")
    importlib.import_module("envs.swing_up")


_FAMILIES: dict[str, Callable[[], None]] = {
    "MinAtar": _register_minatar,
    "ALE": _register_ale,
    "dm_control": _register_dm_control,
    "MiniGrid": _register_minigrid,
    "BabyAI": _register_minigrid,
    "worldmodels": _register_toy,
}
