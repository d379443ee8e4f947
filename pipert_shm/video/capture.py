"""Readers of videos: one call moves on to the next frame, another decodes it, into an array that exists already."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeGuard

import numpy as np

from pipert_shm.display.masking import masked, needs_escapes
from pipert_shm.video.fit import Wanted
from pipert_shm.video.interlaced import says_interlaced
from pipert_shm.video.opencv import VideoError, cv2, is_utf8

Address: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = Address | int

WHOLE = Wanted()

MOST_DAMAGED = 100
"""Frames in a row that can't be decoded, after which a video counts as ended."""

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def shown(source: Source) -> str:
    """Returns the source as a text for logs and errors, without the secrets in its URL.

    >>> shown("rtsp://admin:secret@10.0.0.5/stream")
    'rtsp://admin:***@10.0.0.5/stream'
    """
    return masked(str(source))


def cannot_open(source: Source, cause: str = "", advice: str = "") -> VideoError:
    """Makes the error that says why a video can't be opened, and what to do.

    :param cause: what the library says, if anything.
    :param advice: what to do, where the library knows more than the source tells.
    """
    advice = advice or _advice(source)
    return VideoError(shown(source), f"can't open the video {shown(source)!r}: {f'{cause}; ' if cause else ''}{advice}")


def _advice(source: Source) -> str:
    if isinstance(source, int):
        return f"no camera answers; look at /dev/video{source}, and whether this user may read it (group video)"
    if is_pipeline(source):
        return "try it with gst-launch-1.0, which says more"
    if "://" in os.fspath(source):
        if needs_escapes(os.fspath(source)):
            return "its user name or password has characters that end it: write '#' as %23, '/' as %2F, '?' as %3F, '@' as %40"
        return "no video comes from there; check the whole address, and that its server is up"
    path = Path(source)
    if not path.exists():
        if " ! " in os.fspath(source):
            return "there is no such file; a pipeline of GStreamer's must end in ! appsink"
        return "there is no such file; check the path"
    if path.is_dir():
        return "it is a directory; name a file in it"
    if not os.access(path, os.R_OK):
        return "this user may not read it; check its mode with ls -l"
    return "no video is found in it; check it with ffprobe, and convert or copy it again"


def is_device(source: Source) -> bool:
    """Whether the source is a camera: a number, or a device file. Files in /dev/shm are no devices."""
    if isinstance(source, int):
        return True
    if "://" in os.fspath(source):
        return False
    path = os.path.realpath(source)
    return path.startswith("/dev/") and not path.startswith("/dev/shm/") and not os.path.isfile(path)


def is_pipeline(source: Source) -> bool:
    """Whether the source is a pipeline of GStreamer's, such as `v4l2src ! appsink`."""
    return isinstance(source, str) and "!" in source and "appsink" in source and not os.path.exists(source)


def address_of(source: Address) -> str:
    """Returns the source for FFmpeg, as an absolute path if it is a file: FFmpeg takes `a:b.mp4` for an address."""
    text = os.fspath(source)
    return os.path.abspath(text) if os.path.exists(text) else text


def open_video(source: Source, parameters: tuple[int, ...] = ()) -> cv2.VideoCapture:
    """Opens a video; the caller releases it.

    :param source: a file's path, a stream's URL, or a camera's number.
    :param parameters: parameters of OpenCV's, each followed by its value, for a URL.
    :raises VideoError: when the video can't be opened; the error says what to do.
    """
    name = source if isinstance(source, int) else address_of(source)
    capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, parameters) if parameters else cv2.VideoCapture(name)
    if not capture.isOpened():
        capture.release()
        raise cannot_open(source)
    return capture


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video's header says; 0 stands for what it does not say.

    Attributes:
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        fps: frames a second.
        frames: how many frames a file has. Headers may be wrong.
    """

    width: int
    height: int
    fps: float
    frames: int

    @classmethod
    def of(cls, source: Source) -> VideoInfo:
        """Opens the video, reads its header, and closes it.

        :param source: a file's path, a folder of images, a stream's URL, or a camera's number.
        :raises VideoError: when it can't be opened.
        """
        capture: Capture = ImageFolder(source) if is_folder(source) else OpenCVCapture(source)
        try:
            return capture.info
        finally:
            capture.close()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a frame in BGR as an array: (height, width, 3)."""
        return self.height, self.width, 3


