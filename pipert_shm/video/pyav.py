"""Reads videos with PyAV: with exact time stamps, the causes of errors, RTSP by TCP or UDP, and all formats in one step."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.extras import to_install
from pipert_shm.video.capture import MOST_DAMAGED, WHOLE, Address, VideoInfo, address_of, cannot_open, shown
from pipert_shm.video.decoding import Decoding
from pipert_shm.video.fit import Wanted
from pipert_shm.video.opencv import VideoError

try:
    import av
    from av.codec.context import Flags
    from av.codec.hwaccel import HWAccel
except ImportError as error:
    raise ImportError(f"PyAV does not load ({error}): {to_install('pyav')}") from error

from pipert_shm.video.footage.footage import Footage
from pipert_shm.video.hardware import accelerator
from pipert_shm.video.idle import Idling
from pipert_shm.video.packets import (
    BARREN,
    IN_PIECES,
    Barren,
    JoinedPackets,
    Packets,
    comes_in_pieces,
    may_come_in_pieces,
)
from pipert_shm.video.skipping import Choice, Chooser
from pipert_shm.video.swscale import Scaler, bits_of, no_sixteen_bits

LOGGER = logging.getLogger(__name__)
MOST_AHEAD = 1024  # packets of a file that is recorded, which wait for a picture

KEYLESS = 30.0
"""Seconds of a stream without anything to decode after which the log says so. Some cameras send a key frame each 20 s only."""

DEFAULTS = Decoding()


class PyAVCapture:
    """A file or a stream, read by PyAV. Each frame is converted once, straight into shared memory.

    :param timeout: seconds of silence after which a stream is given up.
    :param live: threads share each frame's slices, since threads that take a frame each would delay frames.
    :param transport: `tcp` or `udp`, for RTSP.
    :param needless: whether the picture at this position (s) is not wanted. One that no other needs is not decoded then.
    :param idling: says when key frames will do.
    :param footage: keeps the packets, all of them, before any is left out.
    :raises VideoError: when the source can't be opened; the error says why.
    """

    # longer than 40 lines: what is known once the source is open are so many attributes
    def __init__(
        self,
        source: Address,
        wanted: Wanted = WHOLE,
        *,
        timeout: float = 5.0,
        live: bool = False,
        transport: str = "tcp",
        decoding: Decoding = DEFAULTS,
        needless: Callable[[float], bool] | None = None,
        idling: Idling | None = None,
        footage: Footage | None = None,
        logger: logging.Logger = LOGGER,
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._live = live
        hardware = accelerator(decoding.hwaccel, shown(source), logger)
        self._container, stream, in_pieces = self._open(transport, may_come_in_pieces(address_of(source), live), hardware)
        _set(stream.codec_context, decoding, live)
        if hardware is not None and not stream.codec_context.is_hwaccel:
            logger.warning("%r is decoded by the CPU: the hardware does not know %s", shown(source), stream.codec_context.name)
        self._check_bits(wanted, stream.codec_context)
        fps = 0.0 if in_pieces else float(stream.average_rate or stream.guessed_rate or 0)
        seconds = max(0, self._container.duration or 0) / av.time_base
        self.info = VideoInfo(stream.width, stream.height, fps, stream.frames or round(seconds * fps))
        self._scaler = Scaler(shown(source), wanted, logger)
        self.shape: tuple[int, ...] = self._announced(wanted, stream.width, stream.height) if stream.width else (0, 0, 3)
        self.pts: float | None = None
        self.came_ns: int | None = None
        self.wall_clock: float | None = None
        self.waited: float | None = None
        stands = _says_where(self._container.format.name, stream)
        self._time_base = float(stream.time_base or 0) if stands else 0.0
        self._start = (stream.start_time or 0) * self._time_base
        name = shown(source)
        self._packets = (
            JoinedPackets(self._container, stream, name, transport, logger) if in_pieces else Packets(self._container, stream)
        )
        self._idling = idling
        self._footage = footage
        self._ahead: deque[tuple[av.Packet[Any], float | None]] = deque()
        self._filmed_ns = 0
        self._is_taken = False
        self._taken: tuple[int, float | None] | None = None  # the last picture that was taken: since when, and where it stands
        if footage is not None:
            footage.begin(stream)
        is_idle = None if idling is None else idling.is_idle
        self._chooser = Chooser(stream, decoding.skip_frame, needless if stands else None, is_idle)
        self._drained = self._told_of_none = False
        self._chosen_at = 0.0  # where the last packet stands that was decoded
        self._logger = logger
        self.stopped = False
        self._repeated: int | None = None  # stamp of the picture that an idle stream, which goes on, gives once more
        self._frames = self._decode(stream.codec_context)
        self._undecoded = self._given = 0
        self.damaged = 0

    def _open(
        self, transport: str, in_pieces: bool, hardware: HWAccel | None
    ) -> tuple[av.container.InputContainer, av.VideoStream, bool]:
        """Opens the video, in pieces if it can be put together of them; and says whether it does so."""
        source, text = self._source, address_of(self._source)
        options: dict[str, str] = {}
        if text.startswith(("rtsp://", "rtsps://")):
            # Without its sound: that would go on when the pictures do not, and no silence would tell.
            options = {"rtsp_transport": transport, "allowed_media_types": "video"}
        options |= IN_PIECES if in_pieces else {}
        try:
            container = av.open(text, timeout=self._timeout, options=options, hwaccel=hardware)
        except av.error.ExitError:
            raise cannot_open(source, f"no answer within {self._timeout:g} s") from None
        except av.error.FFmpegError as error:
            if in_pieces and isinstance(error, av.error.InvalidDataError):  # FFmpeg looks for headers, and finds half of them
                return self._open(transport, False, hardware)
            cause = "" if isinstance(error, av.error.FileNotFoundError) else error.strerror or str(error)
            raise cannot_open(source, cause, _advice(error)) from None
        if not container.streams.video:
            container.close()
            raise cannot_open(source, "there is no video in it, only sound perhaps")
        stream = container.streams.video[0]
        if in_pieces and not comes_in_pieces(stream):
            container.close()
            return self._open(transport, False, hardware)
        return container, stream, in_pieces

    def _check_bits(self, wanted: Wanted, codec: av.VideoCodecContext) -> None:
        """:raises VideoError: when 16 bits are wanted of a video that has 8; not where the header does not tell."""
        if wanted.bits == 16 and codec.format is not None and bits_of(codec.format) <= 8:
            self._container.close()
            raise no_sixteen_bits(shown(self._source), codec.format)

    def _announced(self, wanted: Wanted, width: int, height: int) -> tuple[int, ...]:
        """Shape of the array for a picture of this size, which the frames may say has to be turned."""
        name = shown(self._source)
        try:
            return wanted.shape(name, width, height)
        except VideoError:
            with suppress(VideoError):
                return wanted.shape(name, height, width)
            self._container.close()
            raise

    @property
    def left_out(self) -> int:
        """See `Capture.left_out`."""
        return self._chooser.left_out

    def _decode(self, codec: av.VideoCodecContext) -> Generator[av.VideoFrame]:
        in_a_row, at = 0, 0.0
        for number, packet in enumerate(self._packets):
            if self.stopped:
                return
            at = self._position(packet.pts, number) or at
            if self._footage is not None:
                self._film(self._footage, packet, number)
            choice = self._chooser.choose(packet, at) if packet.size else Choice((packet,))
            self._note_choice(choice, at)
            if choice.repeats:
                self._repeated = choice.packets[0].pts
            for chosen in (*choice.packets, None) if choice.drain else choice.packets:
                if self._drained:
                    codec.flush_buffers()
                self._drained = chosen is None
                try:
                    frames = self._packets.decoded(chosen)
                except av.error.InvalidDataError:
                    self._undecoded += 1
                    in_a_row += 1
                    if in_a_row == MOST_DAMAGED:
                        return
                    continue
                in_a_row = 0
                for frame in frames:
                    if self._repeated is None or frame.pts != self._repeated:
                        yield frame
                    else:
                        self._repeated = None

    def _film(self, footage: Footage, packet: av.Packet[Any], number: int) -> None:
        """Gives a packet to the footage. Those of a file wait until the decoder, which is ahead, has come to their picture."""
        if self._live:
            footage.keep(packet, self._packets.came_ns, self._packets.wall_clock(packet.pts))
            return
        self._ahead.append((packet, self._position(packet.pts if packet.dts is None else packet.dts, number)))
        if len(self._ahead) > MOST_AHEAD:
            self._film_until(self._ahead[0][1])

    def _film_until(self, end: float | None) -> None:
        """Gives the footage the packets up to a picture. They come when they play: as long after the last picture that was
        taken as they stand behind it.

        :param end: where the picture stands, seconds; None for all that are left.
        """
        taken_ns, taken = self._taken or (now_ns(), None)
        while self._footage is not None and self._ahead and (end is None or (self._ahead[0][1] or 0.0) <= end):
            packet, at = self._ahead.popleft()
            after = 0.0 if at is None or taken is None else max(0.0, at - taken)
            self._filmed_ns = max(self._filmed_ns, taken_ns + round(after * 1e9))  # late pictures play faster than they stand
            self._footage.keep(packet, self._filmed_ns, self._packets.wall_clock(packet.pts))

    def _note_choice(self, choice: Choice, at: float) -> None:
        """Tells, once, of a stream in which nothing is decoded since it sends no key frame any more."""
        if choice.packets or at < self._chosen_at:
            self._chosen_at, self._told_of_none = at, False
            return
        self._packets.barren = 0.0
        if at - self._chosen_at >= KEYLESS and not self._told_of_none:
            self._told_of_none = True
            self._logger.warning(
                "%r has sent no key frame for %.0f s, and only these are decoded (skip_frame='nokey', or idle=): nothing is "
                "sent, and no motion seen, until one comes. Have the camera send one each second, or leave the option away",
                shown(self._source),
                at - self._chosen_at,
            )

    def _position(self, stamp: int | None, number: int) -> float | None:
        """Seconds from the start: by a stamp; in a file without stamps of pictures, by the number of the picture."""
        if stamp is not None and self._time_base:
            return stamp * self._time_base - self._start
        return number / self.info.fps if self.info.fps and not self._live else None

    def grab(self) -> bool:
        """See `Capture.grab`."""
        self._packets.waited = self._packets.barren = 0.0
        if self._is_taken:
            self._is_taken, self._taken = False, (now_ns(), self.pts)  # it may have waited for room in a wire
        try:
            self._frame = next(self._frames)
        except StopIteration:
            self._film_until(None)
            return False
        except Barren:
            raise VideoError(
                shown(self._source),
                f"{shown(self._source)!r} sends data, but no picture for {BARREN:g} s: it may be encrypted, or have another "
                f"codec now; look at the camera's settings",
            ) from None
        except av.error.ExitError:
            raise VideoError(shown(self._source), f"{shown(self._source)!r} fell silent for {self._timeout:g} s") from None
        except av.error.FFmpegError as error:
            raise VideoError(shown(self._source), f"can't read on in {shown(self._source)!r}: {error.strerror}") from None
        self.pts = self._position(self._frame.pts, self._given + self.left_out)
        self._given += 1
        self._film_until(self.pts)
        self.damaged = self._undecoded + self._packets.damaged
        self.came_ns, self.waited = self._packets.came_ns, self._packets.waited
        self.wall_clock = self._packets.wall_clock(self._frame.pts)
        self.shape = self._scaler.shape(self._frame)
        if self._idling is not None and self.pts is not None:
            self._idling.look(self._frame, self.pts)
        return True

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray:
        """See `Capture.retrieve`."""
        self._is_taken = True
        return self._scaler.fill(self._frame, out)

    def close(self) -> None:
        """See `Capture.close`."""
        self._frames.close()  # else it and this object hold each other, and the decoder, until they are collected
        self._scaler.close()
        self._container.close()


def _set(codec: av.VideoCodecContext, decoding: Decoding, live: bool) -> None:
    """Prepares a decoder. Threads that take a frame each delay frames; those that share a frame do not."""
    codec.thread_type = "SLICE" if live else "AUTO"
    if decoding.threads is not None:
        codec.thread_count = decoding.threads
    if decoding.low_delay:
        codec.flags |= Flags.low_delay
    if decoding.skip_loop_filter is not None:
        codec.options = {"skip_loop_filter": decoding.skip_loop_filter}  # FFmpeg's `open` would take no notice of it


def _says_where(container: str, stream: av.VideoStream) -> bool:
    """Whether the stamps of packets say when their pictures are shown.

    Bare H.264 and H.265 have none. Those in AVI count the packets, and pictures are shown in another order. So a picture stands
    where its number says, and which packet has it is not known before it is decoded.
    """
    return stream.codec_context.name not in ("h264", "hevc") or container not in ("avi", "h264", "hevc")


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
