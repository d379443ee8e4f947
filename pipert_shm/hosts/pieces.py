"""Puts the pieces of messages together again, within limits, and lets raw arrays land in shared memory as they come."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pipert_shm.hosts.payloads import PIECE, Layout, raw_arrays

MOST_PIECE = 2 * PIECE  # bytes: no sender cuts larger ones
MOST_HEAD = 4096  # bytes beside a first piece
LARGEST_MESSAGE = 256 << 20  # bytes: two raw pictures of 8K
_PIECE = struct.Struct("<IHH")  # the number of a message, the place of this piece in it, and how many there are


def told_of_piece(number: int, place: int, count: int, head: bytes) -> bytes:
    """What goes beside a piece: for the first one, the head of its message, too."""
    return _PIECE.pack(number, place, count) + (b"" if place else head)


class Landed(NamedTuple):
    """A message whose arrays lie where the receiving pipe wants them.

    Attributes:
        told, plain: what the message tells, and the payload's plain values.
        arrays: the arrays, filled.
        missing: bytes that did not come; below 0 for those that are too many.
    """

    told: dict[str, Any]
    plain: bytes
    arrays: list[np.ndarray]
    missing: int

    @property
    def size(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


Body: TypeAlias = Sequence[bytes] | Landed


def size_of(body: Any) -> int:
    """Bytes of a message."""
    return body.size if isinstance(body, Landed) else sum(map(len, body))


class Landing:
    """Where the arrays of the message that is coming go.

    The thread that hears asks for arrays at the first piece of a message. The routine's thread gives them if it has nothing
    else to do. From then on each piece is copied there at once: it is in the processor's cache, and the next one is under way
    meanwhile. Where none are given, the message stays in pieces.

    :param changed: guards it, and is notified when arrays are wanted.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._told: tuple[dict[str, Any], bytes] | None = None
        self._rooms: list[np.ndarray] | None = None
        self._arrays: list[np.ndarray] = []
        self._left: list[memoryview] = []
        self._surplus = self._start = 0
        self.wanted: list[Layout] | None = None

    # ---- for the routine, with `changed` in hand ---------------------------------------------------

    def give(self, wanted: list[Layout], rooms: list[np.ndarray] | None) -> None:
        """Lends these arrays to the message that wanted them, if it still does; None for no arrays."""
        if self.wanted is wanted:
            self.wanted, self._rooms = None, rooms

    # ---- for the thread that hears -----------------------------------------------------------------

    def begin(self, first: bytes, most: int) -> None:
        """A message of several pieces begins with this one.

        :param most: bytes that it can have.
        """
        found = raw_arrays(first, most)
        with self._changed:
            self._told, self._rooms, self._arrays = None, None, []
            self.wanted = None
            if found is not None:
                told, plain, self._start, self.wanted = found
                self._told = told, plain
                self._changed.notify_all()

    def take(self, pieces: list[bytes]) -> None:
        """Copies the pieces, and drops them, if there are arrays."""
        if not self._arrays:
            rooms = self._rooms
            if rooms is None:
                return
            self._arrays, self._surplus = rooms, 0
            self._left = [room.reshape(-1).view(np.uint8).data for room in rooms]
            self._copy(memoryview(pieces.pop(0))[self._start :])
        for piece in pieces:
            self._copy(memoryview(piece))
        pieces.clear()

    def _copy(self, data: memoryview) -> None:
        while len(data) and self._left:
            room = self._left[0]
            count = min(len(room), len(data))
            np.frombuffer(room[:count], np.uint8)[:] = np.frombuffer(data[:count], np.uint8)
            data = data[count:]
            if count == len(room):
                del self._left[0]
            else:
                self._left[0] = room[count:]
        self._surplus += len(data)

    def end(self) -> Landed | None:
        """The message is here whole: what has landed of it, or None where it is in pieces."""
        with self._changed:
            told, arrays = self._told, self._arrays
            self._told, self._rooms, self._arrays, self.wanted = None, None, [], None
        left, self._left = self._left, []
        if told is None or not arrays:
            return None
        return Landed(*told, arrays, sum(map(len, left)) - self._surplus)


class TooLarge(ValueError):
    """A message that has more bytes than the receiver takes."""


class Pieces:
    """Puts messages together again. One of which a piece is missing is left out, as if the link had lost it whole.

    :param most: bytes of a message; larger ones are refused.
    """

    def __init__(self, most: int = LARGEST_MESSAGE, landing: Landing | None = None) -> None:
        self._most, self._landing = most, landing
        self._head = b""
        self._number = -1
        self._next = self._size = 0
        self._pieces: list[bytes] = []

    def add(self, told: bytes, piece: bytes) -> tuple[bytes, Body] | None:
        """Takes a piece; returns the head and the body of the message that it ends.

        :raises TooLarge: at the piece with which a message has become too large. The rest of it is left out silently.
        :raises ValueError: when it is no piece that a sender sends.
        """
        if len(told) < _PIECE.size:
            return told, ()  # of another program, which `unpack` tells
        number, place, count = _PIECE.unpack_from(told)
        if len(piece) > MOST_PIECE or len(told) > MOST_HEAD or place >= count:
            self._drop()
            raise ValueError(f"a piece of {len(piece):,} bytes, number {place} of {count}, which no sender sends")
        if count == 1:
            return told[_PIECE.size :], (piece,)
        if place == 0:
            self._drop()
            self._number, self._head = number, told[_PIECE.size :]
        elif number != self._number or place != self._next:
            self._drop()
            return None
        self._size += len(piece)
        if self._size > self._most:
            self._drop()
            raise TooLarge(f"a message of more than {self._most:,} bytes")
        return self._keep(place, count, piece)

    def _keep(self, place: int, count: int, piece: bytes) -> tuple[bytes, Body] | None:
        self._pieces.append(piece)
        self._next = place + 1
        landing = self._landing
        if landing is not None:
            if place == 0:
                landing.begin(piece, min(self._most, count * MOST_PIECE))
            else:
                landing.take(self._pieces)
        if self._next < count:
            return None
        pieces, self._pieces = self._pieces, []
        self._number, self._size = -1, 0
        landed = None if landing is None else landing.end()
        return self._head, pieces if landed is None else landed

    def _drop(self) -> None:
        """What came of a message is not waited for any more."""
        if self._number >= 0 and self._landing is not None:
            self._landing.end()
        self._number, self._next, self._size, self._pieces = -1, 0, 0, []
