"""Checks what an environment returns, always, and turns it into the arrays of the toolkit.

Outside the guard there are only encoded observations (dicts of arrays that own their memory), float rewards and bool
flags; every way of breaking gymnasium's contract ends in an EnvironmentFault that names the environment, seed and step.
"""

import math
import warnings
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np

from envs.conform import Broken, LeafCheck, NonFinite
from envs.plain import plain_space
from envs.spaces import ActionCodec, Element, Leaf, at, obs_leaves
from worldmodels.errors import EnvironmentFault

FINAL_OBS_KEYS = ("final_obs", "final_observation", "terminal_observation")
"""Where environments that reset themselves put the observation that really ended the episode."""

CONTRACT = {"reset": "(obs, info)", "step": "(obs, reward, terminated, truncated, info)"}
"""What gymnasium's methods return."""


class Guard(gymnasium.Wrapper):
    """The outermost wrapper: `step` takes the toolkit's float32 (A,) action, observations come out encoded.

    Attributes: env_id; obs_specs, name -> ObsSpec; action_spec; notes, what was cast safely (each once).
    """

    def __init__(
        self,
        env: gymnasium.Env,
        env_id: str,
        *,
        non_finite: Literal["error", "truncate"] = "error",
        strict: bool = False,
    ) -> None:
        """Read both spaces.

        env_id: the name used in errors. non_finite: `error` raises on NaN or infinity, `truncate` ends the episode
            and marks the step in `info["discarded_step"]`: nothing of it may be stored.
        strict: a value outside the declared space raises instead of warning once.

        Raises: EnvironmentFault where a space is not supported, or the environment resets itself.
        """
        super().__init__(env)
        self.env_id, self._truncates, self._strict = env_id, non_finite == "truncate", strict
        self.notes: list[str] = []
        self._wrappers = _wrapper_names(env)
        if "Autoreset" in self._wrappers:
            raise EnvironmentFault(f"{env_id}: remove the Autoreset wrapper; episodes are reset explicitly.")
        try:
            leaves = obs_leaves(env.observation_space)
            self._actions = ActionCodec(env.action_space)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{env_id}: {error}") from error
        self.obs_specs = {leaf.name: leaf.spec for leaf in leaves}
        self.action_spec = self._actions.spec
        self._checks = [LeafCheck(leaf, self._note, self._stray) for leaf in leaves]
        self._single = self._checks[0] if not leaves[0].path else None
        self._keys = _key_tree(leaves)
        self._seed: int | None = None
        self._step = 0
        self._state: Literal["new", "open", "ended"] = "new"
        self._last: dict[str, np.ndarray] = {}

    @property
    def spaces(self) -> dict[str, Any]:
        """Observation and action space of the environment within, as plain data (`envs.plain`)."""
        return {"obs": plain_space(self.env.observation_space), "action": plain_space(self.env.action_space)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode. Raises: EnvironmentFault."""
        self._seed, self._step, self._state = seed, 0, "new"
        try:
            result = self.env.reset(seed=seed, options=options)
        except EnvironmentFault:
            raise
        except Exception as error:
            raise self._raised("reset", error) from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fault("reset", f"{_describe(result)}, expected {CONTRACT['reset']}")
        obs, info = result
        if not isinstance(info, dict):
            raise self._fault("reset", f"info of type {type(info).__name__}, expected dict")
        encoded = self._encode("reset", obs)
        self._state, self._last = "open", encoded
        return encoded, info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One step with an encoded action, float32 (A,). Raises: EnvironmentFault."""
        if self._state != "open":
            cause = "before reset()" if self._state == "new" else "after the episode ended: call reset() first"
            raise EnvironmentFault(f"{self.env_id}: step() was called {cause} {self._where()}.")
        self._step += 1
        try:
            decoded = self._actions.decode(action)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{self.env_id}: {error} {self._where()}") from error
        try:
            result = self.env.step(decoded)
        except EnvironmentFault:
            raise
        except Exception as error:
            raise self._raised("step", error) from error
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._fault("step", f"{_describe(result)}, expected {CONTRACT['step']}")
        obs, reward, terminated, truncated, info = result
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if not isinstance(info, dict):
            raise self._fault("step", f"info of type {type(info).__name__}, expected dict")
        if terminated or truncated:
            self._state = "ended"
            for key in FINAL_OBS_KEYS:
                # It reset itself in this very step: obs already belongs to the next episode.
                if info.get(key) is not None:
                    obs = info[key]
                    break
        try:
            reward = self._number(reward)
            encoded = self._encode("step", obs)
        except _NonFiniteFault:
            if not self._truncates:
                raise
            self._state = "ended"
            copies = {name: array.copy() for name, array in self._last.items()}
            return copies, 0.0, False, True, {**info, "discarded_step": True}
        self._last = encoded
        return encoded, reward, terminated, truncated, info

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Draw the environment: uint8 (height, width, 3). Raises: EnvironmentFault, also where it cannot be drawn."""
        try:
            frame = self.env.render()
        except EnvironmentFault:
            raise
        except Exception as error:
            raise self._raised("render", error) from error
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            remedy = f"Expected uint8 (height, width, 3); render_mode is {self.env.render_mode!r}."
            raise EnvironmentFault(self._message("render", f"returned {what}", remedy))
        return frame

    def _encode(self, method: str, obs: Element) -> dict[str, np.ndarray]:
        try:
            if self._single is not None:
                return {"obs": self._single(obs)}
            _check_keys(obs, self._keys, "obs")
            return {check.leaf.name: check(at(obs, check.leaf.path)) for check in self._checks}
        except NonFinite as error:
            raise _NonFiniteFault(self._message(method, f"returned {error}", "Fix the environment.")) from error
        except Broken as error:
            raise self._fault(method, str(error)) from error

    def _number(self, reward: SupportsFloat) -> float:
        if type(reward) is not float:
            if isinstance(reward, np.ndarray) and reward.size == 1 and reward.dtype.kind in "fiub":
                reward = reward.reshape(-1)[0]
            if not isinstance(reward, (bool, int, float, np.bool_, np.integer, np.floating)):
                raise self._fault("step", f"a reward of type {type(reward).__name__}, expected a number")
            reward = float(reward)
        if not math.isfinite(reward):
            raise _NonFiniteFault(self._message("step", f"returned reward {reward}", "Fix the environment."))
        return reward

    def _flag(self, name: str, value: Element) -> bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        raise self._fault("step", f"{name} of type {type(value).__name__} ({value!r}), expected bool")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _stray(self, text: str) -> None:
        """A value outside the declared space."""
        method = "step" if self._step else "reset"
        message = self._message(method, f"returned {text}", "Fix observation_space or the environment.")
        if self._strict:
            raise EnvironmentFault(message)
        warnings.warn(f"{message} The value is used as it is.", stacklevel=2)

    def _raised(self, method: str, error: Exception) -> EnvironmentFault:
        remedy = "See its traceback."
        if isinstance(error, ValueError) and "values to unpack" in str(error):  # met a wrapper before it met us
            remedy = f"It has to return {CONTRACT[method]}."
        return EnvironmentFault(self._message(method, f"raised {type(error).__name__}: {error}", remedy))

    def _fault(self, method: str, what: str) -> EnvironmentFault:
        return EnvironmentFault(self._message(method, f"returned {what}", "Fix observation_space or the environment."))

    def _message(self, method: str, what: str, remedy: str) -> str:
        wrappers = ", ".join(self._wrappers) or "none"
        return f"{self.env_id}: {method}() {what} {self._where()}. {remedy} Wrappers applied: {wrappers}."

    def _where(self) -> str:
        return f"[seed {self._seed}, step {self._step}]"


class _NonFiniteFault(EnvironmentFault):
    """Told apart only because `non_finite="truncate"` may swallow it."""


def _wrapper_names(env: gymnasium.Env) -> tuple[str, ...]:
    """Class names of the wrappers, outermost first."""
    names = []
    while isinstance(env, gymnasium.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return tuple(names)


def _key_tree(leaves: tuple[Leaf, ...]) -> dict[Any, Any]:
    """Nested dicts of the declared keys; an empty dict stands for an array."""
    tree: dict[Any, Any] = {}
    for leaf in leaves:
        node = tree
        for key in leaf.path:
            node = node.setdefault(key, {})
    return tree


def _check_keys(obs: Element, tree: dict[Any, Any], name: str) -> None:
    """Raises Broken where a nested observation has other keys than declared."""
    if not tree:
        return
    if not isinstance(obs, dict):
        raise Broken(f"{type(obs).__name__} for {name}, declared a dict with the keys {sorted(map(str, tree))}")
    if obs.keys() != tree.keys():
        raise Broken(f"keys {sorted(map(str, obs))} for {name}, declared {sorted(map(str, tree))}")
    for key, inner in tree.items():
        if inner:
            _check_keys(obs[key], inner, f"{name}[{key!r}]")


def _describe(result: Element) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
