"""Fixed data to learn from, into a replay: another run, a data folder, or a Minari data set; read only and verified.

A data folder is a run folder that holds nothing but episodes: `write_data` makes one.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agents.experiment import MINARI, check_source
from envs.episodes import RecordedEpisode, encode_episode
from envs.spaces import ActionCodec
from worldmodels.checkpoint import Checkpoint, create_run, list_checkpoints, load, save
from worldmodels.errors import CheckpointError, ConfigError, ReplayError
from worldmodels.replay import Replay
from worldmodels.run_folder import SEGMENTS
from worldmodels.saved import replay_of, specs_from_json
from worldmodels.specs import ActionSpec, ObsSpec, in_words
from worldmodels.states import State

Episode = Mapping[str, Any]
"""n steps as `Replay.iter_episodes` yields them."""


class Described(Protocol):
    """Whatever knows the observations and actions of its environment, such as an agent."""

    @property
    def obs_specs(self) -> Mapping[str, ObsSpec]:
        """Name -> what the observation array looks like."""
        ...

    @property
    def action_spec(self) -> ActionSpec:
        """What the encoded action looks like."""
        ...

    def specs_state(self) -> State:
        """Sizes and kinds of observations and actions, as plain data."""
        ...

    def spaces(self) -> tuple[Any, Any]:
        """Observation and action space."""
        ...


def fill(replay: Replay, source: str, agent: Described, which: slice = slice(None)) -> list[str]:
    """Put every episode of `source` into the empty `replay`, each into the stream that holds fewest rows.

    Args: source: a run folder, a data folder or `minari:ID`. agent: what its observations and actions must look like.
        which: of the episodes, all if not given.
    Returns: what a user should know about the data, a line each.
    Raises: ConfigError: other observations or actions, no episodes, nothing that can be learned from, or more than the
        replay can hold. CheckpointError: no sound checkpoint there; nothing in the folder is changed.
    """
    rows, count = [0] * replay.streams, 0
    mine = range(which.start or 0, sys.maxsize if which.stop is None else which.stop, which.step or 1)
    found = minari_episodes(source, agent) if source.startswith(MINARI) else episodes(source, agent)
    for count, episode in enumerate(found, 1):
        if count - 1 not in mine:
            continue
        stream = rows.index(min(rows))
        rows[stream] += len(episode["reward"]) + 1
        if rows[stream] <= replay.ring:
            replay.extend(stream, episode)
    if count and not any(rows):
        raise ConfigError(
            f"data: {source} holds {count} of the episodes that {which.step or 1} processes share, at least one for "
            "each is needed: start fewer processes, or bring more episodes"
        )
    if not count:
        raise ConfigError(f"data: {source} holds no episode; it was stopped before its first barrier, or never trained")
    if max(rows) > replay.ring:
        needed = max(rows) * replay.streams * (which.step or 1)  # of all processes that share the episodes
        raise ConfigError(
            f"data: {source} has {sum(rows):,} rows, too many for the replay: set replay.capacity={needed}"
        )
    return remarks(source, list(replay.iter_episodes()))


def remarks(source: str, stored: list[dict[str, Any]]) -> list[str]:
    """What a user should know about the episodes, a line each.

    Raises: ConfigError: every episode has one step: nothing follows anything.
    """
    if max(len(episode["reward"]) for episode in stored) < 2:
        raise ConfigError(
            f"data: every one of the {len(stored)} episodes of {source} has one step, and a world model learns what "
            "follows what: record whole episodes, not single transitions"
        )
    notes = []
    rewards = np.concatenate([episode["reward"] for episode in stored])
    terminated = sum(bool(episode["terminated"][-1]) for episode in stored)
    if not terminated:
        notes.append(
            f"data: none of {len(stored)} episodes terminates; the model will hold that none ever does. Right for "
            "tasks such as Pendulum; where failing ends an episode, record `terminated`"
        )
    if rewards.min() == rewards.max():
        why = "episodes differ by their length alone" if terminated else "no policy is better than another"
        notes.append(f"data: every reward is {rewards[0]:g}; {why}")
    return notes


def episodes(source: str, agent: Described) -> Iterator[Episode]:
    """Yield the episodes of the newest sound checkpoint of a run. Raises: see `fill`."""
    folder = check_source(source)
    checkpoint = _newest(source)
    found, expected = (_sizes(part) for part in (checkpoint.parts.get("specs"), agent.specs_state()))
    if found != expected:
        theirs = "none that are known" if None in found.values() else _words(found)
        raise ConfigError(
            f"data: {source} has the observations and actions {theirs}, the environment has {_words(expected)}: "
            "choose the environment that the data came from"
        )
    yield from replay_of(folder, checkpoint).iter_episodes()


def minari_episodes(source: str, agent: Described) -> Iterator[Episode]:
    """Yield the episodes of a local Minari data set. Raises: ConfigError: see `fill`."""
    import minari

    check_source(source)
    dataset = minari.load_dataset(source.removeprefix(MINARI))
    own = agent.spaces()
    for what, theirs, mine in zip(
        ("observations", "actions"), (dataset.observation_space, dataset.action_space), own, strict=True
    ):
        if theirs != mine:
            raise ConfigError(
                f"data: {source} has {what} {theirs}, the environment has {mine}: "
                "choose the environment and the wrappers that the data came from"
            )
    recorded = (
        RecordedEpisode(e.observations, e.actions, e.rewards, e.terminations, e.truncations)
        for e in dataset.iterate_episodes()
    )
    yield from encoded(recorded, *own, source)


def encoded(
    recorded: Iterable[RecordedEpisode],
    obs_space: Any,  # noqa: ANN401
    action_space: Any,  # noqa: ANN401
    source: str,
) -> Iterator[Episode]:
    """Yield recorded episodes as the replay stores them.

    Raises: ConfigError: one does not fit the spaces, or has other dtypes than the first; it is named.
    """
    codec, first = ActionCodec(action_space), None
    for number, episode in enumerate(recorded):
        kinds = _dtypes(episode)
        first = kinds if first is None else first
        if kinds != first:
            raise ConfigError(
                f"data: episode {number} of {source} has arrays of {kinds}, the first one of {first}: "
                "write all episodes with the same dtypes"
            )
        try:
            yield encode_episode(obs_space, codec, episode, f"episode {number}")
        except ReplayError as error:
            raise ConfigError(f"data: {source}: {error}") from error


def write_data(folder: str | Path, found: Iterable[Episode], agent: Described) -> Path:
    """Write episodes as a data folder, which `data=FOLDER` learns from.

    Raises: CheckpointError: the folder holds a run already. ConfigError, ReplayError: an episode cannot be stored.
    """
    kept = list(found)
    if not kept:
        raise ConfigError(f"{folder}: there is no episode to write")
    rows = sum(len(episode["reward"]) + 1 for episode in kept)
    replay = Replay(agent.obs_specs, agent.action_spec.size, capacity=rows)
    for episode in kept:
        replay.extend(0, episode)
    path = create_run(folder)
    segments = replay.write_segments(path / SEGMENTS)
    save(path, len(replay), {"specs": agent.specs_state(), "replay": replay.state()}, segments=segments)
    return path


def _newest(source: str) -> Checkpoint:
    """The newest sound checkpoint with a replay; unlike a run that goes on, nothing damaged is put aside."""
    folder, problems = check_source(source), []
    for entry in reversed(list_checkpoints(folder)):
        try:
            checkpoint = load(folder, entry.step)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if "replay" in checkpoint.parts:
            return checkpoint
        problems.append(f"{entry.path} was saved to act, without what it learned from")
    raise CheckpointError("\n".join([f"data: {source} cannot be learned from", *problems]))


def _sizes(specs: State | None) -> dict[str, Any]:
    """Observations and actions as they are stored; a run also says which spaces they came from, a data folder not."""
    plain = {} if specs is None else specs["json"]
    return {name: plain.get(name) for name in ("obs", "action")}


def _words(sizes: Mapping[str, Any]) -> str:
    return " and ".join(in_words(part) for part in specs_from_json(sizes))


def _dtypes(episode: RecordedEpisode) -> str:
    """Names of the dtypes of observations and actions, in order."""

    def walk(value: Any) -> list[str]:  # noqa: ANN401
        if isinstance(value, Mapping):
            return [kind for key in sorted(value) for kind in walk(value[key])]
        return [str(np.asarray(value).dtype)]

    return ", ".join([*walk(episode.observations), *walk(episode.actions)])
