"""The destination that writes single pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pipert_shm.data import Format, FrameData
from pipert_shm.events import events
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.files import free_name, write_all
from pipert_shm.video.formats import format_of, to_bgr
from pipert_shm.video.image import as_bgr, frame_of
from pipert_shm.video.opencv import VideoError, cv2


class SnapshotWriter(DestinationRoutine):
    """Writes a picture on demand: after each event `SNAPSHOT` it writes the next frame.

    `pipe.notify_event("SNAPSHOT", specific_routine="snapshots")` asks for one. A routine, HTTP and RPC can do so, too.

    :param directory: where the pictures go, as `camera-000042.jpg`: the frame's origin and sequence number. A picture of an
        earlier run is kept; the new one is called `camera-000042-1.jpg` then.
    :param suffix: `.jpg`, `.png`, or another that OpenCV knows.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str | None = None, *, suffix: str = ".jpg") -> None:
        super().__init__(name)
        self.directory = Path(directory)
        self._suffix = suffix
        self._wanted = False

    @events("SNAPSHOT")
    def take_snapshot(self) -> None:
        """Asks for a picture of the next frame."""
        self._wanted = True

    def setup(self) -> None:
        """Makes the directory.

        :raises OSError: when that fails.
        """
        self.directory.mkdir(parents=True, exist_ok=True)

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Writes the frame if a picture was asked for.

        :raises VideoError: when the picture can't be written.
        """
        if not self._wanted:
            return
        self._wanted = False
        path = self.directory / f"{self.meta.origin}-{self.meta.sequence:06}{self._suffix}"
        frame = frame_of(data)
        picture = _encoded(frame, path, format_of(frame, self.meta))
        try:
            _write_new(free_name(path), picture)
        except OSError as error:
            raise VideoError(
                str(path),
                f"can't write the picture {str(path)!r}: {error.strerror}; check its directory, and that the disk has room",
            ) from error


DEEP = (".png", ".tif", ".tiff", ".jp2", ".pgm", ".ppm", ".pnm")  # formats that may have 16 bits a channel


def _encoded(frame: np.ndarray, path: Path, format: Format | None) -> bytes:
    """Encodes the picture in the format of the path's suffix.

    :raises VideoError: when the format does not take the frame. OpenCV would silently clip 16 bits to 8.
    """
    if frame.dtype != np.uint8 and not (frame.dtype == np.uint16 and path.suffix.lower() in DEEP):
        frame = as_bgr(frame, str(path))  # which says what to do
    if format in ("rgb", "i420", "nv12"):
        frame = to_bgr(frame, format)
    try:
        written, data = cv2.imencode(path.suffix, frame)
    except cv2.error as error:
        raise VideoError(str(path), f"can't write the picture {str(path)!r}: {error.err}; {_shape_of(frame)}") from error
    if not written:
        raise VideoError(str(path), f"can't write the picture {str(path)!r}: its format does not take {_shape_of(frame)}")
    return data.tobytes()


def _shape_of(frame: np.ndarray) -> str:
    return f"an array of shape {frame.shape} and dtype {frame.dtype}"


def _write_new(path: Path, data: bytes) -> None:
    """:raises OSError: when the file can't be written; nothing of it is left then."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
