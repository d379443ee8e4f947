"""Destinations: what writes videos and pictures."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.events import events
from pipert_shm.limits import is_number
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError, cv2

PIECE_S = 1.0  # of an H.264 video, from one picture that needs no other to the next


def set_aside(path: Path) -> None:
    """Keeps what an earlier run, or a process that died, has written there, under another name: `out.mp4` as `out-1.mp4`."""
    if path.is_file() and path.stat().st_size:
        path.rename(next(free for number in count(1) if not (free := path.with_stem(f"{path.stem}-{number}")).exists()))


class _Movie(Protocol):
    """A video file that is being written."""

    size: tuple[int, int]

    def write(self, frame: np.ndarray) -> None: ...

    def close(self) -> None: ...


class _Mp4v:
    """By OpenCV."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.size = size
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise OSError("OpenCV does not open it")

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(frame)

    def close(self) -> None:
        self._writer.release()


class _H264:
    """By PyAV."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        from fractions import Fraction

        try:
            import av
        except ModuleNotFoundError as error:
            raise ImportError(f"PyAV is not installed ({error}): pip install 'pipert_shm[pyav]'") from error
        self.size = (size[0] & ~1, size[1] & ~1)  # the pixel format has its colours at half the size
        self._from_array = av.VideoFrame.from_ndarray
        # In pieces until the end: of a process that is killed, all but the last seconds can be played.
        self._container = av.open(str(path), "w", options={"movflags": "hybrid_fragmented", "flush_packets": "1"})
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = max(1, round(PIECE_S * fps))
        self._container.start_encoding()  # now, since it opens the file

    def write(self, frame: np.ndarray) -> None:
        self._container.mux(self._stream.encode(self._from_array(np.ascontiguousarray(frame), "bgr24")))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


_MOVIES: dict[str, type[_Mp4v] | type[_H264]] = {"mp4v": _Mp4v, "h264": _H264}


class VideoWriter(DestinationRoutine):
    """Writes the frames that it gets, as arrays or in a `FrameData`, to an MP4 file, as large as the first of them.

    A frame of another size is fitted in. Each start, after a crash too, begins a new file; one that is there is kept, as
    `out-1.mp4` for `out.mp4`. It can be played once the routine has ended; with `h264` also, but for the last seconds, when its
    process was killed.

    :param path: of the file; its directory is made where it is missing.
    :param fps: at which the video plays.
    :param codec: `mp4v`, by OpenCV, or `h264`, by PyAV (`pip install 'pipert_shm[pyav]'`): smaller, and browsers play it.
    :raises ValueError: when `fps` is not positive, or the codec neither of the two.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float = 25.0,
        name: str | None = None,
        *,
        codec: Literal["mp4v", "h264"] = "mp4v",
    ) -> None:
        if not (is_number(fps) and 0 < fps < float("inf")):
            raise ValueError(f"fps must be positive, not {shown(fps)}")
        if codec not in _MOVIES:
            raise ValueError(f"codec must be one of {', '.join(_MOVIES)}, not {codec!r}")
        super().__init__(name)
        self.path = Path(path)
        self._fps = fps
        self._codec = codec
        self._movie: _Movie | None = None

    def setup(self) -> None:
        """Makes the directory; the file waits for the size of the first frame.

        :raises OSError: when the directory can't be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Writes one frame: (height, width, 3) uint8, BGR, or (height, width), grey.

        :raises VideoError: when the video can't be written.
        """
        frame = frame_of(data)
        if frame.ndim == 2:
            frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
        if self._movie is None:
            self._movie = self._open(frame.shape[1], frame.shape[0])
        if frame.shape[1::-1] != self._movie.size:
            frame = cv2.resize(frame, self._movie.size)  # OpenCV drops frames of another size, without a word
        self._movie.write(frame)

    def _open(self, width: int, height: int) -> _Movie:
        set_aside(self.path)
        try:
            return _MOVIES[self._codec](self.path, self._fps, (width, height))
        except OSError as error:
            raise VideoError(
                str(self.path),
                f"can't write the video {str(self.path)!r} ({self._codec}, {width}x{height}, {self._fps:g} fps): {error}; "
                f"check that it is not a directory, that this user may write it, and that the disk is not full",
            ) from error

    def cleanup(self) -> None:
        """Ends the file."""
        if self._movie is not None:
            self._movie.close()
            self._movie = None


class SnapshotWriter(DestinationRoutine):
    """Writes a picture when it is told to: each event `SNAPSHOT` writes the next frame that comes, and no other.

    :param directory: where the pictures go, as `camera-000042.jpg`: the frame's origin and sequence number.
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
        try:
            written = cv2.imwrite(str(path), frame_of(data))
        except cv2.error as error:
            raise VideoError(str(path), f"can't write the picture {str(path)!r}: {error.err}") from error
        if not written:
            raise VideoError(
                str(path), f"can't write the picture {str(path)!r}: check its directory, and that the disk has room"
            )
