"""The launcher's end of a fork server: the process that holds the routines of a later `build()`, and forks their flows.

Only a fresh fork of the parent has the new routine objects, but only the launcher gives out holder bits and orders recoveries.
So a fork server decides nothing: it forks, and tells how its children ended. It ends when the launcher's end of its channel is
closed. The launcher never waits for it: one that does not answer in time is killed.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from pipert_shm import binding
from pipert_shm.control.channel import Channel, Received, close_all
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import Forked, ForkFlow, Reap, Reaped
from pipert_shm.errors import describe
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.watch import Watch
from pipert_shm.system import calls

PATIENCE = 10.0  # seconds without an answer after which a fork server counts as dead
MOST_ORDERS = 32  # to fork a flow, without an answer: each of them names all routines of the pipe
IS_DEAD = "the process that holds its routines is dead"


class ForkServer:
    """The launcher's end of a fork server. None of its methods blocks.

    :param end: the descriptor of the channel, which is closed here, also when this raises.
    :param known: the routines of the pipe that its process knows: the generation of each, by number.
    :param on_lost: called once, when the fork server is dead.
    :raises OSError: when the system has no descriptors left.

    Attributes:
        dead: its process is dead, or is being killed.
        pid: of its process.
    """

    def __init__(
        self, end: int, pid: int, known: dict[int, int], watch: Watch, logger: logging.Logger, on_lost: Callable[[], object]
    ) -> None:
        self.known = known
        self.pid = pid
        self.dead = False
        self._watch = watch
        self._on_lost = on_lost
        self._asked = 0
        self._orders: deque[tuple[ForkFlow, list[int], Callable[[int, str], object]]] = deque()  # that wait for their turn
        self._forks: dict[int, Callable[[int, str], object]] = {}
        self._reaps: dict[int, Callable[[int], object]] = {}
        self._due: dict[int, float] = {}
        self._heard = time.monotonic()  # when it answered last
        with ExitStack() as undo:
            channel = Channel(socket.socket(fileno=end))
            undo.callback(channel.close)
            channel.keep()
            self._pidfd = calls.pidfd_open(pid)
            undo.callback(os.close, self._pidfd)
            binding.guard(self._pidfd)
            undo.pop_all()
        dispatch = Dispatch("the launcher, of a fork server", logger, self._make_good)
        dispatch.on_received(Forked, self._note_forked)
        dispatch.on_received(Reaped, self._note_reaped)
        self._peer = Peer("a fork server", channel, watch, logger, dispatch.deliver, self._lose, self._kill)
        watch.add(self._pidfd, self._lose)

    def fork(self, order: ForkFlow, fds: list[int], then: Callable[[int, str], object]) -> None:
        """Orders it to fork a flow.

        :param fds: the flow's ends of its control channel, and of the pipe for its stacks; closed here.
        :param then: called with the new pid, which stays the child's until it is reaped; else with 0, and why there is none.
        """
        self._orders.append((order, fds, then))
        self._order_next()

    def _order_next(self) -> None:
        while self._orders and len(self._forks) < MOST_ORDERS:
            order, fds, then = self._orders.popleft()
            question = self._number()
            try:
                self._peer.send(order, question, fds)
            except Exception as error:
                then(0, describe(error))
                continue
            self._forks[question] = then
            self._due[question] = time.monotonic() + PATIENCE
        if self.dead:
            self._give_up()

    def reap(self, pid: int, then: Callable[[int], object]) -> None:
        """Asks for the exit code of a child that has ended.

        :param then: called with it.
        """
        question = self._number()
        self._peer.send(Reap(pid), question)
        self._reaps[question] = then
        self._due[question] = time.monotonic() + PATIENCE
        if self.dead:
            self._give_up()

    def _note_forked(self, message: Forked, received: Received) -> None:
        self._note_answer(received)
        if received.question in self._reaps:  # it answers a question like this that it could not read
            self._reaps.pop(received.question)(-signal.SIGKILL)
        else:
            self._forks.pop(received.question)(message.pid, message.why)
        self._order_next()

    def _note_reaped(self, message: Reaped, received: Received) -> None:
        self._note_answer(received)
        self._reaps.pop(received.question)(message.exit_code)

    def _note_answer(self, received: Received) -> None:
        self._due.pop(received.question, None)
        self._heard = time.monotonic()

    def _make_good(self, received: Received, error: Exception) -> None:
        """Handles an answer that can't be read. An exit code can be missed; but a child of unknown pid must not live on."""
        if received.question in self._reaps:
            self._note_reaped(Reaped(-signal.SIGKILL), received)
        elif received.question in self._forks:
            self._kill()

    def _number(self) -> int:
        self._asked += 1
        return self._asked

    @property
    def due(self) -> float | None:
        """When `check` should be called, as of time.monotonic(). While it answers, later questions wait their turn."""
        return max(min(self._due.values()), self._heard + PATIENCE) if self._due else None

    def check(self, now: float) -> None:
        """Kills it when it has not answered for too long: a late fork would make a process that nobody expects.

        What it has answered is heard first: the launcher itself may have been at work, or stopped, for so long.
        """
        if self.due is not None and now >= self.due:
            self._peer.hear()
        if self.due is not None and now >= self.due:
            self._due.clear()
            self._kill()

    def _kill(self) -> None:
        calls.send_signal(self._pidfd, signal.SIGKILL)

    def _lose(self) -> None:
        if self.dead:
            return
        self.close()
        self._give_up()
        self._on_lost()

    def _give_up(self) -> None:
        """Calls all that wait for an answer, as for a dead child."""
        forks, self._forks = self._forks, {}
        reaps, self._reaps = self._reaps, {}
        orders, self._orders = self._orders, deque()
        self._due.clear()
        for forked_as in forks.values():
            forked_as(0, IS_DEAD)
        for _, fds, forked_as in orders:
            close_all(fds)
            forked_as(0, IS_DEAD)
        for reaped_as in reaps.values():
            reaped_as(-signal.SIGKILL)

    def end(self) -> None:
        """Ends its process, which has no flow any more: at once, even if it is stopped."""
        if not self.dead:
            with suppress(ProcessLookupError):
                self._kill()
        self.close()

    def close(self) -> None:
        """Closes the channel, which ends its process. Its flows end when the channels to them are closed."""
        self.dead = True
        self._peer.close()
        if self._pidfd >= 0:
            self._watch.drop(self._pidfd)
            binding.unguard(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
