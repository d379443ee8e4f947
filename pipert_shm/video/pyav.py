"""Reads videos with PyAV, which has exact time stamps, the causes of errors, RTSP by TCP or UDP, and all formats in one step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.video.capture import MOST_DAMAGED, WHOLE, Address, VideoInfo, address_of, cannot_open, shown
from pipert_shm.video.fit import Wanted
from pipert_shm.video.opencv import VideoError

try:
    import av
except ImportError as error:
    raise ImportError(f"PyAV does not load ({error}): {to_install('pyav')}") from error

from pipert_shm.video.packets import IN_PIECES, JoinedPackets, Packets, comes_in_pieces, may_come_in_pieces
from pipert_shm.video.swscale import Scaler


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode.

    Attributes:
        threads: of the decoder; None for as many as are good.
    """

    threads: int | None = None


class PyAVCapture:
    """A file or a stream, read by PyAV. Each frame is converted once, straight into shared memory.

    :param timeout: seconds of silence after which a stream is given up.
    :param live: threads share each frame's slices, since threads that take a frame each would delay frames.
    :param transport: `tcp` or `udp`, for RTSP.
    :raises VideoError: when the source can't be opened; the error says why.
    """

    def __init__(
        self,
        source: Address,
        wanted: Wanted = WHOLE,
        *,
        timeout: float = 5.0,
        live: bool = False,
        transport: str = "tcp",
        decoding: Decoding = Decoding(),
        logger: logging.Logger | None = None,
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._container, stream, in_pieces = self._open(transport, may_come_in_pieces(address_of(source), live))
        stream.thread_type = "SLICE" if live else "AUTO"
        fps = 0.0 if in_pieces else float(stream.average_rate or stream.guessed_rate or 0)
        seconds = max(0, self._container.duration or 0) / av.time_base
        self.info = VideoInfo(stream.width, stream.height, fps, stream.frames or round(seconds * fps))
        self._scaler = Scaler(shown(source), wanted, logger)
        self.shape: tuple[int, ...] = wanted.shape(shown(source), stream.width, stream.height) if stream.width else (0, 0, 3)
        self.pts: float | None = None
        self.came_ns: int | None = None
        self.wall_clock: float | None = None
        self.waited: float | None = None
        self._start = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
        name = shown(source)
        self._packets = (
            JoinedPackets(self._container, stream, name, transport, logger) if in_pieces else Packets(self._container, stream)
        )
        self._frames = self._decode()
        self._undecoded = 0
        self.damaged = 0

    def _open(self, transport: str, in_pieces: bool) -> tuple[av.container.InputContainer, av.VideoStream, bool]:
        """Opens the video, in pieces if it can be put together of them; and says whether it does so."""
        source, text = self._source, address_of(self._source)
        options = {"rtsp_transport": transport} if text.startswith(("rtsp://", "rtsps://")) else {}
        options |= IN_PIECES if in_pieces else {}
        try:
            container = av.open(text, timeout=self._timeout, options=options)
        except av.error.ExitError:
            raise cannot_open(source, f"no answer within {self._timeout:g} s") from None
        except av.error.FFmpegError as error:
            if in_pieces and isinstance(error, av.error.InvalidDataError):  # FFmpeg looks for headers, and finds half of them
                return self._open(transport, False)
            raise cannot_open(source, error.strerror or str(error), _advice(error)) from None
        if not container.streams.video:
            container.close()
            raise cannot_open(source, "there is no video in it, only sound perhaps")
        stream = container.streams.video[0]
        if in_pieces and not comes_in_pieces(stream):
            container.close()
            return self._open(transport, False)
        return container, stream, in_pieces

    def _decode(self) -> Iterator[av.VideoFrame]:
        in_a_row = 0
        for packet in self._packets:
            try:
                frames = self._packets.decoded(packet)
            except av.error.InvalidDataError:
                self._undecoded += 1
                in_a_row += 1
                if in_a_row == MOST_DAMAGED:
                    raise
            else:
                in_a_row = 0
                yield from frames

    def grab(self) -> bool:
        """See `Capture.grab`."""
        self._packets.waited = 0.0
        try:
            self._frame = next(self._frames)
        except StopIteration:
            return False
        except av.error.ExitError:
            raise VideoError(shown(self._source), f"{shown(self._source)!r} fell silent for {self._timeout:g} s") from None
        except av.error.FFmpegError as error:
            raise VideoError(shown(self._source), f"can't read on in {shown(self._source)!r}: {error.strerror}") from None
        self.pts = None if self._frame.time is None else self._frame.time - self._start
        self.damaged = self._undecoded + self._packets.damaged
        self.came_ns, self.waited = self._packets.came_ns, self._packets.waited
        self.wall_clock = self._packets.wall_clock(self._frame)
        self.shape = self._scaler.shape(self._frame)
        return True

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray:
        """See `Capture.retrieve`."""
        return self._scaler.fill(self._frame, out)

    def close(self) -> None:
        """See `Capture.close`."""
        self._scaler.close()
        self._container.close()


def begins_interlaced(source: Address) -> bool:
    """Whether the first frame of a file is interlaced; False where it can't be decoded."""
    try:
        with av.open(address_of(source)) as container:
            return any(frame.interlaced_frame for frame in islice(container.decode(video=0), 1))
    except (av.error.FFmpegError, IndexError):  # reading it raises the error
        return False


def _advice(error: av.error.FFmpegError) -> str:
    """What to do about the answer of a server; empty where there was none. FFmpeg takes RTSP's answers for HTTP's."""
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the server answers, but has nothing there; check the address from the host's name on"
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "the server answers, but lets nobody in without the right user name and password; check them"
    if isinstance(error, av.error.HTTPError):
        return "the server answers, but sends no video; check the address, and the server's log"
    return ""
