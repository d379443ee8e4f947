"""One received message after another, for what gathers them; commands are obeyed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.errors import EndOfStream
from pipert_shm.flow.context import Context
from pipert_shm.flow.tombstones import Tombstones
from pipert_shm.graph.model import EdgePlan
from pipert_shm.message.types import NOTHING, Message
from pipert_shm.shm import tracing


class Reception:
    """Receives a routine's messages as they come. The routine's thread only.

    :param obey: obeys the commands that came; says whether the run is to end.
    :param count_error: counts an error of the routine's.

    Attributes:
        nothing_came: whether the last look ended because the time was up.
        stopped: whether it ended because the run is to end.
    """

    def __init__(
        self,
        context: Context,
        tombstones: Tombstones,
        obey: Callable[[], bool],
        count_error: Callable[[BaseException], None],
    ) -> None:
        self._context = context
        self._tombstones = tombstones
        self._inbox = context.inbox
        self._inbox.on_over_cap = self._warn_of_cap
        self._obey = obey
        self._count_error = count_error
        self.nothing_came = False
        self.stopped = False
        self._warned_of_cap: set[int] = set()

    @property
    def edge(self) -> EdgePlan:
        """The wire of the last message."""
        return self._inbox.edge

    def next(self, timeout_ns: int = binding.FOREVER) -> Message | None:
        """The next message; None when none came in time, when it was a tombstone, or after commands.

        :raises EndOfStream: when all wires are at their end.
        """
        message = self.receive(timeout_ns)
        if message is None or message[0] is not NOTHING:  # as in `unless_tombstone`, without a call for each message
            return message
        return self.unless_tombstone(message)

    def unless_tombstone(self, message: Message) -> Message | None:
        """The message; None for a tombstone, which is noted."""
        payload, meta = message
        if payload is not NOTHING:
            return message
        self._tombstones.receive(meta)
        return None

    def receive(self, timeout_ns: int) -> Message | None:
        """The same, but tombstones are given as they are."""
        return self.accept(self._inbox.receive(timeout_ns))

    def accept(self, status: int) -> Message | None:
        """What `receive` does with what the inbox has found."""
        self.nothing_came = self.stopped = False
        if status == binding.OK:
            try:
                message = self._inbox.take()
            except BaseException as error:  # user code unpacks payloads, and may raise anything
                self._context.failures.tell("a message could not be decoded", error)
                self._count_error(error)
                return None
            if tracing.on:
                self._note_decoded(message)
            return message
        if status == binding.TIMED_OUT:
            self.nothing_came = True
        elif status == binding.CLOSED:
            raise EndOfStream
        elif status == binding.NOTICE:
            self.stopped = self._obey()
        elif status == binding.PROTOCOL:
            self._context.record.count_error()
            bug = LookupError("it does not match its slots: a bug, please report it")
            self._context.failures.tell("a message is skipped", bug)
        return None

    def _note_decoded(self, message: Message) -> None:
        meta, began_ns = message[1], self._inbox.received_ns
        tracing.note(
            trace.DECODE,
            self._context.plan.number,
            origin=meta.origin_number,
            sequence=meta.sequence,
            began_ns=began_ns,
        )

    def _warn_of_cap(self, edge: EdgePlan) -> None:
        """Warns that the routine keeps more frames of a wire than it may; once."""
        if edge.number in self._warned_of_cap:
            return
        self._warned_of_cap.add(edge.number)
        self._context.logger.warning(
            "%s keeps more than %d frames of %r; further ones are handed over as private copies (shown once)",
            self._context.failures.who,
            edge.borrow_cap,
            self._context.names[edge.sender],
        )
