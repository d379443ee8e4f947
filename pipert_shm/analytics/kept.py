"""What a routine keeps while its processes come and go: settings that were changed, events that have begun, counts by label."""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import Any

_HEAD = struct.Struct("<Q")  # the version
_PART = struct.Struct("<II")  # length and checksum
_ROW = struct.Struct("<QI")  # the number, and the length of the name
_NAME = 116  # bytes of a name
_ROW_BYTES = _ROW.size + _NAME


class Kept:
    """A value that JSON knows, in memory that all processes of a routine share.

    Make it in the routine's constructor: the memory is anonymous, so every fork inherits it, it outlives each process of the
    flow, and leaves nothing behind. The program that built the pipe can read it, too. One process may write at a time. A write
    that a death interrupts changes nothing.

    :param most: bytes that the value may take as JSON.

    Attributes:
        most: the same.

    >>> kept = Kept(1000)
    >>> kept.read() is None, kept.version
    (True, 0)
    >>> kept.write({"open": [1, 2]})
    >>> kept.read(), kept.version
    ({'open': [1, 2]}, 1)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._memory = mmap.mmap(-1, _HEAD.size + 2 * (_PART.size + most))

    @property
    def version(self) -> int:
        """How often it was written."""
        number: int = _HEAD.unpack_from(self._memory)[0]
        return number

    def write(self, value: Any) -> None:
        """Replaces the value.

        :raises ValueError: when it takes more room than there is.
        """
        if not self.takes(value):
            raise ValueError(f"{len(json.dumps(value)):,} bytes are to be kept; there is room for {self.most:,}")

    def takes(self, value: Any) -> bool:
        """Replaces the value; False where there is no room for it, and then all is as it was."""
        text = json.dumps(value).encode()
        if len(text) > self.most:
            return False
        version = self.version + 1
        at = self._place(version)
        _PART.pack_into(self._memory, at, len(text), zlib.crc32(text))
        self._memory[at + _PART.size : at + _PART.size + len(text)] = text
        _HEAD.pack_into(self._memory, 0, version)
        return True

    def read(self) -> Any:
        """The value; None before the first write."""
        while version := self.version:
            at = self._place(version)
            length, checksum = _PART.unpack_from(self._memory, at)
            text = self._memory[at + _PART.size : at + _PART.size + min(length, self.most)]
            if zlib.crc32(text) == checksum:  # else it was written twice while this was read
                return json.loads(text)
        return None

    def _place(self, version: int) -> int:
        return _HEAD.size + version % 2 * (_PART.size + self.most)


class Tallies:
    """Numbers by name, in memory that all processes of a routine share, as `Kept` does. One thread writes; any may read.

    A name is a tuple of texts, such as a metric, a camera, a zone and a label. There is room for so many names; what is counted
    beyond is refused, so that nothing grows without end. Of a name that is too long, the longest texts are kept in part, with a
    checksum of the whole, so that different names stay different.

    :param rows: how many names there can be.

    >>> tallies = Tallies(2)
    >>> [tallies.add(("entered", name), 2) for name in ("gate", "yard", "gate", "door")]
    [True, True, True, False]
    >>> dict(tallies)
    {('entered', 'gate'): 4, ('entered', 'yard'): 2}
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._memory = mmap.mmap(-1, rows * _ROW_BYTES)
        self._places: dict[tuple[str, ...], int] | None = None  # of the process that writes

    def add(self, name: tuple[str, ...], more: int = 1) -> bool:
        """Adds to a number; False where there is no room for another name."""
        at = self._find(name)
        if at is not None:
            (before,) = _HEAD.unpack_from(self._memory, at)
            _HEAD.pack_into(self._memory, at, before + more)
        return at is not None

    def put(self, name: tuple[str, ...], value: int) -> bool:
        """Sets a number; False where there is no room for another name."""
        at = self._find(name)
        if at is not None:
            _HEAD.pack_into(self._memory, at, value)
        return at is not None

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for at in range(0, self._rows * _ROW_BYTES, _ROW_BYTES):
            value, length = _ROW.unpack_from(self._memory, at)
            if not length:
                return
            start = at + _ROW.size
            yield tuple(self._memory[start : start + length].decode().split("\0")), value

    def _find(self, name: tuple[str, ...]) -> int | None:
        if self._places is None:  # a process that has just begun
            self._places = {known: place * _ROW_BYTES for place, (known, _) in enumerate(self)}
        if name in self._places:
            return self._places[name]
        name = _storable(name)
        if name in self._places:
            return self._places[name]
        if len(self._places) == self._rows:
            return None
        text = "\0".join(name).encode()
        at = self._places[name] = len(self._places) * _ROW_BYTES
        self._memory[at + _ROW.size : at + _ROW.size + len(text)] = text
        _ROW.pack_into(self._memory, at, 0, len(text))  # from now on it is there for others
        return at


def _storable(name: tuple[str, ...]) -> tuple[str, ...]:
    """The name as a row can hold it, and as it is read again."""
    parts = [part.replace("\0", "\ufffd").encode("utf-8", "backslashreplace") for part in name]
    room = _NAME - len(parts) + 1  # without what separates them
    longest = max(map(len, parts))
    while sum(min(len(part), longest) for part in parts) > room:
        longest -= 1
    return tuple((part if len(part) <= longest else _shortened(part, longest)).decode() for part in parts)


def _shortened(text: bytes, length: int) -> bytes:
    """A UTF-8 text in so many bytes, at least 11: its beginning, and a checksum."""
    mark = f"…{zlib.crc32(text):08x}".encode()
    return text[: length - len(mark)].decode("utf-8", "ignore").encode() + mark
