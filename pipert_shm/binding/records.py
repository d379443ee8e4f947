"""The records of edges and incarnations in a control segment; flow_record.py and routine_record.py have the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from pipert_shm.binding.constants import FOREVER, POLICIES, REASONS
from pipert_shm.binding.native import ffi, lib

if TYPE_CHECKING:
    from pipert_shm.binding.process import Process


class Ends(NamedTuple):
    """The routine numbers of an edge's ends."""

    sender: int
    receiver: int


class Settings(NamedTuple):
    """The settings of an edge's queue."""

    policy: Any  # a key of POLICIES
    capacity: int


class Tickets(NamedTuple):
    """How far an edge to a replica has come.

    Attributes:
        announced: the last ticket that is pushed, or about to be.
        done: the ticket up to which the replica is done.
    """

    announced: int
    done: int


def found(record: Any, what: str, number: int) -> Any:
    """The record, or an error: to read by a null pointer would end the process.

    :raises LookupError: when the segment has no room for so many.
    """
    if not record:
        raise LookupError(f"the control segment has no {what} {number}: it is damaged, or of another pipe")
    return record


def zero(record: Any) -> None:
    """Zeroes a record."""
    memory = ffi.buffer(record)
    memory[:] = bytes(len(memory))


class EdgeRecord:
    """One edge's record in the control segment: its settings, which stay as they are, and its counters."""

    __slots__ = ("_record",)

    def __init__(self, process: Process, number: int) -> None:
        self._record = found(lib.pshm_control_edge(process.control, number), "edge", number)

    def format(
        self,
        *,
        sender: int,
        receiver: int,
        local: bool,
        policy: int,
        capacity: int,
        borrow_cap: int,
        timeout_ns: int,
        reach: Iterable[int] = (),
    ) -> None:
        """Writes the settings. The process that creates the edge, before its ends know of it.

        :param reach: the other routines, besides the sender, that own slots which its messages can name.
        """
        record = self._record
        record.sender = sender
        record.receiver = receiver
        record.local = local
        record.policy = policy
        record.capacity = capacity
        record.borrow_cap = borrow_cap
        record.timeout_ns = timeout_ns
        record.receiver_ended = record.removed = record.sender_failed = 0
        record.reach = [0] * len(record.reach)
        for routine in {sender, *reach}:
            lib.pshm_edge_record_reach(record, routine)

    def clear(self) -> None:
        """Zeroes the record, for another pair of routines. The launcher, when no process uses the edge any more."""
        zero(self._record)

    def forget_reach(self, routine: int) -> None:
        """Takes a routine out of the reach, when no ring of it is left. The launcher."""
        self._record.reach[routine // 64] &= ~(1 << routine % 64)

    def ends(self) -> Ends:
        """The routines at its two ends."""
        return Ends(self._record.sender, self._record.receiver)

    def settings(self) -> Settings:
        """Policy and capacity of its queue. A record that was never used has capacity 0.

        :raises LookupError: when the record is damaged.
        """
        return Settings({number: name for name, number in POLICIES.items()}[self._record.policy], self._record.capacity)

    @property
    def sender(self) -> int:
        sender: int = self._record.sender
        return sender

    @property
    def receiver_ended(self) -> bool:
        """Whether the receiver takes no more messages. Then the sender drops those for it."""
        return bool(self._record.receiver_ended)

    @receiver_ended.setter
    def receiver_ended(self, ended: bool) -> None:
        self._record.receiver_ended = ended

    @property
    def removed(self) -> bool:
        """Whether it is unlinked."""
        return bool(self._record.removed)

    @removed.setter
    def removed(self, removed: bool) -> None:
        self._record.removed = removed

    def fail_sender(self) -> None:
        """Says that the sender is dead for good. Ring the receiver afterwards. The launcher."""
        self._record.sender_failed = 1

    def counters(self) -> dict[str, int]:
        """Its counters but for dropped messages, by name. Any process; a snapshot."""
        record = self._record
        return {name: getattr(record, name) for name in ("sent", "received", "private_bytes", "protocol_errors")}

    def dropped(self) -> dict[str, int]:
        """How many messages were dropped, by reason. Any process; a snapshot."""
        dropped = self._record.dropped
        return {reason: dropped[number] for reason, number in REASONS.items()}

    def hop_histogram(self) -> list[int]:
        """How many messages took how long from send to receipt, by bucket: see BUCKET_NS."""
        return list(self._record.hop)

    def tickets(self) -> Tickets:
        """The tickets of an edge to a replica. Any process."""
        announced, done = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.pshm_tickets_read(self._record, announced, done)
        return Tickets(announced[0], done[0])

    def pushed_ticket(self) -> int:
        """The last ticket that is pushed for certain. If the queue is empty, the replica has taken it. Any process."""
        pushed: int = lib.pshm_tickets_pushed(self._record)
        return pushed

    def settle_tickets(self) -> None:
        """Makes the ticket that a dead sender announced last count as pushed. The launcher, before it tells the replica."""
        lib.pshm_tickets_settle(self._record)

    def finish(self, ticket: int) -> None:
        """Says that the results of all tickets up to this one are pushed. The replica only."""
        lib.pshm_tickets_done(self._record, ticket)

    def handed(self) -> int:
        """The number after the last message that a dead sender had handed over, or dropped. See csrc/handing.h."""
        number: int = lib.pshm_handing_done(self._record)
        return number

    def count_private(self, size: int) -> None:
        """Adds bytes that were copied on receipt. The receiver's thread."""
        self._record.private_bytes += size


def incarnation_of(name: int) -> int:
    """The number of the incarnation that has this name."""
    return name & 0xFFFFFFFF


class Incarnation:
    """One life of an edge: its bit and its queue. It ends with its sender's process; the next process gets another one."""

    __slots__ = ("_edge", "_process", "_record", "number")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._record = found(lib.pshm_control_incarnation(process.control, number), "incarnation", number)
        self._edge = ffi.new("pshm_edge *")
        self.number = number

    def format(self, edge: int, bit: int) -> None:
        """Makes it live. `bit` is 0 for a local edge. The edge's creator or the launcher, before the edge's ends know of it."""
        lib.pshm_incarnation_format(self._record, edge, bit)

    @property
    def name(self) -> int:
        """What a receiver is told to attach to: this life of the record. The creator or the launcher."""
        name: int = lib.pshm_incarnation_name(self._record, self.number)
        return name

    @property
    def state(self) -> int:
        state: int = lib.pshm_incarnation_state(self._record)
        return state

    @state.setter
    def state(self, state: int) -> None:
        lib.pshm_incarnation_mark(self._record, state)

    @property
    def edge(self) -> int:
        edge: int = self._record.edge
        return edge

    @property
    def bit(self) -> int:
        bit: int = self._record.bit
        return bit

    def reopen(self) -> None:
        """Takes back the end of the stream. The sender, or the launcher while the sender rests."""
        lib.pshm_queue_reopen(self._queue())

    def close(self) -> None:
        """Ends the stream after the last message that was sent. The sender, or the launcher while the sender does not run."""
        lib.pshm_queue_close(self._queue())

    def waiting(self) -> int:
        """How many messages wait in its queue. Any process; a snapshot."""
        if not lib.pshm_edge_attach(self._edge, self._process.control, self.number):
            return 0  # its edge is just being made
        depth: int = lib.pshm_queue_depth(ffi.addressof(self._edge, "queue"))
        return depth

    def _queue(self) -> Any:
        lib.pshm_edge_attach(self._edge, self._process.control, self.number)
        return ffi.addressof(self._edge, "queue")

    def recover_receiver(self) -> None:
        """Recovers from the receiver's death after the sender's: see csrc/recover.h. The launcher.

        :raises MemoryError: with nothing done.
        """
        if not lib.pshm_recover_receiver(self._process.handle, self.number, FOREVER):
            raise MemoryError(f"incarnation {self.number} is not recovered")

    def recover_handing(self) -> None:
        """Finds out what a dead sender was handing over: see csrc/handing.h. The launcher, before it marks the death."""
        lib.pshm_recover_handing(self._process.handle, self.number)

    def take_back(self) -> bool:
        """Drops what a receiver that may live leaves unread of a dead sender's: see csrc/recover.h. The launcher.

        :returns: whether its bit may be given to another.
        """
        free: bool = lib.pshm_recover_undrained(self._process.handle, self.number)
        return free

    def recover(self) -> None:
        """Clears an incarnation whose ends are both dead, so that no process will drain it. The launcher."""
        lib.pshm_recover_edge(self._process.handle, self.number)
