"""Makes the bytes of what a sender gets: it chooses the codec of each array, and keeps the films of its cameras."""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from pipert_shm.data import Meta
from pipert_shm.hosts.payloads import Array, Bytes, Whole, compressed, joined, taken_apart, told_of
from pipert_shm.video.films import FilmCodec, FilmEncoder, Packet, fits
from pipert_shm.video.opencv import cv2
from pipert_shm.video.recorded import is_picture

ArrayCodec = Literal["none", "jpeg", "zstd", "h264", "h265"]
CODEC_NUMBERS: dict[ArrayCodec, int] = {"none": 0, "jpeg": 1, "zstd": 2, "h264": 3, "h265": 4}
"""What the counter `codec` says."""

QUALITY = 90  # of a JPEG
MOST_FILMS = 16  # of which both ends keep the coder
STEADY, RESTLESS = 8, 4
"""A place whose pictures have another size again within 8 of them, 4 times in a row, gets no more films: each costs a start."""


@dataclass(slots=True)
class Film:
    """The pictures that one camera has at one place of its payloads.

    Attributes:
        number: of the film, drawn at random.
        group: the packets since the last key frame. Messages that are not acknowledged yet keep theirs.
        sent: the receiver that was sent this film last, and the number of the latest packet.
    """

    encoder: FilmEncoder
    number: int = field(default_factory=lambda: secrets.randbits(48))
    group: list[Packet] = field(default_factory=list)
    wants_key: bool = True
    sent: tuple[int | None, int] = (None, -1)


class Shot(NamedTuple):
    """A picture of a film: its packet is at `place` of the group."""

    film: Film
    group: list[Packet]
    place: int


@dataclass(frozen=True, slots=True)
class FilmBody:
    """A message with pictures of films in it. What goes depends on what the receiver has."""

    told: dict[str, Any]
    plain: bytes
    arrays: list[tuple[Array, Shot | None]]

    def pieces_for(self, receiver: int | None) -> Iterable[bytes]:
        """Its bytes for this receiver: one that lacks the picture before gets all from the last key frame on."""
        return joined(self.told, self.plain, [self._array_for(array, shot, receiver) for array, shot in self.arrays]).pieces

    @staticmethod
    def _array_for(array: Array, shot: Shot | None, receiver: int | None) -> Array:
        if shot is None:
            return array
        film, packet = shot.film, shot.group[shot.place]
        has, latest = film.sent
        is_next = has == receiver and packet.number <= latest + 1
        packets = [packet] if is_next else shot.group[: shot.place + 1]
        film.sent = receiver, max(packet.number, latest) if has == receiver else packet.number
        told = array.told | {
            "first": packets[0].number,
            "key": packets[0].is_key,
            "sizes": [len(packet.data) for packet in packets],
        }
        return Array(array.dtype, array.shape, array.codec, b"".join([packet.data for packet in packets]), told)


