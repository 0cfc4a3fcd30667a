"""Whole episodes across the border of an environment's spaces: as others record them, and as the replay stores them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.spaces import ActionCodec, Leaf, at, encode_obs, obs_leaves
from worldmodels.errors import EnvironmentFault, ReplayError


@dataclass(frozen=True)
class RecordedEpisode:
    """n steps in the environment's own units.

    observations: (n+1, ...), nested as the space is. actions: (n, ...). rewards, terminations, truncations: (n,).
    """

    observations: Any
    actions: Any
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def encode_episode(
    obs_space: spaces.Space[Any], codec: ActionCodec, episode: RecordedEpisode, name: str
) -> dict[str, Any]:
    """The episode as `Replay.extend` takes it. name: of the episode, for messages.

    Raises: ReplayError: arrays of other lengths or kinds than the spaces say, or actions outside their space.
    """
    steps = len(episode.rewards)
    for leaf in obs_leaves(obs_space):
        _check_column(leaf, episode.observations, steps + 1, name)
    for what, length in (
        ("actions", len(episode.actions)),
        ("terminations", len(episode.terminations)),
        ("truncations", len(episode.truncations)),
    ):
        if length != steps:
            raise ReplayError(f"{name} has {steps} rewards and {length} {what}: each step needs one of each")
    if steps == 0:
        raise ReplayError(f"{name} has no step: leave it out")
    _check_flat(episode, name, whole=codec.spec.kind != "continuous")
    rows = [encode_obs(obs_space, _row(obs_space, episode.observations, t)) for t in range(steps + 1)]
    try:
        actions = np.stack([codec.encode(action) for action in episode.actions])
    except EnvironmentFault as error:
        raise ReplayError(f"{name}: {error}") from error
    return {
        "obs": {key: np.stack([row[key] for row in rows]) for key in rows[0]},
        "action": actions,
        "reward": np.asarray(episode.rewards, np.float32),
        "terminated": np.asarray(episode.terminations, bool),
        "truncated": np.asarray(episode.truncations, bool),
    }


def decode_episode(obs_space: spaces.Space[Any], codec: ActionCodec, episode: Mapping[str, Any]) -> RecordedEpisode:
    """The inverse of `encode_episode`; numbers that were rounded to float32 stay rounded."""
    columns = {leaf.path: _decode(leaf, episode["obs"][leaf.name]) for leaf in obs_leaves(obs_space)}
    return RecordedEpisode(
        _nested(obs_space, columns, ()),
        np.stack([codec.decode(action) for action in episode["action"]]),
        np.asarray(episode["reward"]),
        np.asarray(episode["terminated"]),
        np.asarray(episode["truncated"]),
    )


def _check_column(leaf: Leaf, observations: Any, length: int, name: str) -> None:  # noqa: ANN401
    try:
        column = np.asarray(at(observations, leaf.path))
    except (KeyError, IndexError, TypeError) as error:
        raise ReplayError(f"{name} has no observation {leaf.name!r}, which the environment has") from error
    expected = (length, *(leaf.space.shape or ()))
    if column.shape != expected:
        raise ReplayError(
            f"{name}: observation {leaf.name!r} has shape {column.shape}, expected {expected}: "
            "one more than it has steps, because the last step leads somewhere too"
        )
    if column.dtype.kind not in "biuf":
        raise ReplayError(f"{name}: observation {leaf.name!r} has dtype {column.dtype}, expected numbers")


def _check_flat(episode: RecordedEpisode, name: str, *, whole: bool) -> None:
    """Raise ReplayError where actions, rewards or flags are not numbers that can be stored as what they are.

    whole: whether actions choose among alternatives, so that 0.5 is none of them.
    """
    flag = ("0 or 1", lambda values: np.isin(values, (0, 1)))
    finite = ("finite numbers", np.isfinite)
    rules = {
        "actions": ("whole numbers", lambda values: values == np.rint(values)) if whole else finite,
        "rewards": finite,
        "terminations": flag,
        "truncations": flag,
    }
    for what, (expected, holds) in rules.items():
        values = np.asarray(getattr(episode, what))
        if values.dtype.kind not in "biuf":
            raise ReplayError(f"{name}: {what} have dtype {values.dtype}, expected numbers")
        if what != "actions" and values.ndim != 1:
            raise ReplayError(f"{name}: {what} have shape {values.shape}, expected one number for each step")
        good = holds(values)
        if not good.all():
            raise ReplayError(f"{name}: {what} hold {values[~good].flat[0]}, expected {expected}")
    ends = np.flatnonzero(np.asarray(episode.terminations) + np.asarray(episode.truncations))
    if ends.size and ends[0] < len(episode.rewards) - 1:
        raise ReplayError(
            f"{name} goes on after step {ends[0]}, which is marked terminated or truncated: split it there"
        )


def _row(space: spaces.Space[Any], observations: Any, index: int) -> Any:  # noqa: ANN401
    if isinstance(space, spaces.Dict):
        return {key: _row(inner, observations[key], index) for key, inner in space.spaces.items()}
    return observations[index]


def _nested(space: spaces.Space[Any], columns: Mapping[tuple[Any, ...], np.ndarray], path: tuple[Any, ...]) -> Any:  # noqa: ANN401
    if isinstance(space, spaces.Dict):
        return {key: _nested(inner, columns, (*path, key)) for key, inner in space.spaces.items()}
    return columns[path]


def _decode(leaf: Leaf, stored: np.ndarray) -> np.ndarray:
    """Stored arrays (n, ...) -> arrays of the space's shape and dtype."""
    space, shape = leaf.space, (len(stored), *(leaf.space.shape or ()))
    if leaf.spec.kind == "image":
        if space.dtype == np.bool_:
            stored = stored // 255
        if stored.shape[1:] != space.shape and len(space.shape or ()) == 3:  # channels first in the environment
            stored = np.moveaxis(stored, -1, 1)
    elif leaf.spec.kind in ("discrete", "multi_discrete"):
        stored = stored.reshape(shape) + np.asarray(space.start)  # type: ignore[attr-defined]
    return stored.reshape(shape).astype(space.dtype)
