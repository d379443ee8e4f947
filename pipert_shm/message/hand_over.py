"""How a payload gets from one routine of a flow to the others: by reference what nobody can change, else as a copy for each.

An array that lies in a slot which this process holds is passed by reference: all receivers stand on that slot, read-only. Any
other array is written once, into a fresh slot of the sender's ring, or into memory of the process where no slot is free: within
a flow nobody ever waits for a slot. All else is pickled once, and each receiver unpickles containers and objects of its own.
"""

from __future__ import annotations

import copyreg
import logging
import pickle
import sys
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from pipert_shm import binding
from pipert_shm.binding import hot
from pipert_shm.message.decoder import decode
from pipert_shm.message.layouts import Bundle, array_of, array_on, extent_of, order_of, packed_strides
from pipert_shm.message.pickling import MARKER, SharingPickler, Stream, culprit, large_buffer, parts_of, plain_pickler
from pipert_shm.message.types import Opener
from pipert_shm.shm.head import PICKLE
from pipert_shm.shm.slots import Slots

IMMUTABLE = frozenset({NoneType, bool, int, float, complex, str, bytes, range, type(Ellipsis), object})
DEVICE_ARRAYS = (("torch", "Tensor"), ("cupy", "ndarray"))  # module and class of what may lie in a device's memory


def itself(thing: Any) -> Any:
    """What it is given."""
    return thing


def _view(array: np.ndarray) -> np.ndarray:
    return array.view()


class _Part(NamedTuple):
    """An array or a buffer that the pickle refers to, and that is to be written elsewhere."""

    place: int  # among the objects that the pickle refers to
    offset: int
    array: np.ndarray
    is_buffer: bool


