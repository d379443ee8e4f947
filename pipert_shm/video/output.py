"""Destinations: what writes a video, and what was found in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

import numpy as np

from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.detection import DetectedFrame
from pipert_shm.video.opencv import VideoError, cv2

BOX_COLOUR = (0, 255, 0)


class DetectionWriter(DestinationRoutine):
    """Writes each `DetectedFrame`: a line to `detections.jsonl`, and the frame with its boxes drawn to `annotated.mp4`.

    A line is `{"sequence": 0, "capture_time": 1764000000.0, "boxes": [[left, top, right, bottom], ...]}`.

    :param directory: where both files go; made where it is missing. Each start begins both anew.
    :param fps: at which the video plays.
    :raises ValueError: when `fps` is not positive.
    """

    VIDEO = "annotated.mp4"
    LINES = "detections.jsonl"

    def __init__(self, directory: str | os.PathLike[str], fps: float = 25.0, name: str | None = None) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be positive, not {fps}")
        super().__init__(name)
        self.video = Path(directory) / self.VIDEO
        self.lines = Path(directory) / self.LINES
        self._fps = fps
        self._file: TextIO | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def setup(self) -> None:
        """Makes the directory and opens the file of lines; the video waits for the size of the first frame.

        :raises OSError: when the directory can't be made or written to.
        """
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.lines.open("w", buffering=1)  # whole lines, so that it can be read meanwhile

    def main_logic(self, data: DetectedFrame) -> None:
        """Writes one frame.

        :raises VideoError: when the video can't be written.
        """
        assert self._file is not None, "setup() comes first"
        boxes: list[list[int]] = data.boxes.tolist()
        line = {"sequence": self.meta.sequence, "capture_time": self.meta.capture_time, "boxes": boxes}
        self._file.write(json.dumps(line) + "\n")
        canvas = data.frame.copy()
        for left, top, right, bottom in boxes:
            cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), BOX_COLOUR, 2)
        if self._writer is None:
            self._writer = self._open_writer(canvas)
        if canvas.shape[1::-1] != self._size:
            canvas = cv2.resize(canvas, self._size)  # VideoWriter drops frames of another size, without a word
        self._writer.write(canvas)

    def _open_writer(self, frame: np.ndarray) -> cv2.VideoWriter:
        height, width = frame.shape[:2]
        writer = cv2.VideoWriter(str(self.video), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, (width, height))
        if not writer.isOpened():
            raise VideoError(
                str(self.video),
                f"can't write the video {str(self.video)!r} (mp4v, {width}x{height}, {self._fps:g} fps): check that it is "
                f"not a directory, that this user may write it, and that the disk is not full",
            )
        self._size = (width, height)
        return writer

    def cleanup(self) -> None:
        """Ends both files."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._file is not None:
            self._file.close()
            self._file = None
