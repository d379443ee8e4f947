"""The fork servers of a pipe: each is made with new routines, and ended when no flow needs it any more."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm.control.messages import Message, ServerEnded
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.roster import Roster
from pipert_shm.launcher.watch import Watch


class Servers:
    """Makes fork servers, and ends them.

    :param tell: sends the parent a message.
    """

    def __init__(self, roster: Roster, watch: Watch, tell: Callable[[Message], None]) -> None:
        self._roster = roster
        self._watch = watch
        self._tell = tell
        self._pids: dict[ForkServer, int] = {}

    def make(self, fds: list[int], pid: int, known: int) -> ForkServer:
        """The launcher's end of a fork server.

        :param fds: the descriptor of its channel is taken out of these.
        :param known: how many routines of the pipe its process knows.
        :raises OSError: when the system has no descriptors left.
        """
        server: ForkServer

        def lose() -> None:
            for flow in self._roster.flows.values():  # nobody could fork or reap them again; their restart finds that out
                if server in (flow.server, flow.forked_by) and flow.up:
                    flow.kill()

        server = ForkServer(fds.pop(), pid, known, self._watch, self._roster.logger, lose)
        self._pids[server] = pid
        return server

    def drop(self, server: ForkServer) -> None:
        """Ends one that nothing came of."""
        self._pids.pop(server, None)
        server.close()

    def end_unused(self) -> None:
        """Ends those that no flow needs: neither for its next process, nor for the end of the one that it has."""
        flows = self._roster.flows.values()
        used = {flow.server for flow in flows} | {flow.forked_by for flow in flows if flow.up}
        for server in [server for server in self._pids if server not in used]:
            pid = self._pids.pop(server)
            if not server.dead:
                server.retire(lambda pid=pid: self._tell(ServerEnded(pid)))  # type: ignore[misc]