class Capture(Protocol):
    """An open video. One thread at a time. It is opened with what is `Wanted` of its pictures.

    Attributes:
        info: what the header says.
        shape: shape of the array that `retrieve` wants for the frame that was grabbed last; before that, for one as the header
            announces. It has zeros while nothing is known.
        pts: position in the video of the frame that was grabbed last, in seconds from the start; None if it is not known.
        came_ns: when the last data of that frame came (CLOCK_MONOTONIC, ns); None where only the end of `grab` tells.
        waited: seconds that `grab` waited for that data, in one go; None where it decodes in the same thread and does not tell.
        wall_clock: when it was captured by the camera's clock, in seconds since the epoch; None if nobody says.
        damaged: how many frames before that one could not be decoded.
        left_out: how many frames before that one were not decoded, since nobody wanted them.
        stopped: any thread may set it to True, when nobody wants another frame. `grab` returns False soon then, also where it
            finds nothing to decode.
    """

    info: VideoInfo
    shape: tuple[int, ...]
    pts: float | None
    came_ns: int | None
    waited: float | None
    wall_clock: float | None
    damaged: int
    stopped: bool

    @property
    def left_out(self) -> int:
        """See the attribute: it only has to be read."""

    def grab(self) -> bool:
        """Moves on to the next frame; False at the end.

        :raises VideoError: when the video can't be read any further and the cause is known.
        """

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """Decodes the frame that was grabbed to what is wanted; None when it is damaged.

        :param out: the array to decode into, of the shape `shape`. The frame is it, or a part of it. A frame for which it has
            the wrong shape comes in an array of its own; so does every frame without `out`, valid up to the next call.
        :raises VideoError: when the picture does not contain the wanted part.
        """

    def close(self) -> None:
        """Closes the video."""


class OpenCVCapture:
    """A file, a stream, or a camera, read by OpenCV.

    :param timeout: seconds of silence after which a stream is given up.
    :param wanted: of the pictures. A camera is asked for its size, and may choose another.
    :param live: decodes in one thread, since each further thread delays frames by one.
    :raises VideoError: when the source can't be opened.
    """

    def __init__(self, source: Source, wanted: Wanted = WHOLE, *, timeout: float = 5.0, live: bool = False) -> None:
        self._source = source
        self._wanted = wanted
        self._timeout = timeout
        parameters: tuple[int, ...] = ()
        if not isinstance(source, int) and "://" in os.fspath(source):
            limit = max(1, int(timeout * 1000))
            parameters = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit)
            parameters += (cv2.CAP_PROP_N_THREADS, 1) if live else ()
        self._capture = open_video(source, parameters)
        if isinstance(source, int) and wanted.size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.size[1])
        self.info = VideoInfo(
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            fps=max(0.0, self._capture.get(cv2.CAP_PROP_FPS)),
            frames=max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))),
        )
        self._decodes_into_out = wanted.format == "bgr" and wanted.size is None  # the part is a view then
        self.shape = self._shape_for(self.info.width, self.info.height)
        if self.info.width:
            wanted.part_of(shown(source), self.info.width, self.info.height)
        self.pts: float | None = None
        self.came_ns: int | None = None
        self.waited: float | None = None
        self.wall_clock: float | None = None
        self.damaged = self.left_out = 0
        self.stopped = False  # it need not be looked at: each frame ends a `grab`
        self._booted = 0.0
        self._scratch: np.ndarray | None = None
        self._is_camera = is_device(source)

    @property
    def interlaced(self) -> bool | None:
        """Whether the frames are interlaced, which OpenCV can't convert; None when the header does not tell."""
        if self._is_camera:
            return False
        code = max(int(self._capture.get(cv2.CAP_PROP_FOURCC)), 0)  # of pictures, OpenCV 5 says -1 and OpenCV 4 says 0
        codec = code.to_bytes(4, "little").decode("latin-1")
        told, header = self._capture.retrieve(flag=int(self._capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX)))
        return says_interlaced(codec, header.tobytes() if told and header is not None else b"")

    def grab(self) -> bool:
        """See `Capture.grab`."""
        # grab() fails alike for a damaged frame, at the end, and after silence. Only damaged frames fail quickly and pass.
        impatient = time.monotonic() + self._timeout / 2
        for failures in range(1 if self._is_camera else MOST_DAMAGED):
            if self._capture.grab():
                self.damaged += failures
                self.pts = self._stamp()
                return True
            if time.monotonic() > impatient:
                break
        return False

    def _stamp(self) -> float | None:
        milliseconds: float = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if not self._is_camera:
            return milliseconds / 1000
        if milliseconds <= 0:
            return None
        self._booted = self._booted or milliseconds  # a camera counts from the machine's start
        return (milliseconds - self._booted) / 1000

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """See `Capture.retrieve`."""
        target = self._scratch if out is None or not self._decodes_into_out else out
        # OpenCV silently makes a new array for a frame of another size.
        ok, frame = self._capture.retrieve(target) if target is not None else self._capture.retrieve()
        if not ok:
            return None
        if target is not out:
            self._scratch = frame
        height, width = frame.shape[:2]
        self.shape = self._shape_for(width, height)
        if not self._decodes_into_out:
            return self._wanted.fill(shown(self._source), frame, out)
        left, top, width, height = self._wanted.part_of(shown(self._source), width, height)
        return frame[top : top + height, left : left + width]

    def _shape_for(self, width: int, height: int) -> tuple[int, ...]:
        if self._decodes_into_out or not width:
            return height, width, 3
        return self._wanted.shape(shown(self._source), width, height)

    def close(self) -> None:
        """See `Capture.close`."""
        self._capture.release()


