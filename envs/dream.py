"""The world model as an environment: `DreamEnv` alone, `DreamVectorEnv` many at once, for gymnasium.

Whatever trains on environments trains on these. All copies step as one batch, without gradients. `envs.dream_sb3` has
the same for Stable-Baselines3.
"""

from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.frames import bars, to_rgb
from envs.spaces import Element, encode_actions, space_of_action, space_of_obs
from worldmodels.decoders import likeliest
from worldmodels.dreams import Bonus, Dreams, epistemic_quantile, replay_starts
from worldmodels.errors import ConfigError, EnvironmentFault
from worldmodels.saved import load_replay, load_world_model
from worldmodels.types import State
from worldmodels.world_model import WorldModel

HORIZON = 100
"""Steps after which a dream is truncated, unless told otherwise."""
REPLAY_STATES = 8192
"""States of a run's experience that are kept to begin from, and transitions whose uncertainty gives the quantile."""
VIEW = 3.0
"""A number's bar is full at this many spreads from its centre."""


class DreamSettings(TypedDict, total=False):
    """Keyword arguments that every dream environment takes; all of them may be left out.

    run: a run folder: its experience, and its world model where none is given.
    horizon: steps after which a dream is truncated (default 100); None: never.
    observation: `features` of the latent state (default), or `decoded` as the real environment shows it.
    starts: `prior`: where episodes begin, as the model believes (default); `replay`: posterior states of the run's
        experience; or a `State` of (N, ...) to draw from.
    quantile: truncate where the epistemic uncertainty passes this quantile of what it is on the run's experience; needs
        a run and a world model with an ensemble.
    bonus: an acquisition function; its score is added to the reward, `bonus_weight` times (default 1).
    uncertainty: whether the ensemble is asked at every step (default); without it a step costs half, and `epistemic` is
        missing from the details. A quantile or a bonus asks it anyhow.
    seed: of everything that is random; None draws one from torch's global generator.
    """

    run: str | Path | None
    horizon: int | None
    observation: Literal["features", "decoded"]
    starts: Literal["prior", "replay"] | State
    quantile: float | None
    bonus: Bonus | None
    bonus_weight: float
    uncertainty: bool
    seed: int | None


