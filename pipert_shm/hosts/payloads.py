"""The bytes of a payload between two hosts, without pickles: a host runs no code that another one sent.

A payload is an array, or plain values, containers and this package's classes with arrays in them (see `video.recorded`). What
goes is a head in JSON, the plain values, and each array as its codec made it, in pieces: a large one is copied piece by piece,
while the one before it is still in the processor's cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from pipert_shm.data import FORMATS, Meta
from pipert_shm.errors import PayloadError
from pipert_shm.extras import to_install
from pipert_shm.video.films import DECODERS, LARGEST, check_film
from pipert_shm.video.recorded import json_from_payload

Codec = Literal["none", "jpeg", "zstd", "h264", "h265", "auto"]
CODECS: tuple[Codec, ...] = get_args(Codec)
PIECE = 1 << 19
"""Bytes of a piece: a few copies of it fit into a processor's cache."""

KINDS = "biufc"  # kinds of dtypes whose bytes say all
_PLAIN, _ZSTANDARD = b"\0", b"\1"
_LENGTH = 4  # bytes of the head's length

Bytes: TypeAlias = bytes | memoryview
Layout: TypeAlias = tuple[tuple[int, ...], np.dtype[Any]]
Loan = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]


def check_codec(codec: Codec) -> None:
    """:raises ImportError: when a package that it needs is not installed."""
    if codec == "zstd":
        _zstandard()
    elif codec == "h264" or codec == "h265":
        check_film(codec)
    elif codec == "auto":
        check_film("h264")


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ImportError(f"codec 'zstd' needs the package zstandard ({error}): {to_install('hosts')}") from error
    return zstandard


def taken_apart(payload: Any) -> tuple[bytes, list[np.ndarray]]:
    """Returns the payload's plain values as JSON, empty where it is an array, and its arrays.

    :raises PayloadError: when it holds an object that can't go to another host.
    """
    if type(payload) is np.ndarray and payload.dtype.kind in KINDS and payload.dtype.isnative:
        return b"", [payload]
    try:
        return json_from_payload(payload)
    except TypeError as error:
        reason = f"it holds {error}; send arrays, Detections, DetectedFrame, and plain values in lists, tuples and dicts"
        raise PayloadError("", "", reason, what="a message to another host") from error


@dataclass(frozen=True, slots=True)
class Array:
    """An array as it goes.

    Attributes:
        dtype, shape: of the array.
        codec: that made the bytes: `none`, `jpeg`, `h264` or `h265`.
        told: what else the receiver has to know, as JSON.
        data: the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    codec: str
    data: Bytes
    told: Any = None


def told_of(meta: Meta) -> dict[str, Any]:
    """What goes of a message's meta."""
    return {"pts": meta.pts, "wall_clock": meta.wall_clock, "described": meta.described}


class Whole(NamedTuple):
    """The bytes of a message: how many, in how many pieces, and these."""

    size: int
    number: int
    pieces: Iterator[bytes]


