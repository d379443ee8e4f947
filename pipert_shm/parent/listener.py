"""The thread that hears the launcher: it notes failures and ends, makes taps, and hands answers to the threads that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipert_shm.control import messages
from pipert_shm.control.channel import Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import contained
from pipert_shm.control.log_relay import LogRelay
from pipert_shm.control.messages import (
    Answer,
    Died,
    Ended,
    Failed,
    Numbers,
    Relay,
    Removed,
    ServerEnded,
    TapEnded,
    TapMade,
)
from pipert_shm.errors import describe
from pipert_shm.parent.line import Line, Unanswered
from pipert_shm.parent.outcome import Outcome
from pipert_shm.parent.relays import Relays
from pipert_shm.parent.taps import Taps
from pipert_shm.system import calls


class Listener:
    """Handles what the launcher says, on a thread of its own. Nothing on it runs users' code.

    :param gone: the listener sets it when the launcher is gone.
    :param all_over: whether all routines have ended, by their records in the control segment.
    :param reap: waits for a fork server that has ended.
    :param clear_up: called when the launcher's end of the line is closed.

    Attributes:
        ready: set when every flow is up, or one has failed.
        busy: held while a message is handled.
    """

    def __init__(
        self,
        line: Line,
        outcome: Outcome,
        taps: Taps,
        relays: Relays,
        relay: LogRelay,
        gone: threading.Event,
        all_over: Callable[[], bool],
        clear_up: Callable[[], None],
        reap: Callable[[int], object],
    ) -> None:
        self.ready = threading.Event()
        self.busy = threading.Lock()
        self._line = line
        self._outcome = outcome
        self._taps = taps
        self._relays = relays
        self._logger = relay.logger
        self._gone = gone
        self._all_over = all_over
        self._clear_up = clear_up
        self._reap = reap
        self._table = self._make_table()

    def start(self, name: str) -> None:
        """Starts the thread.

        :raises OSError: when the system has no thread left for it.
        """
        self._thread = threading.Thread(target=self._listen, name=name, daemon=True)
        calls.start_thread(self._thread)

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Waits for the end of the thread, which is soon after that of the launcher."""
        self._thread.join()

    def _make_table(self) -> Dispatch:
        table = Dispatch("the pipe's parent", self._logger, self._make_good)
        table.on(messages.Ready, lambda message: self.ready.set())
        table.on(Ended, lambda message: self._outcome.note_ended(message.starts))
        table.on(messages.Started, lambda message: self._outcome.note_started())
        table.on(Failed, lambda message: self._outcome.note_failure(message.key, message.cause))
        table.on(Died, self._note_died)
        table.on_received(Answer, self._take_answer)
        table.on_received(Numbers, lambda message, received: self._line.answer(received.question, message.free))
        table.on_received(Removed, lambda message, received: self._line.answer(received.question, message.fork_servers))
        table.on_received(TapMade, self._make_tap)
        table.on_received(Relay, lambda message, received: self._relays.take(message, received.question))
        table.on(TapEnded, lambda message: self._taps.end(message.edge))
        table.on(ServerEnded, lambda message: self._reap(message.pid))
        return table

    def _make_good(self, received: Received, error: Exception) -> None:
        """Does for a message that could not be handled what can be done without it."""
        if received.question:
            self._line.answer(received.question, Unanswered(f"the launcher's answer could not be read: {describe(error)}"))
            self._line.tell(Answer(), received.question)  # where it made something for us
        if received.kind == messages.Ready.__name__:  # which carries nothing that could be missed
            self.ready.set()
        self._outcome.look(self._all_over)

    def _listen(self) -> None:
        while not self._gone.is_set():
            received = self._line.hear()
            with self.busy:
                if received is None:
                    self._note_end()
                else:
                    self._table.deliver(received)
        self.ready.set()
        self._outcome.over.set()
        self._taps.end_all()

    def _note_died(self, message: Died) -> None:
        self._outcome.note_death(message.flow, message.exit_code, message.why)
        self.ready.set()

    def _take_answer(self, message: Answer, received: Received) -> None:
        if received.question:
            self._line.answer(received.question, message.error or None)
        else:  # the launcher could not handle a message that was no question, or that it did not know as one
            self._outcome.look(self._all_over)

    def _make_tap(self, message: TapMade, received: Received) -> None:
        """:raises LookupError: when there is one already."""
        if message.edge.number in self._taps:
            raise LookupError(f"there is a tap {message.edge.number} already")
        answer: object
        try:
            answer = self._taps.make(message)
        except Exception as error:
            self._taps.untap(message.edge.number)
            answer = error
        self._line.answer(received.question, answer)

    def _note_end(self) -> None:
        """The launcher is gone. Threads that wait for that hear of it even if clearing up fails."""
        try:
            with contained(self._logger, "clearing up after the launcher"):
                self._clear_up()
        finally:
            self._gone.set()
            self._line.end()
