"""The base class of detectors."""

from __future__ import annotations

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.image import frame_of


class Detector(MiddleRoutine):
    """A routine that finds something in each frame. Subclass it, and write `detect`.

    It takes arrays and `FrameData`, and sends a `DetectedFrame`: the same frame, by reference, the detections, and the
    payload's `additional_data`. The detectors of this package take every format. Yours gets each frame as it comes, and may
    call `to_bgr(frame, format_of(frame, self.meta))`, or `luma`, which costs nothing.

    >>> class Bright(Detector):
    ...     def detect(self, frame):
    ...         rows, columns = np.nonzero(frame.min(axis=2) > 250)
    ...         if not rows.size:
    ...             return Detections([])
    ...         return Detections([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    >>> frame = np.zeros((60, 80, 3), np.uint8)
    >>> frame[10:20, 30:50] = 255
    >>> Bright().main_logic(frame).detections.boxes.tolist()
    [[30.0, 10.0, 50.0, 20.0]]
    """

    def detect(self, frame: np.ndarray) -> Detections:
        """Returns what is in the frame. It is called on the routine's own thread.

        :param frame: as it came, read-only: (height, width, 3) uint8, BGR, unless `self.meta.format` tells of another format.
        """
        raise NotImplementedError(f"{type(self).__name__} has no detect(frame)")

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: np.ndarray | FrameData) -> DetectedFrame:
        """Returns the frame and its detections."""
        frame = frame_of(data)
        return detected(data, frame, self.detect(frame))