class Stage:
    """What the environments share: n dreams behind spaces, with arrays in and arrays out.

    dreams: the states and their randomness. observation_space, action_space: of one dream.
    """

    def __init__(self, source: Any, num_envs: int, **settings: Unpack[DreamSettings]) -> None:  # noqa: ANN401
        """Begin n dreams of `source`: a WorldModel, or anything that has one as `world_model`, such as an Agent.

        Raises: ConfigError: a setting that needs a run, an ensemble or another value. CheckpointError: no such run.
        """
        unknown = sorted(set(settings) - set(DreamSettings.__annotations__))
        if unknown:
            raise ConfigError(f"a dream has no {', '.join(unknown)}; it has {', '.join(DreamSettings.__annotations__)}")
        run = settings.get("run") or getattr(source, "run", None)
        self.world_model = world_model_of(source, run)
        seed = settings.get("seed")
        seed = int(torch.randint(2**31 - 1, ())) if seed is None else seed
        self.decoded = _one_of("observation", settings.get("observation", "features"), ("features", "decoded"))
        starts, quantile = settings.get("starts", "prior"), settings.get("quantile")
        if not isinstance(starts, State):
            _one_of("starts", starts, ("prior", "replay"))
        limit, replay = None, None
        if starts == "replay" or quantile is not None:
            if run is None:
                wish = "starts='replay'" if starts == "replay" else "quantile"
                raise ConfigError(f"{wish} needs the experience of a run: give run=PATH, or an agent that was loaded")
            replay = load_replay(run)
        if quantile is not None and replay is not None:
            limit = epistemic_quantile(self.world_model, replay, quantile, count=REPLAY_STATES, seed=seed)
        if starts == "replay" and replay is not None:
            starts = replay_starts(self.world_model, replay, REPLAY_STATES, seed=seed)
        self.dreams = Dreams(
            self.world_model,
            num_envs,
            horizon=settings.get("horizon", HORIZON),
            starts=starts if isinstance(starts, State) else None,
            bonus=settings.get("bonus"),
            bonus_weight=settings.get("bonus_weight", 1.0),
            epistemic_limit=limit,
            uncertainty=settings.get("uncertainty", True),
            seed=seed,
        )
        self.specs = self.world_model.obs_specs
        self.action_space = space_of_action(self.world_model.action_spec)
        features = spaces.Box(-np.inf, np.inf, (self.world_model.features_size,), np.float32)
        self.observation_space = space_of_obs(self.specs) if self.decoded else features

    def seed(self, seed: int) -> None:
        """Draw everything from `seed` from now on."""
        self.dreams.stream.seed(seed)

    def step(self, actions: Element) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Take n actions of the action space. Returns reward float32, terminated, truncated and details, each (n,).

        Raises: EnvironmentFault: an action outside the space. NonFiniteError: the model's numbers ran away.
        """
        encoded = encode_actions(self.world_model.action_spec, actions)
        if len(encoded) != self.dreams.batch:
            raise EnvironmentFault(f"got {len(encoded)} actions for {self.dreams.batch} dreams")
        result = self.dreams.step(torch.from_numpy(encoded).to(self.world_model.device))
        details = {name: value.cpu().numpy() for name, value in result.details.items()}
        return result.reward.cpu().numpy(), result.terminated.cpu().numpy(), result.truncated.cpu().numpy(), details

    def reset(self, where: np.ndarray | None = None) -> None:
        """Begin anew, everywhere or where `where` (n,) is True."""
        self.dreams.reset(None if where is None else torch.from_numpy(where).to(self.world_model.device))

    def observe(self) -> Any:  # noqa: ANN401 - an array (n, ...) or a dict of them
        """What the n dreams show, in arrays of their own."""
        if not self.decoded:
            return self.dreams.states.features.cpu().numpy()
        obs = self._decode(slice(None))
        for name, spec in self.specs.items():
            if spec.kind == "discrete":
                obs[name] = obs[name][..., 0]
            elif spec.kind == "multi_binary":
                obs[name] = np.rint(obs[name]).astype(np.int8)
        return obs["obs"] if list(obs) == ["obs"] else obs

    def render(self, index: int) -> np.ndarray:
        """The decoded observation of one dream as uint8 (height, width, 3): its image, else its numbers as bars.

        A bar is full at 3 spreads of the training data from their centre.
        """
        shown = self._decode(slice(index, index + 1))
        for name, spec in self.specs.items():
            if spec.kind == "image":
                return to_rgb(shown[name][0])
        return bars(np.concatenate([self._standardised(name, value[0]) for name, value in shown.items()]))

    @torch.no_grad()
    def _decode(self, index: slice) -> dict[str, np.ndarray]:
        likelihoods = self.world_model.decode(self.dreams.states.index(index))
        return {name: likeliest(likelihood, self.specs[name]) for name, likelihood in likelihoods.items()}

    def _standardised(self, name: str, value: np.ndarray) -> np.ndarray:
        if self.specs[name].kind != "vector":
            return value / np.maximum(1, np.array(self.specs[name].classes or 1) - 1)
        center, spread = (moment.cpu().numpy() for moment in self.world_model.standardizer.moments(name))
        return (value - center) / (VIEW * spread)


class DreamEnv(gymnasium.Env):
    """One dream: `gymnasium.make("worldmodels/Dream-v0", run=PATH)`. `info` holds each step's details.

    For speed take many at once: `DreamVectorEnv`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        source: Any = None,  # noqa: ANN401
        *,
        render_mode: str | None = None,
        **settings: Unpack[DreamSettings],
    ) -> None:
        """Dream of `source`, a WorldModel or an Agent, or of the run folder `run`. Raises: as `Stage`."""
        self.render_mode = _render_mode(render_mode)
        self.stage = Stage(source, 1, **settings)
        self.observation_space, self.action_space = self.stage.observation_space, self.stage.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a dream; with a seed, everything that follows is a function of it."""
        super().reset(seed=seed)
        if seed is not None:
            self.stage.seed(int(self.np_random.integers(2**31 - 1)))
        self.stage.reset()
        return self._first(self.stage.observe()), {}

    def step(self, action: Element) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One imagined step."""
        reward, terminated, truncated, details = self.stage.step(np.asarray(action)[None])
        info = {name: float(value[0]) for name, value in details.items()}
        return self._first(self.stage.observe()), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:  # noqa: ANN401 - uint8 (height, width, 3) or None
        """Draw the decoded observation."""
        return self.stage.render(0) if self.render_mode is not None else None

    def _first(self, batch: Any) -> Any:  # noqa: ANN401
        if not isinstance(batch, dict):
            return batch[0] if batch.ndim > 1 else self.observation_space.dtype.type(batch[0])  # type: ignore[union-attr]
        return {name: value[0] for name, value in batch.items()}


