"""Other processes that attach to the pipe: who may, what they may ask for, and what follows when they die."""

from __future__ import annotations

import errno
import os
import socket
import time
from functools import partial
from pathlib import Path

from pipert_shm import binding
from pipert_shm.control.channel import RETRY, Channel, Received, close_all
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import Answer, EndTap, Hello, MakeTap, Message, Notify, Relay, Welcome
from pipert_shm.errors import PipeStateError, describe
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.parent import REFUSALS
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.relays import Relays
from pipert_shm.launcher.roster import Roster
from pipert_shm.launcher.taps import Taps
from pipert_shm.launcher.watch import Watch
from pipert_shm.opaque import portable
from pipert_shm.shm import sockets
from pipert_shm.shm.listing import ATTACHED
from pipert_shm.system import calls, usage
from pipert_shm.system.descriptors import is_shortage

MOST_WAITING = 16  # connections beside those of attached processes, which are refused
MOST_LAST_WORDS = 1000  # messages of a dead process: more than a socket holds


class Client:
    """A process that is attached, or wants to be.

    :param refusal: why it may not; None: it may.

    Attributes:
        name: for the log.
        pidfd: tells its death; -1 where it may not attach.
        is_sure: whether the pidfd is surely that of the process that has connected.
        greeted: whether it has said Hello.
        is_open: whether its channel is.
    """

    def __init__(self, pid: int, pidfd: int, is_sure: bool, refusal: PipeStateError | None) -> None:
        self.name = f"attached process {pid}"
        self.pid, self.pidfd, self.is_sure, self.refusal = pid, pidfd, is_sure, refusal
        self.peer: Peer
        self.greeted = False

    @property
    def is_open(self) -> bool:
        return self.peer.is_open

    def tell(self, message: Message, question: int = 0) -> None:
        """Sends a message. Does nothing when it has hung up."""
        self.peer.send(message, question)

    def refuse(self, question: int, error: Exception) -> None:
        """Answers a question with an exception."""
        self.tell(Answer(portable(error)), question)


