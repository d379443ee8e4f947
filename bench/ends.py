"""Both ends of an edge in one process, without a routine or a flow around them: for what looks at single steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipert_shm import SharedMemoryTransmitter, native
from pipert_shm.codec import Encoder
from pipert_shm.memory import ControlSegment, unlink_pipe
from pipert_shm.plan import EdgePlan
from pipert_shm.ports import Inbox, Outbox

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
    sender: native.Port
    receiver: native.Port
    outbox: Outbox
    inbox: Inbox

    def frame(self, shape: tuple[int, ...]) -> np.ndarray:
        frame = self.outbox.loan(shape, np.dtype(np.uint8))
        frame[:] = 7
        return frame

    def receive(self) -> Any:
        """The payload of the next message, which is there."""
        received = self.inbox.receive(0)
        return received[0] if isinstance(received, tuple) else self.inbox.take()[0]

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
        native.ControlSize(flows=1, routines=2, edges=1, incarnations=1, cells=8 * capacity), budget=1 << 30
    )
    try:
        edge.format(native.EdgeRecord(sending.process, edge.number), REACH)
        native.Incarnation(sending.process, 0).format(edge.number, edge.bit)
        receiving = ControlSegment.open(sending.pipe_id)
        sender, receiver = native.Port(sending.process, CAMERA), native.Port(receiving.process, SCREEN)
        outbox = Outbox(sending, sender, CAMERA, NAMES[CAMERA], slots, slots, {})
        outbox.add(edge, 0)
        inbox = Inbox(receiving, receiver, SCREEN, NAMES, {})
        inbox.add(edge, 0)
        yield Ends(sending, receiving, sender, receiver, outbox, inbox)
    finally:
        unlink_pipe(sending.pipe_id)
    for segment in (receiving, sending):
        segment.close()
        assert segment.unmap(), "a slot is still held"
