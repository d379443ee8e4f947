"""Finds routines that hang, and logs what the threads of their flow were doing."""

from __future__ import annotations

import selectors
import time
from contextlib import suppress

from pipert_shm import binding
from pipert_shm.errors import describe
from pipert_shm.flow.process import STACKS_SIGNAL
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.system import calls

STACKS_WAIT = 0.5  # seconds until a flow that does not write all stacks is given up
THREAD_WAIT = 0.1  # seconds until a thread that writes no stack is given up: one of a C library, or one that blocks signals


class Hangs:
    """Looks how long the current calls of user code take, for routines with a `hang_timeout`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    @property
    def interval(self) -> float | None:
        """Seconds between two looks; None when no routine has a `hang_timeout`."""
        timeouts = [item.routine.hang_timeout for item in self._roster.plan.routines if item.routine.hang_timeout is not None]
        return min(timeouts) / 4 if timeouts else None

    def is_found(self, flow: Flow) -> bool:
        """Whether one of the flow's routines hangs. If so, logs that, with the stacks of the flow's threads."""
        for item in flow.routines:
            record, limit = self._roster.records[item.number], item.routine.hang_timeout
            for where, since in (("main_logic", record.busy_since_ns), ("a handler of an event", record.handling_since_ns)):
                if limit is None or not since or binding.now_ns() - since < limit * 1e9:
                    continue
                self._roster.logger.error(
                    "routine %r hangs in %s for more than %g s; flow %r is killed. The stacks of its threads:\n%s",
                    item.routine.name,
                    where,
                    limit,
                    flow.name,
                    _stacks_of(flow),
                    extra={"flow": flow.name},
                )
                return True
        return False


def _stacks_of(flow: Flow) -> str:
    """Asks one thread after the other: a thread that walked the frames of others, while these run, might read freed memory.

    The signal ends system calls that it interrupts, so what hung may go on, and finish its message, until it is killed.
    """
    text = b""
    end = time.monotonic() + STACKS_WAIT
    try:
        with selectors.PollSelector() as selector:
            selector.register(flow.stacks, selectors.EVENT_READ)
            for thread in sorted(map(int, calls.listing(f"/proc/{flow.pid}/task"))):
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    calls.signal_thread(flow.pid, thread, STACKS_SIGNAL)
                wait = THREAD_WAIT
                while selector.select(min(wait, max(end - time.monotonic(), 0))):
                    more = calls.read(flow.stacks, 1 << 16)
                    if not more:
                        break  # the process is dead
                    text += more
                    wait = THREAD_WAIT / 10  # the handler writes all of it at once
    except OSError as error:
        return f"(they can't be read: {describe(error)})"
    return text.decode(errors="replace") or "(it does not answer)"
