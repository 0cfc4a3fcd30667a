"""What a run measured, for people and programs: metrics.jsonl, TensorBoard and films.

Logging never stops a run: where it cannot write (a full disk), it says so once and turns itself off.
"""

import io
import json
import math
import os
import re
import struct
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from agents.progress import Progress

METRICS_FILE = "metrics.jsonl"
EVENT_FILE = "events.out.tfevents."
"""How the names of TensorBoard's files begin."""
TRAIN_RETURN = "train/return"
"""Name of the return of one training episode; `learning_curve` and the progress line look for it."""
FILM_FPS = 15
GIF_WIDTH = 480
"""Pixels of a film in TensorBoard; the file in videos/ keeps its size."""


class Logger:
    """Writes the metrics of one run.

    run: the run folder. step: the barrier that the run goes on from, see `resume`; None where that is not known yet,
    and then nothing of what was logged is touched. progress: told of every line. tensorboard: whether event files are
    written too. on: whether anything is written at all; one of many processes does it for all.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        step: int | None = None,
        progress: Progress | None = None,
        tensorboard: bool = True,
        on: bool = True,
    ) -> None:
        self.run = Path(run)
        self.progress = progress
        self._tensorboard = tensorboard
        self._on = on
        self._file: io.TextIOWrapper | None = None
        self._events: Any = None
        self._began, self._offset = time.monotonic(), 0.0
        self._step, self._seen = 0, set[str]()
        self._purge_step: int | None = None
        if step is not None:
            self.resume(step)

    def resume(self, step: int) -> None:
        """Go on from the barrier at `step`: cut later lines of metrics.jsonl and let TensorBoard forget them too.

        wall_s goes on where it stood.
        A line of the barrier's own step stays; its names are not written again at that step.
        """
        self.close()
        if not self._on:
            return
        self._step, self._seen, self._offset = step, set[str](), 0.0
        self._purge_step = step + 1 if (self.run / "tensorboard").is_dir() else None
        file = self.run / METRICS_FILE
        try:
            if file.exists():
                kept = [line for line in read_metrics(self.run) if line["step"] <= step]
                self._seen = {name for line in kept if line["step"] == step for name in line}
                self._offset = max((line["wall_s"] for line in kept), default=0.0)
                partial = file.with_suffix(".partial")
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                partial.replace(file)
        except OSError as error:
            self._give_up(error)
        self._began = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds spent on the run so far, those before a resume included."""
        return self._offset + time.monotonic() - self._began

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line `{"step": step, "wall_s": ..., name: value}` and the same scalars for TensorBoard.

        Args:
            step: simulator steps so far.
            metrics: name -> number, or a tensor or array of one number. NaN and infinity become null.
        """
        fresh = [name for name in metrics if step > self._step or name not in self._seen]
        values = {name: float(metrics[name]) for name in fresh}
        if values and self._on:
            line = {name: value if math.isfinite(value) else None for name, value in values.items()}
            try:
                self._write({"step": step, "wall_s": round(self.wall_s, 3), **line})
                self._scalars(step, values)
            except OSError as error:
                self._give_up(error)
        if self.progress is not None:
            self.progress.update(step, values)

    def film(self, step: int, frames: np.ndarray, name: str, *, fps: int = FILM_FPS) -> Path | None:
        """Write frames (T, H, W, 3) uint8 to `videos/NAME-STEP.mp4` and to TensorBoard; return the file.

        Returns None where logging is off.
        """
        if not self._on:
            return None
        from agents.film import gif_bytes, save_video

        path = self.run / "videos" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{step}.mp4"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_video(path, frames, fps)
            if self._tensorboard:
                self._event_writer().image(step, name, gif_bytes(frames, fps, widest=GIF_WIDTH))
        except OSError as error:
            self._give_up(error)
            return None
        return path

    def close(self) -> None:
        """Flush and close the files; a later `log` opens them again."""
        file, events, self._file, self._events = self._file, self._events, None, None
        for stream in (file, events):
            try:
                if stream is not None:
                    stream.close()
            except OSError as error:
                self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.progress is not None:
            self.progress.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = (self.run / METRICS_FILE).open("a", encoding="utf-8")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._tensorboard:
            self._event_writer().scalars(step, values)

    def _event_writer(self) -> "_EventWriter":
        if self._events is None:
            self._events = _EventWriter(self.run / "tensorboard", purge_step=self._purge_step)
            self._purge_step = None  # once: what this process writes is to stay
        return self._events

    def _give_up(self, error: OSError) -> None:
        if self._on:
            self._on = False
            warnings.warn(f"{self.run}: logging is off, the run goes on: {error}", RuntimeWarning, stacklevel=3)
            self.close()


class _EventWriter:
    """Scalars and moving pictures as TensorBoard event files, without loading torch's writer."""

    def __init__(self, folder: Path, *, purge_step: int | None) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        protos: tuple[Any, Any] = (event_pb2, summary_pb2)  # generated modules, which type checkers cannot see into
        self._event, self._summary = protos[0], protos[1].Summary
        self._writer = RecordWriter(_new_event_file(folder))
        self._write(file_version="brain.Event:2")
        if purge_step is not None:  # TensorBoard then drops what earlier files hold from this step on
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(step=purge_step, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to the curve of every name."""
        self._add(step, [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def image(self, step: int, name: str, gif: bytes) -> None:
        """Add a GIF; it moves in TensorBoard."""
        width, height = struct.unpack_from("<HH", gif, 6)  # the GIF header: 6 bytes of version, then the size
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._add(step, [self._summary.Value(tag=name, image=image)])

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._write(step=step, summary=self._summary(value=values))

    def _write(self, **content: Any) -> None:  # noqa: ANN401 - the fields of an Event
        self._writer.write(self._event.Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()


def _new_event_file(folder: Path) -> BinaryIO:
    """Open an event file whose name comes after every other in the folder.

    TensorBoard reads a folder's files in the order of their names, and a purge reaches only what it read before. So the
    name carries nanoseconds in 19 digits, raised above the newest file's where a clock was set back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = 0
    for file in folder.glob(EVENT_FILE + "*"):
        digits = file.name.removeprefix(EVENT_FILE).split(".")[0]
        if digits.isdecimal():
            newest = max(newest, int(digits.ljust(19, "0")[:19]))
    number = max(time.time_ns(), newest + 1)
    return (folder / f"{EVENT_FILE}{number:019d}.{os.getpid()}").open("xb")


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Return the lines of the run's metrics.jsonl, oldest first; a last line that was cut off is left out."""
    lines = []
    for text in _lines(Path(run) / METRICS_FILE):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the process died while it wrote this line
            continue
        if isinstance(line, dict) and {"step", "wall_s"} <= line.keys():
            lines.append(line)
    return lines


def read_events(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of the folder's TensorBoard event files: name -> (step, value) in order.

    Scalars of TensorFlow 2 are tensors of one number there, and are read too.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {
        name: [(int(event.step), float(event.value)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    for name in events.Tags()["tensors"]:
        values = [(int(event.step), make_ndarray(event.tensor_proto)) for event in events.Tensors(name)]
        if all(value.size == 1 and value.dtype.kind in "fiu" for _, value in values):  # text is a tensor too
            found[name] = [(step, float(value.item())) for step, value in values]
    return found


def _lines(file: Path) -> Iterator[str]:
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from stream
