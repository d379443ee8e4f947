"""Memory for the frames of a routine that runs: what `Routine.loan()` and `writable()` ask of its runner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.errors import RoutineError
from pipert_shm.flow.context import Context
from pipert_shm.routine import Routine
from pipert_shm.shm import tracing
from pipert_shm.shm.slots import Stopping
from pipert_shm.system import forked


class Loans:
    """A `Runtime` for one routine.

    :param thread: the routine's.
    :param obey: obeys the commands that came; says whether the run is to end.
    """

    def __init__(self, context: Context, thread: threading.Thread, obey: Callable[[], bool]) -> None:
        self._thread = thread
        self._obey = obey
        self._home = context.home
        self._name = context.plan.name
        self._number = context.plan.number
        self._port = context.port
        self._inbox = context.inbox
        self._outbox = context.outbox
        self._record = context.record
        self._plan = context.host.plan
        self._process = context.host.segment.process

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, wait: bool = True) -> np.ndarray:
        """An array to fill and send: in a slot, or in plain memory where nobody would get it. Waits for a slot.

        :param wait: whether the policies of the wires apply if no slot is free.
        :raises RoutineError: on another thread than the routine's.
        :raises Stopping: when the run is to end.
        """
        if threading.current_thread() is not self._thread:
            raise RoutineError(self._name, "loan() belongs to the routine's own thread (setup, main_logic, cleanup)")
        if not self._outbox.has_wires or forked.pid != self._home:
            return np.empty(shape, dtype)
        busy = self._record.pause_busy()  # to wait for a slot is not to hang
        try:
            while True:
                try:
                    return self._outbox.loan(shape, dtype, wait=wait)
                except Stopping:
                    if self._obey():
                        raise
                    self._port.hot.come_back()  # its wires and settings may be others now
        finally:
            self._record.resume_busy(busy)

    def wake(self) -> None:
        """Makes the routine look at its settings again. Any thread."""
        self._port.notify()

    def resume(self, is_odd: bool | None) -> bool:
        """Goes on where the process before died, if one did: from now on each wire gets only what it has not got.

        Call it in `setup()`, in the first run of a process. A routine that has called it is one whose messages come again: what
        it had in hand when it died does not count as lost.

        :param is_odd: whether the number of the message in hand was odd; None where there was none.
        :return: whether every wire has got that message. Else it gets the same number again.
        """
        sequence = self._record.resume(is_odd)
        has_left = self._outbox.resume(sequence)
        if is_odd is None or not has_left:
            self._record.go_back(sequence)
        return has_left

    def keep(self, number: int) -> None:
        """Notes a number, and that the message in hand is in safety, in one step: if the process dies now, it is not lost.

        :param number: below 2**39.
        """
        self._record.keep(number)

    def kept(self) -> int:
        """The number that `keep` was given last, in any life of the process; 0 at first."""
        return self._record.kept()

    def sent(self) -> int:
        """How many messages the routine has sent, in all lives of its process."""
        return int(self._record.words.sent)

    def companions(self) -> list[tuple[Routine, binding.RoutineRecord]]:
        """The routines of the pipe, and their records. Those of other processes are as they were when this one was forked."""
        return [(item.routine, binding.RoutineRecord(self._process, item.number)) for item in self._plan.routines]

    def await_ring(self, look: Callable[[], bool], seconds: float) -> bool:
        """What `look` says; where that is False, it looks again when somebody has rung, or after so many seconds."""
        word = self._port.bell_word()  # before the look
        if look():
            return True
        self._port.nap(word, int(seconds * 1e9))
        return look()

    def note_span(self, name: str, began_ns: int, ended_ns: int = 0) -> None:
        """Notes what the routine did, if somebody traces the pipe. Any thread: what another one did has no frame."""
        if not tracing.on:
            return
        index = tracing.name_index(name)
        times = {"began_ns": began_ns, "ended_ns": ended_ns}
        if threading.current_thread() is not self._thread:
            tracing.note(trace.THREAD, self._number, other=index, sequence=threading.get_native_id(), **times)
        elif ended_ns:
            tracing.note(trace.SPAN, self._number, other=index, **times)
        else:
            self._port.hot.trace(trace.SPAN, index, began_ns)

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        """The same memory, writable, where this routine alone holds it; else a copy in a slot; None where neither can be."""
        if threading.current_thread() is not self._thread or forked.pid != self._home:
            return None
        if array.dtype.hasobject or 0 in array.strides or not array.size:
            return None
        own = None
        if not (self._outbox.stays_in_flow or self._inbox.comes_from_flow):  # else others may stand on the same memory
            own = self._outbox.writable(array) if not array.flags.writeable else array
        return self._outbox.copy(array) if own is None else own
