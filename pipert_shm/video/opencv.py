"""Imports OpenCV, or says how to install it; and `VideoError`, which all readers and writers of videos raise."""

from __future__ import annotations

from pipert_shm.display.masking import masked
from pipert_shm.errors import PipertError
from pipert_shm.extras import OPENCV

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(f"OpenCV is not installed ({error}): pip install {OPENCV}") from error
except ImportError as error:
    raise ImportError(
        f"OpenCV needs a system library that is missing ({error}): apt-get install libgl1 libglib2.0-0"
    ) from error
# An empty folder: one of two packages that both bring cv2 has been uninstalled, and took its files along.
if cv2.__file__ is None:
    raise ImportError(
        "OpenCV's files are gone, as when one of two OpenCV packages is uninstalled: pip install --force-reinstall --no-deps "
        f"{OPENCV}"
    )


class VideoError(PipertError):
    """A video can't be opened, read or written. Its text says what to do.

    Attributes:
        video: the path, URL or camera number, without secrets.
    """

    def __init__(self, video: str, message: str) -> None:
        super().__init__(message)
        self.video = masked(video)

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return VideoError, (self.video, str(self))


def is_utf8(name: str) -> bool:
    """Whether OpenCV takes a file's name: a name that is not UTF-8 crashes it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


__all__ = ["VideoError", "cv2", "is_utf8"]
