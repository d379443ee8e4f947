"""How a payload gets from one routine of a flow to the others: by reference what nobody can change, else to each its own.

An array that lies in a slot which this process holds is passed by reference: all receivers stand on that slot, read-only. Any
other array is written once, into a fresh slot of the sender's ring, or into memory of the process where no slot is free: within
a flow nobody ever waits for a slot. All else is pickled once, and each receiver unpickles containers and objects of its own.
"""

from __future__ import annotations

import copyreg
import dataclasses
import logging
import pickle
import sys
from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Any

import numpy as np

from pipert_shm import native
from pipert_shm.codec import (
    PICKLE,
    Stream,
    align,
    array_of,
    array_on,
    culprit,
    decode,
    extent_of,
    order_of,
    packed_strides,
    parts_of,
    plain_pickler,
)
from pipert_shm.memory import Slots

Opener = Callable[[], Any]  # gives a receiver its own of a payload

IMMUTABLE = frozenset({NoneType, bool, int, float, complex, str, bytes, range, type(Ellipsis), object})
DEVICE_ARRAYS = (("torch", "Tensor"), ("cupy", "ndarray"))  # module and class of what may lie in a device's memory

# Pickle takes what stands for these from `buffers`, whatever it is: a writable buffer, which pickle leaves as it is.
_MARKER = pickle.PickleBuffer(bytearray(1))


def itself(thing: Any) -> Any:
    """What it is given."""
    return thing


def _view(array: np.ndarray) -> np.ndarray:
    return array.view()


