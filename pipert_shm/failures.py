"""What a routine's log says of calls that fail: whose they are, in full the first time, and then how often again."""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from pipert_shm import system
from pipert_shm.errors import describe, shortened, without_numbers
from pipert_shm.readonly import advice

PERIOD = 6.0  # seconds between two lines of what fails again: 10 a minute
FORGOTTEN = 60.0  # seconds after which an error that has not come again is told in full
MOST_KINDS = 8  # of errors that are known again: a routine may fail in one way on one camera, and in another on the next
WAY = 4  # lines that two errors must have in common to be equal
RUNNER = "pipert_shm.runner"
END = "; to end a stream, raise EndOfStream"  # for whoever calls next() on something that is over
LONGEST_AGAIN = 500  # characters of an error that was told in full before

Way = tuple[tuple[str, int], ...]  # files and lines


@dataclass(slots=True)
class _Kind:
    """Errors that say the same and came about in the same lines, whatever the message that they came on.

    Attributes:
        seen: when the last one came.
        untold: how many came that no line has told of.
        since: when the last line told of it.
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

    The first error of a kind is logged at once, with its traceback. Those that are equal and come within a minute of the last
    are counted, and told in one line every `PERIOD` seconds, when another error comes, and at the end of the run.

    Attributes:
        who: the routine and its flow, as every line begins.
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

        :param text: what failed; `{}` in it stands for what it was at work on, which makes no difference between two errors.
        :param on: that.
        :param sequence: of the message.
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
        """Tells what is untold. What comes after this is told in full."""
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
            system.start_thread(timer)
        except OSError:  # the system has no thread left
            self._tell_all(now)
        else:
            self._timer = timer

    def _on_time(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._tell_all(monotonic())

    def _tell_all(self, now: float) -> None:
        """A line for each kind that has something untold."""
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
    """The last lines that led to it, but for those of the runner, which calls the same in more than one way.

    The last ones only: an exception that is kept, and raised again and again, has more lines each time.
    """
    lines = (
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") != RUNNER
    )
    return tuple(deque(lines, WAY))


def _extra(sequence: int | None) -> dict[str, int]:
    return {} if sequence is None else {"sequence": sequence}


def _seconds(duration: float) -> str:
    return f"{duration:.0f}" if duration >= 10 else f"{max(duration, 0.01):.1g}"
