"""Routines that hang: how one knows, and what their flow's threads were doing."""

from __future__ import annotations

import selectors

from pipert_shm import native, system
from pipert_shm.errors import describe
from pipert_shm.flow.process import STACKS_SIGNAL
from pipert_shm.launcher.roster import Flow, Roster

STACKS_WAIT = 0.5


class Hangs:
    """Looks how long calls of user code have taken, where routines have a `hang_timeout`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    @property
    def interval(self) -> float | None:
        """How often to look, seconds; None where no routine wants it."""
        timeouts = [item.routine.hang_timeout for item in self._roster.plan.routines if item.routine.hang_timeout is not None]
        return min(timeouts) / 4 if timeouts else None

    def is_found(self, flow: Flow) -> bool:
        """Whether one of the flow's routines hangs. Then that is logged, with the stacks of the flow's threads."""
        for item in flow.routines:
            words, limit = self._roster.records[item.number].words, item.routine.hang_timeout
            for where, since in (("main_logic", words.busy_since_ns), ("a handler of an event", words.handling_since_ns)):
                if limit is None or not since or native.now_ns() - since < limit * 1e9:
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
        system.send_signal(flow.pidfd, STACKS_SIGNAL)
        with selectors.PollSelector() as selector:
            selector.register(flow.stacks, selectors.EVENT_READ)
            # Until it is silent: the handler writes all of it in one go.
            while selector.select(STACKS_WAIT if not text else STACKS_WAIT / 10):
                more = system.read(flow.stacks, 1 << 16)
                if not more:
                    break  # it is dead
                text += more
    except OSError as error:
        return f"(they can't be had: {describe(error)})"
    return text.decode(errors="replace") or "(it does not answer)"