class HandOver:
    """Makes a routine's payloads ready for the receivers in its flow. The routine's thread only.

    :param slots: where arrays are written that lie in no slot.
    :param name: of the routine, for the log.

    Attributes:
        copied_bytes: of arrays, that the last payload took.
        pickled_bytes: that the rest of it took.
    """

    def __init__(self, process: native.Process, slots: Slots, name: str) -> None:
        self._process = process
        self._slots = slots
        self._name = name
        self._logger = logging.getLogger(__name__)
        self._stream = Stream()
        self._known: tuple[dict[Any, Any], list[str]] | None = None  # what the picklers were made for
        self._warned = self._warned_of_share = False
        self._threshold = 1
        self.copied_bytes = self.pickled_bytes = 0
        # of the payload in hand
        self._objects: list[Any] = []  # what the pickle refers to
        # place among these, offset, what to write, whether as a buffer
        self._packed: list[tuple[int, int, np.ndarray, bool]] = []
        self._packed_bytes = 0

    def use_logger(self, logger: logging.Logger) -> None:
        """Warns by this one."""
        self._logger = logger

    def make(self, payload: Any, threshold: int, *, in_band: bool = False) -> Opener:
        """What each receiver opens its own of the payload with. The payload may be changed afterwards.

        Never waits, and never fails for want of slots or because something does not pickle.

        :param threshold: bytes from which on an array goes to a slot.
        :param in_band: receivers get private, writable copies.
        """
        self.copied_bytes = self.pickled_bytes = 0
        kind = type(payload)
        if kind in IMMUTABLE:
            return partial(itself, payload)
        self._threshold = threshold
        if kind is np.ndarray and not in_band and not payload.dtype.hasobject:
            own: Opener = self._take_array(payload).view
            return own
        try:
            return self._pickle(payload, in_band)
        finally:
            self._objects, self._packed, self._packed_bytes = [], [], 0

    def refer(self, array: np.ndarray, threshold: int) -> np.ndarray | None:
        """An array of `threshold` bytes or more that lies in a slot held here, once more: nobody can write to that one.

        None for any other.
        """
        flags, size = array.flags, array.nbytes
        if size < threshold:
            return None
        if flags.c_contiguous:
            buffer = self._process.share(native.memory_of(array), size)
            if buffer is None:
                return None
            own = np.frombuffer(buffer, array.dtype).reshape(array.shape)
        else:
            first, low, span = extent_of(array)
            buffer = self._process.share(native.memory_at(low), span)
            if buffer is None:
                return None
            own = array_on(buffer, first - low, array.shape, array.strides, array.dtype)
        if flags.writeable:
            array.setflags(write=False)
        return own

    def open_message(self, kind: int, body: bytes, start: int, slots: list[int]) -> Opener:
        """The same of what was encoded for other processes, where it was written already.

        :param slots: descriptors of the message's.
        """
        self.copied_bytes = self.pickled_bytes = 0
        buffers = [self._process.lend(slot) for slot in slots]
        if buffers and self._is_short():
            buffers = [memoryview(bytes(buffer)) for buffer in buffers]
            self.copied_bytes = sum(buffer.nbytes for buffer in buffers)
        if kind == PICKLE:
            return partial(decode, kind, body, start, buffers)
        array: Any = decode(kind, body, start, buffers)
        view: Opener = array.view
        return view

    def _is_short(self) -> bool:
        """Whether receivers here keep so many of the sender's slots that they have to be given private copies."""
        if not self._slots.leaves_too_few():
            return False
        if not self._warned_of_share:
            self._warned_of_share = True
            self._logger.warning(
                "receivers in the flow of %r keep more of its frames than is their share: while they do, they get private "
                "copies. This is said once",
                self._name,
            )
        return True

    # arrays

    def _take_array(self, array: np.ndarray) -> np.ndarray:
        """A read-only array of the same content, which stays as it is whatever becomes of this one."""
        if array.nbytes < self._threshold:
            return self._copy_small(array)
        own = self._refer_to(array)
        if own is not None:
            return own
        buffer = self._write(array.nbytes, [(0, array)])
        return array_on(buffer, 0, array.shape, packed_strides(array), array.dtype)

    def _refer_to(self, array: np.ndarray) -> np.ndarray | None:
        """As `refer`; None as well while receivers here have more than their share."""
        own = self.refer(array, self._threshold)
        return None if own is not None and self._is_short() else own

    def _copy_small(self, array: np.ndarray) -> np.ndarray:
        order = order_of(array)
        self.pickled_bytes += array.nbytes
        return array_of(array.tobytes(order="F" if order == "F" else "C"), array.shape, array.dtype, order)

    def _write(self, size: int, parts: list[tuple[int, np.ndarray]]) -> memoryview:
        """Writes arrays at these offsets of fresh memory: a slot where one is free. A read-only buffer on it."""
        reserved = self._slots.reserve_now(size)
        if reserved is None:
            memory = memoryview(np.empty(size, np.uint8))  # type: ignore[arg-type]
            own = memory.toreadonly()
        else:
            descriptor, address = reserved
            memory, own = native.writable_memory(address, size), self._process.lend(descriptor)
        for offset, array in parts:
            np.copyto(np.ndarray(array.shape, array.dtype, memory, offset, packed_strides(array)), array)
            self.copied_bytes += array.nbytes
        if reserved is not None:
            self._process.release(descriptor)
        return own

    # everything else

    def _pickle(self, payload: Any, in_band: bool) -> Opener:
        self._make_picklers()
        pickler = self._plain if in_band else self._referring
        try:
            stream = self._dump(pickler, payload)
        except Exception as error:
            self._warn(payload, error)
            self._objects, self._packed, self._packed_bytes = [], [], 0
            try:
                stream = self._dump(self._sharing, payload)
            except Exception:  # not even in parts
                self._freeze(payload)
                return partial(itself, payload)
        if self._packed:
            self._write_packed()
        self.pickled_bytes += len(stream)
        return partial(pickle.loads, stream, buffers=self._objects)

    def _dump(self, pickler: pickle.Pickler, payload: Any) -> bytes:
        try:
            pickler.dump(payload)
            return b"".join(self._stream.take())
        finally:
            self._stream.clear()
            pickler.clear_memo()  # it keeps what it has pickled alive

    def _write_packed(self) -> None:
        buffer = self._write(self._packed_bytes, [(offset, array) for _, offset, array, _ in self._packed])
        for place, offset, array, is_buffer in self._packed:
            if is_buffer:
                self._objects[place] = buffer[offset : offset + array.nbytes]
            else:
                self._objects[place] = array_on(buffer, offset, array.shape, packed_strides(array), array.dtype)

    def _make_picklers(self) -> None:
        """Picklers that know of each type what copyreg does, of arrays what to do here, and of arrays on devices, too."""
        devices = [f"{module}.{name}" for module, name in DEVICE_ARRAYS if module in sys.modules]
        if self._known is not None and self._known == (copyreg.dispatch_table, devices):
            return
        self._known = dict(copyreg.dispatch_table), devices
        table: dict[Any, Any] = {**copyreg.dispatch_table, np.ndarray: self._reduce_array}
        for module, name in DEVICE_ARRAYS:
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None:
                table[kind] = self._reduce_device_array
        self._plain = plain_pickler(self._stream)
        self._referring = pickle.Pickler(self._stream, 5, buffer_callback=self._take_buffer)
        self._referring.dispatch_table = table
        self._sharing = _SharingPickler(self._stream, self._take_buffer, self._share)
        self._sharing.dispatch_table = table

    def _reduce_array(self, array: np.ndarray) -> Any:
        if array.dtype.hasobject:
            return array.__reduce__()
        if 0 < self._threshold <= array.nbytes:
            own = self._refer_to(array)
            if own is None:
                self._pack_later(array, is_buffer=False)
                return _view, (_MARKER,)
        else:
            own = self._copy_small(array)
        self._objects.append(own)
        return _view, (_MARKER,)

    def _reduce_device_array(self, array: Any) -> Any:
        """Where it lies in a device's memory there is no writing it elsewhere: it is passed by reference."""
        device = array.device
        if getattr(device, "type", "") == "cpu":
            return array.__reduce_ex__(5)
        return self._share(array)

    def _share(self, thing: Any) -> Any:
        """Reduces a thing to itself: all receivers get this one."""
        self._freeze(thing)
        self._objects.append(thing)
        return itself, (_MARKER,)

    def _freeze(self, thing: object, depth: int = 4) -> None:
        """Makes the arrays in slots read-only that are found in what is passed by reference."""
        if isinstance(thing, np.ndarray):
            if thing.flags.writeable:
                _, low, span = extent_of(thing)
                if self._process.holds(native.memory_at(low), span):
                    thing.setflags(write=False)
        elif depth and not isinstance(thing, str | bytes | int | float):
            for _, part in parts_of(thing, ""):
                self._freeze(part, depth - 1)

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback: whether the buffer goes in band."""
        if buffer is _MARKER:
            return False
        raw = buffer.raw()
        if raw.nbytes < self._threshold:
            return True
        self._pack_later(np.frombuffer(raw, np.uint8), is_buffer=True)
        return False

    def _pack_later(self, array: np.ndarray, *, is_buffer: bool) -> None:
        offset = align(self._packed_bytes)
        self._packed.append((len(self._objects), offset, array, is_buffer))
        self._objects.append(None)
        self._packed_bytes = offset + array.nbytes

    def _warn(self, payload: Any, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        where, why = culprit(payload, error)
        self._logger.warning(
            "%s of what %r sends does not pickle (%s): within the flow all receivers get the same object, and see what others "
            "write into it. This is said once",
            where,
            self._name,
            why,
        )


class _SharingPickler(pickle.Pickler):
    """Passes on, as they are, objects that don't pickle; of containers and dataclasses the parts that don't.

    :param share: how to reduce an object to itself.
    """

    def __init__(self, stream: Stream, callback: Callable[[pickle.PickleBuffer], bool], share: Callable[[Any], Any]) -> None:
        super().__init__(stream, 5, buffer_callback=callback)
        self._share = share

    def reducer_override(self, thing: Any) -> Any:
        """Asked for all that is no plain container."""
        kind = type(thing)
        if kind in self.dispatch_table or _is_sound(thing):
            return NotImplemented
        # The fields of a dataclass are looked at one by one, unless it has a way of its own to pickle.
        plain = all(getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__"))
        return NotImplemented if plain and dataclasses.is_dataclass(kind) else self._share(thing)


class _Nowhere:
    """A file that keeps nothing."""

    @staticmethod
    def write(data: Any) -> int:
        return len(data)


def _is_sound(thing: Any) -> bool:
    """Whether it pickles."""
    pickler = pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda buffer: False)
    try:
        pickler.dump(thing)
    except Exception:
        return False
    return True
