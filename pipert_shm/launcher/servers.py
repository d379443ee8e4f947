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
        self._all: list[ForkServer] = []

    def make(self, fds: list[int], pid: int, known: dict[int, int]) -> ForkServer:
        """The launcher's end of a fork server.

        :param fds: the descriptor of its channel is taken out of these.
        :param known: the generation of each routine of the pipe that its process knows, by number.
        :raises OSError: when the system has no descriptors left.
        """
        server: ForkServer

        def lose() -> None:
            for flow in self._roster.flows.values():  # nobody could fork or reap them again; their restart finds that out
                if server in (flow.server, flow.forked_by) and flow.up:
                    flow.kill()

        server = ForkServer(fds.pop(), pid, known, self._watch, self._roster.logger, lose)
        self._all.append(server)
        return server

    def drop(self, server: ForkServer) -> None:
        """Lets go of one that nothing came of."""
        self._all.remove(server)
        server.close()

    def end_idle(self) -> tuple[int, ...]:
        """Ends those that no flow needs, neither for its next process nor for the end of the one that it has; their pids."""
        flows = self._roster.flows.values()
        used = {flow.server for flow in flows} | {flow.forked_by for flow in flows if flow.up}
        idle = [server for server in self._all if server not in used]
        for server in idle:
            self._all.remove(server)
            server.end()
        return tuple(server.pid for server in idle)

    def end_unused(self) -> None:
        """The same, and has the parent reap them."""
        for pid in self.end_idle():
            self._tell(ServerEnded(pid))
