"""Both ends of an edge in one process, without a routine or a flow around them: for what looks at single steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipert_shm import SharedMemoryTransmitter, binding
from pipert_shm.graph.model import EdgePlan
from pipert_shm.message.encoder import Encoder
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.outbox import Outbox
from pipert_shm.shm.segments import ControlSegment, unlink_pipe

NAMES = ("camera", "screen")
CAMERA, SCREEN = 0, 1
REACH = frozenset({CAMERA})
OUTS = 1  # the sender's one edge, as a bit
EDGE = EdgePlan(
    number=0,
    sender=CAMERA,
    receiver=SCREEN,
    policy="drop_oldest",
    capacity=2,
    timeout=None,
    transmitter=SharedMemoryTransmitter(),
    local=False,
    bit=1,
)


@dataclass
class Ends:
    """Each has opened the segment for itself, as if it were in a process of its own."""

    sending: ControlSegment
    receiving: ControlSegment
    sender: binding.Port
    receiver: binding.Port
    outbox: Outbox
    inbox: Inbox

    def frame(self, shape: tuple[int, ...]) -> np.ndarray:
        frame = self.outbox.loan(shape, np.dtype(np.uint8))
        frame[:] = 7
        return frame

    def receive(self) -> Any:
        """The payload of the next message, which is there."""
        if (status := self.inbox.receive(0)) != binding.OK:
            raise RuntimeError(f"there is no message: status {status}")
        payload, _ = self.inbox.take()
        return payload

    def encoder(self) -> Encoder:
        return Encoder(self.sender, self.outbox.slots, NAMES[CAMERA])


@contextmanager
def open_ends(capacity: int = EDGE.capacity, slots: int = 8, borrow_cap: int = EDGE.borrow_cap) -> Iterator[Ends]:
    """:param capacity: messages that the edge holds.
    :param slots: of the sender's ring.
    :param borrow_cap: frames that the receiver may keep.
    """
    edge = replace(EDGE, capacity=capacity, borrow_cap=borrow_cap)
    sending = ControlSegment.create(
        binding.ControlSize(flows=1, routines=2, edges=1, incarnations=1, cells=8 * capacity), budget=1 << 30
    )
    try:
        edge.format(binding.EdgeRecord(sending.process, edge.number), REACH)
        binding.Incarnation(sending.process, 0).format(edge.number, edge.bit)
        receiving = ControlSegment.open(sending.pipe_id)
        sender, receiver = binding.Port(sending.process, CAMERA), binding.Port(receiving.process, SCREEN)
        outbox = Outbox(sending, sender, CAMERA, NAMES[CAMERA], slots, slots, {})
        outbox.add(edge, 0)
        inbox = Inbox(receiving, receiver, SCREEN, NAMES, {})
        inbox.add(edge, getattr(binding.Incarnation(sending.process, 0), "name", 0))  # earlier versions have none
        yield Ends(sending, receiving, sender, receiver, outbox, inbox)
    finally:
        unlink_pipe(sending.pipe_id)
    for segment in (receiving, sending):
        segment.close()
        assert segment.unmap(), "a slot is still held"
