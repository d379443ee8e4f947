"""Tells from a video's header whether it has interlaced pictures.

OpenCV can't convert these: it silently gives what its buffer held before. FFmpeg knows once it has decoded a picture, but
OpenCV does not pass that on. The headers of H.264, MPEG-2 and MPEG-4 say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

H264 = ("h264", "avc1", "avc3", "x264", "davc")
MPEG2 = ("mpg2", "mp2v", "mpeg", "mpg1", "m2v1", "hdv1", "hdv2", "hdv3", "xdv2")
MPEG4 = ("fmp4", "mp4v", "xvid", "divx", "dx50", "mp4s", "div3")
NEVER = ("vp80", "vp90", "vp08", "vp09", "av01", "png ", "gif ")

_CHROMA_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_SEPARATE_PLANES = 3
_EXTENDED_ASPECT = 15


def says_interlaced(codec: str, header: bytes) -> bool | None:
    """Whether a video may have interlaced pictures; None when the header does not tell.

    :param codec: the codec's four letters, as OpenCV gives them.
    :param header: the codec's header, which FFmpeg calls extradata.
    """
    letters = codec.lower()
    if letters in NEVER:
        return False
    try:
        if letters in H264:
            return _of_h264(header)
        if letters in MPEG2:
            return _of_mpeg2(header)
        if letters in MPEG4:
            return _of_mpeg4(header)
    except IndexError:  # the header is cut off
        return None
    return None


class _Bits:
    """Reads a header bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        """Reads a number of so many bits."""
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - (self._at & 7)) & 1
            self._at += 1
        return value

    def golomb(self) -> int:
        """Reads a number in H.264's code of variable length (Exp-Golomb). Its sign does not matter here."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _of_h264(header: bytes) -> bool | None:
    for unit in _units(header):
        if unit[0] & 31 == 7:  # a sequence parameter set
            return not _has_frames_only(_Bits(unit.replace(b"\0\0\3", b"\0\0")))
    return None


def _units(header: bytes) -> Iterator[bytes]:
    if header[:1] == b"\1":  # as MP4 has them
        at = 6
        for _ in range(header[5] & 31):
            size = int.from_bytes(header[at : at + 2], "big")
            yield header[at + 2 : at + 2 + size]
            at += 2 + size
    else:
        yield from filter(None, re.split(b"\0\0\1", header))


def _has_frames_only(bits: _Bits) -> bool:
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()  # its number
    if profile in _CHROMA_PROFILES:
        chroma = bits.golomb()
        if chroma == _SEPARATE_PLANES:
            bits.take(1)
        bits.golomb()  # depths
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for number in range(12 if chroma == _SEPARATE_PLANES else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.golomb()  # frame numbers
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.take(1)
    bits.golomb()  # width
    bits.golomb()  # height
    return bool(bits.take(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


def _of_mpeg2(header: bytes) -> bool | None:
    for match in re.finditer(b"\0\0\1\xb5", header):
        if header[match.end()] >> 4 == 1:  # a sequence extension
            return not header[match.end() + 1] & 8
    return None if b"\0\0\1\xb3" not in header else False  # MPEG-1


def _of_mpeg4(header: bytes) -> bool | None:
    match = re.search(b"\0\0\1[\x20-\x2f]", header)
    if match is None:
        return None
    bits = _Bits(header[match.end() :])
    bits.take(9)
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == _EXTENDED_ASPECT:
        bits.take(16)
    if bits.take(1):
        bits.take(3)
        if bits.take(1):
            bits.take(79)
    if bits.take(2) or version > 2:  # a shape that is no rectangle
        return None
    bits.take(1)
    resolution = bits.take(16)
    bits.take(1)
    if bits.take(1):
        bits.take(max(1, (resolution - 1).bit_length()))
    bits.take(29)  # width and height, each between markers
    return bool(bits.take(1))
