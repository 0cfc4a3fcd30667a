"""Fixed data to learn from: the episodes of another run, read only and verified, into a replay."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from agents.experiment import check_source
from worldmodels.checkpoint import Checkpoint, list_checkpoints, load
from worldmodels.errors import CheckpointError, ConfigError
from worldmodels.replay import Replay
from worldmodels.saved import replay_of
from worldmodels.specs import ActionSpec, ObsSpec
from worldmodels.states import State

Episode = Mapping[str, Any]
"""n steps as `Replay.iter_episodes` yields them."""


class Described(Protocol):
    """Whatever knows what its observations and actions look like, as plain data."""

    obs_specs: Mapping[str, ObsSpec]
    action_spec: ActionSpec

    def specs_state(self) -> State:
        """Sizes and kinds of observations and actions."""
        ...


def fill(replay: Replay, source: str, agent: Described) -> None:
    """Put every episode of `source` into the empty `replay`, each into the stream that holds fewest rows.

    Args: source: a run folder or data folder. agent: what its observations and actions have to look like.
    Raises: ConfigError: other observations or actions, no episodes, or more than the replay can hold.
        CheckpointError: no sound checkpoint there; nothing in the folder is changed.
    """
    rows = [0] * replay.streams
    for episode in episodes(source, agent):
        stream = rows.index(min(rows))
        rows[stream] += len(episode["reward"]) + 1
        if rows[stream] <= replay.ring:
            replay.extend(stream, episode)
    if not any(rows):
        raise ConfigError(f"data: {source} holds no episode; it was stopped before its first barrier, or never trained")
    if max(rows) > replay.ring:
        needed = max(rows) * replay.streams
        raise ConfigError(
            f"data: {source} has {sum(rows):,} rows, too many for the replay: set replay.capacity={needed}"
        )


def episodes(source: str, agent: Described) -> Iterator[Episode]:
    """Yield the episodes of the newest sound checkpoint of a run. Raises: see `fill`."""
    folder = check_source(source)
    checkpoint = _newest(source)
    found = checkpoint.parts.get("specs", {"json": None})["json"]
    expected = agent.specs_state()["json"]
    if found != expected:
        raise ConfigError(
            f"data: {source} has the observations and actions {found}, the environment has {expected}: "
            "choose the environment that the data came from"
        )
    yield from replay_of(folder, checkpoint).iter_episodes()


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
