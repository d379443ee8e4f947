"""The hand-over, and whole pipelines, by this project: routines as users write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipert_shm import (
    START_EVENT_NAME,
    Data,
    DestinationRoutine,
    EndOfStream,
    MiddleRoutine,
    Pipe,
    PipeStatistics,
    SourceRoutine,
    Wire,
)

from .processes import settle
from .sheet import DEPTH, FRAMES, Sheet


@dataclass
class Detections(Data):
    """A frame, and what was found in it."""

    frame: np.ndarray
    boxes: np.ndarray


class Camera(SourceRoutine):
    """Sends loaned frames that it filled before, again and again, in place; or writes every byte of each.

    :param private: frames in its own memory, which it leaves to the library to write to shared memory.
    :param apart: whether it has a processor of its own.
    """

    def __init__(self, sheet: Sheet, *, private: bool = False, apart: bool = False) -> None:
        super().__init__("camera")
        self._sheet, self._load = sheet, sheet.load
        self._private, self._apart = private, apart
        self._make = {"dataclass": self._detections, "dict": self._small}.get(self._load.payload)
        if self._load.written:
            self._make = self._written
        self._ticks = 0
        self._frames: list[np.ndarray] = []
        self._boxes = np.arange(200, dtype=np.float32).reshape(50, 4)
        self.declare_output(self._load.largest)
        self.set_const_fps(self._load.fps)

    def setup(self) -> None:
        if self._apart:
            settle(0)
        if self._load.written or self._private:
            self._frames = self._load.frames()
            return
        for number in range(FRAMES):
            self._frames.append(self.loan(self._load.shape(number)))
            self._frames[number][:] = number

    def main_logic(self) -> Any:
        sheet = self._sheet
        if sheet.is_full(self._ticks):
            raise EndOfStream
        self._ticks += 1
        if not sheet.may_send():
            return None
        number = sheet.stamp()
        frame = self._frames[number % FRAMES]
        return frame if self._make is None else self._make(frame)

    def _written(self, frame: np.ndarray) -> np.ndarray:
        written = self.loan(frame.shape)
        np.copyto(written, frame)
        return written

    def _detections(self, frame: np.ndarray) -> Detections:
        return Detections(frame=frame, boxes=self._boxes)

    def _small(self, frame: np.ndarray) -> dict[str, Any]:
        return {"camera": 3, "boxes": [(10, 20, 30, 40)]}

    def cleanup(self) -> None:
        self._sheet.mark(0, end=True)
        self._frames.clear()


class Relay(MiddleRoutine):
    """Forwards what it gets."""

    def main_logic(self, data: Any) -> Any:
        return data


class Screen(DestinationRoutine):
    """Notes the time at which it has a frame in hand.

    :param busy: whether another thread of its process computes meanwhile.
    :param apart: whether it has another processor than the camera.
    """

    def __init__(self, sheet: Sheet, at: int = 0, *, busy: bool = False, apart: bool = False) -> None:
        super().__init__(f"screen{at}")
        self._sheet, self._at = sheet, at
        self._busy, self._apart = busy, apart
        self._over = False

    def setup(self) -> None:
        if self._apart:
            settle(1)
        if self._busy:
            threading.Thread(target=self._compute, daemon=True).start()

    def _compute(self) -> None:
        number = 0
        while not self._over:
            number = (number * 31 + 7) % 1_000_003

    def main_logic(self, data: Any) -> None:
        now = time.monotonic_ns()
        frame = data if isinstance(data, np.ndarray) else getattr(data, "frame", None)
        self._sheet.note(frame, self.meta.sequence, self._at, now)

    def cleanup(self) -> None:
        self._over = True
        self._sheet.mark(1 + self._at, end=True)


def by_pipe(
    sheet: Sheet,
    *,
    relays: int = 0,
    busy: bool = False,
    private: bool = False,
    together: bool = False,
    apart: bool = False,
    look: Callable[[Pipe], None] = lambda pipe: None,
) -> PipeStatistics:
    """One round: a flow for each routine, and as many screens as the sheet has receivers.

    :param together: whether all routines are in one flow.
    :param apart: whether camera and screen have a processor each.
    :param look: called once all run.
    :raises RuntimeError: when a frame was copied: then this was not the way that is to be measured.
    """
    load = sheet.load
    pipe = Pipe(policy="drop_oldest" if load.fps else "block", capacity=DEPTH)
    camera = Camera(sheet, private=private, apart=apart)
    chain = [camera, *(Relay(f"relay{number}") for number in range(relays))]
    screens = [Screen(sheet, at, busy=busy, apart=apart) for at in range(sheet.receivers)]
    routines = [*chain, *screens]
    for flow in [routines] if together else [[routine] for routine in routines]:
        pipe.create_flow(flow[0].name, False, *flow)
    for sender, receiver in pairwise(chain):
        pipe.link(Wire(sender, receiver))
    pipe.link(Wire(chain[-1], screens))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        look(pipe)
    statistics = pipe.statistics()
    copied = statistics.routines["camera"].copied_bytes
    if copied and not private:
        raise RuntimeError(f"{copied:,} bytes of frames were copied on a way that copies none")
    return statistics
