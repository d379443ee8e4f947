"""Changes of a routine's wires while it runs: wires and taps come and go, and routines at their other ends die."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm import binding
from pipert_shm.data import Labels
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.flow.context import Context
from pipert_shm.graph.model import EdgePlan, Streams
from pipert_shm.shm.slots import RETRY_NS
from pipert_shm.system.descriptors import remedy


class Wiring:
    """Changes one routine's wires. For the control thread: what concerns the routine's thread is done there, between messages.

    :param call: has an action done on the routine's thread.
    """

    def __init__(self, context: Context, call: Callable[[Callable[[], None]], None]) -> None:
        self._context = context
        self._call = call
        self._inbox = context.inbox
        self._outbox = context.outbox
        self._inbox.on_starved = self._report_starved
        self._inbox.on_fed = self._report_fed

    def add_out(self, edge: EdgePlan, incarnation: int, then: Callable[[str], None]) -> None:
        """Sends on one more edge.

        :param then: called afterwards: with the reason if the edge can't be added, else with an empty text.
        """

        def add() -> None:
            try:
                self._outbox.add(edge, incarnation)
            except (SharedMemoryFull, OSError) as error:
                then(str(error))
                return
            if self._context.has_ended:
                self._context.port.close_outs()  # nothing will come on it
            then("")

        self._call(add)

    def link_out(self, edge: EdgePlan, incarnation: int) -> None:
        """Sends on a wire that was linked. If it can't, the wire ends at once, and the log says why."""

        def note(refusal: str) -> None:
            if refusal:
                context = self._context
                self.refuse(f"the wire to {context.names[edge.receiver]!r} ends before it began: {refusal}")
                binding.Incarnation(context.host.segment.process, incarnation).close()
                context.host.ring(edge.receiver)

        self.add_out(edge, incarnation, note)

    def remove_out(self, edge: int, then: Callable[[], None]) -> None:
        """Sends no more on an edge; then calls `then`."""

        def remove() -> None:
            self._outbox.remove(edge)
            then()

        self._call(remove)

    def add_in(self, edge: EdgePlan, incarnation: int) -> None:
        """Receives from one more incarnation of an edge."""

        def add() -> None:
            self._inbox.add(edge, incarnation)
            if self._context.has_ended:
                self._inbox.end()  # nothing is taken from it

        self._call(add)

    def expect_in(self, edge: int) -> None:
        """Notes that a wire to this routine was linked."""
        self._call(lambda: self._inbox.expect(edge))

    def remove_in(self, edge: int) -> None:
        """Notes that a wire to this routine was unlinked."""
        self._call(lambda: self._inbox.remove(edge))

    def let_end(self, hold: int) -> None:
        """Notes that the routine is not held any more, unless it has been held again since."""
        self._call(lambda: self._context.port.let_end(hold))

    def put_in_order(self, lanes: dict[int, int], restores: dict[str, Streams]) -> None:
        """Notes what the order of results takes now."""
        self._call(lambda: self._context.put_in_order(lanes, restores))

    def want_slots(self, slots: int, message_slots: int) -> None:
        """Says how many slots of each kind the wires need now."""
        self._call(lambda: self._outbox.want_slots(slots, message_slots))

    def learn_names(self, names: Labels) -> None:
        """Notes the names of all routines, after some were added or removed."""

        def learn() -> None:
            self._context.names = self._inbox.names = names

        self._call(learn)

    def refuse(self, why: str) -> None:
        """Counts and logs a change that can't be made."""
        self._context.record.count_error()
        self._context.logger.error("%s: %s", self._context.failures.who, why)

    def recover_receiver(self, incarnation: int) -> None:
        """Makes a dead receiver's queue fit for the next one. At once, even while the routine's thread is busy."""
        self._outbox.recover_receiver(incarnation)

    def give_up_receiver(self, incarnation: int) -> None:
        """Takes back all that a receiver has which won't come back. At once, even while the routine's thread is busy."""
        self._outbox.give_up_receiver(incarnation)

    def drain_the_dead(self) -> None:
        """Looks at what a dead sender has left. A routine that has ended takes nothing more, and drops it."""

        def drain() -> None:
            if self._context.has_ended:
                self._inbox.end()

        self._call(drain)

    def _report_starved(self, edge: EdgePlan, error: OSError) -> None:
        context = self._context
        context.record.count_error()
        context.logger.error(
            "%s: messages of %r wait, since what they are in can't be opened here: %s. It is tried again every %g s; %s",
            context.failures.who,
            context.names[edge.sender],
            error.strerror,
            RETRY_NS / 1e9,
            remedy(error),
        )

    def _report_fed(self, edge: EdgePlan) -> None:
        self._context.logger.info("%s: messages of %r come again", self._context.failures.who, self._context.names[edge.sender])
