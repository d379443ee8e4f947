"""The records of flows in a control segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipert_shm.binding.native import lib
from pipert_shm.binding.records import found, zero

if TYPE_CHECKING:
    from pipert_shm.binding.process import Process


class FlowStatus(NamedTuple):
    """What the launcher wrote of a flow.

    Attributes:
        state: a `FlowState`, 0 before the flow's first process.
        pid: of its process, 0 while there is none.
        last_exit: exit code of the process before, or minus the signal that killed it.
        restarts: how often it was started again.
        last_reason: why the process before ended: an `EndReason`, 0 while there was none.
        started: when its process began, in clock ticks since the system did; 0 where that is unknown.
    """

    state: int
    pid: int
    last_exit: int
    restarts: int
    last_reason: int
    started: int


class FlowRecord:
    """One flow's record in the control segment. The launcher writes it, any process may read it."""

    __slots__ = ("_record",)

    def __init__(self, process: Process, number: int) -> None:
        self._record = found(lib.pshm_control_flow(process.control, number), "flow", number)

    def clear(self) -> None:
        """Zeroes the record, for another flow."""
        zero(self._record)

    def note_start(self, state: int, pid: int, started: int = 0) -> None:
        """Says that the flow has a process.

        :param started: when it began, in clock ticks since the system did; 0 where that is unknown.
        """
        self._record.state = state
        self._record.started = started
        self._record.pid = pid

    def note_death(self, state: int, exit_code: int, reason: int, *, restarting: bool) -> None:
        """Says that the flow has no process any more, and why."""
        self._record.state = state
        self._record.pid = 0
        self._record.last_exit = exit_code
        self._record.last_reason = reason
        self._record.restarts += restarting

    def read(self) -> FlowStatus:
        """The flow's status. Any process."""
        record = self._record
        return FlowStatus(record.state, record.pid, record.last_exit, record.restarts, record.last_reason, record.started)
