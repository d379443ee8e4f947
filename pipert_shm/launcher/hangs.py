"""Finds routines that hang, and logs what the threads of their flow were doing."""

from __future__ import annotations

import selectors

from pipert_shm import binding
from pipert_shm.errors import describe
from pipert_shm.flow.process import STACKS_SIGNAL
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.system import calls

STACKS_WAIT = 0.5  # seconds until a flow that writes no stacks is given up


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
    text = b""
    try:
        calls.send_signal(flow.pidfd, STACKS_SIGNAL)
        with selectors.PollSelector() as selector:
            selector.register(flow.stacks, selectors.EVENT_READ)
            # Until no more comes: the handler writes all of it at once.
            while selector.select(STACKS_WAIT if not text else STACKS_WAIT / 10):
                more = calls.read(flow.stacks, 1 << 16)
                if not more:
                    break  # it is dead
                text += more
    except OSError as error:
        return f"(they can't be read: {describe(error)})"
    return text.decode(errors="replace") or "(it does not answer)"
