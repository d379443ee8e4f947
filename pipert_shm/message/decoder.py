"""The body of a message: how it is laid out, and how it becomes a payload.

A body begins with the message's head (see shm/head.py). Behind that stand

- of an array: its offset in the first slot, and its layout;
- of anything else: `PICKLE_HEAD`, then a table with a `BUFFER` for each buffer, and the pickle. Table and pickle stand in a
  slot where they are too large for the body, and the index of that slot follows the head.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, TypeAlias

import numpy as np

from pipert_shm.message.layouts import array_at, read_layout
from pipert_shm.message.pickling import class_of_name
from pipert_shm.shm.head import ARRAY

Buffer: TypeAlias = Any  # a read-only buffer: a `binding.Lease`, bytes, or a memoryview

OFFSET = struct.Struct("=Q")
PICKLE_HEAD = struct.Struct("=IQQ?")  # buffers, bytes of table and pickle, their offset in a slot, whether they are in one
BUFFER = struct.Struct("=HQQ")  # slot, offset, bytes (0: the whole slot)
SLOT_INDEX = struct.Struct("=H")


def decode(kind: int, body: bytes, start: int, buffers: list[Buffer]) -> object:
    """The payload of a message, its arrays standing on `buffers` (one per slot).

    :param kind: PICKLE or ARRAY.
    :param body: what `Encoder.encode` returned.
    :param start: where in it the head ends.
    :raises Exception: what unpickling raised.
    """
    if kind == ARRAY:
        (offset,) = OFFSET.unpack_from(body, start)
        return array_at(buffers[0], offset, body[start + OFFSET.size :])
    count, size, offset, elsewhere = PICKLE_HEAD.unpack_from(body, start)
    start += PICKLE_HEAD.size
    if elsewhere:
        (index,) = SLOT_INDEX.unpack_from(body, start)
        blob = memoryview(buffers[index])[offset : offset + size]
    else:
        blob = memoryview(body)[start : start + size]
    table = [BUFFER.unpack_from(blob, i * BUFFER.size) for i in range(count)]
    out_of_band = [memoryview(buffers[slot])[at : at + n] if n else buffers[slot] for slot, at, n in table]
    return _Loader(blob[count * BUFFER.size :], out_of_band, buffers).load()


class _Blob:
    """A file for unpicklers, on memory that need not be copied first."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = 0

    def _next(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        return self._memory[start : self._at]

    def read(self, size: int) -> bytes:
        return bytes(self._next(size))

    def readinto(self, target: bytearray) -> int:
        piece = self._next(len(target))
        target[: len(piece)] = piece
        return len(piece)

    def readline(self) -> bytes:
        raise pickle.UnpicklingError("this is not a pickle of protocol 5")


class _Loader(pickle.Unpickler):
    """Unpickles what `Encoder` has pickled; the part of C that receives does the same: see csrc/hot/pickled.c."""

    def __init__(self, blob: memoryview, buffers: list[Buffer], slots: list[Buffer]) -> None:
        super().__init__(_Blob(blob), buffers=buffers)
        self._slots = slots
        self._met: dict[int, tuple[Any, Any]] = {}  # by id: a name and its array, so that one that is there twice stays one

    def persistent_load(self, name: Any) -> Any:
        """What stands for an array, or a class."""
        if isinstance(name, bytes):
            return class_of_name(name)
        if id(name) not in self._met:
            where, offset, layout = name
            self._met[id(name)] = name, array_at(where if isinstance(where, bytes) else self._slots[where], offset, layout)
        return self._met[id(name)][1]


def layout_of(body: bytes, start: int) -> tuple[bytes, tuple[int, ...], np.dtype[Any], int] | None:
    """The layout of a message of kind ARRAY: its bytes, shape, dtype, and the array's size in bytes.

    None unless the array is C-contiguous.
    """
    layout = body[start + OFFSET.size :]
    shape, strides, dtype, elements = read_layout(layout)
    return None if strides is not None else (layout, shape, dtype, elements * dtype.itemsize)
