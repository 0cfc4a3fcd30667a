"""metrics.jsonl and TensorBoard: one line a call, no step twice after a resume, and never the end of a run."""

import io
import json
import resource

import imageio_ffmpeg
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.log import Logger, read_metrics
from agents.progress import Progress, duration


def scalars(run, tag):
    """(step, value) of every point that TensorBoard would show."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_call_is_a_line_and_a_point(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(10, {"train/return": 3, "loss": np.float32(0.5)})
        logger.log(20, {"train/return": 4.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [
        ["step", "wall_s", "train/return", "loss"],
        ["step", "wall_s", "train/return"],
    ]
    assert [(line["step"], line["train/return"]) for line in lines] == [(10, 3.0), (20, 4.0)]
    assert 0 <= lines[0]["wall_s"] <= lines[1]["wall_s"]
    assert scalars(tmp_path, "train/return") == [(10, 3.0), (20, 4.0)]


def test_a_line_is_there_as_soon_as_it_was_logged(tmp_path):
    logger = Logger(tmp_path, tensorboard=False)
    logger.log(1, {"a": 1.0})
    assert read_metrics(tmp_path)[0]["a"] == 1.0
    logger.close()


def test_what_is_not_finite_is_null_so_that_every_reader_takes_it(tmp_path):
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["a"], line["b"], line["c"]) == (None, None, 1.0)


def test_resume_cuts_to_the_barrier_and_no_name_has_a_step_twice(tmp_path):
    with Logger(tmp_path) as logger:
        for step in (100, 200, 300):
            logger.log(step, {"a": step})
        logger.log(200, {"b": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 310, "wall_s": 9.0, "a"')  # killed in the middle of a line
    before = read_metrics(tmp_path)[1]["wall_s"]

    with Logger(tmp_path, step=200) as logger:
        assert logger.wall_s >= before
        logger.log(200, {"a": -1.0, "c": 2.0})  # the barrier's own line again, with something new
        logger.close()
        logger.log(300, {"a": 301.0})
        logger.close()
        logger.log(250, {"late": 1.0})  # what this process writes is never purged
    assert scalars(tmp_path, "late") == [(250, 1.0)]
    found = [(line["step"], name) for line in read_metrics(tmp_path) for name in line if name not in ("step", "wall_s")]
    assert sorted(found) == [(100, "a"), (200, "a"), (200, "b"), (200, "c"), (250, "late"), (300, "a")]
    assert [line["a"] for line in read_metrics(tmp_path) if "a" in line] == [100.0, 200.0, 301.0]
    walls = [line["wall_s"] for line in read_metrics(tmp_path)]
    assert walls == sorted(walls)
    assert scalars(tmp_path, "a") == [(100, 100.0), (200, 200.0), (300, 301.0)]
    assert not list(tmp_path.glob("*.partial"))


def test_resume_to_the_start_forgets_everything_after_it(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(50, {"a": 1.0})
    with Logger(tmp_path, step=0) as logger:
        logger.log(50, {"a": 2.0})
    assert [line["a"] for line in read_metrics(tmp_path)] == [2.0]
    assert scalars(tmp_path, "a") == [(50, 2.0)]


def test_each_of_many_resumes_in_one_second_forgets_what_came_before(tmp_path):
    for attempt in range(25):  # every file of this loop is younger than the last one, whatever its process's counter
        with Logger(tmp_path, step=0) as logger:
            logger.log(50, {"a": attempt})
        assert scalars(tmp_path, "a") == [(50, attempt)]
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 25
    assert files == sorted(files, key=lambda file: file.stat().st_mtime_ns)


def test_a_clock_that_was_set_back_does_not_bring_the_past_back(tmp_path, monkeypatch):
    with Logger(tmp_path) as logger:
        logger.log(50, {"a": 1.0})
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
    for value in (2.0, 3.0):
        with Logger(tmp_path, step=0) as logger:
            logger.log(50, {"a": value})
        assert scalars(tmp_path, "a") == [(50, value)]


def test_event_files_that_other_writers_named_come_first(tmp_path):
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (folder / "events.out.tfevents.9999999999.host.1.0").touch()  # seconds in ten digits, far in the future
    with Logger(tmp_path) as logger:
        logger.log(1, {"a": 1.0})
    assert min(folder.iterdir()).name.endswith("host.1.0")


def test_a_logger_that_was_closed_goes_on(tmp_path):
    logger = Logger(tmp_path)
    for step in (1, 2, 3):
        logger.log(step, {"a": step})
        logger.close()
    assert scalars(tmp_path, "a") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert len(read_metrics(tmp_path)) == 3


@pytest.fixture
def small_files():
    """Files cannot grow beyond 2,000 bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_turns_logging_off_once_and_the_run_goes_on(tmp_path, small_files, tensorboard):  # FAULTS 6
    logger = Logger(tmp_path, tensorboard=tensorboard)
    with pytest.warns(RuntimeWarning, match="logging is off, the run goes on.*File too large") as caught:
        for step in range(1, 200):
            logger.log(step, {"name": step})
        assert logger.film(5, np.zeros((2, 8, 8, 3), np.uint8), "dream") is None
        logger.close()
    assert len(caught) == 1
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1)) and 5 < len(steps) < 199


