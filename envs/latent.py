"""Real environments seen through a world model: latent features as the observation, and alarms with a fallback."""

from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.dream import world_model_of
from envs.spaces import ActionCodec, Element, at, encode_actions, encode_obs, obs_leaves, obs_specs, space_of_action
from worldmodels.errors import ConfigError, EnvironmentFault
from worldmodels.saved import load_replay, load_world_model
from worldmodels.seeding import TorchStream
from worldmodels.sensors import Belief, SensorBank
from worldmodels.specs import in_words
from worldmodels.types import State
from worldmodels.watch import Nominal, Sight, look, nominal_scores

Fallback = Literal["none", "imagine", "safe", "stop"]
FALLBACKS: tuple[str, ...] = get_args(Fallback)
NOMINAL_STEPS = 8192
"""Steps of a run's experience whose scores say what is ordinary."""


class LatentObservation(gymnasium.Wrapper, RecordConstructorArgs):
    """Shows the features of the world model's state, and takes the actions of its dream.

    A policy that was trained on `DreamVecEnv` acts here without change. The filter's state is inside; it begins anew
    at every reset.
    """

    def __init__(self, env: gymnasium.Env, source: Any, *, sample: bool = False) -> None:  # noqa: ANN401
        """Wrap `env`, as the environment of the world model was made.

        Args:
            env: with the observations and actions that the model was trained on.
            source: a WorldModel, or anything that has one as `world_model`, such as an Agent.
            sample: draw latents from the posterior instead of taking its mode.

        Raises: ConfigError: the environment's observations or actions are not those of the model.
        """
        RecordConstructorArgs.__init__(self, source=source, sample=sample, _disable_deepcopy=True)
        gymnasium.Wrapper.__init__(self, env)
        self._filter = Filter(env, source, sample=sample)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._filter.model.features_size,), np.float32)
        self.action_space = space_of_action(self._filter.model.action_spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and a state."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._filter.begin(seed)
        return self._filter.see(obs).features[0].cpu().numpy(), info

    def step(self, action: Element) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step with an action of the dream's action space."""
        obs, reward, terminated, truncated, info = self.env.step(self._filter.act(action))
        return self._filter.see(obs).features[0].cpu().numpy(), reward, terminated, truncated, info


class UncertaintyInfo(gymnasium.Wrapper, RecordConstructorArgs):
    """Says at every step how unusual what was seen is, and on alarm follows a stated fallback.

    `info` holds `surprise` and `epistemic` (nats), their p-values `surprise_p` and `epistemic_p`, `sensor_p`, (n,), one
    for each number of the vector observations, and `alarm`: whether one sensor's p-value is below `false_alarms / n`
    or the surprise's below `false_alarms`. At a reset nothing was expected: p-values are 1. Fallbacks:

        none       nothing but the word in `info`
        imagine    a sensor that contradicts the others is ignored: the observation holds what follows from the healthy
                   ones instead (`worldmodels.sensors.SensorBank`), and the model goes on from that; `info` says in
                   `ignored`, (n,) bool, which number it was, until it agrees again
        safe       the next action is `safe_action`, whatever the agent chooses
        stop       the episode is truncated
    """

    def __init__(
        self,
        env: gymnasium.Env,
        source: Any = None,  # noqa: ANN401
        *,
        run: str | Path | None = None,
        nominal: Nominal | None = None,
        fallback: Fallback = "none",
        safe_action: Element | None = None,
        false_alarms: float = 0.01,
    ) -> None:
        """Wrap `env`, as the environment of the world model was made.

        Args:
            env: with the observations and actions that the model was trained on.
            source: a WorldModel or an Agent; None for that of `run`.
            run: the run whose experience is nominal; an agent's own if it was loaded.
            nominal: scores of ordinary steps, if they do not come from a run.
            fallback: see there.
            safe_action: of the environment's own space.
            false_alarms: share of ordinary steps that may raise the alarm, by each of the two rules.

        Raises: ConfigError: no nominal scores, an unknown fallback, no safe action, or an environment that is not the
            model's.
        """
        RecordConstructorArgs.__init__(
            self,
            source=source,
            run=run,
            nominal=nominal,
            fallback=fallback,
            safe_action=safe_action,
            false_alarms=false_alarms,
            _disable_deepcopy=True,
        )
        gymnasium.Wrapper.__init__(self, env)
        if fallback not in FALLBACKS:
            raise ConfigError(f"fallback: expected one of {', '.join(FALLBACKS)}, got {fallback!r}")
        if fallback == "safe" and (safe_action is None or not env.action_space.contains(safe_action)):
            raise ConfigError(f"fallback 'safe' needs a safe_action of {env.action_space}, got {safe_action!r}")
        self._filter = Filter(env, source if source is not None or run is None else load_world_model(run))
        model, run = self._filter.model, run or getattr(source, "run", None)
        if fallback == "imagine" and not any(spec.kind == "vector" for spec in model.obs_specs.values()):
            raise ConfigError("fallback 'imagine' replaces numbers of vector observations, and there are none here")
        if nominal is None:
            if run is None:
                raise ConfigError("UncertaintyInfo needs to know what is ordinary: give run=PATH or nominal=scores")
            nominal = nominal_scores(model, load_replay(run), NOMINAL_STEPS, seed=0)
        self.nominal, self._fallback, self._safe = nominal, fallback, safe_action
        self._false_alarms, self._alarm = false_alarms, False
        self._bank = SensorBank(model, nominal.residual_scale) if fallback == "imagine" else None
        self._leaves = [leaf for leaf in obs_leaves(env.observation_space) if leaf.spec.kind == "vector"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Nothing was expected yet."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._filter.begin(seed)
        state = self._filter.see(obs)
        self._alarm = False
        count = self.nominal.residual.shape[-1]
        said: dict[str, Any] = {"surprise": 0.0, "surprise_p": 1.0}
        if self.nominal.epistemic is not None and self._filter.model.ensemble is not None:
            said |= {"epistemic": 0.0, "epistemic_p": 1.0}
        said |= {"sensor_p": np.ones(count), "alarm": False}
        if self._bank is not None:
            self._bank.begin(state)
            said |= {"ignored": np.zeros(count, dtype=bool)}
        return obs, {**info, **said}

    def step(self, action: Element) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, with the safe action after an alarm where that is the fallback."""
        if self._alarm and self._fallback == "safe":
            action = self._safe
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._filter.note(action)
        sight = self._filter.look(obs)
        p_values = self.nominal.p_values(sight)
        faulty = p_values["residual"][0] < self._false_alarms / max(1, p_values["residual"].shape[-1])  # (n,)
        self._alarm = bool(faulty.any() or p_values["surprise"][0] < self._false_alarms)
        said: dict[str, Any] = {"surprise": float(sight.surprise[0]), "surprise_p": float(p_values["surprise"][0])}
        if sight.epistemic is not None and "epistemic" in p_values:
            said |= {"epistemic": float(sight.epistemic[0]), "epistemic_p": float(p_values["epistemic"][0])}
        said |= {"sensor_p": p_values["residual"][0].cpu().numpy(), "alarm": self._alarm}
        if self._bank is not None:
            belief = self._filter.ask(self._bank, obs)
            obs = self._replaced(obs, belief)
            said |= {"ignored": belief.ignored.cpu().numpy()}
        self._filter.see(obs)
        stopped = self._alarm and self._fallback == "stop"
        return obs, reward, terminated, bool(truncated or (stopped and not terminated)), {**info, **said}

    def _replaced(self, obs: Element, belief: Belief) -> Element:
        """The observation with what is believed of the number that is ignored, inside the declared bounds."""
        ignored, first = belief.ignored.cpu().numpy(), 0
        if not ignored.any():
            return obs
        for leaf in self._leaves:
            value = np.array(at(obs, leaf.path))
            where = ignored[first : first + leaf.spec.width].reshape(value.shape)
            first += leaf.spec.width
            expected = belief.expected[leaf.name].cpu().numpy().reshape(value.shape)
            bounded = np.clip(expected, leaf.space.low, leaf.space.high)  # type: ignore[attr-defined]
            obs = _with(obs, leaf.path, np.where(where, bounded, value).astype(value.dtype))
        return obs


class Filter:
    """The world model's state along one episode of a real environment. Raises: ConfigError as `LatentObservation`."""

    def __init__(self, env: gymnasium.Env, source: Any, *, sample: bool = False) -> None:  # noqa: ANN401
        self.model = world_model_of(source)
        self._obs_space, self._codec, self._sample = env.observation_space, ActionCodec(env.action_space), sample
        for name, own, other in (
            ("observations", self.model.obs_specs, obs_specs(env.observation_space)),
            ("actions", self.model.action_spec, self._codec.spec),
        ):
            if own != other:
                raise ConfigError(
                    f"the environment's {name} are {in_words(other)}, the world model was trained with {in_words(own)}"
                )
        self._stream = TorchStream(0, self.model.device)
        self.begin(0)

    def begin(self, seed: int | None) -> None:
        """Forget the episode before. seed: of the samples, None to go on."""
        self.state: State | None = None
        self.action: torch.Tensor | None = None
        if seed is not None:
            self._stream.seed(seed)

    def act(self, action: Element) -> Element:
        """Remember an action of the dream's space; return the environment's own."""
        encoded = encode_actions(self.model.action_spec, np.asarray(action)[None])  # (1, A)
        self.action = torch.from_numpy(encoded).to(self.model.device)
        return self._codec.decode(encoded[0])

    def note(self, action: Element) -> None:
        """Remember an action of the environment's own space."""
        self.action = torch.from_numpy(self._codec.encode(action)[None]).to(self.model.device)

    @torch.no_grad()
    def see(self, obs: Element) -> State:
        """Take in the observation that the last action led to. Returns the state, (1, ...)."""
        tensors = self._tensors(obs)
        first = torch.full((1,), self.state is None, device=self.model.device)
        with self._stream:
            self.state = self.model.filter(self.state, self.action, tensors, first, sample=self._sample)
        return self.state

    def look(self, obs: Element) -> Sight:
        """Compare an observation with what was expected after the last action, and take nothing in."""
        if self.state is None or self.action is None:
            raise EnvironmentFault("step() was called before reset()")
        return look(self.model, self.state, self.action, self._tensors(obs))

    def ask(self, bank: SensorBank, obs: Element) -> Belief:
        """What a bank of filters makes of the observation that the last action led to."""
        assert self.action is not None
        with self._stream:
            return bank.step(self.action, self._tensors(obs))

    def _tensors(self, obs: Element) -> dict[str, torch.Tensor]:
        encoded = encode_obs(self._obs_space, obs)
        return {name: torch.from_numpy(value[None]).to(self.model.device) for name, value in encoded.items()}


def _with(obs: Element, path: tuple[Any, ...], value: np.ndarray) -> Element:
    """The observation with `value` at the keys of `path`; the original stays."""
    return value if not path else {**obs, path[0]: _with(obs[path[0]], path[1:], value)}
