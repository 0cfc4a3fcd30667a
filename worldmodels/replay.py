"""The replay: one ring of rows a stream, sampled as packed windows.

A row holds one observation and the transition that leaves it, so an episode of n transitions takes n + 1 rows, the last
of them without a transition. Rows of a stream follow each other without gaps; a window is any run of them and may go
over an episode's end into the next episode. A row's number counts from the first ever written and never changes; its
place in the ring is the number modulo the ring's length.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodels.errors import CheckpointError, ReplayError
from worldmodels.memory import check_memory
from worldmodels.segments import SegmentStore
from worldmodels.specs import ObsSpec
from worldmodels.states import State
from worldmodels.types import Batch

_EXISTS, _TERMINATED, _TRUNCATED, _FIRST = 1, 2, 4, 8  # the bits of a row's flags
_LARGEST = float(np.finfo(np.float32).max)
_NAMES = 2**40  # rows of one replay of a run are named below it, counted from its first stream


class Replay:
    """Rows of `streams` environments, the newest `capacity` in all; each stream keeps its own newest share.

    Args:
        obs_specs: name -> what the observation array looks like.
        action_size: width A of the encoded action.
        capacity: rows in all, one for each observation.
        streams: number of environments that write.
        prefix, first_stream: how its segments and rows are named beside those of other replays of the same run.
        sharers: replays of this size that this machine's memory has to hold.

    Raises:
        ReplayError: the capacity does not fit into memory or is too small to hold one transition a stream.
    """

    def __init__(
        self,
        obs_specs: Mapping[str, ObsSpec],
        action_size: int,
        *,
        capacity: int,
        streams: int = 1,
        prefix: str = "",
        first_stream: int = 0,
        sharers: int = 1,
    ) -> None:
        self.obs_specs, self.action_size, self.streams = dict(obs_specs), action_size, streams
        self._first_name = first_stream * _NAMES
        self.ring = capacity // streams  # rows of one stream
        if self.ring < 2:
            raise ReplayError(f"replay of {capacity} rows for {streams} streams: expected at least {2 * streams} rows")
        check_memory(obs_specs, action_size, self.ring * streams, sharers=sharers)
        # np.empty: the memory is taken from the machine page by page as rows are written
        self._columns = {
            **{f"obs/{name}": np.empty((streams, self.ring, *s.shape), s.dtype) for name, s in self.obs_specs.items()},
            "action": np.empty((streams, self.ring, action_size), np.float32),
            "reward": np.empty((streams, self.ring), np.float32),
            "flags": np.empty((streams, self.ring), np.uint8),
        }
        self._flat = {name: column.reshape(-1, *column.shape[2:]) for name, column in self._columns.items()}
        self._obs = [(name, spec, self._columns[f"obs/{name}"]) for name, spec in self.obs_specs.items()]
        self._action, self._reward, self._flags = (self._columns[name] for name in ("action", "reward", "flags"))
        self._segments = SegmentStore(self._columns, self.ring, prefix=prefix, first_stream=first_stream)
        self._promised: dict[str, Any] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._written = [0] * self.streams  # number of the row that comes next
        self._oldest = [0] * self.streams  # number of the first row that is still there
        self._open = [-1] * self.streams  # number of the first row of the open episode, -1 without one
        self._transitions = 0
        self._episodes = 0
        self._segments.clear()

    def __len__(self) -> int:
        """Return the number of transitions."""
        return self._transitions

    @property
    def rows(self) -> int:
        """Number of observations stored."""
        return sum(self._written) - sum(self._oldest)

    @property
    def longest(self) -> int:
        """Observations of the longest stream: a window of `longest - 1` transitions can be sampled."""
        return max(new - old for new, old in zip(self._written, self._oldest, strict=True))

    @property
    def episodes(self) -> int:
        """Number of finished episodes whose end is stored."""
        return self._episodes

    def memory_bytes(self) -> int:
        """Return the bytes that the full replay takes."""
        return sum(column.nbytes for column in self._columns.values())

    def begin(self, stream: int, obs: Mapping[str, np.ndarray]) -> None:
        """Begin an episode with the observation of a reset."""
        if self._open[stream] >= 0:
            raise ReplayError(f"stream {stream}: begin() while an episode is open; add its end, or cut or abandon it")
        values = self._checked(obs)
        self._open[stream] = self._written[stream]
        self._append(stream, values, _FIRST)

    def add(
        self,
        stream: int,
        action: np.ndarray,
        reward: float,
        terminated: bool,  # noqa: FBT001 - gymnasium's own order
        truncated: bool,  # noqa: FBT001
        next_obs: Mapping[str, np.ndarray],
    ) -> None:
        """Store one step of the open episode; `action` (A,) was taken in the last observation.

        Raises:
            ReplayError: no episode is open, a value has another shape or type than declared, or is not finite.
                Nothing is stored then.
        """
        if self._open[stream] < 0:
            raise ReplayError(f"stream {stream}: add() without begin()")
        if not -_LARGEST <= reward <= _LARGEST:
            raise ReplayError(f"reward is {reward}, expected a finite float32")
        if action.shape != (self.action_size,) or not (np.abs(action) <= _LARGEST).all():
            raise ReplayError(f"action is {action!r}, expected {self.action_size} finite numbers")
        values = self._checked(next_obs)
        place = (self._written[stream] - 1) % self.ring
        self._action[stream, place] = action
        self._reward[stream, place] = reward
        self._flags[stream, place] |= _EXISTS | (_TERMINATED if terminated else 0) | (_TRUNCATED if truncated else 0)
        self._transitions += 1
        self._append(stream, values, 0)
        if terminated or truncated:
            self._close(stream)

    def extend(self, stream: int, episode: Mapping[str, Any]) -> None:
        """Store a whole episode of n steps at once, as `iter_episodes` yields it.

        Args:
            stream: where it goes; no episode may be open there.
            episode: obs (name -> (n+1, ...)), action (n, A), reward, terminated, truncated (n,); is_first (n+1,) only
                where the episode lacks its beginning. One that neither terminates nor is truncated is cut at its end.

        Raises:
            ReplayError: as `add`; or the episode is longer than the ring. Nothing is stored then.
        """
        if self._open[stream] >= 0:
            raise ReplayError(f"stream {stream}: extend() while an episode is open; add its end, or cut or abandon it")
        steps = len(episode["reward"])
        if not 1 <= steps < self.ring:
            raise ReplayError(f"an episode of {steps} steps: expected 1 to {self.ring - 1}, the stream's rows less one")
        values = self._checked(episode["obs"], (steps + 1,))
        action, reward = np.asarray(episode["action"]), np.asarray(episode["reward"])
        for name, value, shape in (("actions", action, (steps, self.action_size)), ("rewards", reward, (steps,))):
            if value.shape != shape or not (np.abs(value) <= _LARGEST).all():
                raise ReplayError(f"{name} of an episode: expected finite numbers of shape {shape}, got {value.shape}")
        flags = np.where(np.arange(steps + 1) < steps, _EXISTS, 0).astype(np.uint8)
        first = episode.get("is_first")
        flags[0] |= _FIRST if first is None or first[0] else 0
        ended = bool(episode["terminated"][-1])
        flags[-2] |= _TERMINATED if ended else _TRUNCATED
        if np.any(episode["terminated"][:-1]) or np.any(episode["truncated"][:-1]):
            raise ReplayError("an episode goes on after a step that is marked terminated or truncated: split it there")
        self._push_out(stream, steps + 1)
        place = np.arange(self._written[stream], self._written[stream] + steps + 1) % self.ring
        for (_, _, column), value in zip(self._obs, values, strict=True):
            column[stream, place] = value
        self._action[stream, place[:-1]], self._action[stream, place[-1]] = action, 0
        self._reward[stream, place[:-1]], self._reward[stream, place[-1]] = reward, 0
        self._flags[stream, place] = flags
        self._written[stream] += steps + 1
        self._transitions += steps
        self._episodes += 1

    def cut(self, stream: int) -> None:
        """End the open episode at its last stored step, as truncated; without a step it is dropped."""
        if self._open[stream] < 0:
            raise ReplayError(f"stream {stream}: cut() without an open episode")
        last = self._written[stream] - 2
        if last < max(self._open[stream], self._oldest[stream]):
            self.abandon(stream)
            return
        self._flags[stream, last % self.ring] |= _TRUNCATED
        self._close(stream)

    def abandon(self, stream: int) -> None:
        """Drop the open episode, as after a fault of the environment; what it pushed out stays gone."""
        start = self._open[stream]
        if start < 0:
            return
        kept = max(start, self._oldest[stream])
        self._transitions -= self._written[stream] - 1 - kept
        self._written[stream], self._oldest[stream] = start, min(start, self._oldest[stream])
        self._open[stream] = -1

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> Batch:
        """Return `batch` windows of `length` transitions, uniform over every (stream, first row).

        Raises:
            ReplayError: no stream holds `length` + 1 rows.
        """
        starts = [max(0, new - old - length) for new, old in zip(self._written, self._oldest, strict=True)]
        total = sum(starts)
        if total == 0:
            raise ReplayError(
                f"replay holds {self.episodes} episodes ({len(self)} steps); sampling needs {length + 1} observations "
                f"in a row, the longest stream has {self.longest} (and can hold {self.ring})"
            )
        pick = rng.integers(total, size=batch)
        ends = np.cumsum(starts)
        stream = np.searchsorted(ends, pick, side="right")  # (B,)
        first = np.asarray(self._oldest)[stream] + pick - (ends - starts)[stream]  # (B,) row numbers
        rows = (first[:, None] + np.arange(length + 1)) % self.ring + stream[:, None] * self.ring  # (B, T+1)
        steps = rows[:, :-1]  # (B, T)
        flags = self._flat["flags"].take(rows)  # (B, T+1)
        left = flags[:, :-1]
        return Batch(
            obs={name: torch.from_numpy(self._flat[f"obs/{name}"].take(rows, 0)) for name in self.obs_specs},
            action=torch.from_numpy(self._flat["action"].take(steps, 0)),
            reward=torch.from_numpy(self._flat["reward"].take(steps)),
            terminated=torch.from_numpy((left & _TERMINATED) != 0),
            truncated=torch.from_numpy((left & _TRUNCATED) != 0),
            mask=torch.from_numpy((left & _EXISTS) != 0),
            is_first=torch.from_numpy((flags & _FIRST) != 0),
            obs_mask=torch.ones(batch, length + 1, dtype=torch.bool),
            rows=torch.from_numpy(
                (first[:, None] + np.arange(length + 1)) * self.streams + stream[:, None] + self._first_name
            ),
        )

    def iter_episodes(self) -> Iterator[dict[str, Any]]:
        """Yield every stored episode, stream by stream, oldest first, as copies.

        Keys: obs (name -> (n+1, ...)), action (n, A), reward, terminated, truncated (n,), is_first (n+1,), stream. The
        first episode of a stream may lack its beginning (pushed out), the last its end (still open).
        """
        for stream in range(self.streams):
            numbers = np.arange(self._oldest[stream], self._written[stream])
            flags = self._flags[stream, numbers % self.ring]
            ends = np.flatnonzero((flags & _EXISTS) == 0)
            for rows in np.split(numbers, ends + 1):
                if len(rows) < 2:
                    continue
                place = rows % self.ring
                bits = self._flags[stream, place]
                yield {
                    "obs": {name: column[stream, place] for name, _, column in self._obs},
                    "action": self._action[stream, place[:-1]],
                    "reward": self._reward[stream, place[:-1]],
                    "terminated": (bits[:-1] & _TERMINATED) != 0,
                    "truncated": (bits[:-1] & _TRUNCATED) != 0,
                    "is_first": (bits & _FIRST) != 0,
                    "stream": stream,
                }

    def write_segments(self, directory: str | Path) -> list[str]:
        """Write the episodes finished since the last call as one segment; return all ids that are needed, in order.

        Raises:
            CheckpointError: the folder cannot be written; the same call can be made again.
        """
        return self._segments.write(Path(directory), self._oldest, self._finished())

    def load_segments(self, directory: str | Path, ids: list[str]) -> None:
        """Replace the content by that of the segments, in order. With `restore` the replay is then the one saved.

        Raises:
            CheckpointError: a segment is missing, damaged or of another environment; the replay is then empty.
        """
        self.clear()
        try:
            self._written, self._oldest = self._segments.load(Path(directory), ids, self.streams)
            self._count()
            if self._promised is not None:
                self._apply(self._promised)
        except CheckpointError:
            self.clear()
            raise
        self._promised = None

    def state(self) -> State:
        """Return the counters. The rows travel as segments; an episode that is open does not travel."""
        finished = self._finished()
        oldest = [min(old, new) for old, new in zip(self._oldest, finished, strict=True)]
        return {"tensors": {}, "json": {"written": finished, "oldest": oldest}}

    def restore(self, state: State) -> None:
        """Take the counters of `state`, at once or, on an empty replay, when its segments are loaded."""
        numbers = state["json"]
        for name in ("written", "oldest"):
            row = numbers.get(name) if isinstance(numbers, dict) else None
            if not isinstance(row, list) or len(row) != self.streams or not all(type(n) is int for n in row):
                raise CheckpointError(f"replay state has no {name!r} for {self.streams} streams")
        if not all(0 <= old <= new for old, new in zip(numbers["oldest"], numbers["written"], strict=True)):
            raise CheckpointError("replay state is damaged: an oldest row that comes after the newest, or before any")
        if self.rows == 0 and any(numbers["written"]):
            self._promised = numbers
        else:
            self._apply(numbers)

    def _apply(self, numbers: dict[str, list[int]]) -> None:
        oldest = []
        for stream, (new, old) in enumerate(zip(numbers["written"], numbers["oldest"], strict=True)):
            if new != self._written[stream] and old < new:
                raise CheckpointError(f"replay stream {stream} ends at row {self._written[stream]}, state says {new}")
            oldest.append(min(new, max(old, self._oldest[stream])))
        self._written, self._oldest, self._open = list(numbers["written"]), oldest, [-1] * self.streams
        self._count()

    def _finished(self) -> list[int]:
        """Return, for each stream, the number of the row after its last finished episode."""
        return [start if start >= 0 else new for start, new in zip(self._open, self._written, strict=True)]

    def _count(self) -> None:
        self._transitions = self._episodes = 0
        for stream, (new, old) in enumerate(zip(self._written, self._oldest, strict=True)):
            exists = self._flags[stream, np.arange(old, new) % self.ring] & _EXISTS
            self._transitions += int(exists.sum())
            self._episodes += int((exists == 0).sum())

    def _append(self, stream: int, values: list[np.ndarray], flags: int) -> None:
        number = self._written[stream]
        place = number % self.ring
        if number - self._oldest[stream] == self.ring:
            self._push_out(stream, 1)
        for (_, _, column), value in zip(self._obs, values, strict=True):
            column[stream, place] = value
        self._action[stream, place] = 0
        self._reward[stream, place] = 0
        self._flags[stream, place] = flags
        self._written[stream] = number + 1

    def _push_out(self, stream: int, rows: int) -> None:
        """Forget the oldest rows of a stream until `rows` more find room."""
        over = max(0, self._written[stream] + rows - self._oldest[stream] - self.ring)
        place = np.arange(self._oldest[stream], self._oldest[stream] + over) % self.ring
        transitions = int(np.count_nonzero(self._flags[stream, place] & _EXISTS))
        self._transitions -= transitions
        self._episodes -= over - transitions
        self._oldest[stream] += over

    def _close(self, stream: int) -> None:
        self._open[stream] = -1
        self._episodes += 1

    def _checked(self, obs: Mapping[str, np.ndarray], rows: tuple[int, ...] = ()) -> list[np.ndarray]:
        """Return one observation's arrays, or those of `rows` of them, in storage order.

        Raises: ReplayError: one cannot be stored.
        """
        if len(obs) != len(self._obs):
            raise ReplayError(f"observation has {sorted(obs)}, expected {sorted(self.obs_specs)}")
        values = []
        for name, spec, column in self._obs:
            if name not in obs:
                raise ReplayError(f"observation has {sorted(obs)}, expected {sorted(self.obs_specs)}")
            value = np.asarray(obs[name])
            if value.shape != (*rows, *spec.shape):
                raise ReplayError(f"observation {name!r} has shape {value.shape}, expected {(*rows, *spec.shape)}")
            if value.dtype != column.dtype:
                value = _cast(name, spec, value)
            if spec.kind == "vector" and not np.isfinite(value).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
                raise ReplayError(f"observation {name!r} is not finite: {value[at]} at {at}")
            if spec.classes and not ((value >= 0) & (value < spec.classes)).all():
                raise ReplayError(f"observation {name!r} is {value}, expected 0 to below {spec.classes}")
            values.append(value)
        return values


def _cast(name: str, spec: ObsSpec, value: np.ndarray) -> np.ndarray:
    """Return `value` in the declared type where that keeps its meaning; images are uint8 or refused."""
    target = np.dtype(spec.dtype)
    if spec.kind == "image" or not np.can_cast(value.dtype, target, "same_kind"):
        raise ReplayError(f"observation {name!r} ({spec.kind}) has dtype {value.dtype}, expected {target}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused by name
        return value.astype(target)
