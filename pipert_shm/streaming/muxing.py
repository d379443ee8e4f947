"""Hands packets of a stream to one of FFmpeg's formats, as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext, suppress
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipert_shm.streaming.encoding import Encoded
from pipert_shm.video.films import TICKS

if TYPE_CHECKING:
    import av


class Muxer:
    """An output of FFmpeg's with one stream of H.264. One thread at a time.

    :param url: where it goes, or the name of the file that `io_open` opens.
    :param first: the stream's first packet, a key frame, which tells its size and parameters.
    :param io_open: opens files in FFmpeg's place.
    :raises av.FFmpegError, OSError: when it can't be opened; then, and by each method, when something can't be written.
    """

    def __init__(
        self,
        url: str,
        format: str,
        options: dict[str, str],
        first: Encoded,
        io_open: Callable[[str, int, dict[str, str]], Any] | None = None,
    ) -> None:
        import av

        self._packet = av.Packet
        with av.open(io.BytesIO(first.data), format="h264") as parameters:
            self._container = av.open(url, "w", format=format, options=options, io_open=io_open)
            stream: av.VideoStream = self._container.add_stream_from_template(parameters.streams.video[0])
        stream.time_base = Fraction(1, TICKS)
        self._stream = stream
        self._from = first.pts
        self._last = -1

    def write(self, encoded: Encoded) -> None:
        """Writes a packet."""
        packet = self._packet(encoded.data)
        packet.stream, packet.time_base = self._stream, Fraction(1, TICKS)
        packet.pts = packet.dts = at = max(encoded.pts - self._from, self._last + 1)
        packet.is_keyframe = encoded.is_key
        packet.duration = max(1, at - self._last) if self._last >= 0 else TICKS // 30
        self._last = at
        self._container.mux(packet)

    def __enter__(self) -> Muxer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the output. After an error, what the end fails of is not told: it has the same cause."""
        with suppress(Exception) if error is not None else nullcontext():
            self._container.close()
