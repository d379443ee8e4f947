"""What the kill campaign counts, what it stops at, and its report."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


class Violation(Exception):
    """Something that must not happen did."""


@dataclass
class Figures:
    """What the campaign did.

    Attributes:
        stops: SIGSTOP of a process.
        pauses: stop events, of everything or of some routines.
        waits: how often a log handler waited.
    """

    kills: int = 0
    stops: int = 0
    attacher_kills: int = 0
    attacher_stops: int = 0
    pauses: int = 0
    waits: int = 0
    links: int = 0
    refused: int = 0
    added: int = 0
    restarts: int = 0
    pipes: int = 0
    audits: int = 0
    messages: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost_in_crash: int = 0
    recoveries: list[float] = field(default_factory=list)


class Errors(logging.Handler):
    """Keeps what is logged as an error: there should be nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {record.getMessage()}"
        self.texts.append(f"{text}\n{record.exc_text}" if record.exc_text else text)


class Waits(logging.Handler):
    """Waits at a warning, when it is told to; and with it the thread that hears all that a pipe's processes say."""

    def __init__(self, figures: Figures) -> None:
        super().__init__(logging.WARNING)
        self._figures = figures
        self._seconds = 0.0
        self.held = False

    def hold(self, seconds: float) -> None:
        """At the next warning from another process, for so long."""
        self._seconds, self.held = seconds, True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._seconds or threading.current_thread() is threading.main_thread():
            return
        seconds, self._seconds = self._seconds, 0.0
        self._figures.waits += 1
        time.sleep(seconds)
        self.held = False


def report(figures: Figures, seconds: float) -> str:
    recoveries = sorted(figures.recoveries) or [float("nan")]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in figures.dropped.items() if count) or "none"
    return (
        f"{figures.kills} kills, {figures.stops} SIGSTOPs, {figures.attacher_kills} kills and "
        f"{figures.attacher_stops} SIGSTOPs of attached processes, {figures.pauses} stops, "
        f"{figures.waits} log handlers that waited, "
        f"{figures.restarts} restarts, {figures.links} links ({figures.refused} refused), {figures.added} additions, "
        f"{figures.pipes} pipes, {figures.audits} audits in {seconds:.0f} s\n"
        f"{figures.messages:,} messages; dropped: {dropped}; lost in a dead process's hands: {figures.lost_in_crash:,}\n"
        f"until everything moved again: median {statistics.median(recoveries) * 1000:.0f} ms, "
        f"99 % {recoveries[int(len(recoveries) * 0.99)] * 1000:.0f} ms, slowest {recoveries[-1] * 1000:.0f} ms"
    )
