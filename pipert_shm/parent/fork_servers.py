"""The fork servers of later builds, as the parent sees them: it forks one for each `build()` that adds flows, and reaps it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress

from pipert_shm.control.channel import Channel
from pipert_shm.graph.model import Plan
from pipert_shm.launcher.fork_server_process import run_fork_server
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.system import forked


class ForkServers:
    """The fork servers that run, by process id. Safe to use from any thread.

    :param at_rest: a context in which no thread of the pipe's own holds a lock, which would stay locked in a forked process.
    :param logger_name: the pipe's, which names the log records of its routines.
    :param grace: seconds that flows have to end in when killed.
    :param logs: the end of the log channel that processes of the pipe send to.
    """

    def __init__(
        self,
        segment: ControlSegment,
        at_rest: Callable[[], AbstractContextManager[None]],
        logger_name: str,
        grace: float,
        logs: Channel,
    ) -> None:
        self._segment = segment
        self._at_rest = at_rest
        self._logger_name = logger_name
        self._grace = grace
        self._logs = logs
        self._lock = threading.RLock()
        self._pids: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._pids))

    def fork(self, plan: Plan, undo: ExitStack) -> tuple[Channel, int]:
        """Forks a fork server; the launcher's end of its channel, and its pid.

        :param undo: gets the steps that end the fork server again.
        :raises OSError: when the system has no process or no file descriptor left for it.
        """
        ours, theirs = Channel.pair()
        undo.callback(ours.close)
        ours.keep()
        try:
            logs = self._logs.duplicate()
            try:
                with self._at_rest():
                    pid = forked.fork(
                        lambda: run_fork_server(plan, self._segment, self._logger_name, self._grace, theirs, logs)
                    )
            finally:
                logs.close()
        finally:
            theirs.close()
        self._pids.add(pid)
        undo.callback(self.reap, pid)
        return ours, pid

    def reap(self, pid: int) -> None:
        """Waits for the end of a fork server, once."""
        with self._lock:
            if pid not in self._pids:
                return
            self._pids.remove(pid)
        with suppress(ChildProcessError):  # somebody else in this process reaped it
            os.waitpid(pid, 0)
