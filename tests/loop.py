"""One wire, both of its ends in this process, with the real rings, queues and codec between them."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from pipert_shm import DataTransmitter, Meta, SharedMemoryTransmitter, binding
from pipert_shm.graph.model import EdgePlan
from pipert_shm.limits import Policy
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.outbox import Outbox
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.segments import ControlSegment, unlink_pipe

NAMES = ("sender", "receiver")


class Loop:
    """Sends and receives.

    :param borrow_cap: slots that the receiving end may keep.
    """

    def __init__(
        self,
        transmitter: DataTransmitter | None = None,
        *,
        slots: int = 16,
        capacity: int = 4,
        message_slots: int = 8,
        timeout: float = 0.1,
        borrow_cap: int = 1000,
        max_age: float | None = None,
        ticketed: bool = False,
    ) -> None:
        self.transmitter = transmitter or SharedMemoryTransmitter()
        edge = EdgePlan(
            number=0,
            sender=0,
            receiver=1,
            policy="block",
            capacity=capacity,
            timeout=timeout,
            transmitter=self.transmitter,
            local=False,
            bit=1,
            borrow_cap=borrow_cap,
            max_age=max_age,
            ticketed=ticketed,
        )
        self.segment = ControlSegment.create(
            binding.ControlSize(flows=1, routines=2, edges=1, incarnations=1, cells=16), 1 << 30
        )
        process = self.segment.process
        edge.format(binding.EdgeRecord(process, 0), frozenset({0, 1}))
        binding.Incarnation(process, 0).format(0, edge.bit)
        self._port = binding.Port(process, 0)
        self.outbox = Outbox(self.segment, self._port, 0, NAMES[0], slots, message_slots, {})
        self.outbox.add(edge, 0)
        self.inbox = Inbox(self.segment, binding.Port(process, 1), 1, NAMES, {})
        self.inbox.add(edge, binding.Incarnation(process, 0).name)
        self._sequence = 0

    def send(self, payload: Any) -> None:
        self._sequence += 1
        self.send_all([payload])

    def send_all(self, holder: list[Any]) -> None:
        """Sends the one payload in the list, and takes it out."""
        self.outbox.send(holder, Meta(NAMES, 0, self._sequence, binding.now_ns()))

    def receive(self) -> Any:
        return self.receive_message()[0]

    def receive_message(self) -> tuple[Any, Meta]:
        status = self.inbox.receive(5_000_000_000)
        assert status == binding.OK, status
        return self.inbox.take()

    def trip(self, payload: Any) -> Any:
        """What arrives when this is sent."""
        self.send(payload)
        return self.receive()

    def loan(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        return self.outbox.loan(shape, np.dtype(dtype))

    def interrupt(self) -> None:
        """Calls the sending end out of whatever it waits in, now or next."""
        self._port.notify()

    def obey(self) -> None:
        """What a routine's thread does then."""
        self._port.noticed()

    @property
    def copied_bytes(self) -> int:
        return binding.RoutineRecord(self.segment.process, 0).counters()["copied_bytes"]

    def held_slots(self) -> int:
        """Slots, of messages and of payloads, that anybody holds."""
        process = self.segment.process
        return sum(process.used_slots(ring) for ring in range(8) if process.holders(ring) is not None)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.segment.close()
        self.segment.unmap()
        unlink_pipe(self.segment.pipe_id)


class Flow:
    """A sender and receivers in one flow, in this process, and others beside it that are elsewhere.

    :param near: receivers in the flow.
    :param far: receivers in other flows.
    """

    def __init__(
        self,
        transmitter: DataTransmitter | None = None,
        *,
        near: int = 1,
        far: int = 0,
        slots: int = 16,
        budget: int = 1 << 30,
        policy: Policy = "block",
    ) -> None:
        self.names = ("sender", *(f"receiver{number}" for number in range(near + far)))
        count = near + far
        self.segment = ControlSegment.create(
            binding.ControlSize(flows=1, routines=1 + count, edges=count, incarnations=count, cells=16), budget
        )
        process = self.segment.process
        self._elsewhere = ControlSegment.open(self.segment.pipe_id)  # with leases of its own, as in another process
        tables: dict[int, LocalMessages] = {}
        self.outbox = Outbox(self.segment, binding.Port(process, 0), 0, "sender", slots, 32, tables)
        self.inboxes: list[Inbox] = []
        for number in range(count):
            local = number < near
            edge = EdgePlan(
                number=number,
                sender=0,
                receiver=1 + number,
                policy=policy,
                capacity=4,
                timeout=0.1,
                transmitter=transmitter or SharedMemoryTransmitter(),
                local=local,
                bit=0 if local else 1 + number,
            )
            edge.format(binding.EdgeRecord(process, number), frozenset({0}))
            binding.Incarnation(process, number).format(number, edge.bit)
            self.outbox.add(edge, number)
            segment = self.segment if local else self._elsewhere
            self.inboxes.append(Inbox(segment, binding.Port(segment.process, 1 + number), 1 + number, self.names, tables))
            self.inboxes[-1].add(edge, binding.Incarnation(process, number).name)
        self._sequence = 0

    def loan(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        return self.outbox.loan(shape, np.dtype(dtype))

    def send(self, payload: Any) -> None:
        self._sequence += 1
        self.outbox.send([payload], Meta(self.names, 0, self._sequence, binding.now_ns()))

    def receive(self) -> list[Any]:
        """What each receiver has got."""
        payloads = []
        for inbox in self.inboxes:
            status = inbox.receive(5_000_000_000)
            assert status == binding.OK, status
            payload, _ = inbox.take()
            payloads.append(payload)
        return payloads

    def trip(self, payload: Any) -> list[Any]:
        self.send(payload)
        return self.receive()

    @property
    def counters(self) -> dict[str, int]:
        return binding.RoutineRecord(self.segment.process, 0).counters()

    def held_slots(self) -> int:
        """Slots, of messages and of payloads, that anybody holds."""
        process = self.segment.process
        return sum(process.used_slots(ring) for ring in range(8) if process.holders(ring) is not None)

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for segment in (self._elsewhere, self.segment):
            segment.close()
            segment.unmap()
        unlink_pipe(self.segment.pipe_id)
