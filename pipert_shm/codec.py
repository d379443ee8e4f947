"""How a payload becomes a message and back.

A message names slots and carries a small body. An array whose memory lies in a slot that this process holds (a received or a
loaned frame, or any view of one) is sent by reference: slot, offset, shape, strides, dtype. Every other buffer of at least
`threshold` bytes is copied, 64-byte aligned, into one fresh slot. The rest is a pickle (protocol 5) in the body, or in that
slot where it is too large. A bare array takes a path without pickle.
"""

from __future__ import annotations

import copyreg
import dataclasses
import math
import pickle
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipert_shm import native
from pipert_shm.errors import PayloadError, shown, text_of
from pipert_shm.memory import MESSAGE_SLOT_BYTES, Slots

THRESHOLD = 4096
ALIGNMENT = 64

PICKLE = 0
ARRAY = 1

TICKETED = 0x100  # a ticket follows the hops
TOMBSTONE = 0x200  # there is no payload
STAMPED = 0x400  # a time stamp follows these
TICKET = struct.Struct("=QQ")  # routine that gave it, number
STAMP = struct.Struct("=d")  # seconds

HOP = struct.Struct("=QQQ")  # routine, sent ns, received ns
_OFFSET = struct.Struct("=Q")  # of an array in its slot; its layout follows
_LAYOUT_HEAD = struct.Struct("=BB")  # dimensions, length of the dtype's text; shape, strides and text follow
OFFSET_MASK = (1 << native.OFFSET_BITS) - 1
MOST_LAYOUTS = 256  # that are remembered
_PICKLE_HEAD = struct.Struct("=IQQ?")  # buffers, bytes of table and stream, their offset in its slot, whether they are there
_BUFFER = struct.Struct("=HQQ")  # slot, offset, bytes (0: the whole slot)

_MESSAGE_HEAD = 40
_MARKER = pickle.PickleBuffer(b"\0")


def align(offset: int) -> int:
    """The next offset at which an array may begin."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype's text says all of it. A void may be anything: a record, or a type that somebody else defined."""
    return dtype.kind != "V" and not dtype.hasobject