def is_folder(source: Source) -> TypeGuard[Address]:
    """Whether the source is a folder."""
    return not isinstance(source, int) and os.path.isdir(source)


class ImageFolder:
    """The images of a folder, in the order of their names. Numbers in names count as numbers: 2.png comes before 10.png.

    :param fps: images a second, since images have no time stamps.
    :raises VideoError: when the folder has no image, or none can be read.
    """

    def __init__(self, source: Address, wanted: Wanted = WHOLE, *, fps: float = 25.0) -> None:
        self._source = source
        self._wanted = wanted
        self._files = sorted((path for path in Path(source).iterdir() if path.suffix.lower() in IMAGES), key=_natural_order)
        first = next((image for image in map(self._read, self._files) if image is not None), None)
        if first is None:
            there = "none of the images in it can be read" if self._files else f"there is no image in it ({', '.join(IMAGES)})"
            raise VideoError(str(source), f"can't open the folder {str(source)!r}: {there}; check the path and its files")
        height, width = first.shape[:2]
        self.info = VideoInfo(width, height, fps, len(self._files))
        self.shape = wanted.shape(str(source), width, height)
        self.pts: float | None = None
        self.came_ns: int | None = None
        self.waited: float | None = None
        self.wall_clock: float | None = None
        self.damaged = self.left_out = 0
        self.stopped = False  # it need not be looked at: each frame ends a `grab`
        self._number = -1

    def grab(self) -> bool:
        """See `Capture.grab`."""
        self._number += 1
        self.pts = self._number / self.info.fps
        return self._number < len(self._files)

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """See `Capture.retrieve`."""
        image = self._read(self._files[self._number])
        if image is None:
            return None
        self.shape = self._wanted.shape(str(self._source), image.shape[1], image.shape[0])
        return self._wanted.fill(str(self._source), image, out)

    def _read(self, path: Path) -> np.ndarray | None:
        """A picture as (height, width, 3), BGR; with 16 bits a channel, if these are wanted, with values as in the file."""
        deep = self._wanted.bits == 16
        image = _read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if deep else cv2.IMREAD_COLOR)
        if deep and image is not None and image.dtype != np.uint16:
            raise VideoError(
                str(path), f"the picture {str(path)!r} has no 16 bits a channel, but {image.dtype}: leave bits=16 away"
            )
        return image

    def close(self) -> None:
        """See `Capture.close`."""


def _read_image(path: Path, how: int) -> np.ndarray | None:
    # Not into an existing array: for a file that can't be read, imread silently returns that array unchanged.
    if is_utf8(os.fspath(path)):
        return cv2.imread(os.fspath(path), how)
    data = np.fromfile(path, np.uint8)
    return cv2.imdecode(data, how) if data.size else None


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]
