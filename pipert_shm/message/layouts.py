"""How arrays lie in memory, and how a message says so.

A layout is an array's dtype, shape and strides. A message has it as bytes, and what these mean is remembered.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from pipert_shm import binding

ALIGNMENT = 64
USER_DEFINED = 256  # NPY_USERDEF: numbers of dtypes from here on are other libraries'
MOST_LAYOUTS = 256  # that are remembered, by a sender and by a receiver each

_HEAD = struct.Struct("=BB")  # dimensions, length of the dtype's text; shape, strides and text follow

# The meaning of a layout's bytes: shape, strides (None where C-contiguous), dtype, number of elements. A plain tuple, since
# Python unpacks it several times as fast as a NamedTuple.
Layout = tuple[tuple[int, ...], tuple[int, ...] | None, np.dtype[Any], int]


def align(offset: int) -> int:
    """The next offset at which an array may begin."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype's text says all of it: not that of a record, or of a type that another library defined."""
    return dtype.kind != "V" and dtype.num < USER_DEFINED and not dtype.hasobject


def order_of(array: np.ndarray) -> str:
    """The order in which an array's elements are written: F where it is contiguous in Fortran's order only, else C."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def packed_strides(array: np.ndarray) -> tuple[int, ...]:
    """The strides of a copy of an array without gaps, in the array's own order."""
    strides, size = [], array.itemsize
    fortran = order_of(array) == "F"
    for length in array.shape if fortran else reversed(array.shape):
        strides.append(size)
        size *= length
    return tuple(strides if fortran else reversed(strides))


def extent_of(array: np.ndarray) -> tuple[int, int, int]:
    """Address of an array's first element, its lowest address, and its span in bytes."""
    first: int = array.__array_interface__["data"][0]
    low, high = first, first + array.itemsize
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        if reach < 0:
            low += reach
        else:
            high += reach
    return first, low, high - low


def array_on(
    buffer: memoryview | bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """An array on a buffer; read-only for good where the buffer is."""
    # Through frombuffer: np.ndarray(buffer=memoryview) would stand on the memory behind the view, and could be made writable.
    return np.ndarray(shape, dtype, np.frombuffer(buffer, np.uint8), offset, strides)


def array_of(data: bytes, shape: tuple[int, ...], dtype: Any, order: str) -> np.ndarray:
    """A read-only array on these bytes.

    :param order: F for Fortran's, else C's.
    """
    return np.ndarray(shape, dtype, data, order="F" if order == "F" else "C")


class Bundle:
    """Arrays that are to be written into one piece of memory.

    Attributes:
        size: bytes that they need.
    """

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[tuple[int, np.ndarray]] = []
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, array: np.ndarray) -> int:
        """Adds an array; the offset that it will be written at."""
        offset = align(self.size)
        self._parts.append((offset, array))
        self.size = offset + array.nbytes
        return offset

    def add_bytes(self, pieces: list[memoryview]) -> int:
        """Adds bytes, one piece right behind the other; the offset of the first."""
        first = self.size = align(self.size)
        for piece in pieces:
            if piece.nbytes:
                self._parts.append((self.size, np.frombuffer(piece, np.uint8)))
                self.size += piece.nbytes
        return first

    def write(self, memory: Any) -> int:
        """Copies all of them into memory of `size` bytes; how many bytes that were."""
        copied = 0
        for offset, array in self._parts:
            np.copyto(np.ndarray(array.shape, array.dtype, memory, offset, packed_strides(array)), array)
            copied += array.nbytes
        return copied

    def clear(self) -> None:
        """Lets go of the arrays."""
        self._parts.clear()
        self.size = 0


def write_layout(array: np.ndarray, strides: tuple[int, ...]) -> bytes:
    """The layout of an array with these strides, as bytes."""
    text = array.dtype.str.encode()
    n = array.ndim
    return _HEAD.pack(n, len(text)) + struct.pack(f"={2 * n}q", *array.shape, *strides) + text


_LAYOUTS: dict[bytes, Layout] = {}


def read_layout(layout: bytes) -> Layout:
    """What the bytes of a layout say."""
    return _LAYOUTS.get(layout) or _parse(layout)


def _parse(layout: bytes) -> Layout:
    n, text_bytes = _HEAD.unpack_from(layout)
    numbers = struct.unpack_from(f"={2 * n}q", layout, _HEAD.size)
    start = _HEAD.size + 16 * n
    dtype = np.dtype(layout[start : start + text_bytes].decode())
    shape, strides = numbers[:n], numbers[n:]
    size, contiguous = dtype.itemsize, True
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        contiguous = contiguous and stride == size
        size *= length
    if len(_LAYOUTS) >= MOST_LAYOUTS:
        _LAYOUTS.clear()
    known = _LAYOUTS[layout] = shape, None if contiguous else strides, dtype, math.prod(shape)
    return known


def array_elsewhere(buffer: memoryview | bytes, offset: int, layout: bytes) -> np.ndarray:
    """What `array_at` makes of a layout with gaps, or on a buffer that is neither bytes nor a slot's."""
    shape, strides, dtype, elements = read_layout(layout)
    if strides is None:
        return np.frombuffer(buffer, dtype, elements, offset).reshape(shape)
    return array_on(buffer, offset, shape, strides, dtype)


# An array on a buffer, by its layout's bytes; read-only for good where the buffer is. In C: see csrc/hot/names.c.
array_at: Callable[[Any, int, bytes], np.ndarray] = binding.array_at
