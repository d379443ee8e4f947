"""A log of failing calls that does not flood: each error in full the first time, then how often it came again."""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from pipert_shm.errors import describe, shortened, without_numbers
from pipert_shm.flow.write_advice import advice
from pipert_shm.system import calls

PERIOD = 6.0  # seconds between two lines of what fails again: 10 a minute
FORGOTTEN = 60.0  # seconds without an error after which it is logged in full again
MOST_KINDS = 8  # of errors that are remembered: a routine may fail in one way on one camera, and in another on the next
WAY = 4  # lines of the traceback that two errors must have in common to be equal
CALLERS = ("pipert_shm.flow.runner", "pipert_shm.flow.main_logic")  # modules that call the routine
END = "; to end a stream, raise EndOfStream"  # advice for a StopIteration: next() was called on an empty iterator
LONGEST_AGAIN = 500  # characters of an error that was logged in full before

Way = tuple[tuple[str, int], ...]  # files and lines


@dataclass(slots=True)
class _Kind:
    """Errors with the same text, raised on the same lines, whichever messages they came on.

    Attributes:
        seen: when the last one came.
        untold: how many came since the last line of the log.
        since: when that line was written.
        last: the last one's text.
        sequence: of the message that it came on.
    """

    seen: float
    since: float
    last: str = ""
    sequence: int | None = None
    untold: int = 0


class Failures:
    """Logs the failing calls of one routine. Any thread.

    The first error of a kind is logged at once, with its traceback. An equal one that comes within a minute of the last is only
    counted. A line gives the count every `PERIOD` seconds, when another error comes, and at the end of the run.

    Attributes:
        who: the routine and its flow; every line begins with it.
    """

    def __init__(self, logger: logging.Logger, routine: str, flow: str) -> None:
        self.who = f"routine {routine!r} of flow {flow!r}"
        self._logger = logger
        self._kinds: dict[tuple[str, str, Way], _Kind] = {}  # the latest one last
        self._quiet_until = 0.0
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None

    def tell(
        self, text: str, error: BaseException, *, on: str = "", sequence: int | None = None, payloads: Iterable[object] = ()
    ) -> None:
        """Logs an error, or counts it.

        :param text: what failed; `{}` in it stands for the messages at hand, by which two errors do not differ.
        :param on: those messages, in words.
        :param sequence: of the first one.
        :param payloads: what the call was given.
        """
        said = describe(error).rstrip()
        key = text, without_numbers(said), _way_to(error)
        with self._lock:
            now = monotonic()
            kind = self._kinds.pop(key, None)
            again = kind is not None and now - kind.seen <= FORGOTTEN
            if kind is None or not again:
                self._tell_all(now)
                kind = _Kind(now, now)
                self._make_room()
            self._kinds[key] = kind
            what = text.replace("{}", on) if on else text
            kind.seen, kind.last, kind.sequence = now, f"{what}: {shortened(said, LONGEST_AGAIN)}", sequence
            if again:
                kind.untold += 1
                self._tell_in_time(now)
                return
            self._quiet_until = now + PERIOD
            told = self.who, what, said, END if isinstance(error, StopIteration) else advice(error, payloads)
            self._logger.error("%s: %s: %s%s", *told, exc_info=error, extra=_extra(sequence))

    def end(self) -> None:
        """Logs the counts that are left. Errors after this are logged in full."""
        with self._lock:
            self._tell_all(monotonic())
            self._kinds.clear()

    def _make_room(self) -> None:
        if len(self._kinds) == MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]

    def _tell_in_time(self, now: float) -> None:
        if self._timer is not None:
            return
        timer = threading.Timer(max(0.0, self._quiet_until - now), self._on_time)
        timer.daemon, timer.name = True, f"failures of {self.who}"
        try:
            calls.start_thread(timer)
        except OSError:  # the system has no thread left
            self._tell_all(now)
        else:
            self._timer = timer

    def _on_time(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._tell_all(monotonic())

    def _tell_all(self, now: float) -> None:
        """Logs a line for each kind that came again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in self._kinds.values():
            if kind.untold:
                times = "once" if kind.untold == 1 else f"{kind.untold} times"
                text = "%s: %s … again %s in the last %s s"
                told = self.who, kind.last, times, _seconds(now - kind.since)
                self._logger.error(text, *told, extra=_extra(kind.sequence))
                kind.untold, kind.since = 0, now
                self._quiet_until = max(now, self._quiet_until) + PERIOD


def _way_to(error: BaseException) -> Way:
    """The last lines that led to it, without those of the callers, who call the same in more than one way.

    The last ones only: the traceback of an exception that is kept, and raised again and again, grows each time.
    """
    lines = (
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") not in CALLERS
    )
    return tuple(deque(lines, WAY))


def _extra(sequence: int | None) -> dict[str, int]:
    return {} if sequence is None else {"sequence": sequence}


def _seconds(duration: float) -> str:
    return f"{duration:.0f}" if duration >= 10 else f"{max(duration, 0.01):.1g}"
