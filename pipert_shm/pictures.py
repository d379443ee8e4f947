"""Frames as pictures to look at: made small, and encoded. OpenCV loads with the first."""

from __future__ import annotations

import numpy as np


def scaled(frame: object, widest: int) -> tuple[np.ndarray, float]:
    """A frame at most `widest` pixels wide, as a view or a new array, and by how much it was scaled.

    :raises ValueError: when it is no picture: (h, w[, 1|3|4]) uint8.
    """
    import cv2

    if not isinstance(frame, np.ndarray):
        raise ValueError(f"it sends {type(frame).__name__}, which is no picture; send a uint8 array, or FrameData")
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or 0 in frame.shape or frame.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"it sends arrays {frame.shape} of {frame.dtype}, which are no pictures: those are (h, w[, 1|3|4]) uint8"
        )
    scale = min(1.0, widest / frame.shape[1])
    if scale == 1:
        return frame, scale
    size = widest, max(1, round(frame.shape[0] * scale))
    readable = np.ascontiguousarray(frame) if min(frame.strides) < 0 else frame
    return cv2.resize(readable, size, interpolation=cv2.INTER_AREA), scale


def encoded(picture: np.ndarray, quality: int) -> bytes:
    """A picture as a JPEG.

    :raises ValueError: when OpenCV can't encode it.
    """
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("OpenCV can't encode it")
    return data.tobytes()
