"""Writes a video file, with PyAV if it is installed, else with OpenCV."""

from __future__ import annotations

import os
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from pipert_shm.data import Format
from pipert_shm.extras import to_install
from pipert_shm.video.files import ROOM, NewFile, write_all
from pipert_shm.video.formats import to_bgr
from pipert_shm.video.opencv import cv2

Codec = Literal["mp4v", "h264"]

TICKS = 60_000
"""Ticks in a second, the unit of time stamps: exact at all common rates, and as many as MPEG-4 can have."""

PIECE_S = 0.5  # seconds of an MP4 or Matroska file that go to the disk together, and can be played then
PIECE_BYTES = 1 << 16
KEY_S = 2.0  # seconds between key frames
ENTRY_BYTES = 32  # bytes of a frame in the index at the end of an MP4 file

ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "tune": "zerolatency"}),  # holds no frames back, which a crash would lose
    "mp4v": ("mpeg4", {"flags": "+qscale", "global_quality": str(3 * 118)}),  # one quality, whatever the size
}


PIXELS: dict[Format, str] = {"bgr": "bgr24", "i420": "yuv420p", "nv12": "nv12"}
"""FFmpeg's names of formats."""


class Movie(Protocol):
    """A video file that is being written. One thread at a time.

    Attributes:
        file: the file.
        size: width and height that frames must have.
        room: bytes on the disk that one more frame and a proper end take.
        look_s: seconds between two looks at the room on the disk.
    """

    file: NewFile
    size: tuple[int, int]
    room: int
    look_s: float

    def write(self, frame: np.ndarray, format: Format, at: float) -> None:
        """Writes a frame.

        :param frame: uint8, C-contiguous, of the movie's size.
        :param format: of the frame: BGR, or planar.
        :param at: seconds from the start, later than the frame before.
        :raises OSError: for example when the disk is full. Nothing more can be written then.
        """

    def close(self) -> None:
        """Ends the file, so that all that was written before, even before a failure, can be played.

        :raises OSError: when the end can't be written.
        """


def default_codec() -> Codec:
    """Returns `h264`, which browsers play, if PyAV is installed, else `mp4v`."""
    return "mp4v" if find_spec("av") is None else "h264"


def open_movie(path: Path, codec: Codec, fps: float, size: tuple[int, int]) -> Movie:
    """Begins a video file, in the format of its suffix.

    :param fps: the usual frame rate.
    :param size: width and height of the frames; the movie's own may be a pixel less each.
    :raises OSError, ValueError: when the file can't be made.
    :raises ImportError: when `h264` is wanted and PyAV is not installed.
    """
    if codec == "mp4v" and find_spec("av") is None:
        return OpenCVMovie(path, fps, size)
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError(f"PyAV is not installed ({error}): {to_install('pyav')}") from error
    return PyAVMovie(path, codec, fps, size)


class PyAVMovie:
    """Written by PyAV, with a time stamp for each frame. An MP4 file grows in pieces, each of which can be played."""

    look_s = 0.25

    def __init__(self, path: Path, codec: Codec, fps: float, size: tuple[int, int]) -> None:
        import av

        self.size = (size[0] & ~1 or 2, size[1] & ~1 or 2)  # the pixel format keeps colours at half the size
        self.room = ROOM
        self._make_frame = av.VideoFrame.from_ndarray
        self._key = av.video.frame.PictureType.I
        self._last_tick = self._last_key = -1
        self._gap = round(TICKS / fps)
        self._encoded = 0
        self.file = NewFile(path)
        self._file = GrowingFile(self.file)
        flushing = {"flush_packets": "1"} | _IN_PIECES.get(path.suffix.lower(), {})
        try:
            # A file object of ours reports errors of the disk, and takes any name: FFmpeg takes a:b.mp4 for an address.
            self._container = av.open(self._file, "w", options=flushing)
            name, options = ENCODERS[codec]
            stream = self._container.add_stream(name, rate=Fraction(fps).limit_denominator(TICKS), options=options)
        except BaseException:
            os.ftruncate(self.file.fd, 0)
            self.file.close()
            raise
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 1 << 14  # key frames are set by time, in write()
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        self._stream = stream

    def write(self, frame: np.ndarray, format: Format, at: float) -> None:
        """See `Movie.write`."""
        picture = self._make_frame(frame, PIXELS[format])
        tick = max(round(at * TICKS), self._last_tick + 1)
        self._gap = tick - self._last_tick if self._last_tick >= 0 else self._gap
        self._last_tick = picture.pts = tick
        picture.time_base = Fraction(1, TICKS)
        if self._last_key < 0 or tick - self._last_key >= KEY_S * TICKS:
            self._last_key = tick
            picture.pict_type = self._key
        for packet in self._stream.encode(picture):
            packet.duration = self._gap
            self._container.mux(packet)
            self._encoded += 1
        self._file.note_whole()
        self.room = ROOM + ENTRY_BYTES * self._encoded

    def close(self) -> None:
        """See `Movie.close`."""
        try:
            if self._encoded:  # flushing an encoder that got no frame may crash
                self._container.mux(self._stream.encode())
            self._container.close()
        except BaseException:
            self._file.restore()
            raise
        finally:
            self.file.close()