def joined(told: dict[str, Any], plain: bytes, arrays: Sequence[Array]) -> Whole:
    """The message's bytes in pieces of `PIECE`. Each is copied when it is asked for."""
    described = [[each.dtype, each.shape, each.codec, len(each.data), each.told] for each in arrays]
    head = json.dumps(told | {"plain": len(plain), "arrays": described}, separators=(",", ":")).encode()
    first = b"".join([_PLAIN, len(head).to_bytes(_LENGTH, "little"), head, plain])
    parts = [first, *(array.data for array in arrays)]
    size = sum(map(len, parts))
    return Whole(size, -(-size // PIECE), _cut(parts))


def _cut(parts: Iterable[Bytes]) -> Iterator[bytes]:
    small: list[Bytes] = []
    gathered = 0
    for part in parts:
        data = memoryview(part)
        at = 0
        while at < len(data):
            piece = data[at : at + PIECE - gathered]
            small.append(piece)
            gathered += len(piece)
            at += len(piece)
            if gathered == PIECE:
                yield b"".join(small)
                small, gathered = [], 0
    if small:
        yield b"".join(small)


def compressed(whole: Whole) -> Whole:
    """The same bytes, compressed by Zstandard."""
    parts = _ZSTANDARD, _zstandard().compress(b"".join(whole.pieces), 3)
    size = sum(map(len, parts))
    return Whole(size, -(-size // PIECE), _cut(parts))


def _unpacked(data: bytes, most: int) -> bytes:
    """What Zstandard made smaller. It gets memory for as much as the data says of itself, and unpacks no more than that."""
    zstandard = _zstandard()
    try:
        size: int = zstandard.frame_content_size(data)
        if not 0 < size <= most:
            says = "says" if size < 0 else f"says {size:,}"
            raise ValueError(f"no payload: it {says} for its bytes when unpacked, and {most:,} are the most")
        whole: bytes = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"no payload: {str(error) or 'there is no memory for it'}") from error
    return whole


class Reading:
    """Reads a message that came in pieces. It copies only what lies in two of them.

    :param most: bytes that it may have when it is unpacked.
    :raises ValueError: when it would have more, or is damaged.
    """

    def __init__(self, pieces: Iterable[Bytes], most: int) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        if bytes(self.read(1)) == _ZSTANDARD:
            whole = _unpacked(b"".join([self._rest, *self._pieces]), most)
            self._rest, self._pieces = memoryview(whole)[1:], iter(())

    def _next(self) -> bool:
        while not len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        return True

    def some(self, most: int) -> memoryview:
        """The next bytes, at least one and at most so many.

        :raises ValueError: when there are none.
        """
        if not self._next():
            raise ValueError(f"no payload: {most} bytes are missing at its end")
        some, self._rest = self._rest[:most], self._rest[most:]
        return some

    def read(self, count: int) -> memoryview:
        """The next `count` bytes.

        :raises ValueError: when there are fewer.
        """
        if count <= 0:
            return memoryview(b"")
        some = self.some(count)
        if len(some) == count:
            return some
        parts, found = [some], len(some)
        while found < count:
            parts.append(self.some(count - found))
            found += len(parts[-1])
        return memoryview(b"".join(parts))

    def fill(self, array: np.ndarray) -> None:
        """Fills a contiguous array's memory with the next bytes."""
        flat = array.reshape(-1).view(np.uint8)
        at = 0
        while at < len(flat):
            some = self.some(len(flat) - at)
            flat[at : at + len(some)] = np.frombuffer(some, np.uint8)
            at += len(some)

    def end(self) -> None:
        """:raises ValueError: when there is more."""
        if self._next():
            raise ValueError("no payload: it is longer than it says")

    def head(self) -> tuple[dict[str, Any], bytes]:
        """What the message tells, and the payload's plain values.

        :raises ValueError: when these are no such bytes.
        """
        told = json.loads(bytes(self.read(int.from_bytes(self.read(_LENGTH), "little"))))
        return told, bytes(self.read(told["plain"]))


def raw_arrays(first: bytes, most: int) -> tuple[dict[str, Any], bytes, int, list[Layout]] | None:
    """What a message of several pieces tells, if all its arrays come as they are; else None.

    :param first: its first piece.
    :param most: bytes that the arrays can have together.
    :return: its head, its plain values, the byte of the piece at which the arrays begin, and their layouts. None where it does
        not fit together, too: `Reading` tells why.
    """
    if first[:1] != _PLAIN:
        return None
    try:
        begin = 1 + _LENGTH + int.from_bytes(first[1 : 1 + _LENGTH], "little")
        told = json.loads(first[1 + _LENGTH : begin])
        end = begin + told["plain"]
        described = told["arrays"]
        if not begin <= end <= len(first) or not described or any(each[2] != "none" for each in described):
            return None
        if sum(each[3] for each in described) > most:
            return None
        layouts = [checked_layout(dtype, shape, codec, length, most) for dtype, shape, codec, length, _ in described]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError):
        return None
    return told, first[begin:end], end, [(sides, kind) for kind, sides in layouts]


def apply_told(told: dict[str, Any], meta: Meta) -> None:
    """Sets what the sender knew of the message.

    :raises ValueError, TypeError, OverflowError: when a time of it is no number.
    """
    meta.pts, meta.wall_clock = (None if time is None else float(time) for time in (told["pts"], told["wall_clock"]))
    format, rows = told["described"]
    if format in FORMATS:
        meta.describe(format, rows)


def checked_layout(dtype: Any, shape: Any, codec: str, length: Any, most: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape of an array that a head tells of.

    :param most: bytes that an array may have: its memory is asked for before its bytes are there.
    :raises ValueError: when there is no such array, it is too large, a raw one has another length, or one of a film is larger
        than its pictures can be.
    """
    kind, sides = np.dtype(str(dtype)), tuple(map(int, shape))
    if kind.kind not in KINDS or min(sides, default=0) < 0:
        raise ValueError(f"an array {sides} of dtype {kind}")
    if math.prod(sides) * kind.itemsize > most:
        raise ValueError(f"an array {sides} of {kind}, of which {most:,} bytes are the most")
    if codec == "none" and length != math.prod(sides) * kind.itemsize:
        raise ValueError(f"{length} bytes for an array {sides} of {kind}")
    if codec in DECODERS and not (len(sides) in (2, 3) and max(sides) <= LARGEST and sides[2:] in ((), (1,), (3,))):
        raise ValueError(f"a picture {sides} of a film")
    return kind, sides
