"""What every way does with the frames of cameras, and where it notes that: only the way from the camera to here differs."""

from __future__ import annotations

import json
import mmap
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from .camera_clips import Clip, number_of

SMALL = (320, 180)
EVERY = 6  # frames of a camera, of which the detector gets one
DETECTOR_NS = 10_000_000
MOST_CAMERAS = 64
MOST_NOTES = 2048

HISTORY, THRESHOLD, LEAST_AREA = 100, 25, 300  # as MotionDetector has them by default
SHADOW, MOVING = 127, 255


class Board:
    """Memory that all processes of a run share: what was done for each camera, and when frames were in hand.

    :param sent_ns: when each frame was sent, by its number.
    """

    LOOKED, DETECTED = 0, 1
    OVER, NOTED = 0, 1  # cells of `_all`

    def __init__(self, sent_ns: np.ndarray) -> None:
        self._sent_ns = sent_ns
        self._all = np.frombuffer(mmap.mmap(-1, 64), np.int64)
        self.done = np.frombuffer(mmap.mmap(-1, 16 * MOST_CAMERAS), np.int64).reshape(MOST_CAMERAS, 2)
        self._notes = np.frombuffer(mmap.mmap(-1, 16 * MOST_NOTES), np.int64).reshape(MOST_NOTES, 2)
        self._ended = os.eventfd(0)

    def count(self, camera: int, what: int) -> int:
        """Adds one; returns how many there were. One process at a time does so for a camera."""
        before = int(self.done[camera, what])
        self.done[camera, what] = before + 1
        return before

    def note(self, picture: np.ndarray) -> None:
        """Notes that a frame is in hand. One process only."""
        now, place = time.monotonic_ns(), int(self._all[self.NOTED])
        self._notes[place % MOST_NOTES] = now, now - self._sent_ns[number_of(picture)]
        self._all[self.NOTED] = place + 1

    def notes(self) -> np.ndarray:
        """Rows of when a frame was in hand, and how old it was; both in ns. The newest 2,048."""
        return self._notes[: min(self._all[self.NOTED], MOST_NOTES)].copy()

    @property
    def over(self) -> bool:
        return bool(self._all[self.OVER])

    def end(self) -> None:
        self._all[self.OVER] = 1
        os.eventfd_write(self._ended, 1)

    def wait(self) -> None:
        """Until the end."""
        select.select([self._ended], [], [])

    def close(self) -> None:
        os.close(self._ended)


@dataclass(frozen=True)
class Task:
    """One run: cameras that all send the same clip.

    Attributes:
        lines: the file for the lines of JSON.
    """

    clip: Clip
    urls: tuple[str, ...]
    board: Board
    lines: Path

    @property
    def url(self) -> str:
        return self.urls[0]


class Motion:
    """Looks for motion in the pictures of one camera, as `MotionDetector` does, and counts them."""

    def __init__(self, board: Board, camera: int) -> None:
        self._board, self._camera = board, camera
        self._model = cv2.createBackgroundSubtractorMOG2(HISTORY, THRESHOLD, detectShadows=True)
        self._speck = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
        self._gap = cv2.getStructuringElement(cv2.MORPH_RECT, (13, 13))

    def look(self, picture: np.ndarray) -> bool:
        """Returns whether this frame is one for the detector.

        :param picture: luma or BGR, of any size.
        """
        small = cv2.resize(picture, SMALL, interpolation=cv2.INTER_LINEAR)
        if small.ndim == 3:
            small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        _, mask = cv2.threshold(self._model.apply(small), SHADOW, MOVING, cv2.THRESH_BINARY)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, self._speck)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, self._gap)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        self.boxes = [cv2.boundingRect(each) for each in contours if cv2.contourArea(each) >= LEAST_AREA]
        return self._board.count(self._camera, Board.LOOKED) % EVERY == 0


_noise = np.random.default_rng(0).integers(0, 255, (128, 128), np.uint8)


def detect(picture: np.ndarray) -> list[list[float]]:
    """A detector that takes 10 ms of processor time, most of it without the GIL, as models do."""
    end = time.thread_time_ns() + DETECTOR_NS
    assert picture.size
    while time.thread_time_ns() < end:
        cv2.GaussianBlur(_noise, (15, 15), 0)
    return [[0.0, 0.0, 1.0, 1.0]]


def write_line(file: TextIO, board: Board, camera: int, boxes: list[list[float]]) -> None:
    """Writes what the detector found, as `JsonLinesWriter` does."""
    number = board.count(camera, Board.DETECTED)
    line = {"origin": f"camera{camera}", "sequence": number, "capture_time": time.time(), "boxes": boxes}
    file.write(json.dumps(line) + "\n")
    file.flush()