class DreamVectorEnv(VectorEnv):
    """n dreams as a gymnasium vector environment, in each of its autoreset modes.

    `info` holds each step's details as (n,) arrays; with SAME_STEP `final_obs` and `final_info` are where they belong.
    A dream has no seed of its own: one seed, or a list of them, sets the numbers of all.
    """

    def __init__(
        self,
        source: Any = None,  # noqa: ANN401
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Unpack[DreamSettings],
    ) -> None:
        """Begin `num_envs` dreams of `source`, a WorldModel or an Agent, or of the run folder `run`.

        Raises: as `Stage`.
        """
        self.render_mode, self.num_envs = _render_mode(render_mode), num_envs
        self.mode = AutoresetMode(autoreset_mode)
        self.metadata = DreamEnv.metadata | {"autoreset_mode": self.mode}
        self.stage = Stage(source, num_envs, **settings)
        self.single_observation_space = self.stage.observation_space
        self.single_action_space = self.stage.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all dreams, or those of `options["reset_mask"]`, bool (n,).

        Raises: EnvironmentFault: a list of seeds or a mask of another length.
        """
        if isinstance(seed, list):
            if len(seed) != self.num_envs:
                raise EnvironmentFault(f"got {len(seed)} seeds for {self.num_envs} dreams")
            given = [number for number in seed if number is not None]
            seed = int(np.random.SeedSequence(given).generate_state(1)[0]) if given else None
        super().reset(seed=seed)
        if seed is not None:
            self.stage.seed(int(self.np_random.integers(2**31 - 1)))
        where = (options or {}).get("reset_mask")
        if where is not None:
            where = np.asarray(where)
            if where.shape != (self.num_envs,) or where.dtype != bool or not where.any():
                raise EnvironmentFault(f"reset_mask: expected {self.num_envs} bools, at least one True, got {where}")
        self.stage.reset(where)
        self._over = np.zeros(self.num_envs, dtype=bool) if where is None else self._over & ~where
        return self.stage.observe(), {}

    def step(self, actions: Element) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One imagined step of all dreams.

        Raises: EnvironmentFault: without autoreset, a dream that is over was not reset.
        """
        if self.mode is AutoresetMode.DISABLED and self._over.any():
            over = np.flatnonzero(self._over).tolist()
            raise EnvironmentFault(f"dreams {over} are over: reset them with options={{'reset_mask': mask}}")
        reward, terminated, truncated, details = self.stage.step(actions)
        known = np.ones(self.num_envs, dtype=bool)
        info: dict[str, Any] = {}
        if self.mode is AutoresetMode.NEXT_STEP and self._over.any():
            fresh = self._over
            self.stage.reset(fresh)
            reward, terminated, truncated = np.where(fresh, 0, reward), terminated & ~fresh, truncated & ~fresh
            known = ~fresh
        self._over = terminated | truncated
        obs = self.stage.observe()
        if self.mode is AutoresetMode.SAME_STEP and self._over.any():
            known = ~self._over
            info |= {"final_obs": self._rows(obs, self._over), "_final_obs": self._over.copy()}
            info |= {"final_info": _masked(details, self._over), "_final_info": self._over.copy()}
            self.stage.reset(self._over)
            obs = self.stage.observe()
        return obs, reward.astype(np.float64), terminated, truncated, info | _masked(details, known)

    def render(self) -> tuple[Any, ...] | None:
        """Draw the decoded observation of every dream."""
        return None if self.render_mode is None else tuple(self.stage.render(i) for i in range(self.num_envs))

    def _rows(self, obs: Any, where: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """(n,) objects: the observation of each dream where `where`, else None."""
        rows = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(where):
            rows[i] = {name: value[i] for name, value in obs.items()} if isinstance(obs, dict) else obs[i]
        return rows


def _masked(details: dict[str, np.ndarray], where: np.ndarray) -> dict[str, np.ndarray]:
    """Values where `where`, zero elsewhere, each with its mask, as gymnasium writes vector infos."""
    if not where.any():
        return {}
    values = {name: np.where(where, value, 0.0) for name, value in details.items()}
    return values | {f"_{name}": where.copy() for name in details}


def world_model_of(source: Any, run: str | Path | None = None) -> WorldModel:  # noqa: ANN401
    """The world model of a WorldModel, of an Agent, or of a run folder. Raises: ConfigError: it is none of these."""
    model = getattr(source, "world_model", source)
    if model is None and run is not None:
        model = load_world_model(run)
    if model is None or not all(hasattr(model, name) for name in ("imagine", "dream_start", "decode", "obs_specs")):
        got = "nothing: pass one, such as run='runs/mine'" if model is None else type(source).__name__
        raise ConfigError(f"expected a world model, an agent or run=PATH, got {got}")
    return model


def _one_of(name: str, value: Any, known: tuple[str, str]) -> bool:  # noqa: ANN401
    """Whether `value` is the second of two words. Raises: ConfigError: it is neither."""
    if value not in known:
        raise ConfigError(f"{name}: expected {' or '.join(known)}, got {value!r}")
    return value == known[1]


def _render_mode(mode: str | None) -> str | None:
    if mode not in (None, "rgb_array"):
        raise ConfigError(f"render_mode: a dream is drawn as rgb_array, got {mode!r}")
    return mode
