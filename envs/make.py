"""EnvOptions -> one guarded environment."""

import difflib
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs import pixels, sources
from envs.guard import Guard
from envs.options import EnvOptions
from envs.wrappers import WRAPPERS, ActionRepeat, FrameStack
from worldmodels.errors import EnvironmentFault

DM_CONTROL_CAMERA = 0
"""The camera that dm_control's own pixel benchmarks use."""


def make_env(options: EnvOptions, *, render: bool = False) -> Guard:
    """Build one environment: registered id, time limit, wrappers, action repeat, pixels, frame stack, guard.

    render: also open it for `render()`, which returns uint8 (height, width, 3). Observing pixels opens it anyhow.

    Raises: EnvironmentFault where the id is unknown, a library is missing, an option does not fit, a space is not
        supported, or the environment's constructor fails.
    """
    spec = sources.find_spec(options.id)
    env = _construct(options, spec, render=render)
    try:
        env = sources.mend(env, spec)
        for name in options.wrappers:
            env = _wrapper(name)(env)
        if options.action_repeat > 1:
            env = ActionRepeat(env, options.action_repeat)
        if options.obs == "pixels":
            env = pixels.Pixels(env, options.image_size, grayscale=options.grayscale)
        if options.frame_stack > 1:
            env = FrameStack(env, options.frame_stack)
        return Guard(env, options.id, non_finite=options.non_finite, strict=options.strict)
    except EnvironmentFault as error:
        env.close()
        if str(error).startswith(options.id):
            raise
        raise EnvironmentFault(f"{options.id}: {error}") from error


def _construct(options: EnvOptions, spec: EnvSpec, *, render: bool) -> gymnasium.Env:
    kwargs: dict[str, Any] = dict(options.kwargs)
    drawable = (render or options.obs == "pixels") and _is_drawable(options, spec)
    if render and not drawable:
        raise EnvironmentFault(f"{options.id}: cannot be drawn: 'rgb_array' is not among its metadata's render_modes.")
    if drawable:
        pixels.prepare_headless()
        sources.prepare_rendering(spec)
        kwargs.setdefault("render_mode", "rgb_array")
        if spec.namespace == "dm_control":
            side = options.image_size if options.obs == "pixels" else 240
            camera = {"height": side, "width": side, "camera_id": DM_CONTROL_CAMERA}
            kwargs["render_kwargs"] = camera | kwargs.get("render_kwargs", {})
    try:
        # Guard checks more than gymnasium's own checker, for less.
        env = gymnasium.make(
            options.id, max_episode_steps=options.max_episode_steps, disable_env_checker=True, **kwargs
        )
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise sources.missing_extra(options.id, error) from error
    except Exception as error:
        raise EnvironmentFault(
            f"{options.id}: could not be made with kwargs {kwargs}: {type(error).__name__}: {error}"
        ) from error
    return env


def _is_drawable(options: EnvOptions, spec: EnvSpec) -> bool:
    try:
        modes = sources.render_modes(spec)
    except ImportError as error:
        raise sources.missing_extra(options.id, error) from error
    return modes is None or "rgb_array" in modes


def _wrapper(name: str) -> Callable[[gymnasium.Env], gymnasium.Env]:
    if name not in WRAPPERS:
        near = difflib.get_close_matches(name, WRAPPERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(sorted(WRAPPERS))}."
        raise EnvironmentFault(f"unknown wrapper {name!r}{hint}")
    return WRAPPERS[name]
