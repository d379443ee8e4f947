"""What videos are read with: a frame is grabbed first, and retrieved into an array that is there already if it is wanted."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeGuard

import numpy as np

from pipert_shm.masking import masked, needs_escapes
from pipert_shm.video.interlaced import says_interlaced
from pipert_shm.video.opencv import VideoError, cv2, is_utf8

Address: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = Address | int

MOST_DAMAGED = 100
"""As many frames in a row that can't be decoded are the end."""

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def shown(source: Source) -> str:
    """A source as it may be told: without the secrets that its URL may have.

    >>> shown("rtsp://admin:secret@10.0.0.5/stream")
    'rtsp://admin:***@10.0.0.5/stream'
    """
    return masked(str(source))


def cannot_open(source: Source, cause: str = "") -> VideoError:
    """The error that says why a video can't be opened, and what to do.

    :param cause: what the library said, if anything.
    """
    advice = _advice(source)
    return VideoError(shown(source), f"can't open the video {shown(source)!r}: {f'{cause}; ' if cause else ''}{advice}")


def _advice(source: Source) -> str:
    if isinstance(source, int):
        return f"no camera answers; look at /dev/video{source}, and whether this user may read it (group video)"
    if "://" in os.fspath(source):
        if needs_escapes(os.fspath(source)):
            return "its user name or password has characters that end it: write '#' as %23, '/' as %2F, '?' as %3F, '@' as %40"
        return "nothing answers there with a video; check the address, and that its server is up"
    path = Path(source)
    if not path.exists():
        return "there is no such file; check the path"
    if path.is_dir():
        return "it is a directory; name a file in it"
    if not os.access(path, os.R_OK):
        return "this user may not read it; check its mode with ls -l"
    return "no video is found in it; check it with ffprobe, and convert or copy it again"


def is_device(source: Source) -> bool:
    """Whether it is a camera: a number, or a device file. /dev/shm has files like any other folder."""
    if isinstance(source, int):
        return True
    if "://" in os.fspath(source):
        return False
    path = os.path.realpath(source)
    return path.startswith("/dev/") and not path.startswith("/dev/shm/") and not os.path.isfile(path)


def address_of(source: Address) -> str:
    """A source as FFmpeg takes it, which takes `a:b.mp4` for an address and `/home/me/a:b.mp4` for a file."""
    text = os.fspath(source)
    return os.path.abspath(text) if os.path.exists(text) else text


def open_video(source: Source, parameters: tuple[int, ...] = ()) -> cv2.VideoCapture:
    """Opens a video; the caller releases it.

    :param source: a file's path, a stream's URL, or a camera's number.
    :param parameters: OpenCV's, each followed by its value, for a URL.
    :raises VideoError: when it can't be opened; it says what to do.
    """
    name = source if isinstance(source, int) else address_of(source)
    capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, parameters) if parameters else cv2.VideoCapture(name)
    if not capture.isOpened():
        capture.release()
        raise cannot_open(source)
    return capture


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video says of itself; 0 where it does not.

    Attributes:
        frames: how many frames a file has, by its header: it may be wrong.
    """

    width: int
    height: int
    fps: float
    frames: int

    @classmethod
    def of(cls, source: Source) -> VideoInfo:
        """Opens the video, looks, and closes it.

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
        """Of its frames, as arrays."""
        return self.height, self.width, 3


class Capture(Protocol):
    """An open video. One thread at a time.

    Attributes:
        info: what it says of itself.
        shape: of the frame that was retrieved last, at first what is announced.
        pts: where in the video the frame stands that was grabbed last, seconds from its start; None where it does not say.
        damaged: how many frames there should have been before it that could not be decoded.
    """

    info: VideoInfo
    shape: tuple[int, int, int]
    pts: float | None
    damaged: int

    def grab(self) -> bool:
        """Goes on to the next frame; False when there is none.

        :raises VideoError: when it can't be read any further, and it is known why.
        """

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """The frame that was grabbed, BGR; None when it turns out to be damaged.

        :param out: where it goes if it has that shape, else it comes in an array of its own. None: in one that is valid up to
            the next call.
        """

    def close(self) -> None:
        """Ends it."""


