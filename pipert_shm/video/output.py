"""The destination that writes pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.events import events
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.files import free_name, write_all
from pipert_shm.video.image import as_bgr, frame_of
from pipert_shm.video.opencv import VideoError, cv2


class SnapshotWriter(DestinationRoutine):
    """Writes a picture when it is told to: each event `SNAPSHOT` writes the next frame that comes, and no other.

    :param directory: where the pictures go, as `camera-000042.jpg`: the frame's origin and sequence number. One that is there,
        of an earlier run, is kept: the new one is `camera-000042-1.jpg` then.
    :param suffix: `.jpg`, `.png`, or another that OpenCV knows.

    `pipe.notify_event("SNAPSHOT", specific_routine="snapshots")` asks for one, from a routine, by HTTP or by RPC as well.
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

        :raises OSError: when that can't be done.
        """
        self.directory.mkdir(parents=True, exist_ok=True)

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Writes the frame, if one is wanted.

        :raises VideoError: when it can't be written.
        """
        if not self._wanted:
            return
        self._wanted = False
        path = self.directory / f"{self.meta.origin}-{self.meta.sequence:06}{self._suffix}"
        picture = _encoded(frame_of(data), path)
        try:
            _write_new(free_name(path), picture)
        except OSError as error:
            raise VideoError(
                str(path),
                f"can't write the picture {str(path)!r}: {error.strerror}; check its directory, and that the disk has room",
            ) from error


DEEP = (".png", ".tif", ".tiff", ".jp2", ".pgm", ".ppm", ".pnm")  # pictures that may have 16 bits a channel


def _encoded(frame: np.ndarray, path: Path) -> bytes:
    """The picture as the file is to have it.

    :raises VideoError: when its format does not take the frame; OpenCV would clip 16 bits to 8, without a word.
    """
    if frame.dtype != np.uint8 and not (frame.dtype == np.uint16 and path.suffix.lower() in DEEP):
        frame = as_bgr(frame, str(path))  # which says what to do
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
    """:raises OSError: when it can't be written; then nothing of it is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
