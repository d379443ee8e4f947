"""Payloads of every kind, and an equality that looks into them."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from loop import Loop
from pipert_shm import BasicTransmitter, Data, DataTransmitter, DestinationRoutine, SharedMemoryTransmitter
from waiting import Board


def same(one: Any, other: Any) -> bool:
    """Equality that looks into arrays (dtype, shape, every element, nan like nan) and into everything that may hold them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ma.MaskedArray):
        return same(np.asarray(one.data), np.asarray(other.data)) and same(np.asarray(one.mask), np.asarray(other.mask))
    if isinstance(one, np.ndarray):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        if one.dtype.hasobject:
            return all(same(a, b) for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
        if one.dtype.names is not None:
            return all(same(one[name], other[name]) for name in one.dtype.names)
        if one.dtype.char in "gGTV":  # padding between elements, or what they say is kept elsewhere
            return repr(one.tolist()) == repr(other.tolist())
        return bool(one.tobytes() == other.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return repr(one) == repr(other) if isinstance(one, float | complex | np.generic) else bool(one == other)


@dataclass
class Reading(Data):
    frame: Any = None
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    corner: tuple[int, int]
    crop: np.ndarray


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and same(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]


class WithBuffer:
    """Gives pickle a buffer of its own, out of band: what pandas and pyarrow do."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithBuffer) and self.data == other.data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return WithBuffer, (pickle.PickleBuffer(self.data),)


class WorseThanNone:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ArithmeticError("this can't be loaded")


STRUCTURED = np.dtype([("id", "<u2"), ("box", "<f4", (4,)), ("name", "S5"), ("when", "M8[us]")])
PADDED = np.dtype([("flag", "?"), ("value", "f8")], align=True)
NESTED = np.dtype([("inner", PADDED), ("more", [("a", ">i4"), ("b", "c16")])])
DTYPES = [
    *("?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "g", "F", "D", "G"),
    *(">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c16", ">U3", ">M8[ms]"),
    *("U1", "U7", "S1", "S9", "V7", "M8[D]", "M8[ns]", "m8[s]", "M8", "O"),
    *(STRUCTURED, PADDED, NESTED),
]


def filled(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of any dtype, its elements different where they can be."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype.hasobject:
        values = np.empty(count, object)
        values[:] = [(n, f"object {n}") for n in range(count)]
        return values.reshape(shape)
    if dtype.kind in "SU":
        return np.array([str(n)[-dtype.itemsize :] for n in range(count)], dtype).reshape(shape)
    if dtype.kind in "Mm":
        return np.arange(count, dtype=np.int64).astype(dtype).reshape(shape)
    if dtype.kind == "V":
        array = np.zeros(count, dtype)
        for name in dtype.names or ():
            array[name] = filled(dtype[name].base, (count, *dtype[name].shape))
        if not dtype.names:
            array[:] = [bytes([n % 251] * dtype.itemsize) for n in range(count)]
        return array.reshape(shape)
    return (np.arange(count) % 113).astype(dtype).reshape(shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": np.transpose,
    "strided": lambda array: array[::2, 1::3],
    "reversed": lambda array: array[::-1, ::-1],
    "cropped": lambda array: array[2:-2, 3:-1],
    "column": lambda array: array[:, 3],
    "swapped": lambda array: np.swapaxes(array.reshape(array.shape[0], -1, 2), 0, 2),
    "broadcast": lambda array: np.broadcast_to(array[0], array.shape),
    "empty": lambda array: array[:0],
    "0-d": lambda array: array[0, 0, ...].copy().reshape(()),
    "new axes": lambda array: array[None, :, None],
}
WAYS: dict[str, Callable[[], DataTransmitter]] = {
    "default": SharedMemoryTransmitter,
    "everything": lambda: SharedMemoryTransmitter(1),  # no array so small that it goes in band
    "in band": BasicTransmitter,
}


def expected(payload: Any, loop: Loop) -> Any:
    """In band a payload arrives as pickle makes it: numpy's turns some arrays to the machine's byte order."""
    return pickle.loads(pickle.dumps(payload, 5)) if isinstance(loop.transmitter, BasicTransmitter) else payload


def subclasses(size: int) -> list[np.ndarray]:
    plain = np.arange(size * 2.0).reshape(2, size)
    records = np.zeros(size, STRUCTURED).view(np.recarray)
    records.id = np.arange(size)
    masked = np.ma.MaskedArray(plain, mask=plain % 3 == 0)
    return [records, masked, np.ndarray.__new__(Tagged, (size,), dtype=np.int32, buffer=np.arange(size, dtype=np.int32))]


class Tagged(np.ndarray):
    """A subclass with nothing to it."""


BIG = bytes(range(256)) * 100
ARRAY = np.arange(6000, dtype=np.uint16).reshape(60, 100)
PAYLOADS: dict[str, Any] = {
    "number": 7,
    "huge number": 10**5000,
    "float": -0.0,
    "empty": [],
    "text": "naïve café",
    "big text": "ß" * 40_000,
    "bytes": BIG,
    "bytearray": bytearray(BIG),
    "set": {1, 2, 3},
    "fraction": Fraction(1, 3),
    "scalar": np.float32(1.5),
    "moment": np.datetime64("2026-11-24T12:00"),
    "nested": [[ARRAY, [ARRAY[::2], [ARRAY.T]]], {"k": (ARRAY[1:3], "x")}],
    "dataclass": Reading(ARRAY, [Box((1, 2), ARRAY[:40]), Box((3, 4), ARRAY[:1])]),
    "plain object": Plain([ARRAY, 1]),
    "many small": [np.full(3, n) for n in range(300)],
    "many large": [np.full(5000, n, np.uint8) for n in range(100)],
    "buffer": WithBuffer(BIG),
    "small buffer": WithBuffer(b"abc"),
    "buffer and array": {"b": WithBuffer(BIG), "a": ARRAY, "c": [WithBuffer(BIG[::-1])]},
    "class": Fraction,
    "function": pickle.dumps,
}


class Expect(DestinationRoutine):
    """Compares what comes with a list made before `build()`."""

    def __init__(self, name: str, expected: list[Any]) -> None:
        super().__init__(name)
        self.expected = expected
        self.board = Board()

    def main_logic(self, data: Any) -> None:
        self.board.add(0 if same(data, self.expected[self.meta.sequence]) else 1)
