"""What a source of two streams sends, and the routine that goes over from the small picture to the large one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipert_shm.data import Data, Format, FrameData
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame
from pipert_shm.video.formats import format_of, size_of
from pipert_shm.video.image import frame_of

PICTURE = "main"
FORMAT = "main_format"
"""Keys of `additional_data`."""


@dataclass(eq=False, init=False)
class TwinFrame(FrameData):
    """The small and the large picture of a camera, of the same moment. Both travel by reference.

    `additional_data` has the large one as `"main"`. Detectors, trackers and annotators take the small one, and keep
    `additional_data`, so that the large one comes along with the boxes.

    Attributes:
        frame: the small picture, in the format that `meta.format` tells of.
    """

    frame: np.ndarray

    def __init__(self, frame: np.ndarray, main: np.ndarray, main_format: Format = "bgr") -> None:
        super().__init__()
        self.frame = frame
        self.additional_data[PICTURE] = main
        self.additional_data[FORMAT] = main_format

    def get_frame(self) -> np.ndarray:
        """Returns the small picture."""
        return self.frame

    @property
    def main(self) -> np.ndarray:
        """The large picture."""
        main: np.ndarray = self.additional_data[PICTURE]
        return main

    @property
    def main_format(self) -> Format:
        """The format of the large picture."""
        format: Format = self.additional_data[FORMAT]
        return format


class ToMain(MiddleRoutine):
    """Goes over from the small picture of a `TwinSource` to the large one. It copies nothing.

    It sends the large picture as an array; of a `DetectedFrame` that was found in the small picture, a `DetectedFrame` with the
    large one, and boxes scaled to it. Wire it before a writer of the large stream, or before what cuts the boxes out of it.
    `meta.format` tells of the large picture then.

    >>> twin = TwinFrame(np.zeros((120, 160, 3), np.uint8), np.zeros((480, 640, 3), np.uint8))
    >>> ToMain().main_logic(twin).shape
    (480, 640, 3)
    """

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def _sent_format(self, received: Format | None) -> Format | None:
        return None  # each message tells that of the large picture

    def main_logic(self, data: FrameData) -> np.ndarray | DetectedFrame:
        """Returns the large picture, with the detections if there are any.

        :raises TypeError: when the payload has no large picture.
        """
        main = data.additional_data.get(PICTURE) if isinstance(data, Data) else None
        if not isinstance(main, np.ndarray):
            raise TypeError(
                f"a TwinFrame is needed, or what a detector made of one, not a {type(data).__name__} without a large picture: "
                f"wire a TwinSource before this routine, and no Resize, Crop or Convert between the two"
            )
        small, format = frame_of(data), data.additional_data.get(FORMAT)
        width, height = size_of(small, format_of(small, self.meta))
        self.meta.describe(format, len(main))
        if not isinstance(data, DetectedFrame):
            return main
        main_width, main_height = size_of(main, format)
        new = data.changed(frame=main, detections=data.detections.scaled(main_width / width, main_height / height))
        del new.additional_data[PICTURE]
        new.additional_data.pop(FORMAT, None)
        return new
