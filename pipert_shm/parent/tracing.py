"""Traces of a running pipe, as the process that built it makes them: begun, ended, and what was noted read."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable

import numpy as np

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.control.messages import Trace
from pipert_shm.errors import PipeStateError
from pipert_shm.frozen import Frozen
from pipert_shm.shm.segments import PREFIX, SHM, TRACE, open_file, unlink
from pipert_shm.system import calls


class Noted(Frozen):
    """What one process has noted.

    Attributes:
        flow: its flow's number; `trace.NOBODY`: the launcher.
        pid: of the process.
        names: that events refer to, by index.
        lost: how many events are not there: they were overwritten by later ones, or the process died in the midst.
        events: of `trace.LAYOUT`, in the order in which they were begun.
    """

    flow: int
    pid: int
    names: tuple[str, ...]
    lost: int
    events: np.ndarray


class Tracing:
    """One trace at a time. Any thread.

    :param ask: asks the launcher, and waits for its answer.
    """

    def __init__(self, pipe_id: str, ask: Callable[[Trace], object]) -> None:
        self._pipe_id = pipe_id
        self._ask = ask
        self._busy = threading.Lock()
        self._serials = itertools.count(1)
        self._serial = 0
        self.is_on = False

    def begin(self, events: int) -> None:
        """Begins a trace.

        :param events: that each process keeps, at most: a power of two.
        :raises PipeStateError: when another one is under way, or the pipe has ended.
        """
        if not self._busy.acquire(blocking=False):
            raise PipeStateError("the pipe is being traced already; there can be one trace at a time")
        self._serial = next(self._serials)
        self.is_on = True
        try:
            self._ask(Trace(self._serial, events))
        except BaseException:
            self._let_go()
            raise

    def end(self) -> list[Noted]:
        """Ends the trace; what was noted, process by process."""
        try:
            return [noted for noted in map(self._read, self._rings()) if noted is not None]
        finally:
            try:
                self._ask(Trace(self._serial, 0))
            except PipeStateError:
                pass  # the pipe has ended
            finally:
                self._let_go()

    def _let_go(self) -> None:
        self.is_on = False
        for name in self._rings():
            unlink(f"/{name}")
        self._busy.release()

    def _rings(self) -> list[str]:
        """The names of the segments, in the order in which they were made."""
        beginning = f"{PREFIX}{self._pipe_id}-{TRACE}"
        names = [name for name in calls.listing(SHM) if name.startswith(beginning)]
        return sorted(names, key=lambda name: (len(name), name))

    def _read(self, name: str) -> Noted | None:
        """None where a process is just making the ring."""
        fd = open_file(name)
        try:
            size = os.fstat(fd).st_size
            address = calls.map_memory(fd, size, writable=False)
        finally:
            os.close(fd)
        try:
            head, events = trace.read_trace(address, size)
        except ValueError:
            return None
        finally:
            binding.unmap(address, size)
        return None if head.serial != self._serial else Noted(head.flow, head.pid, head.names, head.turns - len(events), events)
