"""Makes payloads again of what came from another host, and keeps the decoders of its films."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipert_shm.data import Meta
from pipert_shm.hosts.encoding import MOST_FILMS
from pipert_shm.hosts.payloads import Bytes, Loan, Reading, apply_told, checked_layout
from pipert_shm.hosts.pieces import LARGEST_MESSAGE, Landed
from pipert_shm.video.films import DECODERS, FilmCodec, FilmDecoder, Packet
from pipert_shm.video.opencv import cv2
from pipert_shm.video.recorded import payload_from_json


class Decoder:
    """Decodes messages in the order in which they were sent. One thread at a time.

    :param most: bytes that a message may have when it is unpacked, and each of its arrays.

    Attributes:
        needs_key_frame: whether a film of the last message could not be decoded.
    """

    def __init__(self, most: int = LARGEST_MESSAGE) -> None:
        self._most = most
        self.needs_key_frame = False
        self._failure: ValueError | None = None  # of the first film that failed: those after it are decoded all the same
        self._films: OrderedDict[int, FilmDecoder] = OrderedDict()

    def decode(self, body: Iterable[Bytes] | Landed, meta: Meta, loan: Loan) -> Any:
        """Makes the payload again, and sets what `meta` says of it. Arrays lie in what `loan` gives.

        All films are decoded, even where something else of the message is damaged.

        :raises ImportError: when it takes PyAV, which is not installed.
        :raises ValueError: when the data is no payload, or a picture of a film in it can't be decoded.
        """
        return self._read(body, meta, loan)

    def skip(self, body: Iterable[Bytes] | Landed, meta: Meta) -> None:
        """Takes from a message what those after it need, and makes no payload.

        :raises ImportError, ValueError: see `decode`.
        """
        self._read(body, meta, None)

    def _read(self, body: Iterable[Bytes] | Landed, meta: Meta, loan: Loan | None) -> Any:
        self.needs_key_frame, self._failure = False, None
        try:
            if isinstance(body, Landed):
                return None if loan is None else _landed(body, meta)
            reading = Reading(body, self._most)
            told, plain = reading.head()
            described = told["arrays"]
            if loan is None and not any(each[2] in DECODERS for each in described):
                return None
            arrays = [self._array(reading, each, loan) for each in described]
            if self._failure is not None:
                raise self._failure
            reading.end()
            apply_told(told, meta)
            if loan is None:
                return None
            return _payload(plain, arrays)
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, cv2.error) as error:
            raise ValueError(f"no payload: {type(error).__name__}: {error}") from error

    def _array(self, reading: Reading, described: Sequence[Any], loan: Loan | None) -> np.ndarray:
        dtype, shape, codec, length, told = described
        kind, sides = checked_layout(dtype, shape, codec, length, self._most)
        if codec in DECODERS:
            array = np.empty(0) if loan is None else loan(sides, kind)
            self._film(codec, told, reading.read(length), None if loan is None else array)
            return array
        if loan is None:
            reading.read(length)
            return np.empty(0)
        if codec == "none":
            array = loan(sides, kind)
            reading.fill(array)
        elif codec == "jpeg":
            how = cv2.IMREAD_COLOR if len(sides) == 3 else cv2.IMREAD_GRAYSCALE
            data = np.frombuffer(reading.read(length), np.uint8)
            found = cv2.imdecode(data, how) if jpeg_sides(data) == sides[:2] else None
            if found is None or found.shape != sides or kind != np.uint8:
                raise ValueError("a picture that is no JPEG of its size")
            array = loan(sides, kind)
            array[...] = found
        else:
            raise ValueError(f"an array by the codec {codec!r}, which this version does not know")
        return array

    def _film(self, codec: FilmCodec, told: Any, data: memoryview, out: np.ndarray | None) -> None:
        packets, at = [], 0
        for number, size in enumerate(told["sizes"], told["first"]):
            packets.append(Packet(number, told["key"] and not at, bytes(data[at : at + size])))
            at += size
        if at != len(data) or not packets:
            raise ValueError(f"a film's {len(data)} bytes, of which {at} are told")
        film = self._films.get(told["film"])
        if film is None or film.codec != codec:
            film = self._films[told["film"]] = FilmDecoder(codec)
        self._films.move_to_end(told["film"])
        while len(self._films) > MOST_FILMS:
            self._films.popitem(last=False)
        try:
            film.decode(packets)
            if out is not None:
                film.fill(told["format"], out)
        except ValueError as error:
            self.needs_key_frame, self._failure = True, self._failure or error


def _payload(plain: bytes, arrays: list[np.ndarray]) -> Any:
    return payload_from_json(plain, arrays) if plain else arrays[0]


def _landed(body: Landed, meta: Meta) -> Any:
    if body.missing:
        more = f"{body.missing} bytes are missing at its end" if body.missing > 0 else "it is longer than it says"
        raise ValueError(f"no payload: {more}")
    apply_told(body.told, meta)
    return _payload(body.plain, body.arrays)


def jpeg_sides(data: np.ndarray) -> tuple[int, int] | None:
    """Height and width that a JPEG says it has, before any memory is asked for; None where it says none.

    :param data: its bytes.
    """
    view, at = data.data, 2
    while at + 9 <= len(view) and view[at] == 0xFF:
        marker = view[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header; these three are tables
            return int.from_bytes(view[at + 5 : at + 7], "big"), int.from_bytes(view[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    return None
