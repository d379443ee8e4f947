"""The parent, as the launcher sees it: the channel to it, and what it asks for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from pipert_shm.control.channel import Channel, Received, close_all
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import (
    Answer,
    AskNumbers,
    EndTap,
    Extend,
    Extended,
    Kill,
    MakeTap,
    Message,
    Notify,
    Numbers,
    Relayed,
    Removed,
    RemoveFlows,
    RestartFlow,
)
from pipert_shm.errors import PipeStateError, WiresValidation, describe
from pipert_shm.events import START_EVENT_NAME
from pipert_shm.launcher.extension import Extension
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.relays import Relays
from pipert_shm.launcher.removal import Removal
from pipert_shm.launcher.roster import Roster
from pipert_shm.launcher.servers import Servers
from pipert_shm.launcher.starts import Starts
from pipert_shm.launcher.supervisor import Supervisor
from pipert_shm.launcher.taps import Taps
from pipert_shm.launcher.watch import Watch
from pipert_shm.opaque import portable

REFUSALS = (ValueError, PipeStateError, WiresValidation)  # answers to an event that can't be done: no fault of the launcher

_REMEMBERED = 256  # questions of the parent's, so that none is answered twice


class Parent:
    """The channel to the parent: news and answers go out, questions come in.

    :param on_gone: called when the parent is gone, or does not read any more.
    """

    def __init__(self, channel: Channel, watch: Watch, logger: logging.Logger, on_gone: Callable[[], object]) -> None:
        self._logger = logger
        self._questions: deque[int] = deque(maxlen=_REMEMBERED)
        self._table: Dispatch | None = None
        self._peer = Peer("the parent", channel, watch, logger, self._hear, on_gone, on_gone)

    @property
    def is_open(self) -> bool:
        """Whether the parent has not gone, as far as the launcher knows."""
        return self._peer.is_open

    def serve(self, table: Dispatch) -> None:
        """Has the table handle the parent's messages. To be called before the loop begins."""
        self._table = table

    def tell(self, message: Message, question: int = 0) -> None:
        """Sends a message.

        :param question: the number of the question that it answers.
        """
        self._peer.send(message, question)

    def refuse(self, question: int, error: Exception) -> None:
        """Answers a question with an exception."""
        self.tell(Answer(portable(error)), question)

    def close(self) -> None:
        """Lets go of the channel."""
        self._peer.close()

    def _hear(self, received: Received) -> None:
        """Hands a message to the table. A question that comes twice is handed on once, and gets one answer."""
        if received.question and received.message is not None and not isinstance(received.message, Answer | Relayed):
            if received.question in self._questions:
                self._logger.error("a question of the parent's came twice (%s); it is dropped", received.kind)
                close_all(received.fds)
                return
            self._questions.append(received.question)
        if self._table is not None:
            self._table.deliver(received)


class Requests:
    """Does what the parent asks for.

    :param relays: the questions that the parent is asked.
    :param tell_attached: sends a message to all attached processes.

    Attributes:
        table: the handlers of its messages.
    """

    def __init__(
        self,
        parent: Parent,
        roster: Roster,
        lifecycle: Lifecycle,
        taps: Taps,
        extension: Extension,
        removal: Removal,
        starts: Starts,
        supervisor: Supervisor,
        servers: Servers,
        relays: Relays,
        tell_attached: Callable[[Message], object],
    ) -> None:
        self._parent = parent
        self._roster = roster
        self._servers = servers
        self._lifecycle = lifecycle
        self._taps = taps
        self._extension = extension
        self._removal = removal
        self._starts = starts
        self._relays = relays
        self._tell_attached = tell_attached

        def refuse(received: Received, error: Exception) -> None:
            if not relays.fail(received.question, f"the answer of the process that built the pipe is lost: {describe(error)}"):
                parent.refuse(received.question, error)  # even if it was no question

        self.table = table = Dispatch("the launcher, of the parent", roster.logger, refuse)
        table.on_received(Notify, self._notify)
        table.on_received(Extend, self._extend)
        table.on_received(AskNumbers, self._give_numbers)
        table.on_received(RemoveFlows, self._remove)
        table.on_received(MakeTap, self._make_tap)
        table.on(EndTap, lambda message: taps.end(parent, message.edge))
        table.on(RestartFlow, lambda message: supervisor.restart_by_order(roster.flows[message.flow]))
        table.on(Kill, lambda message: lifecycle.kill())
        table.on_received(Relayed, lambda message, received: relays.answer(received.question, message))
        table.on_received(Answer, lambda message, received: self._withdraw(received.question))

    def _notify(self, message: Notify, received: Received) -> None:
        self._lifecycle.starts = max(self._lifecycle.starts, message.starts)
        try:
            self._lifecycle.deliver(message.event, lambda: self._parent.tell(Answer(), received.question))
        except REFUSALS as error:
            self._parent.refuse(received.question, error)
        if message.event.name == START_EVENT_NAME:
            self._lifecycle.tell_if_ended()

    def _make_tap(self, message: MakeTap, received: Received) -> None:
        try:
            self._taps.make(self._parent, received.question, message.routine)
        except PipeStateError as error:
            self._parent.refuse(received.question, error)

    def _give_numbers(self, message: AskNumbers, received: Received) -> None:
        try:
            self._parent.tell(Numbers(self._removal.numbers(message.count)), received.question)
        except WiresValidation as error:
            self._parent.refuse(received.question, error)

    def _remove(self, message: RemoveFlows, received: Received) -> None:
        def tell(fork_servers: tuple[int, ...]) -> None:
            self._tell_attached(Extended(self._roster.plan.names, self._lifecycle.audience))
            self._parent.tell(Removed(fork_servers), received.question)

        try:
            self._removal.begin(message.flows, message.receivers_wait, tell)
        except REFUSALS as error:
            self._parent.refuse(received.question, error)

    def _withdraw(self, question: int) -> None:
        """The parent could not read what it was sent."""
        if not self._relays.fail(question, "the process that built the pipe could not read the question"):
            self._taps.withdraw(self._parent, question)

    def _extend(self, message: Extend, received: Received) -> None:
        question, server = received.question, None
        try:
            if received.trouble:
                raise OSError(24, f"the pipe's launcher has no room for one more flow ({received.trouble})")
            if received.fds:
                new = (item for items in message.growth.flows.values() for item in items)
                known = {item.number: item.generation for item in (*self._roster.plan.routines, *new)}
                server = self._servers.make(received.fds, message.fork_server, known)
            self._extension.take_in(message.growth, server, self._starts.launch)
        except Exception as error:
            if server is not None:
                self._servers.drop(server)
            self._parent.refuse(question, error)
            return
        self._tell_attached(Extended(self._roster.plan.names, message.growth.audience))
        self._extension.when_born(lambda: self._parent.tell(Answer(), question))
