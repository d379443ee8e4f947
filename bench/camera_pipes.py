"""The task by this project, as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    Detections,
    Detector,
    JsonLinesWriter,
    MotionDetector,
    Pipe,
    VideoSource,
    Wire,
)

from .camera_task import EVERY, LEAST_AREA, SMALL, Board, Task, detect


class Mover(MotionDetector):
    """Looks for motion in each frame, and passes every sixth on."""

    def __init__(self, task: Task, camera: int) -> None:
        shrunk = task.clip.width * task.clip.height / (SMALL[0] * SMALL[1])
        super().__init__(f"motion{camera}", size=SMALL, min_area=round(LEAST_AREA * shrunk))
        self._board, self._camera = task.board, camera

    def main_logic(self, data: Any) -> Any:
        found = super().main_logic(data)
        return found if self._board.count(self._camera, Board.LOOKED) % EVERY == 0 else None


class TenMs(Detector):
    """The detector."""

    def __init__(self, board: Board) -> None:
        super().__init__("detector")
        self._board = board

    def detect(self, frame: np.ndarray) -> Detections:
        boxes = detect(frame)
        self._board.count(int(self.meta.origin.removeprefix("camera")), Board.DETECTED)
        return Detections(boxes)


class Sink(DestinationRoutine):
    """Notes each frame."""

    def __init__(self, board: Board) -> None:
        super().__init__("sink")
        self._board = board

    def main_logic(self, frame: np.ndarray) -> None:
        self._board.note(frame)
        self._board.count(0, Board.LOOKED)


def whole(task: Task, **options: Any) -> None:
    """The whole task: a flow for each camera, which reads and looks for motion, and one that detects and writes lines.

    :param options: of the `VideoSource`.
    """
    pipe = Pipe()
    detector = TenMs(task.board)
    pipe.create_flow("detect", True, detector, JsonLinesWriter(task.lines, "lines"))
    for number, url in enumerate(task.urls):
        camera = VideoSource(url, f"camera{number}", **{"format": "i420"} | options)
        mover = Mover(task, number)
        pipe.create_flow(camera.name, True, camera, mover)
        pipe.link(Wire(mover, detector))
    _run(pipe, task)


def sink(task: Task, *, look: Callable[[Pipe], None] = lambda pipe: None, **options: Any) -> None:
    """A camera, and a flow that notes its frames.

    :param look: called once the pipe runs.
    :param options: of the `VideoSource`.
    """
    camera, end = VideoSource(task.url, "camera0", **{"format": "i420"} | options), Sink(task.board)
    pipe = Pipe()
    for routine in (camera, end):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(camera, end))
    _run(pipe, task, look)


def _run(pipe: Pipe, task: Task, look: Callable[[Pipe], None] = lambda pipe: None) -> None:
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        look(pipe)
        task.board.wait()
        pipe.join(to_kill=True)
