"""Routines for video: a source that decodes into shared memory, a motion detector, and a writer of what was detected.

Importing this module loads OpenCV.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import EndOfStream, NoFreeSlot, PipertError
from pipert_shm.routine import DestinationRoutine, MiddleRoutine, SourceRoutine

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(f"OpenCV is not installed ({error}): pip install 'opencv-python>=4.14,<5'") from error
except ImportError as error:
    raise ImportError(
        f"OpenCV needs a system library that is missing ({error}): apt-get install libgl1 libglib2.0-0"
    ) from error

Source: TypeAlias = str | os.PathLike[str] | int

SHADOW, MOVING = 127, 255  # in MOG2's mask
BOX_COLOUR = (0, 255, 0)


class VideoError(PipertError):
    """A video can't be opened or written; whoever gave its name must act.

    Attributes:
        video: the path, URL or camera number.
    """

    def __init__(self, video: str, message: str) -> None:
        super().__init__(message)
        self.video = video

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return VideoError, (self.video, str(self))


def open_video(source: Source) -> cv2.VideoCapture:
    """Opens a video; the caller releases it.

    :param source: a file's path, a stream's URL, or a camera's number.
    :raises VideoError: when it can't be opened; it says what to do.
    """
    capture = cv2.VideoCapture(source if isinstance(source, int) else os.fspath(source))
    if not capture.isOpened():
        capture.release()
        raise VideoError(str(source), f"can't open the video {str(source)!r}: {_why_closed(source)}")
    return capture


def _why_closed(source: Source) -> str:
    if isinstance(source, int):
        return f"no camera answers; look at /dev/video{source}, and whether this user may read it (group video)"
    if "://" in os.fspath(source):
        return "nothing answers there with a video; check the address, and that its server is up"
    path = Path(source)
    if not path.exists():
        return "there is no such file; check the path"
    if path.is_dir():
        return "it is a directory; name a file in it"
    if not os.access(path, os.R_OK):
        return "this user may not read it; check its mode with ls -l"
    return "OpenCV finds no video in it; check it with ffprobe, and convert or copy it again"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video says of itself; 0 where it does not.

    Attributes:
        frames: how many frames a file has, by its header: it may be wrong.
    """

    width: int
    height: int
    fps: float
    frames: int

    @classmethod
    def of(cls, source: Source) -> VideoInfo:
        """Opens the video, looks, and closes it.

        :raises VideoError: when it can't be opened.
        """
        capture = open_video(source)
        try:
            return cls(
                width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
                height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                fps=max(0.0, capture.get(cv2.CAP_PROP_FPS)),
                frames=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
            )
        finally:
            capture.release()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its frames, as arrays."""
        return self.height, self.width, 3


class VideoSource(SourceRoutine):
    """Sends the frames of a video, BGR; its stream ends with the video. A file is read as fast as its receivers' wires let it.

    Frames are decoded straight into shared memory. One whose size is not what the video had announced is copied there.

    :param source: a file's path, a stream's URL, or a camera's number.
    """

    def __init__(self, source: Source, name: str | None = None) -> None:
        super().__init__(name)
        self.source = source
        self._capture: cv2.VideoCapture | None = None
        self._shape: tuple[int, ...] = ()

    def setup(self) -> None:
        """Opens the video.

        :raises VideoError: when that fails.
        """
        self._capture = open_video(self.source)
        width, height = (int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self._shape = (height, width, 3)

    def main_logic(self) -> np.ndarray:
        """The next frame.

        :raises NoFreeSlot: when there is no room for it; the frame is then lost.
        :raises EndOfStream: after the last one.
        """
        assert self._capture is not None, "setup() comes first"
        try:
            out = self.loan(self._shape)
        except NoFreeSlot:
            # This frame goes, so that the next one is new again: what is not taken from a camera piles up as latency.
            if not self._capture.grab():
                raise EndOfStream from None
            raise
        ok, frame = self._capture.read(out)
        if not ok:
            raise EndOfStream
        if frame is not out:
            # OpenCV has made an array of its own, without a word; it is sent, at the price of a copy.
            if frame.shape != self._shape:
                self._logger.warning("frames of %s come instead of %s; the first of them is copied", frame.shape, self._shape)
            self._shape = frame.shape
        return frame

    def cleanup(self) -> None:
        """Closes the video."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


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
