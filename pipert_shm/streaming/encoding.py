"""One stream's encoder: pictures of one size in H.264, without a delay of even one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipert_shm.errors import shown as told
from pipert_shm.limits import is_count, is_number
from pipert_shm.streaming.pictures import Shown, check_shown, film_format, fitted, stream_size
from pipert_shm.video.films import LARGEST, SMALLEST, TICKS, FilmEncoder, check_film

KEY_S = 2.0  # seconds between key frames, so that somebody can come in anywhere
LONGEST_GAP_S = 10.0  # between two frames: a longer one, or one back in time, is taken for a jump of the clock
USUAL_GAP_S = 1 / 30  # which stands for it then
SLOWEST_FPS, FASTEST_FPS = 1.0, 240.0
LEAST_RATE, MOST_RATE = 50_000, 100_000_000  # bits a second


class Encoded(NamedTuple):
    """A picture of a stream, encoded.

    Attributes:
        data: H.264 with start codes; a key frame begins with the parameter sets.
        is_key: whether it can be decoded without those before it.
        pts: its place in the stream, in 90,000ths of a second.
        captured_ns: when it was captured, CLOCK_MONOTONIC, ns.
    """

    data: bytes
    is_key: bool
    pts: int
    captured_ns: int


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How something is streamed.

    :param width: the most pixels in a row; wider frames are scaled down. None: as they come.
    :param fps: the most frames a second; others are skipped.
    :param bit_rate: bits a second; None for what suits the size: 2.8 Mbit/s at 720p.
    :raises ValueError: when one is out of range.
    """

    width: int | None = None
    fps: float = 30.0
    bit_rate: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not (is_count(self.width, SMALLEST) and self.width <= LARGEST):
            raise ValueError(f"width must be a number of pixels from {SMALLEST} to {LARGEST}, or None, not {told(self.width)}")
        if not is_number(self.fps) or not SLOWEST_FPS <= self.fps <= FASTEST_FPS:
            raise ValueError(f"fps must be a number from {SLOWEST_FPS:g} to {FASTEST_FPS:g}, not {told(self.fps)}")
        if self.bit_rate is not None and not (is_count(self.bit_rate, LEAST_RATE) and self.bit_rate <= MOST_RATE):
            raise ValueError(
                f"bit_rate must be a number of bits a second from {LEAST_RATE:,} to {MOST_RATE:,}, or None, "
                f"not {told(self.bit_rate)}"
            )


def check_encoder() -> None:
    """:raises ImportError: when PyAV, which encodes, is not installed."""
    check_film("h264")


class StreamEncoder:
    """Encodes a stream. Its size is that of the first frame, scaled; later frames are fitted into it. One thread at a time.

    Attributes:
        size: width and height; None before the first frame.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self.size: tuple[int, int] | None = None
        self._settings = settings
        self._film: FilmEncoder | None = None
        self._pts = self._last_ns = self._key_at = 0

    def encode(self, shown: Shown, *, key: bool) -> Encoded:
        """Encodes a frame; its memory may change afterwards.

        :param key: whether it is to be a key frame. It is one after two seconds in any case.
        :raises ValueError: when it is no picture.
        :raises Exception: of OpenCV or FFmpeg, when they refuse it. The next frame goes on with the stream, in the same size.
        """
        check_shown(shown)
        size = self.size or stream_size(shown.frame, shown.format, self._settings.width)
        format = film_format(shown.format) if self._film is None else self._film.format
        picture = fitted(shown.frame, shown.format, size, format)  # first: one that fails here decides nothing of the stream
        film = self._film or FilmEncoder("h264", (size[1] * 3 // 2, size[0]), format, self._settings.bit_rate)
        pts = self._pts
        if self.size is not None:
            gap = (shown.at_ns - self._last_ns) / 1e9
            pts += max(1, round(TICKS * (gap if gap <= LONGEST_GAP_S else USUAL_GAP_S)))
        key = key or not film.next or pts - self._key_at >= KEY_S * TICKS
        self._film = None  # after an error nothing is known of its state: the next frame begins another, with a key frame
        packet = film.encode(picture, shown.at_ns, key=key)
        self._film, self.size, self._pts, self._last_ns = film, size, pts, shown.at_ns
        if packet.is_key:
            self._key_at = pts
        return Encoded(packet.data, packet.is_key, pts, shown.at_ns)


class Limiter:
    """Says which frames are left out, so that no more than `fps` a second remain.

    >>> limiter = Limiter(10)
    >>> [limiter.lets(ms * 1_000_000) for ms in (0, 40, 80, 120, 160, 200)]
    [True, False, False, True, False, True]
    """

    def __init__(self, fps: float) -> None:
        self._period = round(1e9 / fps)
        self._due: int | None = None

    def lets(self, at_ns: int) -> bool:
        """Whether the frame of this time goes on."""
        due = self._due
        if due is not None and due - 2 * self._period < at_ns < due - self._period // 10:
            return False
        behind = due is None or at_ns - due > self._period or at_ns < due - self._period
        self._due = (at_ns if behind or due is None else due) + self._period
        return True
