"""Crops and scales a frame on its way from the decoder to shared memory."""

from __future__ import annotations

import logging

import numpy as np

from pipert_shm.video.capture import Capture
from pipert_shm.video.opencv import VideoError, cv2


class Fit:
    """Fills arrays in shared memory with the frames of a capture. One thread at a time.

    :param name: of the video, for errors.
    :param roi: left, top, width and height of the wanted part, in pixels; None for the whole frame.
    :param size: width and height to scale to; None to keep the size.
    """

    def __init__(
        self, name: str, roi: tuple[int, int, int, int] | None, size: tuple[int, int] | None, logger: logging.Logger
    ) -> None:
        self._name = name
        self._roi = roi
        self._size = size
        self._logger = logger

    def check(self, frame_width: int, frame_height: int) -> None:
        """:raises VideoError: when a frame of this size (0 if unknown) does not contain the wanted part."""
        left, top, width, height = self._roi or (0, 0, 0, 0)
        if frame_width == 0:
            return
        if left + width > frame_width or top + height > frame_height:
            raise VideoError(
                self._name,
                f"the part {self._roi} (left, top, width, height) does not lie within the frames of {self._name!r}, which are "
                f"{frame_width}x{frame_height}: give another roi",
            )

    def shape(self, capture: Capture) -> tuple[int, int, int]:
        """Shape of the array that `fill` wants for the next frame."""
        return capture.shape if self._size is None else (self._size[1], self._size[0], 3)

    def fill(self, capture: Capture, out: np.ndarray) -> np.ndarray | None:
        """Returns the frame that was grabbed, in `out` or a part of it; None when it is damaged.

        It comes in another array if the video has changed its size.

        :raises VideoError: when the frame does not contain the wanted part.
        """
        if self._size is not None:
            whole = capture.retrieve()
            if whole is None:
                return None
            part = self._part(whole)
            shrinks = part.shape[1] >= self._size[0] and part.shape[0] >= self._size[1]
            return cv2.resize(part, self._size, dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        frame = capture.retrieve(out)
        if frame is None:
            return None
        if frame.shape != out.shape:
            self._logger.warning("frames of %s come instead of %s; the first of them is copied", frame.shape, out.shape)
        return self._part(frame)

    def _part(self, frame: np.ndarray) -> np.ndarray:
        if self._roi is None:
            return frame
        left, top, width, height = self._roi
        self.check(frame.shape[1], frame.shape[0])
        return frame[top : top + height, left : left + width]