class OpenCVCapture:
    """A file, a stream, or a camera, read by OpenCV.

    :param timeout: seconds after which a stream that says nothing is given up.
    :param live: decodes in one thread, since each more holds a frame back.
    :param size: width and height that a camera is asked for; it may give others.
    :raises VideoError: when it can't be opened.
    """

    def __init__(
        self, source: Source, *, timeout: float = 5.0, live: bool = False, size: tuple[int, int] | None = None
    ) -> None:
        self._source = source
        self._timeout = timeout
        parameters: tuple[int, ...] = ()
        if not isinstance(source, int) and "://" in os.fspath(source):
            limit = max(1, int(timeout * 1000))
            parameters = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit)
            parameters += (cv2.CAP_PROP_N_THREADS, 1) if live else ()
        self._capture = open_video(source, parameters)
        if isinstance(source, int) and size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        self.info = VideoInfo(
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            fps=max(0.0, self._capture.get(cv2.CAP_PROP_FPS)),
            frames=max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))),
        )
        self.shape = self.info.shape
        self.pts: float | None = None
        self.damaged = 0
        self._booted = 0.0
        self._scratch: np.ndarray | None = None
        self._is_camera = is_device(source)

    @property
    def interlaced(self) -> bool | None:
        """Whether its frames can't be had from OpenCV, since they are interlaced; None when it does not tell."""
        if self._is_camera:
            return False
        codec = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        told, header = self._capture.retrieve(flag=int(self._capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX)))
        return says_interlaced(codec, header.tobytes() if told and header is not None else b"")

    def grab(self) -> bool:
        """See `Capture.grab`."""
        # What can't be decoded fails just as what has ended does, but not for ever; what is silent fails slowly.
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
        wanted = self._scratch if out is None else out
        # Of another size, OpenCV makes an array of its own, without a word.
        ok, frame = self._capture.retrieve(wanted) if wanted is not None else self._capture.retrieve()
        if not ok:
            return None
        if out is None:
            self._scratch = frame
        height, width = frame.shape[:2]
        self.shape = height, width, 3
        return frame

    def close(self) -> None:
        """See `Capture.close`."""
        self._capture.release()


def is_folder(source: Source) -> TypeGuard[Address]:
    """Whether it is a folder, of images."""
    return not isinstance(source, int) and os.path.isdir(source)


class ImageFolder:
    """The images of a folder, in the order of their names, by numbers where there are any: 2.png comes before 10.png.

    :param fps: images have no time stamps: at so many in a second.
    :raises VideoError: when no image is there, or none can be read.
    """

    def __init__(self, source: Address, *, fps: float = 25.0) -> None:
        self._files = sorted((path for path in Path(source).iterdir() if path.suffix.lower() in IMAGES), key=_natural_order)
        first = next((image for image in map(_read_image, self._files) if image is not None), None)
        if first is None:
            there = "none of the images in it can be read" if self._files else f"there is no image in it ({', '.join(IMAGES)})"
            raise VideoError(str(source), f"can't open the folder {str(source)!r}: {there}; check the path and its files")
        height, width = first.shape[:2]
        self.info = VideoInfo(width, height, fps, len(self._files))
        self.shape = self.info.shape
        self.pts: float | None = None
        self.damaged = 0
        self._number = -1

    def grab(self) -> bool:
        """See `Capture.grab`."""
        self._number += 1
        self.pts = self._number / self.info.fps
        return self._number < len(self._files)

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        """See `Capture.retrieve`."""
        image = _read_image(self._files[self._number])
        if image is None:
            return None
        height, width = image.shape[:2]
        self.shape = height, width, 3
        if out is None or out.shape != self.shape:
            return image
        np.copyto(out, image)
        return out

    def close(self) -> None:
        """See `Capture.close`."""


def _read_image(path: Path) -> np.ndarray | None:
    # Not into an array that is there: for a file that can't be read imread returns it as it was, without a word.
    if is_utf8(os.fspath(path)):
        return cv2.imread(os.fspath(path), cv2.IMREAD_COLOR)
    data = np.fromfile(path, np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]
