"""The destination that writes videos, a file for each camera."""

from __future__ import annotations

import errno
import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np

from pipert_shm.data import Format, FrameData
from pipert_shm.errors import describe, shown
from pipert_shm.extras import to_install
from pipert_shm.limits import is_number
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.files import ROOM, has_room, moved, set_aside
from pipert_shm.video.formats import format_of, is_planar, size_of, to_bgr
from pipert_shm.video.image import as_bgr, frame_of
from pipert_shm.video.movie import Codec, Movie, default_codec, open_movie
from pipert_shm.video.opencv import VideoError, cv2, is_utf8
from pipert_shm.video.timing import Timeline

ORIGIN = "{origin}"  # stands for the camera's name in a path
MOST_ORIGINS = 64
MOST_SIZES = 4  # frame sizes that are warned of
AGAIN_BYTES = 1 << 20  # further free bytes for which a video goes on after a failure
SLOWEST_FPS = 1 / 3600
FASTEST_FPS = 1000.0


class VideoWriter(DestinationRoutine):
    """Writes frames, which come as arrays or in a `FrameData`, to a video file.

    Frames are of any format with 8 bits a channel, or BGRA. Others are errors, which say how to convert them. With PyAV,
    planar frames go to the encoder as they are, which costs less. The video has the size of the first frame; frames of another
    size are scaled.

    A frame's place in the video is its `meta.pts`. So a live stream plays at its own speed, however many frames were skipped. A
    frame without `pts`, or after a jump of the time stamps, comes `1 / fps` after the one before. (Without PyAV, OpenCV repeats
    frames instead, so `fps` must be the highest rate that comes.)

    Each camera (`meta.origin`) has a file of its own: `{origin}` in the path stands for its name. Without `{origin}`, the first
    camera's frames go to the path itself. When frames of a second camera come, the files become `out-gate.mp4` and
    `out-door.mp4`.

    Each start, after a crash too, begins a new file. An earlier file is kept: `out.mp4` as `out-1.mp4`. A second writer of the
    same path, in any process, writes `out-1.mp4`. A writer can't have replicas: each would get a part of the frames.

    With PyAV, an `.mp4`, `.mov` or `.mkv` file can be played at any time but for its last half second, even if the process is
    killed. With OpenCV, a file can't be played before it is ended. When the disk is full, the file is ended, and each frame is
    an error until there is room again; then the video goes on in a new file. Frames of the half second before may be missing,
    and are not counted as errors.

    :param path: of the file. Its suffix chooses the format: `.mp4`, `.mkv`, `.avi`. A missing directory is made.
    :param fps: frame rate for frames without `pts`.
    :param codec: `h264`, which browsers play and which needs PyAV (the extra `pyav`), or `mp4v`, which is
        larger and quicker. By default `h264` if PyAV is installed.
    :raises ValueError: when `fps` is not from 1/3600 to 1000, or the codec is neither of the two.
    """

    replicable = False

    def __init__(
        self, path: str | os.PathLike[str], fps: float = 25.0, name: str | None = None, *, codec: Codec | None = None
    ) -> None:
        if not is_number(fps) or not SLOWEST_FPS <= fps <= FASTEST_FPS:
            raise ValueError(
                f"fps must be a number from 1/3600 (a frame an hour) to {FASTEST_FPS:,.0f}, not {shown(fps)}; a stream "
                f"that tells of another one means its clock's: give 25, since frames that carry pts are placed by that"
            )
        if codec is not None and codec not in get_args(Codec):
            raise ValueError(f"codec must be one of {', '.join(get_args(Codec))}, not {shown(codec)}")
        super().__init__(name)
        self.path = Path(path)
        self._fps = float(fps)
        self._codec: Codec = codec or default_codec()
        self._films: dict[str, _Film] = {}

    def setup(self) -> None:
        """Makes the directory. The file is made with the first frame, whose size it has.

        :raises OSError: when the directory can't be made.
        :raises ImportError: when the codec needs PyAV, which is not installed.
        :raises VideoError: when only PyAV could write a file of this name, and it is not installed.
        """
        if self._codec == "h264" and find_spec("av") is None:
            raise ImportError(f"PyAV is not installed (h264 needs it): {to_install('pyav')}, or give codec='mp4v'")
        if not is_utf8(os.path.abspath(self.path)) and find_spec("av") is None:
            raise VideoError(
                str(self.path),
                f"the name {str(self.path)!r} is not UTF-8, and OpenCV can't write such a file: choose another, or "
                f"{to_install('pyav')}",
            )
        if ORIGIN not in str(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Writes one frame: planar, or (height, width), or with 1, 3 (BGR or RGB) or 4 (BGRA) channels, uint8.

        :raises TypeError: when the payload is not a frame.
        :raises VideoError: when the array is of another kind, or the video can't be written.
        """
        frame = frame_of(data)
        format = format_of(frame, self.meta)
        if not is_planar(format):
            frame, format = as_bgr(frame, str(self.path), format), "bgr"
        self._film_of(self.meta.origin).write(frame, format, self.meta.pts)

    def _film_of(self, origin: str) -> _Film:
        film = self._films.get(origin)
        if film is not None:
            return film
        if len(self._films) == MOST_ORIGINS:
            raise VideoError(
                str(self.path),
                f"frames of {origin!r} are not written: {MOST_ORIGINS} cameras have files of this writer; use several writers",
            )
        path = self._path_of(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        film = self._films[origin] = _Film(path, self._codec, self._fps, self._logger)
        return film

    def _path_of(self, origin: str) -> Path:
        if ORIGIN in str(self.path):
            return Path(str(self.path).replace(ORIGIN, origin))
        if not self._films:
            return self.path
        named = {name: self.path.with_stem(f"{self.path.stem}-{name}") for name in (origin, *self._films)}
        if len(self._films) == 1:
            (first,) = self._films
            self._films[first].rename(named[first])
            self._logger.info("frames of several cameras come: each has a file, such as %s", named[first])
        return named[origin]

    def cleanup(self) -> None:
        """Ends the files.

        :raises VideoError: when one can't be ended; the others are ended all the same.
        """
        films, self._films = self._films, {}
        failures = []
        for film in films.values():
            try:
                film.close()
            except VideoError as error:
                failures.append(error)
        if failures:
            raise failures[0]


class _Film:
    """The video of one camera: a file, and another one after each time that the disk was full."""

    def __init__(self, path: Path, codec: Codec, fps: float, logger: logging.Logger) -> None:
        set_aside(path, logger)
        self.path = self._base = path
        self._codec: Codec = codec
        self._fps = fps
        self._logger = logger
        self._movie: Movie | None = None
        self._begun = False
        self._failure: VideoError | None = None  # the last failure, until a frame is written again
        self._room = ROOM  # free bytes for which a file is begun; more after a failure, else each frame may get a file
        self._look_at = 0.0  # time of the next look at the room on the disk
        self._fitted: set[tuple[int, int]] = set()  # sizes that were warned of

    def write(self, frame: np.ndarray, format: Format, pts: float | None) -> None:
        """Writes a frame.

        :param format: of the frame: BGR, or planar.
        :raises VideoError: when that fails. The file is ended, so that all that was written before can be played.
        """
        size = size_of(frame, format)
        self._check_room(size)
        if self._movie is None:
            self._movie = self._open(size)
            self._timeline = Timeline(self._fps)
        movie = self._movie
        try:
            movie.write(*self._fit(frame, format, movie.size), self._timeline.place(pts))
        except Exception as error:
            raise self._abandon(error, size) from error
        self._failure = None

    def _check_room(self, size: tuple[int, int]) -> None:
        if time.monotonic() < self._look_at:
            return
        if not has_room(self.path, self._room if self._movie is None else self._movie.room):
            raise self._abandon(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), size)
        self._look_at = time.monotonic() + (0.0 if self._movie is None else self._movie.look_s)

    def _open(self, size: tuple[int, int]) -> Movie:
        try:
            movie = open_movie(self._base, self._codec, self._fps, size)
        except ImportError:
            raise
        except Exception as error:
            raise self._abandon(error, size) from error
        self.path = movie.file.path
        if self._begun:
            self._logger.warning("the video goes on in %s", self.path)
        elif self.path != self._base:
            self._logger.warning("the video is written to %s, since another writer has %s in hand", self.path, self._base)
        self._begun = True
        return movie

    def _fit(self, frame: np.ndarray, format: Format, size: tuple[int, int]) -> tuple[np.ndarray, Format]:
        """Returns the frame at the size of the video, and its format. Encoders take even sizes: a pixel too many is cut off."""
        width, height = size_of(frame, format)
        if (width & ~1, height & ~1) == size:
            whole = frame if is_planar(format) else frame[: size[1], : size[0]]
            return np.ascontiguousarray(whole), format
        if (width, height) not in self._fitted and min(width, height) > 1 and len(self._fitted) < MOST_SIZES:
            self._fitted.add((width, height))
            more = "; sizes that come after it are not told of" if len(self._fitted) == MOST_SIZES else ""
            self._logger.warning("frames of %dx%d are fitted into %s, which has %dx%d%s", width, height, self.path, *size, more)
        return cv2.resize(to_bgr(frame, format), size), "bgr"  # the video's size may be odd

    def _abandon(self, error: Exception, size: tuple[int, int]) -> VideoError:
        """Ends the file after its last whole piece, and returns the error to raise."""
        movie, self._movie = self._movie, None
        self._look_at = 0.0
        if movie is not None:
            self._room = movie.room + AGAIN_BYTES
            try:
                movie.close()
            except Exception as again:
                self._logger.debug("the end of %s could not be written: %s", self.path, describe(again))
            self._begun = not movie.file.removed
        self._failure = self._cannot_write(error, size)
        return self._failure

    def _cannot_write(self, error: Exception, size: tuple[int, int]) -> VideoError:
        return VideoError(
            str(self.path),
            f"can't write the video {str(self.path)!r} ({self._codec}, {size[0]}x{size[1]}, {self._fps:g} fps): "
            f"{_told(error)}; {_advice(error)}",
        )

    def rename(self, path: Path) -> None:
        """Renames the file while it is written."""
        set_aside(path, self._logger)
        if self._movie is not None:
            self._movie.file.rename(path)
            self.path = self._movie.file.path
        elif self._begun:
            self.path = moved(self.path, path)
        else:
            self.path = path
        self._base = path

    def close(self) -> None:
        """Ends the video.

        :raises VideoError: when its end, or the last frames, could not be written.
        """
        movie, self._movie = self._movie, None
        if movie is not None:
            try:
                movie.close()
            except Exception as error:
                raise self._cannot_write(error, movie.size) from error
        if self._failure is not None:
            raise self._failure


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or describe(error))


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return "the disk, or what this user may have of it, is full: make room; it goes on by itself then, in a new file"
    if type(error).__module__ == "builtins" and isinstance(error, OSError):  # not PyAV's, of the codec
        return "check that it is not a directory, that this user may write it, and that the disk is not full"
    return "check that the codec takes frames of this size, and that the suffix of the file is of a format that takes the codec"
