"""Tells the flows when somebody traces the pipe, and notes what the launcher itself does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipert_shm.binding import trace
from pipert_shm.control.channel import Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import Answer, Trace, TraceInto
from pipert_shm.errors import PipeStateError, describe
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.shm import tracing

if TYPE_CHECKING:
    from pipert_shm.launcher.parent import Parent  # which imports this


class Tracing:
    """One trace at a time, of all flows: of those that run, and of those that come up meanwhile.

    Each process gets a ring of its own. Nobody waits for a flow: one that can't be told, or can't make its ring, has none.
    """

    def __init__(self, roster: Roster, parent: Parent) -> None:
        self._roster = roster
        self._parent = parent
        self._events = 0  # that each ring has; 0: nobody traces
        self._serial = 0
        self._rings = 0  # the number of the last

    @property
    def is_on(self) -> bool:
        """Whether somebody traces."""
        return self._events > 0

    @property
    def is_read(self) -> bool:
        """Whether somebody traces, and is there to read what was noted."""
        return self.is_on and self._parent.is_open

    def serve(self, table: Dispatch) -> None:
        """Has the table of the parent's messages handle its orders."""
        table.on_received(Trace, self._hear)

    def _hear(self, order: Trace, received: Received) -> None:
        try:
            self.obey(order)
        except PipeStateError as error:
            self._parent.refuse(received.question, error)
        else:
            self._parent.tell(Answer(), received.question)

    def obey(self, order: Trace) -> None:
        """Begins a trace, or ends it.

        :raises PipeStateError: when another trace is under way.
        """
        if not order.events:
            self._end(order.serial)
        elif self.is_on:
            raise PipeStateError("the pipe is being traced already")
        else:
            self._begin(order)

    def _begin(self, order: Trace) -> None:
        self._serial, self._events = order.serial, order.events
        try:
            tracing.begin(self._roster.segment.pipe_id, self._next_ring(), order.events, trace.NOBODY, order.serial)
        except Exception as error:
            self._events = 0
            raise PipeStateError(f"the pipe can't be traced: {describe(error)}") from error
        for flow in self._roster.flows.values():
            if flow.ready:
                self.tell(flow)

    def _end(self, serial: int) -> None:
        if serial != self._serial or not self.is_on:
            return
        self._events = 0
        tracing.end()
        for flow in self._roster.flows.values():
            self._roster.send(flow, TraceInto(serial, 0, 0, flow.number))

    def _next_ring(self) -> int:
        self._rings += 1
        return self._rings

    def tell(self, flow: Flow) -> None:
        """Has a flow that has just come up note what it does, if somebody traces. It does so before it starts routines."""
        if self.is_on:
            self.note(flow, "up", flow.pid)
            self._roster.send(flow, TraceInto(self._serial, self._next_ring(), self._events, flow.number))

    @staticmethod
    def note(flow: Flow, what: str, number: int = 0) -> None:
        """Notes that something has happened to a flow.

        :param number: the pid of its process, or how it ended.
        """
        if tracing.on:
            name = tracing.name_index(what)
            tracing.note(trace.FLOW, flow.number, other=name, sequence=number & (1 << 64) - 1)
