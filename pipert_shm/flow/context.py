"""What the parts of one routine's runner share: its plan, its port and both ends of its wires, its record, its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipert_shm import binding
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.messages import Message
from pipert_shm.data import Labels
from pipert_shm.errors import describe
from pipert_shm.flow.failures import Failures
from pipert_shm.graph.model import Plan, RoutinePlan, Streams
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.outbox import Outbox
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.states import State
from pipert_shm.system import forked
from pipert_shm.system.descriptors import Reserve


class Host(Protocol):
    """What a runner asks of its flow's process."""

    plan: Plan
    segment: ControlSegment
    edge_names: dict[int, str]
    reserve: Reserve

    def give_up(self, cause: str) -> None:
        """Ends the process as failed."""

    def report(self, message: Message) -> None:
        """Tells the launcher."""

    def ring(self, routine: int) -> None:
        """Makes a routine look at its queues."""


@dataclass(slots=True)
class Context:
    """One routine's runner, as its parts see it.

    Attributes:
        names: of all routines, by number, and by the number that their messages carry. They change with the pipe's flows.
        lanes: in a replicated flow whose order is restored: by sender to that flow, the edge from it to this replica.
        on_order: called when the plan says something else of the order of results.
        home: the process that the routine runs in. A process that the routine forks must not go on as the routine.
    """

    host: Host
    plan: RoutinePlan
    names: Labels
    record: binding.RoutineRecord
    port: binding.Port
    inbox: Inbox
    outbox: Outbox
    lanes: dict[int, binding.EdgeRecord]
    failures: Failures
    logger: logging.Logger
    home: int
    on_order: Callable[[], object] = lambda: None

    def put_in_order(self, lanes: dict[int, int], restores: dict[str, Streams]) -> None:
        """Notes what the order of results takes now. The routine's thread."""
        self.plan.lanes, self.plan.restores = lanes, restores
        self.lanes.clear()
        self.lanes.update(_records_of(self.host.segment, lanes))
        self.inbox.unsettled = True
        self.on_order()

    @property
    def has_ended(self) -> bool:
        """Whether the routine has ended or failed, perhaps in an earlier process: the record says so."""
        return State(self.record.state).over

    def report_failure(self, where: str, error: BaseException) -> str:
        """Counts and logs an error that ends the run; gives the text for the launcher."""
        self.record.count_error()
        self.failures.tell(f"{where} failed", error)
        return f"{where} of routine {self.plan.name!r} failed: {describe(error)}"


def open_context(
    host: Host,
    plan: RoutinePlan,
    local: dict[int, LocalMessages],
    attachment: Attachment,
    make_inbox: type[Inbox] = Inbox,
    make_failures: type[Failures] = Failures,
) -> Context:
    """Opens a routine's port, and its wires as the launcher attached them.

    :param local: the messages that wait within this process, by edge number; all routines of the flow share it.
    """
    segment = host.segment
    segment.reserve = host.reserve
    ins = [*plan.ins, *(edge for edge in attachment.leaving if edge.receiver == plan.number)]
    port = binding.Port(segment.process, plan.number, len(ins), plan.origin)
    names = host.plan.names
    lanes = _records_of(segment, plan.lanes)
    sizes = plan.slots, plan.message_slots
    outbox = Outbox(segment, port, plan.number, plan.name, *sizes, local, ordered=bool(plan.ordered), lanes=lanes)
    outbox.slots.edge_names = host.edge_names
    outbox.hand_over.use_logger(plan.routine._logger)
    inbox = make_inbox(segment, port, plan.number, names, local)
    for edge in ins:
        for incarnation in attachment.ins.get(edge.number, ()):
            inbox.add(edge, incarnation)
    for edge in plan.outs:
        if edge.number in attachment.outs:
            outbox.add(edge, attachment.outs[edge.number])
    if plan.number in attachment.rings:
        outbox.slots.adopt(*attachment.rings[plan.number])
    record = binding.RoutineRecord(segment.process, plan.number)
    logger = plan.routine._logger
    failures = make_failures(logger, plan.name, plan.flow)
    return Context(host, plan, names, record, port, inbox, outbox, lanes, failures, logger, forked.pid)


def _records_of(segment: ControlSegment, lanes: dict[int, int]) -> dict[int, binding.EdgeRecord]:
    return {sender: binding.EdgeRecord(segment.process, edge) for sender, edge in lanes.items()}
