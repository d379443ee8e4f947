"""Answers questions of attached processes, which the launcher passes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from pipert_shm.control.messages import Relay, Relayed
from pipert_shm.errors import PipeStateError, UnknownTarget
from pipert_shm.opaque import portable
from pipert_shm.parent.line import Line
from pipert_shm.system import calls

STRUCTURE = "structure"  # the kinds of questions that every pipe answers
TRACE = "trace"
PATIENCE = 2.0  # seconds that a handler which is at work may delay the end of a pipe

Handler = Callable[[bytes], bytes]


class Relays:
    """The handlers of questions, by kind. Each kind has a thread of its own, as soon as somebody asks."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._desks: dict[str, _Desk] = {}

    def serve(self, kind: str, handler: Handler) -> None:
        """Sets the handler of a kind of questions. Any thread."""
        self._desks[kind] = _Desk(kind, handler, self._line)

    def take(self, message: Relay, number: int) -> None:
        """Hands a question to its handler. The listener's thread."""
        desk = self._desks.get(message.kind)
        try:
            if desk is None:
                raise UnknownTarget("kind of question", message.kind, sorted(self._desks))
            desk.put(message.body, number)
        except Exception as error:
            self._line.tell(Relayed(b"", portable(error)), number)

    def end(self) -> None:
        """No more questions come."""
        for desk in list(self._desks.values()):
            desk.end()


class _Desk:
    """One kind of questions, and the thread that answers them one after the other."""

    def __init__(self, kind: str, handler: Handler, line: Line) -> None:
        self._handler = handler
        self._line = line
        self._waiting: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"pipe-answers-{kind}", daemon=True)
        self._is_started = False

    def put(self, body: bytes, number: int) -> None:
        """:raises OSError: when the system has no thread left."""
        if not self._is_started:
            calls.start_thread(self._thread)
            self._is_started = True
        self._waiting.put((body, number))

    def end(self) -> None:
        self._waiting.put(None)
        if self._is_started and threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            body, number = asked
            try:
                answer = Relayed(bytes(self._handler(body)), b"")
            except BaseException as error:  # a handler may raise anything
                answer = Relayed(b"", portable(error if isinstance(error, Exception) else PipeStateError(repr(error))))
            try:
                self._line.tell(answer, number)
            except Exception as error:  # it is too large
                self._line.tell(Relayed(b"", portable(error)), number)
