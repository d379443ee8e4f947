"""Whether a pipe's routines have all ended, and what has failed for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from pipert_shm.errors import FlowDied


class Outcome:
    """The ends and failures that the launcher has reported. Safe to use from any thread.

    Starts are numbered, and an end is reported with the number of the last start before it. An end that was reported before a
    start, or crosses it on the way, does not count.

    Attributes:
        over: set when every routine has ended, or the launcher is gone.
        exit_codes: of the flows that died, by name.
        starts: the number of the last start that counts.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.exit_codes: dict[str, int] = {}
        self.starts = 0
        self._causes: dict[str, str] = {}
        self._deaths: dict[str, str] = {}  # by flow, the key of what is told of it
        self._lock = threading.RLock()
        self._numbered = 0  # no number is given out twice
        self._ended = -1  # the last start after which all was over
        self._starting = 0  # starts that the launcher has not answered

    @property
    def causes(self) -> list[str]:
        """The failures for good, in order, without those of routines that were started again since."""
        return [cause for cause in list(self._causes.values()) if cause]

    @contextmanager
    def start(self, gone: threading.Event) -> Iterator[int]:
        """The number of a start, while it is asked for. An error within takes the start back.

        :param gone: set when the launcher has ended: then nothing starts any more.
        """
        with self._lock:
            self._numbered += 1
            number, before = self._numbered, self.starts
            self.starts = number
            self._starting += 1
            if not gone.is_set():
                self.over.clear()
        try:
            yield number
        except BaseException:
            with self._lock:
                if self.starts == number:
                    self.starts = before
                    self._set_over()
            raise
        finally:
            with self._lock:
                self._starting -= 1

    def note_started(self) -> None:
        """Something was started, perhaps by a routine: an end that was reported before does not count."""
        with self._lock:
            self._ended = -1
            self.over.clear()

    def note_ended(self, starts: int) -> None:
        """Every routine has ended, after so many starts."""
        with self._lock:
            self._ended = max(self._ended, starts)
            self._set_over()

    def look(self, all_over: Callable[[], bool]) -> None:
        """Looks whether all routines have ended, by their records, since a message of the launcher's was lost."""
        with self._lock:  # no start begins between the look and what follows from it
            if not self._starting and all_over():
                self.over.set()

    def note_failure(self, key: str, cause: str) -> None:
        """Something failed for good, or was started again, if the cause is empty."""
        self._causes[key] = cause

    def note_death(self, flow: str, exit_code: int, why: str = "") -> None:
        """A flow has failed for good.

        :param why: why it has no process; empty when its process died.
        """
        cause = why or str(FlowDied(flow, exit_code))
        if exit_code or not why:  # it had a process
            self.exit_codes[flow] = exit_code
        self._causes[cause] = self._deaths[flow] = cause

    def forget(self, flows: Collection[str], routines: Iterable[int], since: Collection[str] = ()) -> None:
        """Flows are removed or put back, and their routines, by number: what failed of them does not count any more.

        :param since: what stands for failures that count all the same.
        """
        keys = {f"routine {number}" for number in routines} | {f"flow {name}" for name in flows}
        keys |= {self._deaths.pop(name) for name in flows if name in self._deaths and self._deaths[name] not in since}
        keys -= set(since)
        self._causes = {key: cause for key, cause in self._causes.items() if key not in keys}
        for name in flows:
            self.exit_codes.pop(name, None)

    def mark(self) -> set[str]:
        """What stands for the failures so far."""
        return set(self._causes)

    def note_launcher_death(self, exit_code: int) -> None:
        """The launcher died before the pipe's end."""
        if not self._causes.get("launcher"):
            self._causes["launcher"] = str(FlowDied("launcher", exit_code))

    def _set_over(self) -> None:
        """With the lock held."""
        if self._ended >= self.starts:
            self.over.set()
