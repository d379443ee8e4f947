"""The demo: three processes that decode a real video, detect motion, and write the results."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pipert_shm.display.masking import masked
from pipert_shm.errors import PipeFailed
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME
from pipert_shm.pipe import Pipe
from pipert_shm.statistics import PipeStatistics, milliseconds, wires_table
from pipert_shm.video import (
    Annotator,
    JsonLinesWriter,
    MotionDetector,
    VideoError,
    VideoInfo,
    VideoSource,
    VideoWriter,
)
from pipert_shm.video.clips import default_clip, has_fixed_camera
from pipert_shm.wire import Wire

CAMERA, DETECTOR, ANNOTATOR, WRITER, LINES = "camera", "detector", "annotator", "writer", "lines"
LOG = "demo.log"
TERMINAL_PERIOD = 0.2
LINE_PERIOD = 1.0
USUAL_FPS = 25.0


def chosen_clip(progress: TextIO) -> Path:
    """The clip for a run without `--video`.

    :param progress: where a line goes when motion detection can't look right on this clip.
    :raises VideoError: when no clip is installed.
    """
    clip = default_clip()
    if not has_fixed_camera(clip):
        progress.write(
            f"the camera of {clip.name} moves, so the background has boxes, too; the demo prefers vtest.avi of Debian's "
            f"package opencv-doc, whose camera stands still\n"
        )
    return clip


def make_pipe(source: VideoSource, writer: VideoWriter, lines: JsonLinesWriter, logger: logging.Logger) -> Pipe:
    """Makes the demo's pipe, of three flows. Its wires block, so that no frame is lost."""
    detector, annotator = MotionDetector(DETECTOR), Annotator(name=ANNOTATOR)
    pipe = Pipe(logger=logger, policy="block")
    pipe.create_flow("camera", False, source)
    pipe.create_flow("detect", False, detector)
    pipe.create_flow("output", False, annotator, writer, lines)
    pipe.link(Wire(source, detector), Wire(detector, (annotator, lines)), Wire(annotator, writer))
    return pipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run of the demo.

    Attributes:
        seconds: from the start to the end of all processes.
        outputs: the files that were written.
        interrupted: whether Ctrl-C ended the run.
        failure: what went wrong; empty if nothing did.
    """

    statistics: PipeStatistics
    seconds: float
    outputs: tuple[Path, ...]
    interrupted: bool
    failure: str

    @property
    def frames(self) -> int:
        """How many frames were written."""
        return self.statistics.routines[WRITER].received

    def report(self) -> str:
        """Returns a table of the wires, the time of a frame from end to end, and the paths of the results."""
        age = self.statistics.routines[WRITER].age
        lines = [
            f"{self.frames} frames in {self.seconds:.2f} s ({self.frames / self.seconds:.1f} fps)",
            "",
            str(wires_table(self.statistics, self.seconds)),
            "",
            f"end to end, from decoded to received by {WRITER}: p50 {milliseconds(age, 50)}, p99 {milliseconds(age, 99)}",
            "(the video is read as fast as it is worked on, so the times include the wait in full queues)",
            *(f"wrote {path}" for path in self.outputs),
        ]
        return "\n".join(lines)


def run_demo(video: str, directory: Path, progress: TextIO) -> Outcome:
    """Runs the demo to the end of the video, or until Ctrl-C.

    :param directory: where the results go, and a log if anything is logged.
    :param progress: where the progress is shown.
    :raises VideoError: when the video can't be opened, or the directory can't be written to.
    :raises PipertError: when the pipe can't be built.
    """
    info = VideoInfo.of(video)
    source = VideoSource(video, CAMERA)
    source.declare_output(info.shape)
    writer = VideoWriter(directory / "annotated.mp4", info.fps or USUAL_FPS, WRITER)
    lines = JsonLinesWriter(directory / "detections.jsonl", LINES)
    outputs = (writer.path, lines.path)
    if any(path.exists() and os.path.exists(video) and path.samefile(video) for path in outputs):
        raise VideoError(video, f"{video!r} would be overwritten by the demo's own output; choose another directory with --out")
    failure = ""
    with _log_file(directory) as logger:
        for path in outputs:
            if path.is_file():
                path.unlink()  # the writers would keep the results of an earlier run
        pipe = make_pipe(source, writer, lines, logger)
        pipe.build()
        started = time.monotonic()
        try:
            title = f"{Path(masked(video)).name} {info.width}x{info.height}"
            with _Watch(pipe, title, info.frames, progress), pipe:  # leaving the pipe waits for its end
                pipe.notify_event(START_EVENT_NAME)
        except PipeFailed as error:
            failure = str(error)
        seconds = time.monotonic() - started
    statistics = pipe.statistics()
    states = {routine.state for routine in statistics.routines.values()}
    interrupted = "stopped" in states and not failure
    failure = failure or _failure(statistics, interrupted, video, directory)
    return Outcome(statistics, seconds, tuple(path for path in outputs if path.exists()), interrupted, failure)


def _failure(statistics: PipeStatistics, interrupted: bool, video: str, directory: Path) -> str:
    errors = sum(routine.errors for routine in statistics.routines.values())
    if errors:
        return f"{errors} errors while it ran, see {directory / LOG}"
    if interrupted:
        return ""
    lost = sum(wire.lost for wire in statistics.wires.values())
    if lost:
        return f"{lost} frames were lost on the way"
    if not statistics.routines[CAMERA].sent:
        return f"no frame could be decoded from {video!r}; check it with ffprobe"
    return ""


@contextmanager
def _log_file(directory: Path) -> Iterator[logging.Logger]:
    """A logger that writes to a file in `directory`. The file stays only if something was logged."""
    path = directory / LOG
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, "w")
    except OSError as error:
        message = f"can't write to the directory {str(directory)!r} ({error.strerror}); choose another with --out"
        raise VideoError(str(directory), message) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("pipert-shm-demo")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        handler.close()
        if not path.stat().st_size:
            path.unlink()


class _Watch:
    """Shows a pipe's progress: on a terminal in one line, elsewhere in a line each second.

    It kills the pipe when a routine has failed for good. The others would work on in vain, on a live stream for ever.
    """

    def __init__(self, pipe: Pipe, title: str, total: int, stream: TextIO) -> None:
        self._pipe = pipe
        self._title = title
        self._total = f"/{total}" if total else ""
        self._stream = stream
        self._terminal = stream.isatty()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="demo-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._terminal:
            self._say("\r\x1b[K")

    def _watch(self) -> None:
        before_s, before = time.monotonic(), 0
        while not self._over.wait(TERMINAL_PERIOD if self._terminal else LINE_PERIOD):
            statistics = self._pipe.statistics()
            if any(routine.state == "failed" for routine in statistics.routines.values()):
                self._pipe.notify_event(KILL_EVENT_NAME)
                return
            frames = statistics.routines[WRITER].received
            fps = (frames - before) / (statistics.time_s - before_s)
            before_s, before = statistics.time_s, frames
            text = f"{self._title}, frame {frames}{self._total}, {fps:.0f} fps"
            self._say(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")

    def _say(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