def test_a_folder_that_cannot_be_written_turns_logging_off(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.warns(RuntimeWarning, match="logging is off"):
        logger = Logger(tmp_path, tensorboard=False)
        logger.log(1, {"a": 1.0})
        logger.log(2, {"a": 1.0})
    logger.close()


def test_a_film_is_a_file_and_moves_in_tensorboard(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, size=(5, 32, 48, 3)).astype(np.uint8)
    with Logger(tmp_path) as logger:
        path = logger.film(70, frames, "dream/first one")
    assert path == tmp_path / "videos" / "dream-first-one-70.mp4"
    assert path is not None and path.stat().st_size > 100
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [image] = events.Images("dream/first one")
    assert image.encoded_image_string.startswith(b"GIF8")
    assert (image.step, image.height, image.width) == (70, 32, 48)


def test_a_wide_film_is_small_in_tensorboard_alone(tmp_path):
    frames = np.zeros((2, 100, 1000, 3), np.uint8)
    with Logger(tmp_path) as logger:
        path = logger.film(1, frames, "dream")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [image] = events.Images("dream")
    assert (image.height, image.width) == (34, 334)
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 2


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(5_000, stream=stream)
    progress.update(100, {"train/return": 12.0})
    assert stream.getvalue() == ""  # a line every now and then, not one for every call
    progress.update(1_000, {"evaluation/mean": 35.25, "other": 1.0})
    progress.close()
    [line] = stream.getvalue().splitlines()
    assert line.startswith("step 1,000 of 5,000  return 12  evaluation 35.25  ")
    assert line.endswith(" left") and "steps/s" in line


def test_the_time_left_is_measured_from_where_the_run_went_on():
    progress = Progress(3_000, stream=io.StringIO())
    progress.restart(1_000)
    progress.update(2_000)
    assert progress.line(10.0) == "step 2,000 of 3,000  100 steps/s  10 s left"
    progress.update(3_000)
    assert progress.line(20.0) == "step 3,000 of 3,000  100 steps/s"


def test_what_is_played_beyond_the_budget_is_said_and_not_counted_against_it():
    progress = Progress(300, stream=io.StringIO())
    progress.update(330, {"train/return": 30.0})
    assert progress.line(10.0) == "step 300 of 300  +30 to finish  return 30  33 steps/s"


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(100, stream=stream)
    progress.update(50, {"train/return": 7.0})
    progress.say("a line of its own")
    progress.update(104)
    progress.close()
    assert "100/100" in stream.getvalue() and "return 7" in stream.getvalue() and "+4 to finish" in stream.getvalue()
    assert "104/100" not in stream.getvalue()
    assert "a line of its own" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")])
def test_durations_as_people_say_them(seconds, text):
    assert duration(seconds) == text
