"""Chooses the reader of a video, and opens it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

from pipert_shm.errors import shown as shown_value
from pipert_shm.extras import to_install
from pipert_shm.limits import is_number
from pipert_shm.video.capture import Capture, ImageFolder, OpenCVCapture, Source, is_device, is_folder, is_pipeline, shown
from pipert_shm.video.decoding import Decoding
from pipert_shm.video.fit import Wanted
from pipert_shm.video.opencv import VideoError, is_utf8

if TYPE_CHECKING:
    from pipert_shm.video.footage.footage import Footage
    from pipert_shm.video.idle import Idling

Backend = Literal["auto", "opencv", "pyav", "gstreamer"]
Transport = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class Opening:
    """A video, and how it is to be opened.

    Attributes:
        source: a file's path, a folder of images, a stream's URL, a camera's number or device file, or a pipeline of
            GStreamer's.
        live: whether it is a live stream.
        backend: the reader; `auto` for the best that is installed: the table in docs/performance.md shows why.
        wanted: of its pictures.
        decoding: options for PyAV.
        transport: of RTSP.
        timeout: seconds of silence after which a stream is given up.
        fps: pictures a second of a folder.
        keeps: whether its packets are kept.
    """

    source: Source
    live: bool
    backend: Backend
    wanted: Wanted
    decoding: Decoding
    transport: Transport
    timeout: float
    fps: float | None
    keeps: bool = False

    def check(self) -> None:
        """Checks what can be known before the video is opened.

        :raises ValueError: when an option is out of range, or does not go with the others.
        :raises ImportError: when the backend is not installed.
        """
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {get_args(Backend)}, not {self.backend!r}")
        if self.transport not in get_args(Transport):
            raise ValueError(f"transport must be one of {get_args(Transport)}, not {self.transport!r}")
        if not (is_number(self.timeout) and 0 < self.timeout < 3600):
            raise ValueError(f"timeout must be more than 0 and less than 3600 seconds, not {shown_value(self.timeout)}")
        self.wanted.check()
        self.decoding.check()
        needed = [f"{name}={getattr(self.decoding, name)!r}" for name in self.decoding.given]
        needed += ["footage"] * self.keeps
        if self.is_for_gstreamer:
            self._check_gstreamer(needed)
            return
        if self.transport != "tcp":
            if isinstance(self.source, int) or not os.fspath(self.source).startswith(("rtsp://", "rtsps://")):
                raise ValueError(f"transport={self.transport!r} is for an rtsp:// URL")
            needed.append(f"transport={self.transport!r}")
        if self.wanted.bits == 16 and not is_folder(self.source):
            needed.append("bits=16")
        if self.backend == "opencv" and needed:
            raise ValueError(f"{needed[0]} is for PyAV: leave backend='opencv' away")
        if self.backend == "pyav" or needed:
            if is_device(self.source) or is_folder(self.source):
                what, option = ("a camera", "a folder")[is_folder(self.source)], (*needed, "backend='pyav'")[0]
                raise ValueError(f"{what} ({self.source}) is read by OpenCV: leave {option} away")
            import pipert_shm.video.pyav  # noqa: F401  (a missing package is an error now)

    @property
    def is_for_gstreamer(self) -> bool:
        """Whether GStreamer reads it."""
        return self.backend == "gstreamer" or is_pipeline(self.source)

    def _check_gstreamer(self, needed: list[str]) -> None:
        if self.backend not in ("auto", "gstreamer"):
            raise ValueError(f"a pipeline ({shown(self.source)}) is read by GStreamer: leave backend={self.backend!r} away")
        if needed:
            raise ValueError(f"{needed[0]} is for PyAV, and not for GStreamer: leave it away, or give a pipeline that does it")
        if is_folder(self.source):
            raise ValueError(f"a folder ({self.source}) is read by OpenCV: leave backend='gstreamer' away")
        if self.transport != "tcp" and not str(self.source).startswith(("rtsp://", "rtsps://")):
            raise ValueError(f"transport={self.transport!r} is for an rtsp:// URL")
        import pipert_shm.video.gstreamer  # noqa: F401  (a missing package is an error now)

    def open(
        self,
        logger: logging.Logger,
        needless: Callable[[float], bool] | None = None,
        idling: Idling | None = None,
        footage: Footage | None = None,
    ) -> Capture:
        """Opens it.

        :param needless: as for `PyAVCapture`.
        :param idling: as for `PyAVCapture`.
        :param footage: as for `PyAVCapture`.
        :raises VideoError: when it can't be opened.
        """
        if is_folder(self.source):
            return ImageFolder(self.source, self.wanted, fps=self.fps or 25.0)
        if self.is_for_gstreamer:
            return self._open_by_gstreamer(logger)
        if self._is_for_pyav(logger):
            return self._open_by_pyav(logger, needless, idling, footage)
        capture = OpenCVCapture(self.source, self.wanted, timeout=self.timeout, live=self.live)
        if not self._is_interlaced(capture):
            return capture
        capture.close()
        if find_spec("av") is None:
            raise VideoError(
                shown(self.source),
                f"{shown(self.source)!r} is interlaced, and OpenCV can't convert that; {to_install('pyav')}, which "
                f"reads it, or convert it: ffmpeg -i IN -vf yadif OUT",
            )
        logger.info("%r is interlaced, which OpenCV can't convert: it is read by PyAV", shown(self.source))
        return self._open_by_pyav(logger, needless, idling)

    def _is_for_pyav(self, logger: logging.Logger) -> bool:
        """Whether PyAV reads it. OpenCV crashes over a name that is not UTF-8.

        :raises VideoError: when only PyAV could, and it is not installed.
        """
        if self.backend == "pyav" or (self.backend == "auto" and not is_device(self.source) and find_spec("av") is not None):
            return True
        if isinstance(self.source, int) or is_utf8(os.fspath(self.source)):
            return False
        if find_spec("av") is None or is_device(self.source):
            raise VideoError(
                shown(self.source),
                f"the name {shown(self.source)!r} is not UTF-8, and OpenCV can't open such a file: rename it, or "
                f"{to_install('pyav')}, which reads it",
            )
        logger.info("the name %r is not UTF-8, which OpenCV can't open: it is read by PyAV", shown(self.source))
        return True

    def _open_by_pyav(
        self,
        logger: logging.Logger,
        needless: Callable[[float], bool] | None,
        idling: Idling | None,
        footage: Footage | None = None,
    ) -> Capture:
        from pipert_shm.video.pyav import PyAVCapture

        assert not isinstance(self.source, int), "`check` has seen to that"
        return PyAVCapture(
            self.source,
            self.wanted,
            timeout=self.timeout,
            live=self.live,
            transport=self.transport,
            decoding=self.decoding,
            needless=needless,
            idling=idling,
            footage=footage,
            logger=logger,
        )

    def _open_by_gstreamer(self, logger: logging.Logger) -> Capture:
        from pipert_shm.video.gstreamer import GStreamerCapture

        return GStreamerCapture(
            self.source, self.wanted, timeout=self.timeout, live=self.live, transport=self.transport, logger=logger
        )

    def _is_interlaced(self, capture: OpenCVCapture) -> bool:
        told = capture.interlaced
        if told is not None or isinstance(self.source, int) or self.live or find_spec("av") is None:
            return bool(told)
        from pipert_shm.video.pyav import begins_interlaced

        return begins_interlaced(self.source)