class Attaching:
    """Listens for processes that attach, and serves those that are.

    :param name: the pipe's.
    :param directory: where the socket is.
    """

    def __init__(
        self, name: str, directory: Path, roster: Roster, watch: Watch, lifecycle: Lifecycle, taps: Taps, relays: Relays
    ) -> None:
        self._name = name
        self._directory = directory
        self._roster = roster
        self._logger = roster.logger
        self._segment = roster.segment
        self._watch = watch
        self._lifecycle = lifecycle
        self._taps = taps
        self._relays = relays
        self._listener: socket.socket | None = None
        self._clients: list[Client] = []  # also those that have hung up and keep frames

    def listen(self) -> None:
        """Begins to listen. Where that can't be, the pipe runs, and the log says once that nobody can attach."""
        try:
            self._listener = sockets.listen(self._directory, self._segment.pipe_id)
            binding.guard(self._listener.fileno())
            sockets.sweep(self._directory)
        except OSError as error:
            self._logger.warning("nobody can attach to this pipe: %s", describe(error))
        if self._listener is not None:
            self._watch.add(self._listener, self._accept)

    def tell_all(self, message: Message) -> None:
        """Sends a message to all attached processes."""
        for client in self._clients:
            if client.greeted:
                client.tell(message)

    # ---- who comes -------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            end = calls.accept(self._listener)
        except BlockingIOError:
            return
        except OSError as error:
            if is_shortage(error):
                self._turn_away()
            raise
        try:
            self._admit(end)
        except BaseException:
            end.close()
            raise

    def _turn_away(self) -> None:
        """Hangs up on the one who waits, since no descriptor is free: else the listener would be ready for ever."""
        assert self._listener is not None
        try:
            with self._segment.reserve.lent():
                calls.accept(self._listener).close()
        except OSError:
            time.sleep(RETRY)
            raise

    def _admit(self, end: socket.socket) -> None:
        for client in [client for client in self._clients if not client.is_open and not self._taps.holds(client)]:
            self._let_go(client)
        attached = sum(client.is_open and client.refusal is None for client in self._clients)
        if sum(client.is_open for client in self._clients) >= ATTACHED + MOST_WAITING:
            self._logger.warning("more than %d processes want to attach at a time; one is hung up on", ATTACHED + MOST_WAITING)
            end.close()
            return
        pid, user = calls.peer_of(end)
        refusal = None
        if user != os.geteuid():
            refusal = PipeStateError(f"can't attach: this pipe is that of user {os.geteuid()}, and you are user {user}")
        elif attached >= ATTACHED:
            refusal = PipeStateError(f"can't attach: {ATTACHED} processes are attached already")
        pidfd, is_sure = (-1, True) if refusal else _pidfd_of(end, pid)
        client = Client(pid, pidfd, is_sure, refusal)
        deliver = partial(self._hear, client, self._table_of(client))
        hang_up = partial(self._hang_up, client)
        client.peer = Peer(client.name, Channel(end).keep(), self._watch, self._logger, deliver, hang_up, hang_up)
        self._clients.append(client)
        if pidfd >= 0:
            binding.guard(pidfd)
            self._watch.add(pidfd, partial(self._note_death, client))

    # ---- what it may ask for ---------------------------------------------------------------------

    def _table_of(self, client: Client) -> Dispatch:
        """The handlers of a process's messages. One that sends what can't be read, or what it may not, is hung up on."""

        def refuse(received: Received, error: Exception) -> None:
            client.refuse(received.question, error)  # even if it was no question
            if received.message is None or type(received.message) not in table.handles():
                self._hang_up(client)

        table = Dispatch(f"the launcher, of {client.name}", self._logger, refuse)
        table.on_received(Hello, lambda message, received: self._greet(client, message, received.question))
        table.on_received(MakeTap, lambda message, received: self._make_tap(client, message, received.question))
        table.on(EndTap, lambda message: self._taps.end(client, message.edge))
        table.on_received(Notify, lambda message, received: self._notify(client, message, received.question))
        table.on_received(Relay, lambda message, received: self._relay(client, message, received.question))
        table.on_received(Answer, lambda message, received: self._taps.withdraw(client, received.question))
        return table

    def _hear(self, client: Client, table: Dispatch, received: Received) -> None:
        if client.greeted or received.message is None or isinstance(received.message, Hello):
            table.deliver(received)
            return
        self._logger.error("%s: a %s before it has said Hello; it is hung up on", client.name, received.kind)
        close_all(received.fds)
        self._hang_up(client)

    def _greet(self, client: Client, message: Hello, question: int) -> None:
        refusal = client.refusal
        if refusal is None and not client.is_sure and usage.started_at(client.pid) != message.started:
            refusal = PipeStateError("can't attach: the process that has connected is not the one that says Hello")
        if refusal is not None:
            self._logger.warning("%s: %s", client.name, refusal)
            client.refuse(question, refusal)
            self._hang_up(client)
            return
        client.greeted = True
        audience = self._lifecycle.audience.picklable()
        client.tell(Welcome(self._segment.pipe_id, self._name, self._roster.plan.names, audience), question)

    def _make_tap(self, client: Client, message: MakeTap, question: int) -> None:
        try:
            self._taps.make(client, question, message.routine)
        except PipeStateError as error:
            client.refuse(question, error)

    def _notify(self, client: Client, message: Notify, question: int) -> None:
        try:
            self._lifecycle.deliver(message.event, lambda: client.tell(Answer(), question))
        except REFUSALS as error:
            client.refuse(question, error)

    def _relay(self, client: Client, message: Relay, question: int) -> None:
        try:
            self._relays.ask(client, question, message)
        except PipeStateError as error:
            client.refuse(question, error)

    # ---- how it ends -----------------------------------------------------------------------------

    def _hang_up(self, client: Client) -> None:
        """Closes its channel, and ends its taps. What it holds stays until it lets go of it, or dies."""
        if client.is_open:
            client.peer.close()
            self._relays.forget(client)
            self._taps.end_all(client)
            if not self._taps.holds(client):
                self._let_go(client)

    def _note_death(self, client: Client) -> None:
        """Takes back what a dead process held. A child of its may still have its end of the channel: that says nothing."""
        self._watch.drop(client.pidfd)
        client.peer.hear_last_words(MOST_LAST_WORDS)
        self._hang_up(client)
        self._let_go(client)
        self._taps.abandon(client)

    def _let_go(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            if client.pidfd >= 0:
                self._watch.drop(client.pidfd)
                binding.unguard(client.pidfd)
                os.close(client.pidfd)


def _pidfd_of(end: socket.socket, pid: int) -> tuple[int, bool]:
    """The pidfd of the process that has connected, and whether it surely is its own.

    :raises OSError: when there is none to be had.
    """
    try:
        return calls.peer_pidfd(end), True
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):  # of kernels before 6.5
            raise
    return calls.pidfd_open(pid), False