MP4 = {
    "movflags": "hybrid_fragmented",
    "frag_duration": str(round(PIECE_S * 1e6)),
    "frag_size": str(PIECE_BYTES),
}
_MATROSKA = {"cluster_time_limit": str(round(PIECE_S * 1e3)), "cluster_size_limit": str(PIECE_BYTES)}
_IN_PIECES = {".mp4": MP4, ".mov": MP4, ".m4v": MP4, ".mkv": _MATROSKA}  # for formats that would hold frames back


class GrowingFile:
    """The file object that PyAV writes to. When the disk is full, it can be cut back to its last whole piece."""

    def __init__(self, file: NewFile) -> None:
        self._fd = file.fd
        self.name = os.path.abspath(file.path)  # FFmpeg chooses the format by its suffix
        self._header = self._whole = 0  # bytes before the first piece, and up to the last one
        self._failed = False

    def write(self, data: bytes) -> int:
        """Writes all of the data."""
        try:
            write_all(self._fd, data)
        except OSError:
            self._failed = True
            raise
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Says where the next write goes."""
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        """Where the next write goes."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def note_whole(self) -> None:
        """Notes that everything written so far can be played."""
        if self._failed:
            raise OSError(28, "what was written before did not reach the disk")
        self._whole = os.fstat(self._fd).st_size
        self._header = self._header or self._whole

    def restore(self) -> None:
        """Cuts the file after its last whole piece, which needs no room. A file without a frame becomes empty."""
        os.ftruncate(self._fd, self._whole if self._whole > self._header else 0)


class OpenCVMovie:
    """Written by OpenCV, which takes no time stamps, and does not report a write that fails.

    So a frame is repeated when the next one comes late. If frames come faster than `fps`, the video plays too slowly.
    """

    look_s = 0.0  # before each frame, since a file can't be played once a write has failed

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.size = max(size[0], 2), max(size[1], 2)
        self._most = ROOM + 2 * size[0] * size[1] * 3  # OpenCV's buffers, and a frame
        self.room = self._most
        self._fps = fps
        self._due = 0  # number of the frame that comes next
        self._last: np.ndarray | None = None
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
        self.file = NewFile(path)
        # An absolute path, since FFmpeg takes the a of a:b.mp4 for a protocol.
        name = os.path.abspath(self.file.path)
        self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), fps, self.size)
        if not self._writer.isOpened():
            os.ftruncate(self.file.fd, 0)
            self.file.close()
            raise OSError(5, "OpenCV does not open it", str(path))

    def write(self, frame: np.ndarray, format: Format, at: float) -> None:
        """See `Movie.write`."""
        while self._last is not None and self._due < round(at * self._fps):
            self._put(self._last)
        self._last = frame.copy() if format == "bgr" else to_bgr(frame, format)  # the frame's slot is given back
        self._put(self._last)

    def _put(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self._due += 1
        self.room = self._most + ENTRY_BYTES * self._due

    def close(self) -> None:
        """See `Movie.close`."""
        before = os.fstat(self.file.fd).st_size
        self._writer.release()
        ended = os.fstat(self.file.fd).st_size > before
        self.file.close()
        if self._due and not ended:
            raise OSError(28, "its end could not be written, and without that nothing of it can be played")
