"""The world model as a vector environment of Stable-Baselines3: `DreamVecEnv`."""

import time
from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from envs.dream import DreamSettings, Stage


class DreamVecEnv(VecEnv):
    """n dreams that step as one batch; a dream that ends begins anew at once, as in every VecEnv.

        PPO("MlpPolicy", DreamVecEnv(agent.world_model, num_envs=64)).learn(100_000)

    `infos` hold each step's details, at an end `terminal_observation` and `TimeLimit.truncated`, and the return and
    length of the dream as `Monitor` writes them, so that training logs show them.
    """  # noqa: D415

    def __init__(self, source: Any = None, num_envs: int = 1, **settings: Unpack[DreamSettings]) -> None:  # noqa: ANN401
        """Begin `num_envs` dreams of `source`, a WorldModel or an Agent, or of the run folder `run`.

        Raises: as `envs.dream.Stage`.
        """
        self.stage = Stage(source, num_envs, **settings)
        self.render_mode = "rgb_array"
        self._actions = np.zeros(0)
        self._began = time.monotonic()
        self._return, self._length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, self.stage.observation_space, self.stage.action_space)

    def reset(self) -> Any:  # noqa: ANN401
        """Begin all dreams, with the seed that `seed` has set."""
        if self._seeds[0] is not None:
            self.stage.seed(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.stage.reset()
        self._return[:], self._length[:] = 0, 0
        return self.stage.observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:  # noqa: ANN401 - SB3 names the four things that come back
        """One imagined step of all dreams. Raises: EnvironmentFault: an action outside the space."""
        reward, terminated, truncated, details = self.stage.step(self._actions)
        done, obs = terminated | truncated, self.stage.observe()
        columns = [value.tolist() for value in details.values()]
        infos: list[dict[str, Any]] = [dict(zip(details, row, strict=True)) for row in zip(*columns, strict=True)]
        self._return += reward
        self._length += 1
        if done.any():
            elapsed = time.monotonic() - self._began
            for i in np.flatnonzero(done).tolist():
                last = {name: value[i] for name, value in obs.items()} if isinstance(obs, dict) else obs[i]
                infos[i]["terminal_observation"] = last
                infos[i]["TimeLimit.truncated"] = bool(truncated[i])
                infos[i]["episode"] = {"r": float(self._return[i]), "l": int(self._length[i]), "t": round(elapsed, 6)}
            self._return[done], self._length[done] = 0, 0
            self.stage.reset(done)
            obs = self.stage.observe()
        return obs, reward, done, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The decoded observation of every dream, uint8 (height, width, 3)."""
        return [self.stage.render(i) for i in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ANN401
        """The same attribute of this object for every index: dreams have none of their own."""
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ANN401
        """Raises: AttributeError: dreams have no attributes of their own."""
        raise AttributeError(f"dreams have no {attr_name!r} of their own to set")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:  # noqa: ANN401
        """Raises: AttributeError: dreams have no methods of their own."""
        raise AttributeError(f"dreams have no method {method_name!r} of their own to call")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:  # noqa: ANN401
        """True for Monitor alone, whose records `infos` hold."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