def array_on(
    buffer: memoryview | bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """An array on a buffer; read-only for good where the buffer is."""
    # By way of frombuffer: np.ndarray(buffer=memoryview) would stand on what is behind the view, and could be made writable.
    return np.ndarray(shape, dtype, np.frombuffer(buffer, np.uint8), offset, strides)


def array_of(data: bytes, shape: tuple[int, ...], dtype: Any, order: str) -> np.ndarray:
    """A read-only array on these bytes.

    :param order: F for Fortran's, else C's.
    """
    return np.ndarray(shape, dtype, data, order="F" if order == "F" else "C")


def order_of(array: np.ndarray) -> str:
    """The order in which an array's elements are written: F where they lie in that one, else C."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def extent_of(array: np.ndarray) -> tuple[int, int, int]:
    """First address, lowest address and span in bytes of an array's memory."""
    first: int = array.__array_interface__["data"][0]
    low, high = first, first + array.itemsize
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        if reach < 0:
            low += reach
        else:
            high += reach
    return first, low, high - low


def packed_strides(array: np.ndarray) -> tuple[int, ...]:
    """Those of a copy of an array, in its own order."""
    strides, size = [], array.itemsize
    fortran = order_of(array) == "F"
    for length in array.shape if fortran else reversed(array.shape):
        strides.append(size)
        size *= length
    return tuple(strides if fortran else reversed(strides))


class Stream:
    """A file for picklers. It keeps what is written piece by piece; large pieces are the payload's own, not copied."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self.write = self._pieces.append

    def take(self) -> list[memoryview]:
        """What was written; then it is empty."""
        pieces = [piece.raw() if type(piece) is pickle.PickleBuffer else memoryview(piece) for piece in self._pieces]
        self._pieces.clear()
        return pieces

    def clear(self) -> None:
        """Forgets what was written."""
        self._pieces.clear()


def plain_pickler(stream: Stream) -> pickle.Pickler:
    """One that takes everything in band, and whose arrays can be written to where they come out.

    Of other types it knows what copyreg does now.
    """
    pickler = pickle.Pickler(stream, 5)
    pickler.dispatch_table = {np.ndarray: _reduce_in_band, **copyreg.dispatch_table}
    return pickler


def _reduce_in_band(array: np.ndarray) -> Any:
    reduced: Any = array.__reduce_ex__(5)
    if array.flags.writeable or len(reduced) != 2:
        return reduced
    return _copy_of, reduced  # pickle would make bytes of what can't be written to, and so would what comes out be


def _copy_of(make: Any, arguments: tuple[Any, ...]) -> np.ndarray:
    array: np.ndarray = make(*arguments)
    return array.copy(order="K")


class Encoder:
    """Turns one routine's payloads into messages. The routine's thread only."""

    def __init__(self, port: native.Port, slots: Slots, name: str) -> None:
        self._port = port
        self._slots = slots
        self._name = name
        self._threshold = THRESHOLD
        self._layouts: dict[tuple[tuple[int, ...], np.dtype[Any]], tuple[bytes, int]] = {}  # of C-contiguous arrays, and bytes
        self._stream = Stream()
        self._registered: dict[Any, Any] | None = None  # what copyreg knew when the pickler was made
        self.copied_bytes = 0
        self.in_band_bytes = 0
        # of the message being encoded
        self._post = native.Post()
        self._outs = 0
        self._table: list[tuple[int, int, int]] = []
        self._packed: list[tuple[int, np.ndarray]] = []
        self._packed_bytes = 0

    def _pickler(self, in_band: bool) -> pickle.Pickler:
        """One that refers to arrays, or that doesn't, and knows of each other type what copyreg does. Plain dicts: pickle asks
        them in C.
        """
        if self._registered != copyreg.dispatch_table:
            self._registered = dict(copyreg.dispatch_table)
            self._plain = plain_pickler(self._stream)
            self._referencing = pickle.Pickler(self._stream, 5, buffer_callback=self._take_buffer)
            self._referencing.dispatch_table = {**self._registered, np.ndarray: self._reduce_array}
        return self._plain if in_band else self._referencing

    def encode(
        self,
        post: native.Post,
        payload: object,
        outs: int,
        hops: bytes,
        *,
        in_band: bool = False,
        threshold: int = THRESHOLD,
    ) -> tuple[int, bytes]:
        """Puts the payload's buffers into slots of `post` (one lease each); returns kind and body.

        :param outs: the outgoing edges it goes to, all of them remote.
        :param hops: the bytes that the body starts with.
        :param threshold: bytes from which on a buffer goes to a slot.
        :param in_band: no references, no shared buffers: the receiver gets writable copies.
        :raises PayloadError: when it does not pickle.
        :raises NoFreeSlot, SharedMemoryFull, Stopping: see `Slots.reserve`. In any case nothing is held then.
        """
        self.copied_bytes = self.in_band_bytes = 0
        self._post, self._outs, self._threshold = post, outs, threshold
        try:
            if type(payload) is np.ndarray and not in_band and payload.nbytes >= threshold and _is_plain(payload.dtype):
                return ARRAY, hops + self._encode_array(payload)
            return PICKLE, hops + self._encode_pickle(payload, hops, in_band)
        except BaseException:
            self._let_go()
            raise
        finally:
            if self._packed:
                self._packed, self._packed_bytes = [], 0

    def refer(self, post: native.Post, array: np.ndarray, outs: int, threshold: int) -> bytes | None:
        """The shortest way, for an array that lies in a slot, where one like it was sent before: the body but for the hops.

        None, with nothing done, for any other.
        """
        known = self._layouts.get((array.shape, array.dtype))
        if known is None or known[1] < threshold or not (flags := array.flags).c_contiguous:
            return None
        layout, size = known
        offset = self._port.refer(post.post, outs, native.memory_of(array), size)
        if offset == native.NO_SLOT:
            return None
        if flags.writeable:
            array.setflags(write=False)
        return _OFFSET.pack(offset) + layout  # it is the first slot, so that there is nothing before the offset

    def _let_go(self) -> None:
        post = self._post.post
        for index in range(post.slots):
            self._port.process.release(post.slot[index])
        post.slots = 0

    # a bare array

    def _encode_array(self, array: np.ndarray) -> bytes:
        placed = self._refer(array)
        if placed is not None:
            return _OFFSET.pack(placed[1]) + self._layout(array, array.strides)
        offset = self._pack_later(array)
        self._write_packed()
        return _OFFSET.pack(offset) + self._layout(array, packed_strides(array))

    def _layout(self, array: np.ndarray, strides: tuple[int, ...]) -> bytes:
        """How an array lies in its slot, but for where it begins."""
        if not array.flags.c_contiguous:
            return _write_layout(array, strides)
        key = array.shape, array.dtype
        known = self._layouts.get(key)
        if known is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            known = self._layouts[key] = _write_layout(array, packed_strides(array)), array.nbytes
        return known[0]

    def _refer(self, array: np.ndarray) -> tuple[int, int] | None:
        """Slot index and offset of the array's first element, where it can be sent as it lies."""
        flags = array.flags
        memory, size, within = None, array.nbytes, 0
        if flags.c_contiguous:
            memory = native.memory_of(array)
        else:
            first, low, size = extent_of(array)
            memory, within = native.memory_at(low), first - low
        place = self._port.refer(self._post.post, self._outs, memory, size)
        if place == native.NO_SLOT:
            return None
        if flags.writeable:
            array.setflags(write=False)
        return place >> native.OFFSET_BITS, (place & OFFSET_MASK) + within

    # everything else

    def _reduce_array(self, array: np.ndarray) -> Any:
        dtype: Any = array.dtype
        if dtype.hasobject:
            return array.__reduce__()
        plain = _is_plain(dtype)
        if plain and 0 < array.nbytes < self._threshold and array.flags.c_contiguous:
            return _array_at, (array.tobytes(), 0, self._layout(array, array.strides))
        if plain:
            dtype = dtype.str
        if array.nbytes < self._threshold:
            order = order_of(array)
            return array_of, (array.tobytes(order="F" if order == "F" else "C"), array.shape, dtype, order)
        placed = self._refer(array)
        if placed is None:
            index, offset, strides = -1, self._pack_later(array), packed_strides(array)
        else:
            (index, offset), strides = placed, array.strides
        self._table.append((index, 0, 0))
        if plain:
            return _array_at, (_MARKER, offset, self._layout(array, strides))
        return array_on, (_MARKER, offset, array.shape, strides, dtype)

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback: whether the buffer goes in band."""
        if buffer is _MARKER:
            return False
        raw = buffer.raw()
        if raw.nbytes < self._threshold:
            return True
        array = np.frombuffer(raw, np.uint8)
        self._table.append((-1, self._pack_later(array), array.nbytes))
        return False

    def _pack_later(self, array: np.ndarray) -> int:
        offset = align(self._packed_bytes)
        self._packed.append((offset, array))
        self._packed_bytes = offset + array.nbytes
        return offset

    def _write_packed(self) -> int:
        """Copies what was put off into one fresh slot; its index in the message."""
        descriptor, address = self._slots.reserve(self._packed_bytes, self._outs)
        index = self._post.add_slot(descriptor)
        memory = native.writable_memory(address, self._packed_bytes)
        for offset, array in self._packed:
            target = np.ndarray(array.shape, array.dtype, memory, offset, packed_strides(array))
            np.copyto(target, array)
            self.copied_bytes += array.nbytes
        return index

    def _dump(self, payload: object, in_band: bool) -> list[memoryview]:
        pickler = self._pickler(in_band)
        try:
            pickler.dump(payload)
        except BaseException as error:  # of the payload's own __reduce__: anything
            self._stream.clear()
            raise PayloadError(self._name, *culprit(payload, error)) from error
        finally:
            pickler.clear_memo()  # it keeps what it has pickled alive
        return self._stream.take()

    def _encode_pickle(self, payload: object, hops: bytes, in_band: bool) -> bytes:
        self._table = []
        stream = self._dump(payload, in_band)
        packed_index: int = self._post.post.slots
        table = b"".join(_BUFFER.pack(packed_index if slot < 0 else slot, offset, size) for slot, offset, size in self._table)
        self.in_band_bytes = sum(piece.nbytes for piece in stream)
        size = len(table) + self.in_band_bytes
        slots = packed_index + bool(self._packed)
        if len(hops) + _PICKLE_HEAD.size + size + _MESSAGE_HEAD + 8 * slots <= MESSAGE_SLOT_BYTES:
            if self._packed:
                self._write_packed()
            return b"".join((_PICKLE_HEAD.pack(len(self._table), size, 0, False), table, *stream))
        offset = end = align(self._packed_bytes)
        for piece in (memoryview(table), *stream):
            if piece.nbytes:
                self._packed.append((end, np.frombuffer(piece, np.uint8)))
                end += piece.nbytes
        self._packed_bytes = end
        index = self._write_packed()
        self.copied_bytes -= size  # pickled, not a buffer
        return _PICKLE_HEAD.pack(len(self._table), size, offset, True) + struct.pack("=H", index)


def culprit(payload: object, error: BaseException) -> tuple[str, str]:
    """Which part of a payload does not pickle, and why. To look for it runs the code of the payload's own classes."""
    try:
        return _find_culprit(payload, error)
    except BaseException:
        return f"data ({type(payload).__name__})", text_of(error)


def _find_culprit(payload: object, error: BaseException, where: str = "data", depth: int = 4) -> tuple[str, str]:
    """Which part of a payload does not pickle, as a path, and why."""
    for name, part in parts_of(payload, where):
        try:
            pickle.dumps(part, 5)
        except BaseException as inner:
            return _find_culprit(part, inner, name, depth - 1) if depth else (name, text_of(inner))
    return f"{where} ({type(payload).__name__})", text_of(error)


def parts_of(payload: object, where: str) -> Iterator[tuple[str, object]]:
    """What a payload is made of, each with its path."""
    if isinstance(payload, dict):
        for key, value in payload.items():
            yield f"{where}[{shown(key)}]", value
    elif isinstance(payload, list | tuple | set | frozenset):
        for index, value in enumerate(payload):
            yield f"{where}[{index}]", value
    elif dataclasses.is_dataclass(payload):
        for field in dataclasses.fields(payload):
            yield f"{where}.{field.name}", getattr(payload, field.name, None)
    elif hasattr(payload, "__dict__"):
        for name, value in vars(payload).items():
            yield f"{where}.{name}", value


def _write_layout(array: np.ndarray, strides: tuple[int, ...]) -> bytes:
    text = array.dtype.str.encode()
    n = array.ndim
    return _LAYOUT_HEAD.pack(n, len(text)) + struct.pack(f"={2 * n}q", *array.shape, *strides) + text


# What is known of a layout: shape, strides (None: C-contiguous), dtype, how many elements.
_Layout = tuple[tuple[int, ...], tuple[int, ...] | None, np.dtype[Any], int]

_LAYOUTS: dict[bytes, _Layout] = {}


def _read_layout(layout: bytes) -> _Layout:
    n, text_bytes = _LAYOUT_HEAD.unpack_from(layout)
    numbers = struct.unpack_from(f"={2 * n}q", layout, _LAYOUT_HEAD.size)
    start = _LAYOUT_HEAD.size + 16 * n
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


def _array_at(buffer: memoryview | bytes, offset: int, layout: bytes) -> np.ndarray:
    shape, strides, dtype, count = _LAYOUTS.get(layout) or _read_layout(layout)
    if strides is None:
        return np.frombuffer(buffer, dtype, count, offset).reshape(shape)
    return array_on(buffer, offset, shape, strides, dtype)


def layout_of(body: bytes, start: int) -> tuple[bytes, tuple[int, ...], np.dtype[Any], int] | None:
    """Of a message of kind ARRAY: its layout as it stands there, shape, dtype, bytes; None unless it is C-contiguous."""
    text = body[start + _OFFSET.size :]
    shape, strides, dtype, count = _LAYOUTS.get(text) or _read_layout(text)
    return None if strides is not None else (text, shape, dtype, count * dtype.itemsize)


def decode(kind: int, body: bytes, start: int, buffers: list[memoryview]) -> object:
    """The payload of a message, its arrays standing on `buffers` (one per slot).

    :param body: what `Encoder.encode` returned.
    :param start: where in it the hops end.
    """
    if kind == ARRAY:
        (offset,) = _OFFSET.unpack_from(body, start)
        return _array_at(buffers[0], offset, body[start + _OFFSET.size :])
    count, size, offset, elsewhere = _PICKLE_HEAD.unpack_from(body, start)
    start += _PICKLE_HEAD.size
    if elsewhere:
        (index,) = struct.unpack_from("=H", body, start)
        blob = buffers[index][offset : offset + size]
    else:
        blob = memoryview(body)[start : start + size]
    table = [_BUFFER.unpack_from(blob, i * _BUFFER.size) for i in range(count)]
    out_of_band = [buffers[slot][at : at + n] if n else buffers[slot] for slot, at, n in table]
    return pickle.loads(blob[count * _BUFFER.size :], buffers=out_of_band)
