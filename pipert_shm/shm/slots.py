"""The payload slots of a routine: it loans arrays in them, and copies arrays into them."""

from __future__ import annotations

import math
import os
from contextlib import suppress

import numpy as np

from pipert_shm import binding
from pipert_shm.errors import NoFreeSlot, SharedMemoryFull
from pipert_shm.shm.rings import create_ring, open_ring, page_up, remove_if_free
from pipert_shm.shm.segments import ControlSegment, free_bytes
from pipert_shm.system.descriptors import is_shortage, remedy

GROWTH = 1.5  # a ring for larger payloads has slots at least so many times as large, so that it is seldom replaced
IN_FLOW_SHARE = 4  # frames that stay in their flow get a ring of at most this share, 1/4, of the bytes that are left
RETRY_NS = 100_000_000  # between tries to make or open a ring, when descriptors or memory were short


class Stopping(BaseException):
    """Unwinds a routine that waits when it has to stop or to do something else. It never leaves the runner.

    It is not an `Exception`, so that user code which catches those around `loan()` does not take it for a failed loan.
    """


class Slots:
    """The payload slots of one routine. The routine's thread only.

    They lie in a ring. When payloads get larger, or wires are linked, the routine moves to another ring, with larger or with
    more slots. The old ring goes as soon as the last of its slots is free.

    :param slots: how many slots the ring gets if memory allows.
    :param purpose: what the ring is for, for errors.

    Attributes:
        ring: the ring's number, -1 while there is none.
        edge_names: the receiver that each holder bit stands for, for errors.
        needed_elsewhere: how many slots receivers in other processes may hold.
        settled: whether the ring has the slots that are wanted, and no old ring is left. Then `fit` has nothing to do for
            payloads of the size that it saw last.
    """

    def __init__(self, segment: ControlSegment, port: binding.Port, number: int, name: str, slots: int, purpose: str) -> None:
        self._segment = segment
        self._port = port
        self._number = number
        self._name = name
        self._purpose = purpose
        self._wanted = slots
        self.settled = False
        self._tried = 0  # how many slots were wanted when the ring was made
        self._retry_ns = 0  # not to try for another ring before
        self.ring = -1
        self._slot_bytes = 0
        self._old: list[int] = []
        self.edge_names: dict[int, str] = {}
        self.needed_elsewhere = 0

    def want(self, slots: int) -> None:
        """Sets how many slots the ring should have from now on."""
        self._wanted = slots
        self.settled = False

    def adopt(self, ring: int, slot_bytes: int) -> None:
        """Starts with a ring that was made for this routine at build time."""
        if self._segment.process.ring_owner(ring) is None:
            open_ring(self._segment, ring, writable=True)
        self.ring, self._slot_bytes, self._tried = ring, page_up(slot_bytes), self._wanted

    def fit(self, size: int) -> None:
        """Moves to another ring if the present one is too small for payloads of `size` bytes.

        :raises SharedMemoryFull: when there is no memory for slots of that size.
        :raises OSError: when no file descriptor is free for the ring. It can be tried again.
        """
        if self._old:
            self._drop_old()
        if size > self._slot_bytes:
            self._move(size if not self._slot_bytes else max(size, int(self._slot_bytes * GROWTH)))
        elif self._wanted > self._tried and binding.now_ns() >= self._retry_ns:
            self._add_slots()
        self.settled = not self._old and self._wanted <= self._tried

    def _add_slots(self) -> None:
        """Moves to a ring with more slots if there is memory for it, else stays with the present one."""
        before, self._tried = self._tried, self._wanted
        if binding.ring_bytes(self._wanted, self._slot_bytes) > min(self._segment.process.memory_left(), free_bytes()):
            return
        with suppress(SharedMemoryFull):  # others took the memory meanwhile
            try:
                self._move(self._slot_bytes)
            except OSError as error:
                if not is_shortage(error):
                    raise
                self._tried, self._retry_ns = before, binding.now_ns() + RETRY_NS

    def _move(self, slot_bytes: int) -> None:
        try:
            ring = create_ring(self._segment, self._number, self._wanted, slot_bytes, self._purpose)
        except OSError as error:
            if not is_shortage(error):
                raise
            why = f"can't make {self._purpose}, of slots of {page_up(slot_bytes):,} bytes: {os.strerror(error.errno or 0)}"
            raise OSError(error.errno, f"{why}; {remedy(error)}") from error
        if self.ring >= 0:
            self._old.append(self.ring)
        self.ring, self._slot_bytes, self._tried = ring, page_up(slot_bytes), self._wanted
        self._drop_old()

    def _drop_old(self) -> None:
        self._old = [ring for ring in self._old if not remove_if_free(self._segment, ring)]

    def reserve(self, size: int, outs: int) -> tuple[int, int]:
        """A free slot of at least `size` bytes, under one lease that is the caller's: its descriptor and address.

        If no slot is free, the policies of the wires `outs` apply: a drop_oldest wire drops its oldest unread message, a block
        wire waits.

        :raises NoFreeSlot: when all slots are held and the policies don't wait, or have waited long enough.
        :raises SharedMemoryFull: when there is no memory for slots of that size.
        :raises Stopping: when the routine is stopped meanwhile.
        """
        self.fit(size)
        status, descriptor, address = self._port.reserve(outs, self.ring)
        if status == binding.OK:
            return descriptor, address
        if status == binding.NOTICE:
            raise Stopping("there is no free slot, and the routine is not to wait for one")
        holders = self._segment.process.holders(self.ring)
        if holders is None:
            raise NoFreeSlot(self._name, 0, {})
        raise NoFreeSlot(self._name, holders.slots, {self._holder(bit): count for bit, count in holders.by_bit.items()})

    def reserve_now(self, size: int) -> tuple[int, int] | None:
        """Like `reserve`, for a payload that stays in the flow: None if no slot is free. It neither waits nor drops anything.

        It makes a ring only if that leaves most of the pipe's memory to routines whose frames leave their flows.
        """
        if size > self._slot_bytes:
            now = binding.now_ns()
            if now < self._retry_ns or not self._is_affordable(size):
                self._retry_ns = max(self._retry_ns, now + RETRY_NS)
                return None
            try:
                self.fit(size)
            except (SharedMemoryFull, OSError) as error:
                if not (isinstance(error, SharedMemoryFull) or is_shortage(error)):
                    raise
                self._retry_ns = now + RETRY_NS
                return None
        elif not self.settled:
            self.fit(size)
        if self.leaves_too_few():
            return None
        status, descriptor, address = self._port.reserve(0, self.ring)
        return (descriptor, address) if status == binding.OK else None

    def _is_affordable(self, size: int) -> bool:
        """Whether a ring with slots of this size would take no more than its share of the memory that is left."""
        wanted = binding.ring_bytes(self._wanted, page_up(int(size * GROWTH)))
        return wanted <= min(self._segment.process.memory_left(), free_bytes()) // IN_FLOW_SHARE

    def _holder(self, bit: int) -> str:
        return f"{self._name} (being written, or a loan)" if bit == 0 else self.edge_names.get(bit, f"bit {bit}")

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], outs: int) -> np.ndarray:
        """A writable array in a slot. It is sent where it lies; the slot is free again when no view of the array lives."""
        size = math.prod(shape) * dtype.itemsize
        _, address = self.reserve(max(size, 1), outs)
        return binding.loan_array(address, shape, dtype)

    def loan_now(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
        """Like `loan`, for an array that stays in the flow: a plain array if no slot is free."""
        size = max(math.prod(shape) * dtype.itemsize, 1)
        reserved = self.reserve_now(size)
        return np.empty(shape, dtype) if reserved is None else binding.loan_array(reserved[1], shape, dtype)

    def leaves_too_few(self) -> bool:
        """Whether views in this process hold so many slots that too few are left for receivers elsewhere.

        If the ring has fewer slots than were wanted, views in this process may still hold a third of them.
        """
        if not self.needed_elsewhere or self.ring < 0:
            return False
        slots = self._segment.process.ring_geometry(self.ring).slots
        return self._segment.process.leased_slots(self.ring) > max(slots - self.needed_elsewhere, slots // 3)
