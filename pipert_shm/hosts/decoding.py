"""Makes payloads again of what came from another host, and keeps the decoders of its films."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipert_shm.data import Meta
from pipert_shm.hosts.encoding import MOST_FILMS
from pipert_shm.hosts.payloads import Bytes, Loan, Reading, apply_told, checked_layout
from pipert_shm.video.films import DECODERS, FilmCodec, FilmDecoder, Packet
from pipert_shm.video.opencv import cv2
from pipert_shm.video.recorded import payload_from_json


class Decoder:
    """Decodes messages in the order in which they were sent. One thread at a time.

    Attributes:
        needs_key_frame: whether a film of the last message could not be decoded.
    """

    def __init__(self) -> None:
        self.needs_key_frame = False
        self._failure: ValueError | None = None  # of the first film that failed: those after it are decoded all the same
        self._films: OrderedDict[int, FilmDecoder] = OrderedDict()

    def decode(self, pieces: Iterable[Bytes], meta: Meta, loan: Loan) -> Any:
        """Makes the payload again, and sets what `meta` says of it. Arrays lie in what `loan` gives.

        All films are decoded, even where something else of the message is damaged.

        :raises ImportError: when it takes PyAV, which is not installed.
        :raises ValueError: when the data is no payload, or a picture of a film in it can't be decoded.
        """
        return self._read(pieces, meta, loan)

    def skip(self, pieces: Iterable[Bytes], meta: Meta) -> None:
        """Takes from a message what those after it need, and makes no payload.

        :raises ImportError, ValueError: see `decode`.
        """
        self._read(pieces, meta, None)

    def _read(self, pieces: Iterable[Bytes], meta: Meta, loan: Loan | None) -> Any:
        self.needs_key_frame, self._failure = False, None
        try:
            reading = Reading(pieces)
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
            return payload_from_json(plain, arrays) if plain else arrays[0]
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, cv2.error) as error:
            raise ValueError(f"no payload: {type(error).__name__}: {error}") from error

    def _array(self, reading: Reading, described: Sequence[Any], loan: Loan | None) -> np.ndarray:
        dtype, shape, codec, length, told = described
        kind, sides = checked_layout(dtype, shape, length, codec)
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
            found = cv2.imdecode(np.frombuffer(reading.read(length), np.uint8), how)
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
