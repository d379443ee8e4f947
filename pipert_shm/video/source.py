"""Sources: what decodes a video into shared memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipert_shm.errors import EndOfStream, NoFreeSlot
from pipert_shm.routine import SourceRoutine
from pipert_shm.video.opencv import VideoError, cv2

Source: TypeAlias = str | os.PathLike[str] | int


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
