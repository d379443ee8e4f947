"""OpenCV, or an error that says how to get it; and the error of everything that reads or writes a video."""

from __future__ import annotations

from pipert_shm.errors import PipertError
from pipert_shm.masking import masked

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(f"OpenCV is not installed ({error}): pip install 'opencv-python>=4.14,<5'") from error
except ImportError as error:
    raise ImportError(
        f"OpenCV needs a system library that is missing ({error}): apt-get install libgl1 libglib2.0-0"
    ) from error


class VideoError(PipertError):
    """A video can't be opened or written; whoever gave its name must act.

    Attributes:
        video: the path, URL or camera number.
    """

    def __init__(self, video: str, message: str) -> None:
        super().__init__(message)
        self.video = masked(video)

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return VideoError, (self.video, str(self))


def is_utf8(name: str) -> bool:
    """Whether OpenCV takes a file's name: one that is not UTF-8 crashes it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


__all__ = ["VideoError", "cv2", "is_utf8"]
