"""Changed physics: the same environment with other gravity, masses, lengths or action gain, by a reset option."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from worldmodels.errors import EnvironmentFault

CONSTANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "CartPoleEnv": {
        "gravity": ("gravity",),
        "mass": ("masscart", "masspole"),
        "pole_mass": ("masspole",),
        "length": ("length",),
        "action_gain": ("force_mag",),
    },
    "PendulumEnv": {"gravity": ("g",), "mass": ("m",), "length": ("l",), "action_gain": ("m",)},
    "MountainCarEnv": {"gravity": ("gravity",), "action_gain": ("force",)},
    "Continuous_MountainCarEnv": {"action_gain": ("power",)},
}
"""Class name -> name of a change -> the attributes that it multiplies."""
MUJOCO: dict[str, tuple[str, ...]] = {
    "gravity": ("opt.gravity",),
    "mass": ("body_mass", "body_inertia"),
    "action_gain": ("actuator_gear",),
}
"""The same for the compiled model of a MuJoCo environment, gymnasium's own or dm_control's."""


class ChangedPhysics(gymnasium.Wrapper, RecordConstructorArgs):
    """Multiplies constants of the wrapped environment by factors, from a reset on.

        env = ChangedPhysics(gymnasium.make("CartPole-v1"), gravity=1.5)    # in every episode
        env.reset(options={"physics": {"action_gain": 0.5}})                # in this one

    A reset without the option goes back to the factors of the constructor. `info["physics"]` of a reset holds the
    factors that act. A pendulum's action gain k divides its mass: there the mass stands with the torque alone.
    """  # noqa: D415

    def __init__(self, env: gymnasium.Env, **factors: float) -> None:
        """factors: name -> factor of the nominal value; names as in CONSTANTS and MUJOCO.

        Raises: EnvironmentFault where the environment has no such constant, or a factor is not positive.
        """
        recorded: dict[str, Any] = dict(factors)
        RecordConstructorArgs.__init__(self, **recorded)
        gymnasium.Wrapper.__init__(self, env)
        self._model = _mujoco_model(env.unwrapped)
        name = type(env.unwrapped).__name__
        known = MUJOCO if self._model is not None else CONSTANTS.get(name)
        if known is None:
            raise EnvironmentFault(f"ChangedPhysics knows {', '.join(CONSTANTS)} and MuJoCo environments, not {name}.")
        self._known, self._factors = known, dict(factors)
        paths = sorted({path for group in known.values() for path in group})
        self._nominal = {path: np.array(_get(self._owner, path), dtype=np.float64) for path in paths}
        self._check(self._factors)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. options: `physics`, name -> factor; the rest goes to the wrapped environment.

        Raises: EnvironmentFault as the constructor does.
        """
        rest = dict(options or {})
        factors = dict(rest.pop("physics", self._factors))
        self._check(factors)
        self._apply(factors)
        obs, info = self.env.reset(seed=seed, options=rest or None)
        return obs, {**info, "physics": factors}

    @property
    def _owner(self) -> Any:  # noqa: ANN401 - a model of mujoco, or the environment itself
        return self.env.unwrapped if self._model is None else self._model

    def _check(self, factors: Mapping[str, float]) -> None:
        for name, factor in factors.items():
            if name not in self._known:
                env_name, names = type(self.env.unwrapped).__name__, ", ".join(self._known)
                raise EnvironmentFault(f"ChangedPhysics: {env_name} has no {name!r}, only {names}.")
            if not (np.isfinite(factor) and factor > 0):
                raise EnvironmentFault(f"ChangedPhysics: {name} is {factor}, expected a factor above 0.")

    def _apply(self, factors: Mapping[str, float]) -> None:
        """Set every known constant to its nominal value times the factors that concern it."""
        values = dict(self._nominal)
        for name, factor in factors.items():
            for path in self._known[name]:
                inverse = name == "action_gain" and path == "m"  # the pendulum's only mass divides the torque
                values[path] = values[path] / factor if inverse else values[path] * factor
        for path, value in values.items():
            _set(self._owner, path, value)
        env = self.env.unwrapped
        if type(env).__name__ == "CartPoleEnv":  # what its constructor computes from them
            env.total_mass = env.masspole + env.masscart  # type: ignore[attr-defined]
            env.polemass_length = env.masspole * env.length  # type: ignore[attr-defined]


def _mujoco_model(env: Any) -> Any:  # noqa: ANN401
    """The compiled model behind a MuJoCo environment, None where there is none."""
    model = getattr(getattr(env, "physics", env), "model", None)
    return model if hasattr(model, "body_mass") else None


def _get(owner: Any, path: str) -> Any:  # noqa: ANN401
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner


def _set(owner: Any, path: str, value: np.ndarray) -> None:  # noqa: ANN401
    *parents, last = path.split(".")
    owner = _get(owner, ".".join(parents)) if parents else owner
    if isinstance(getattr(owner, last), (int, float)):
        setattr(owner, last, float(value))
    else:
        getattr(owner, last)[...] = value
