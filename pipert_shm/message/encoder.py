"""How a payload becomes a message.

A message names slots and carries a small body. An array that lies in a slot which this process holds (a received frame, a
loaned one, or any view of these) is sent by reference: slot, offset, layout. Every other buffer of at least `threshold` bytes
is copied, 64-byte aligned, into one fresh slot. The rest is a pickle (protocol 5) in the body, or in that slot where it is too
large. A bare array takes a path without pickle.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from pipert_shm import binding
from pipert_shm.errors import PayloadError
from pipert_shm.message.decoder import BUFFER, OFFSET, PICKLE_HEAD, SLOT_INDEX
from pipert_shm.message.layouts import (
    MOST_LAYOUTS,
    Bundle,
    array_at,
    array_of,
    array_on,
    extent_of,
    is_plain,
    order_of,
    packed_strides,
    write_layout,
)
from pipert_shm.message.pickling import MARKER, Stream, culprit, large_buffer, plain_pickler
from pipert_shm.shm.head import ARRAY, PICKLE
from pipert_shm.shm.needs import MESSAGE_SLOT_BYTES
from pipert_shm.shm.slots import Slots
from pipert_shm.transmitters import THRESHOLD

Finish: TypeAlias = Callable[[bytes], tuple[int, bytes]]

FRESH = -1  # in the table of buffers: the fresh slot, whose index is known when it is reserved


class Encoder:
    """Turns one routine's payloads into messages. The routine's thread only.

    :param slots: where buffers are written that lie in no slot.
    :param name: of the routine, for errors.

    Attributes:
        copied_bytes: of buffers that the last payload copied.
        in_band_bytes: that the rest of it took.
    """

    def __init__(self, port: binding.Port, slots: Slots, name: str) -> None:
        self._port = port
        self._hot = port.hot
        self._slots = slots
        self._name = name
        self._threshold = THRESHOLD
        self._layouts: dict[tuple[tuple[int, ...], np.dtype[Any]], bytes] = {}  # of C-contiguous arrays
        self._stream = Stream()
        # In C a name stands for most arrays and classes, so that nothing is imported to find them.
        self._kind = type("Pickler", (pickle.Pickler,), {"persistent_id": port.hot.persistent_id})
        self._registered: dict[Any, Any] | None = None  # what copyreg knew when the picklers were made
        self._serves: Finish | None = None  # what C calls to finish what it has pickled
        self.copied_bytes = 0
        self.in_band_bytes = 0
        # of the message being encoded
        self._post = binding.Post()
        self._outs = 0
        self._table: list[tuple[int, int, int]] = []
        self._bundle = Bundle()  # of the buffers for the fresh slot

    def encode(
        self,
        post: binding.Post,
        payload: object,
        outs: int,
        head: bytes,
        *,
        in_band: bool = False,
        threshold: int = THRESHOLD,
    ) -> tuple[int, bytes]:
        """Puts the payload's buffers into slots of `post` (one lease each); returns kind and body.

        :param outs: the outgoing edges it goes to, all of them to other processes.
        :param head: the bytes that the body starts with.
        :param threshold: bytes from which on a buffer goes to a slot.
        :param in_band: no references, no shared buffers: the receiver gets writable copies.
        :raises PayloadError: when it does not pickle; nothing is held then.
        :raises NoFreeSlot, SharedMemoryFull, Stopping: see `Slots.reserve`; nothing is held then.
        """
        self.copied_bytes = self.in_band_bytes = 0
        self._post, self._outs, self._threshold = post, outs, threshold
        try:
            if type(payload) is np.ndarray and not in_band and payload.nbytes >= threshold and is_plain(payload.dtype):
                return ARRAY, head + self._encode_array(payload)
            return PICKLE, head + self._encode_pickle(payload, len(head), in_band)
        except BaseException:
            self._let_go()
            raise
        finally:
            self._bundle.clear()

    def serve(self, post: binding.Post, outs: int, threshold: int, finish: Finish) -> None:
        """Lends `HotPath.run` the means to pickle here, for messages that all go to these edges: see csrc/hot/pickled.c.

        :param finish: does what `finish` does, and counts it.
        """
        self._post, self._outs, self._threshold = post, outs, threshold
        self._serves = finish
        self._registered = None
        self._pickler(in_band=False)

    def finish(self, head: bytes) -> tuple[int, bytes]:
        """Kind and body of what C has dumped, where a slot has to be written for it.

        :raises NoFreeSlot, SharedMemoryFull, Stopping: see `Slots.reserve`; nothing is held then.
        """
        self.copied_bytes = self.in_band_bytes = 0
        try:
            return PICKLE, head + self._finish_pickle(self._stream.take(), len(head))
        except BaseException:
            self._let_go()
            raise
        finally:
            self._stream.clear()
            self._bundle.clear()

    def _refuse(self, payload: object, error: BaseException) -> PayloadError:
        """What is told of a payload that C could not dump."""
        self._stream.clear()
        self._bundle.clear()
        self._let_go()
        refused = PayloadError(self._name, *culprit(payload, error))
        refused.__cause__ = error
        return refused

    def _let_go(self) -> None:
        for slot in self._post.take_slots():
            self._port.process.release(slot)

    # a bare array

    def _encode_array(self, array: np.ndarray) -> bytes:
        placed = self._refer(array)
        if placed is not None:
            return OFFSET.pack(placed[1]) + self._layout(array, array.strides)
        offset = self._bundle.add(array)
        self._write_bundle()
        return OFFSET.pack(offset) + self._layout(array, packed_strides(array))

    def _layout(self, array: np.ndarray, strides: tuple[int, ...]) -> bytes:
        """The layout of an array with these strides, as bytes."""
        if not array.flags.c_contiguous:
            return write_layout(array, strides)
        key = array.shape, array.dtype
        known = self._layouts.get(key)
        if known is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            known = self._layouts[key] = write_layout(array, packed_strides(array))
            if is_plain(array.dtype):
                self._hot.pickle_form(*key, known)
        return known

    def _refer(self, array: np.ndarray) -> tuple[int, int] | None:
        """Slot index and offset of the array's first element, where it can be sent as it lies; else None."""
        flags = array.flags
        size, within = array.nbytes, 0
        if flags.c_contiguous:
            memory = binding.memory_of(array)
        else:
            first, low, size = extent_of(array)
            memory, within = binding.memory_at(low), first - low
        place = self._port.refer(self._post.post, self._outs, memory, size)
        if place == binding.NO_SLOT:
            return None
        if flags.writeable:
            array.setflags(write=False)
        index, offset = binding.slot_and_offset(place)
        return index, offset + within

    # everything else

    def _reduce_array(self, array: np.ndarray) -> Any:
        """How an array is pickled that has no name: see `HotPath.persistent_id`."""
        dtype: Any = array.dtype
        if dtype.hasobject:
            return array.__reduce__()
        plain = is_plain(dtype)
        if plain and 0 < array.nbytes < self._threshold and array.flags.c_contiguous:
            return array_at, (array.tobytes(), 0, self._layout(array, array.strides))
        if plain:
            dtype = dtype.str
        if array.nbytes < self._threshold:
            order = order_of(array)
            return array_of, (array.tobytes(order="F" if order == "F" else "C"), array.shape, dtype, order)
        placed = self._refer(array)
        if placed is None:
            index, offset, strides = FRESH, self._bundle.add(array), packed_strides(array)
        else:
            (index, offset), strides = placed, array.strides
        self._table.append((index, 0, 0))
        if plain:
            return array_at, (MARKER, offset, self._layout(array, strides))
        return array_on, (MARKER, offset, array.shape, strides, dtype)

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback: whether the buffer goes in band."""
        if buffer is MARKER:
            return False
        array = large_buffer(buffer, self._threshold)
        if array is None:
            return True
        self._table.append((FRESH, self._bundle.add(array), array.nbytes))
        return False

    def _write_bundle(self) -> int:
        """Copies the buffers into one fresh slot; its index in the message."""
        size = self._bundle.size
        descriptor, address = self._slots.reserve(size, self._outs)
        index = self._post.add_slot(descriptor)
        self.copied_bytes += self._bundle.write(binding.writable_memory(address, size))
        return index

    def _pickler(self, in_band: bool) -> pickle.Pickler:
        """A pickler that refers to arrays, or one that doesn't. Both know of other types what copyreg knows now."""
        if self._registered != copyreg.dispatch_table:
            self._registered = dict(copyreg.dispatch_table)  # a plain dict, which pickle reads without a call
            self._plain = plain_pickler(self._stream)
            self._referring = self._kind(self._stream, 5, buffer_callback=self._take_buffer)
            self._referring.dispatch_table = {**self._registered, np.ndarray: self._reduce_array}
            if self._serves is not None:
                self._begin_pickle()
                self._hot.pickle_by(
                    self._referring.dump,
                    self._referring.clear_memo,
                    self._stream.pieces,
                    self._registered,
                    copyreg.dispatch_table,
                    self._serves,
                    self._refuse,
                )
        return self._plain if in_band else self._referring

    def _dump(self, payload: object, in_band: bool) -> list[memoryview]:
        pickler = self._pickler(in_band)
        try:
            pickler.dump(payload)
        except BaseException as error:  # of the payload's own __reduce__: anything
            self._stream.clear()
            raise PayloadError(self._name, *culprit(payload, error)) from error
        finally:
            pickler.clear_memo()  # which keeps alive what was pickled
            self._hot.end_pickle()
        return self._stream.take()

    def _encode_pickle(self, payload: object, head_bytes: int, in_band: bool) -> bytes:
        self._table.clear()
        self._begin_pickle()
        return self._finish_pickle(self._dump(payload, in_band), head_bytes)

    def _begin_pickle(self) -> None:
        self._hot.begin_pickle(self._post.address, self._outs, self._threshold, self._table)

    def _finish_pickle(self, stream: list[memoryview], head_bytes: int) -> bytes:
        """The body of what was dumped, behind its head."""
        fresh = len(self._post.slots)  # the index of the next slot that is added
        table = b"".join(BUFFER.pack(fresh if slot == FRESH else slot, offset, size) for slot, offset, size in self._table)
        self.in_band_bytes = sum(piece.nbytes for piece in stream)
        size = len(table) + self.in_band_bytes
        slots = fresh + bool(self._bundle)
        room = MESSAGE_SLOT_BYTES - binding.MESSAGE_HEAD_BYTES - binding.DESCRIPTOR_BYTES * slots
        if head_bytes + PICKLE_HEAD.size + size <= room:
            if self._bundle:
                self._write_bundle()
            return b"".join((PICKLE_HEAD.pack(len(self._table), size, 0, False), table, *stream))
        offset = self._bundle.add_bytes([memoryview(table), *stream])
        index = self._write_bundle()
        self.copied_bytes -= size  # pickled, not a buffer
        return PICKLE_HEAD.pack(len(self._table), size, offset, True) + SLOT_INDEX.pack(index)