class HandOver:
    """Makes a routine's payloads ready for the receivers in its flow. The routine's thread only.

    :param slots: where arrays are written that lie in no slot.
    :param name: of the routine, for the log.

    Attributes:
        copied_bytes: of arrays, that the last payload took.
        pickled_bytes: that the rest of it took.
    """

    def __init__(self, port: binding.Port, slots: Slots, name: str) -> None:
        self._hot = port.hot
        self._process = port.process
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
        self._parts: list[_Part] = []
        self._bundle = Bundle()  # of these

    def use_logger(self, logger: logging.Logger) -> None:
        """Warns through this logger from now on."""
        self._logger = logger

    def make(self, payload: Any, threshold: int, *, in_band: bool = False) -> Opener:
        """Gives an opener, by which each receiver gets a payload of its own. The payload may be changed afterwards.

        It never waits, and never fails for want of slots or because something does not pickle.

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
            self._forget()

    def _forget(self) -> None:
        self._objects, self._parts = [], []  # the opener keeps the former
        self._bundle.clear()

    def refer(self, array: np.ndarray, threshold: int) -> np.ndarray | None:
        """A read-only array on the memory of this one, which becomes read-only too.

        None, with nothing done, where it has fewer than `threshold` bytes, or lies in no slot that is held here.
        """
        if array.flags.c_contiguous and array.ndim <= hot.AXES:
            own: np.ndarray | None = self._hot.share(array, threshold)
            return own
        if array.nbytes < threshold:
            return None
        first, low, span = extent_of(array)
        buffer = self._process.share(binding.memory_at(low), span)
        if buffer is None:
            return None
        if array.flags.writeable:
            array.setflags(write=False)
        return array_on(buffer, first - low, array.shape, array.strides, array.dtype)

    def open_message(self, kind: int, body: bytes, start: int, slots: list[int]) -> Opener:
        """Gives an opener, as `make` does, for a payload that was encoded for other processes.

        The first three parameters are those of `decode`.

        :param slots: descriptors of the message's slots.
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
        """Whether receivers here keep so many of the sender's slots that they get private copies."""
        if not self._slots.leaves_too_few():
            return False
        if not self._warned_of_share:
            self._warned_of_share = True
            self._logger.warning(
                "receivers in the flow of %r keep more than their share of its frames; while they do, they get private copies "
                "(logged once)",
                self._name,
            )
        return True

    # arrays

    def _take_array(self, array: np.ndarray) -> np.ndarray:
        """A read-only array of the same content. It stays as it is when this one is changed."""
        if array.nbytes < self._threshold:
            return self._copy_small(array)
        own = self._refer_to(array)
        if own is not None:
            return own
        bundle = Bundle()
        bundle.add(array)
        buffer = self._write(bundle)
        return array_on(buffer, 0, array.shape, packed_strides(array), array.dtype)

    def _refer_to(self, array: np.ndarray) -> np.ndarray | None:
        """As `refer`; None also while receivers here have more than their share."""
        own = self.refer(array, self._threshold)
        return None if own is not None and self._is_short() else own

    def _copy_small(self, array: np.ndarray) -> np.ndarray:
        order = order_of(array)
        self.pickled_bytes += array.nbytes
        return array_of(array.tobytes(order="F" if order == "F" else "C"), array.shape, array.dtype, order)

    def _write(self, bundle: Bundle) -> memoryview:
        """Writes arrays to fresh memory: a slot where one is free. A read-only buffer on it."""
        reserved = self._slots.reserve_now(bundle.size)
        if reserved is None:
            memory = np.empty(bundle.size, np.uint8).data
            self.copied_bytes += bundle.write(memory)
            return memory.toreadonly()
        descriptor, address = reserved
        own = self._process.lend(descriptor)
        self.copied_bytes += bundle.write(binding.writable_memory(address, bundle.size))
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
            self._forget()
            try:
                stream = self._dump(self._sharing, payload)
            except Exception:  # not even in parts
                self._freeze(payload)
                return partial(itself, payload)
        if self._parts:
            self._write_parts()
        self.pickled_bytes += len(stream)
        return partial(pickle.loads, stream, buffers=self._objects)

    def _dump(self, pickler: pickle.Pickler, payload: Any) -> bytes:
        try:
            pickler.dump(payload)
            return b"".join(self._stream.take())
        finally:
            self._stream.clear()
            pickler.clear_memo()  # which keeps alive what was pickled

    def _write_parts(self) -> None:
        buffer = self._write(self._bundle)
        for place, offset, array, is_buffer in self._parts:
            if is_buffer:
                self._objects[place] = buffer[offset : offset + array.nbytes]
            else:
                self._objects[place] = array_on(buffer, offset, array.shape, packed_strides(array), array.dtype)

    def _make_picklers(self) -> None:
        """Makes the picklers, where copyreg or the modules for devices are others than before.

        They know of arrays, and of arrays on devices, what to do with them here, and of other types what copyreg knows now.
        """
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
        self._sharing = SharingPickler(self._stream, self._take_buffer, self._share)
        self._sharing.dispatch_table = table

    def _reduce_array(self, array: np.ndarray) -> Any:
        if array.dtype.hasobject:
            return array.__reduce__()
        if 0 < self._threshold <= array.nbytes:
            own = self._refer_to(array)
            if own is None:
                self._write_later(array, is_buffer=False)
                return _view, (MARKER,)
        else:
            own = self._copy_small(array)
        self._objects.append(own)
        return _view, (MARKER,)

    def _reduce_device_array(self, array: Any) -> Any:
        """Reduces an array in a device's memory to itself, since it can't be written elsewhere."""
        device = array.device
        if getattr(device, "type", "") == "cpu":
            return array.__reduce_ex__(5)
        return self._share(array)

    def _share(self, thing: Any) -> Any:
        """Reduces an object to itself: all receivers get this one."""
        self._freeze(thing)
        self._objects.append(thing)
        return itself, (MARKER,)

    def _freeze(self, thing: object, depth: int = 4) -> None:
        """Makes arrays in slots read-only that are part of an object which is passed by reference."""
        if isinstance(thing, np.ndarray):
            if thing.flags.writeable:
                _, low, span = extent_of(thing)
                if self._process.holds(binding.memory_at(low), span):
                    thing.setflags(write=False)
        elif depth and not isinstance(thing, str | bytes | int | float):
            for _, part in parts_of(thing, ""):
                self._freeze(part, depth - 1)

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback: whether the buffer goes in band."""
        if buffer is MARKER:
            return False
        array = large_buffer(buffer, self._threshold)
        if array is None:
            return True
        self._write_later(array, is_buffer=True)
        return False

    def _write_later(self, array: np.ndarray, *, is_buffer: bool) -> None:
        self._parts.append(_Part(len(self._objects), self._bundle.add(array), array, is_buffer))
        self._objects.append(None)

    def _warn(self, payload: Any, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        where, why = culprit(payload, error)
        self._logger.warning(
            "%r sends an object that does not pickle, %s (%s): all receivers in its flow get the same object, and see what the "
            "others write into it (logged once)",
            self._name,
            where,
            why,
        )
