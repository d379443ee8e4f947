"""Detectors, and what they send on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.opencv import cv2

SHADOW, MOVING = 127, 255  # in MOG2's mask


@dataclass(eq=False)
class DetectedFrame(FrameData):
    """A frame and what was found in it.

    Attributes:
        frame: (height, width, 3) uint8, BGR.
        boxes: (n, 4) int32: left, top, right, bottom in pixels, the last two exclusive.
    """

    frame: np.ndarray
    boxes: np.ndarray

    def get_frame(self) -> np.ndarray:
        """The frame, without the boxes."""
        return self.frame


class MotionDetector(MiddleRoutine):
    """Finds what moves before a still background; forwards each frame as it is, with the boxes, as a `DetectedFrame`.

    The same frames give the same boxes, always.

    :param history: frames in which the background model forgets.
    :param threshold: how far from the background a pixel must be, as a squared Mahalanobis distance.
    :param min_area: pixels that something must cover to count.
    """

    def __init__(self, name: str | None = None, *, history: int = 100, threshold: float = 25, min_area: int = 300) -> None:
        super().__init__(name)
        self._history = history
        self._threshold = threshold
        self._min_area = min_area

    def setup(self) -> None:
        """Starts with a background model that knows nothing."""
        self._model = cv2.createBackgroundSubtractorMOG2(self._history, self._threshold, detectShadows=True)
        self._speck = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
        self._gap = cv2.getStructuringElement(cv2.MORPH_RECT, (13, 13))

    def main_logic(self, data: np.ndarray) -> DetectedFrame:
        """The frame, with a box around each thing that moves."""
        _, mask = cv2.threshold(self._model.apply(data), SHADOW, MOVING, cv2.THRESH_BINARY)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, self._speck)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, self._gap)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found = [cv2.boundingRect(contour) for contour in contours if cv2.contourArea(contour) >= self._min_area]
        boxes = np.array(found, np.int32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return DetectedFrame(data, boxes)
