"""Pictures as a film, H.264 or H.265 by PyAV: an encoder and a decoder of one film, without a delay of even one picture.

Only this module imports PyAV, when the first film begins.

| Format | How it goes | What comes |
| --- | --- | --- |
| `bgr`, `rgb` | converted to I420 by BT.601, 16 to 235, as OpenCV does | converted back |
| `i420`, `nv12` | the planes as they are, whatever their range | likewise |
| `gray` | as the luma of a film without colours, 0 to 255 | likewise |

Of an odd size the last column or row goes twice, and is cut off again.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

from pipert_shm.data import FORMATS, Format
from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.video.formats import converted, is_planar, planes
from pipert_shm.video.opencv import cv2

FilmCodec = Literal["h264", "h265"]

ENCODERS: dict[FilmCodec, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {}),
    "h265": ("libx265", {"x265-params": "log-level=none"}),
}
DECODERS: dict[FilmCodec, str] = {"h264": "h264", "h265": "hevc"}
BITS_PER_PIXEL: dict[FilmCodec, float] = {"h264": 3.0, "h265": 2.0}
"""Bits a second for each pixel of a picture, where nobody sets a rate: 2.8 Mbit/s at 720p in H.264."""

LEAST_BITS = 200_000  # bits a second
SMALLEST, LARGEST = 32, 8192  # pixels of a side
GROUP = 120  # pictures from one key frame to the next, unless one is asked for
TICKS = 90_000  # a second
LONGEST_GAP_S = 1.0  # between two pictures, as the rate control is told
GREY = 128  # both colours of a grey picture
BT601, LIMITED = 6, 1  # FFmpeg's numbers of SMPTE 170M, and of luma from 16 to 235


class Packet(NamedTuple):
    """A picture of a film, encoded.

    Attributes:
        number: of the picture in its film, from 0.
        is_key: whether it can be decoded without those before it.
    """

    number: int
    is_key: bool
    data: bytes


def check_film(codec: FilmCodec) -> None:
    """:raises ImportError: when PyAV is not installed, or has no such encoder."""
    av = _pyav(f"codec {codec!r}")
    try:
        av.codec.Codec(ENCODERS[codec][0], "w")
    except av.codec.codec.UnknownCodecError as error:
        what = f"PyAV {av.__version__} has no encoder {ENCODERS[codec][0]}"
        raise ImportError(f"{what}: pip install --force-reinstall av") from error


def _pyav(what: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{what} needs PyAV ({error}): {to_install('pyav')}") from error
    return av


def usual_rate(codec: FilmCodec, width: int, height: int) -> int:
    """Bits a second for pictures of this size.

    >>> usual_rate("h264", 1280, 720)
    2764800
    """
    return max(LEAST_BITS, round(BITS_PER_PIXEL[codec] * width * height))


def fits(picture: np.ndarray) -> bool:
    """Whether a picture can be one of a film: 8 bits, one or three channels, and each side from 32 to 8192 pixels."""
    is_picture = picture.dtype == np.uint8 and picture.ndim in (2, 3) and picture.shape[2:] in ((), (1,), (3,))
    return is_picture and all(SMALLEST <= side <= LARGEST for side in picture.shape[:2])


class FilmEncoder:
    """Encodes pictures of one size and format. One thread at a time.

    :param shape: of the arrays.
    :param bit_rate: bits a second; None for what suits the size.
    :raises ImportError: when PyAV is not installed.
    """

    def __init__(self, codec: FilmCodec, shape: tuple[int, ...], format: Format, bit_rate: int | None = None) -> None:
        self._av = av = _pyav(f"codec {codec!r}")
        self.codec, self.shape, self.format = codec, shape, format
        self.next = 0
        self._width, self._height = _even(*_pixels(shape, format))
        self._pixels = "nv12" if format == "nv12" and codec == "h264" else "yuv420p"
        rate = bit_rate or usual_rate(codec, self._width, self._height)
        name, options = ENCODERS[codec]
        context = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = self._width, self._height, self._pixels
        context.time_base, context.framerate = Fraction(1, TICKS), Fraction(30)
        context.bit_rate, context.gop_size, context.max_b_frames = rate, GROUP, 0
        if format != "gray":
            context.colorspace, context.color_range = BT601, LIMITED  # else players guess by the size
        # A second of the rate is the most that a key frame and those after it may take at once.
        limits = {"maxrate": str(rate), "bufsize": str(rate)}
        context.options = options | limits | {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
        self._context = context
        self._room: np.ndarray | None = None
        self._tick, self._last_ns = -1, 0

    def encode(self, picture: np.ndarray, captured_ns: int, *, key: bool) -> Packet:
        """Encodes a picture; its memory may change afterwards.

        :param captured_ns: when it was captured, which the rate goes by.
        :param key: whether it is to be a key frame.
        """
        av = self._av
        frame = self._frame_of(self._planar(picture))
        gap = (captured_ns - self._last_ns) / 1e9 if self._tick >= 0 else 0.0
        self._tick += max(1, round(min(gap, LONGEST_GAP_S) * TICKS))
        self._last_ns = captured_ns
        frame.pts, frame.time_base = self._tick, Fraction(1, TICKS)
        if key:
            frame.pict_type = av.video.frame.PictureType.I
        packets = self._context.encode(frame)
        if len(packets) != 1:
            raise RuntimeError(f"the encoder of {self.codec} made {len(packets)} packets of a picture")
        number, self.next = self.next, self.next + 1
        return Packet(number, bool(packets[0].is_keyframe), bytes(packets[0]))

    def _frame_of(self, planar: np.ndarray) -> Any:
        if self._height % 4 == 0:
            return self._av.VideoFrame.from_numpy_buffer(planar, format=self._pixels)
        frame = self._av.VideoFrame(self._width, self._height, self._pixels)  # PyAV takes such an array for a lower picture
        for place, plane in enumerate(planes(planar, "nv12" if self._pixels == "nv12" else "i420")):
            rows = plane.reshape(len(plane), -1)
            np.copyto(_plane(frame, place)[: len(rows), : rows.shape[1]], rows)
        return frame

    def _planar(self, picture: np.ndarray) -> np.ndarray:
        """The picture in I420, or in NV12, in its own memory or in that of the one before."""
        if self.format == "i420" or self._pixels == "nv12":
            return np.ascontiguousarray(picture)
        if self._room is None:
            self._room = np.full((self._height * 3 // 2, self._width), GREY, np.uint8)
        room = self._room
        if is_planar(self.format):
            return converted(np.ascontiguousarray(picture), self.format, "i420", room)
        height, width = picture.shape[:2]
        if self.format == "gray":
            room[:height, :width] = picture.reshape(height, width)
            room[height : self._height, :width] = room[height - 1 : height, :width]
            room[: self._height, width:] = room[: self._height, width - 1 : width]
            return room
        if (width, height) != (self._width, self._height):
            picture = cv2.copyMakeBorder(
                np.ascontiguousarray(picture), 0, self._height - height, 0, self._width - width, cv2.BORDER_REPLICATE
            )
        return converted(picture, self.format, "i420", room)


class FilmDecoder:
    """Decodes the pictures of one film. One thread at a time."""

    def __init__(self, codec: FilmCodec) -> None:
        av = _pyav(f"a film in {codec}")
        self.codec = codec
        self._av = av
        self._context = av.CodecContext.create(DECODERS[codec], "r")
        self._context.options = {"max_pixels": str(LARGEST * LARGEST)}  # whatever the data says of itself
        self._context.thread_type = "SLICE"  # threads that take a picture each would delay them
        self._context.flags |= av.codec.context.Flags.low_delay
        self._next: int | None = None  # the number that can be decoded without a key frame
        self._frame: Any = None

    def decode(self, packets: list[Packet]) -> None:
        """Decodes the last of these, and for it those before it that are new.

        :raises ValueError: when pictures before it are missing, or it is damaged. Only a key frame helps then.
        """
        last = packets[-1].number
        if self._next is not None and packets[0].number <= self._next <= last:
            packets = packets[self._next - packets[0].number :]
        elif not packets[0].is_key:
            expected, self._next = self._next, None
            lacking = "no key frame of it came" if expected is None else f"the one that came before it was {expected - 1}"
            raise ValueError(f"picture {last} of a film can't be decoded, since {lacking}: a key frame is asked for")
        elif self._next is not None:
            self._context.flush_buffers()
        self._next = None
        for packet in packets:
            self._frame = self._decoded(packet)
        self._next = last + 1

    def _decoded(self, packet: Packet) -> Any:
        av = self._av
        try:
            frames = self._context.decode(av.Packet(packet.data))
        except av.error.FFmpegError as error:
            raise self._failed(packet, error.strerror or str(error)) from None
        if len(frames) != 1 or frames[0].is_corrupt:
            raise self._failed(packet, f"{len(frames)} pictures came of it" if len(frames) != 1 else "a part of it is missing")
        return frames[0]

    def _failed(self, packet: Packet, cause: str) -> ValueError:
        self._context.flush_buffers()
        return ValueError(f"picture {packet.number} of a film can't be decoded ({cause}): a key frame is asked for")

    def fill(self, format: Format, out: np.ndarray) -> None:
        """Writes the last picture into an array of this format.

        :raises ValueError: when the picture has another size than the array.
        """
        frame = self._frame
        if format not in FORMATS or out.dtype != np.uint8:
            raise ValueError(f"a film in the format {shown(format)}, of {out.dtype}")
        width, height = _pixels(out.shape, format)
        if (frame.width, frame.height) != _even(width, height):
            raise ValueError(f"a picture of {frame.width}x{frame.height} in the place of one of {shown(out.shape)}")
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            raise ValueError(f"a picture in {frame.format.name}, which no sender sends")
        if format == "gray":
            np.copyto(out.reshape(height, width), _plane(frame, 0)[:height, :width])
            return
        is_direct = format == "i420" and out.flags.c_contiguous
        room = out if is_direct else np.empty((frame.height * 3 // 2, frame.width), np.uint8)
        for place, plane in enumerate(planes(room)):
            np.copyto(plane, _plane(frame, place)[: plane.shape[0], : plane.shape[1]])
        if is_direct:
            return
        if (width, height) == (frame.width, frame.height):
            converted(room, "i420", format, out)
        else:
            np.copyto(out, converted(room, "i420", format)[:height, :width])


def _plane(frame: Any, place: int) -> np.ndarray:
    plane = frame.planes[place]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


def _pixels(shape: tuple[int, ...], format: Format) -> tuple[int, int]:
    """Width and height of pictures in arrays of this shape."""
    return shape[1], shape[0] * 2 // 3 if is_planar(format) else shape[0]


def _even(width: int, height: int) -> tuple[int, int]:
    return width + width % 2, height + height % 2
