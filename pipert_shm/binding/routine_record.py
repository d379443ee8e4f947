"""The record of a routine in the control segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipert_shm.binding.constants import now_ns
from pipert_shm.binding.native import lib
from pipert_shm.binding.records import found, zero

if TYPE_CHECKING:
    from pipert_shm.binding.process import Process

_KEPT = (1 << 25) - 1


def _kept_mark(received: int) -> int:
    """Which received message it is, of the last 2**24."""
    return 1 << 24 | received & _KEPT >> 1


class RoutineRecord:
    """One routine's record in the control segment.

    Attributes:
        words: the C structure. What changes with each message is written to it directly, since that is faster than a call.
    """

    __slots__ = ("_number", "_process", "words")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = number
        self.words: Any = found(lib.pshm_control_routine(process.control, number), "routine", number)

    def clear(self) -> None:
        """Zeroes the record, for another routine. The launcher, when nothing is left of the one before."""
        zero(self.words)

    def ring(self) -> None:
        """Wakes the routine to look at its queues again. Any thread of any process."""
        lib.pshm_control_ring(self._process.control, self._number)

    @property
    def state(self) -> int:
        state: int = self.words.state
        return state

    @state.setter
    def state(self, state: int) -> None:
        self.words.state = state

    @property
    def shows(self) -> bool:
        """Whether pictures of what comes and goes are logged. A restarted flow goes on with it."""
        return bool(self.words.shows)

    @shows.setter
    def shows(self, on: bool) -> None:
        self.words.shows = on

    def hold(self, number: int) -> None:
        """Keeps the routine from ending when all of its streams have, until its flow lets go of this number; 0: does not.

        The launcher.
        """
        self.words.held = number
        self.ring()

    @property
    def sequence(self) -> int:
        """The number that a source's next message gets."""
        sequence: int = self.words.sequence
        return sequence

    @property
    def busy_since_ns(self) -> int:
        """Since when it is in `main_logic`, CLOCK_MONOTONIC, ns; 0 while it is not, or waits for a slot."""
        since: int = self.words.busy_since_ns
        return since

    @property
    def handling_since_ns(self) -> int:
        """Since when it is in a handler of an event, CLOCK_MONOTONIC, ns; 0 while it is not."""
        since: int = self.words.handling_since_ns
        return since

    def pause_busy(self) -> bool:
        """The routine waits for a slot, which does not count as a hang. Returns what `resume_busy` needs. Its thread."""
        busy = bool(self.words.busy_since_ns)
        self.words.busy_since_ns = 0
        return busy

    def resume_busy(self, busy: bool) -> None:
        """The wait has ended. The routine's thread."""
        self.words.busy_since_ns = now_ns() if busy else 0

    def begin_handler(self) -> None:
        """A handler of an event begins. The flow's thread for events."""
        self.words.handling_since_ns = now_ns()

    def end_handler(self) -> None:
        """The handler has ended. The flow's thread for events."""
        self.words.handling_since_ns = 0

    def counters(self) -> dict[str, int]:
        """The counters that every routine has, by name. Any process; a snapshot."""
        record = self.words
        names = ("received", "sent", "errors", "logs_lost", "copied_bytes", "in_band_bytes", "busy_ns", "lost_in_crash")
        return {name: getattr(record, name) for name in names}

    def own_counters(self) -> Any:
        """The counters that the routine's class gives names to: a view, read and set by index."""
        return self.words.counter

    def step(self, word: int) -> int:
        """A word that the routine shows to those that keep step with it: 0 at first. Any process."""
        value: int = lib.pshm_step_get(self.words, word)
        return value

    def set_step(self, word: int, value: int) -> None:
        """Sets it, 64 bits. Ring the others afterwards. The routine's thread."""
        lib.pshm_step_set(self.words, word, value)

    def age_histogram(self) -> list[int]:
        """How many messages were how old, from capture to receipt, by bucket: see BUCKET_NS."""
        return list(self.words.age)

    def count_error(self) -> None:
        """Counts one error. The routine's process."""
        self.words.errors += 1

    def next_ticket(self) -> int:
        """A number that no message of this routine has had, not even in an earlier process. The routine's thread."""
        ticket: int = self.words.tickets + 1
        self.words.tickets = ticket
        return ticket

    def count_crash(self) -> None:
        """Counts the messages that a dead process had received and not finished as lost. The launcher."""
        record = self.words
        lost = record.received - record.handled
        if lost and record.kept & _KEPT == _kept_mark(record.received):
            lost -= 1  # that in hand: it is counted elsewhere
        record.lost_in_crash += lost
        record.handled = record.received
        record.busy_since_ns = record.handling_since_ns = 0

    def keep(self, number: int) -> None:
        """Notes a number of the routine's own, and that the message in hand is in safety: if this process dies now, it does not
        count as lost. Both in one step. The routine's thread.

        :param number: below 2**39.
        """
        self.words.kept = number << 25 | _kept_mark(self.words.received)

    def kept(self) -> int:
        """The number that `keep` was given last; 0 at first."""
        return int(self.words.kept) >> 25

    def resume(self, is_odd: bool | None) -> int:
        """Says that the routine sends again what its death interrupts. Returns the number of the message that was in hand.

        :param is_odd: whether that number was odd; None where there was no message: then it is the next one.
        """
        self.words.resumes = 1
        sequence: int = self.words.sequence
        return sequence if is_odd is None or sequence % 2 == is_odd else sequence - 1

    def go_back(self, sequence: int) -> None:
        """Makes the number of the message in hand that of the next one. The routine's thread, before its first call."""
        if self.words.sequence > sequence:
            self.words.sequence = sequence
            self.words.sent -= self.words.sent > 0

    def count_lost_log(self) -> None:
        """Counts a log record that could not be forwarded. The routine's process."""
        self.words.logs_lost += 1

    def count_sending(self, *, copied: int, in_band: int) -> None:
        """Adds to the sender's byte counters. The routine's thread."""
        self.words.copied_bytes += copied
        self.words.in_band_bytes += in_band