class Encoder:
    """Encodes payloads. One thread at a time, but for `FilmBody.pieces_for`, which may run on another one.

    :param bit_rate: of films, bits a second; None for what suits the size.
    """

    def __init__(self, bit_rate: int | None, logger: logging.Logger) -> None:
        self._bit_rate, self._logger = bit_rate, logger
        self._films: OrderedDict[tuple[int, int], Film] = OrderedDict()  # by origin and place
        self._restless: dict[tuple[int, int], int] = {}
        self._told: set[str] = set()
        self.key_frames = 0
        self.raw_bytes = self.encoded_bytes = 0  # of the last payload's arrays
        self.seconds = 0.0  # that it took to encode them

    def refresh(self) -> None:
        """The next picture of each film is a key frame: the receiver lacks what was sent before, or may lack it."""
        for film in self._films.values():
            film.wants_key = True

    def encode(self, payload: Any, meta: Meta, codec: ArrayCodec) -> Whole | FilmBody:
        """Returns the payload's bytes in pieces, which are copied as they are asked for, or a message with films in it.

        Of the latter, the arrays' memory may change afterwards.

        :raises PayloadError: when it holds an object that can't go to another host.
        """
        plain, arrays = taken_apart(payload)
        begun = time.perf_counter()
        packed = [self._packed(array, place, meta, codec) for place, array in enumerate(arrays)]
        self.seconds = time.perf_counter() - begun
        self.raw_bytes = sum(array.nbytes for array in arrays)
        self.encoded_bytes = sum(
            len(array.data) if shot is None else len(shot.group[shot.place].data) for array, shot in packed
        )
        if any(shot is not None for _, shot in packed):
            kept = [(array if shot else _kept(array), shot) for array, shot in packed]
            return FilmBody(told_of(meta), plain, kept)
        whole = joined(told_of(meta), plain, [array for array, _ in packed])
        return compressed(whole) if codec == "zstd" else whole

    def _packed(self, array: np.ndarray, place: int, meta: Meta, codec: ArrayCodec) -> tuple[Array, Shot | None]:
        if codec in ("h264", "h265") and fits(array):
            packed = self._filmed(array, place, meta, codec)
            if packed is not None:
                return packed
            codec = "jpeg"
        if codec == "jpeg" and _is_for_jpeg(array):
            done, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(array), (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
            if done:
                return Array(array.dtype.str, array.shape, "jpeg", jpeg.data.cast("B")), None
        if codec not in ("none", "zstd") and is_picture(array):
            self._tell_of_raw(array, codec)
        data: Bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""
        return Array(array.dtype.str, array.shape, "none", data), None

    def _filmed(self, array: np.ndarray, place: int, meta: Meta, codec: FilmCodec) -> tuple[Array, Shot] | None:
        """None where the pictures of this place have another size all the time."""
        film = self._film(array, (meta.origin_number, place), meta, codec)
        if film is None:
            return None
        packet = film.encoder.encode(array, meta.captured_ns, key=film.wants_key)
        if packet.is_key:
            film.wants_key = False
            film.group = []
            self.key_frames += 1
        film.group.append(packet)
        told = {"film": film.number, "format": film.encoder.format}
        shot = Shot(film, film.group, len(film.group) - 1)
        return Array(array.dtype.str, array.shape, codec, b"", told), shot

    def _film(self, array: np.ndarray, where: tuple[int, int], meta: Meta, codec: FilmCodec) -> Film | None:
        format = meta.format_of(array) or "gray"
        film = self._films.get(where)
        if film is not None:
            encoder = film.encoder
            if (encoder.codec, encoder.shape, encoder.format) == (codec, array.shape, format):
                if encoder.next == STEADY:
                    self._restless.pop(where, None)
                self._films.move_to_end(where)
                return film
            if encoder.next < STEADY and encoder.codec == codec:
                self._restless[where] = self._restless.get(where, 0) + 1
            del self._films[where]
        if self._restless.get(where, 0) >= RESTLESS:
            self._tell("size", "pictures have another size all the time, so they go as JPEG: a film needs one size")
            return None
        film = self._films[where] = Film(FilmEncoder(codec, array.shape, format, self._bit_rate))
        while len(self._films) > MOST_FILMS:
            self._films.popitem(last=False)
            self._tell(
                "many", f"more than {MOST_FILMS} cameras and sizes take turns, and each turn begins a film anew: use more wires"
            )
        return film

    def _tell_of_raw(self, array: np.ndarray, codec: ArrayCodec) -> None:
        kind = f"arrays of {array.dtype} and shape {array.shape}"
        what = "8 bits and one or three channels" + ("" if codec == "jpeg" else ", from 32 to 8192 pixels a side")
        self._tell(
            f"{array.dtype} {array.shape[2:]} {codec}", f"{kind} go as they are: codec {codec!r} is for pictures with {what}"
        )

    def _tell(self, topic: str, text: str) -> None:
        if topic not in self._told and len(self._told) < 64:
            self._told.add(topic)
            self._logger.warning("%s", text)


def _is_for_jpeg(array: np.ndarray) -> bool:
    is_picture = array.dtype == np.uint8 and array.ndim in (2, 3) and array.shape[2:] in ((), (3,))
    return is_picture and min(array.shape[:2], default=0) > 0 and max(array.shape[:2]) < 65536


def _kept(array: Array) -> Array:
    """The same with bytes of its own."""
    return (
        array if isinstance(array.data, bytes) else Array(array.dtype, array.shape, array.codec, bytes(array.data), array.told)
    )
