"""Remembers what happened in a pipe (states, deaths, restarts, log records) and sends it as server-sent events."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from operator import attrgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from pipert_shm.api.models import Problem
from pipert_shm.display.masking import masked
from pipert_shm.errors import PipeStateError
from pipert_shm.flow_statistics import FlowStatistics
from pipert_shm.pipe import Pipe
from pipert_shm.statistics import PipeStatistics

REMEMBERED = 1000
LONGEST_TEXT = 4000
LOOK_S = 0.2  # how often the pipe is looked at, and a client told
RETRY_MS = 2000  # after which a client connects again

Kind = Literal["state", "crash", "restart", "removed", "log", "end"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        number: counts from 1.
        time: seconds since the epoch.
        kind: `state` (of a routine), `crash`, `restart` or `removed` (of a flow), `log`, or `end` (of the pipe).
        details: by kind; see `/events`.
    """

    number: int
    time: float
    kind: Kind
    details: dict[str, Any]


class Journal(logging.Handler):
    """Remembers the last thousand log records, and the last thousand other entries. Any thread.

    It begins with how the pipe is: states, and flows that have died before. From then on it looks at the pipe's counters,
    five times a second, so of several deaths within that time it may tell only one; it counts all of them. Log records are
    those that reach the pipe's logger.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._records: deque[Entry] = deque(maxlen=REMEMBERED)
        self._others: deque[Entry] = deque(maxlen=REMEMBERED)  # which no flood of log records takes away
        self._adding = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.count = 0
        self.over = False

    def start(self) -> None:
        """Begins; nothing when it has already, or there is no pipe yet.

        Ends by itself when the pipe does.
        """
        with self._adding:
            if self._thread is not None:
                return
            try:
                session = self._pipe._built()
            except PipeStateError:
                return
            self._thread = threading.Thread(target=self._watch, args=(session.gone,), name="api-journal", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends, and makes those end who read it."""
        self._closing.set()
        self.over = True

    def after(self, number: int) -> list[Entry]:
        """The entries after that one, as far as they are remembered, oldest first."""
        with self._adding:
            if number >= self.count:
                return []
            fresh = [
                list(takewhile(lambda entry: entry.number > number, reversed(kept))) for kept in (self._records, self._others)
            ]
        return sorted(chain(*fresh), key=attrgetter("number"))

    def _add(self, kind: Kind, **details: Any) -> None:
        with self._adding:
            self.count += 1
            kept = self._records if kind == "log" else self._others
            kept.append(Entry(self.count, time.time(), kind, details))

    # ---- what is told ----------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers a log record."""
        try:
            exception = record.exc_text or (logging.Formatter().formatException(record.exc_info) if record.exc_info else None)
            self._add(
                "log",
                level=record.levelname,
                logger=record.name,
                flow=getattr(record, "flow", None),
                routine=getattr(record, "routine", None),
                message=masked(record.getMessage())[:LONGEST_TEXT],
                exception=exception and masked(exception)[-LONGEST_TEXT:],
            )
        except Exception:
            self.handleError(record)

    def _watch(self, gone: threading.Event) -> None:
        self._pipe.logger.addHandler(self)
        before = self._pipe.statistics()
        self._compare(_fresh(before), before)
        try:
            while not (gone.is_set() or self._closing.is_set()):
                gone.wait(LOOK_S)
                now = self._pipe.statistics()
                self._compare(before, now)
                before = now
        finally:
            self._pipe.logger.removeHandler(self)
            if gone.is_set():
                self._add("end")
            self.over = True

    def _compare(self, before: PipeStatistics, now: PipeStatistics) -> None:
        for name, flow in now.flows.items():
            if name in before.flows:
                self._compare_flow(before.flows[name], flow)
        for name in before.flows:
            if name not in now.flows:
                self._add("removed", flow=name)
        for name, routine in now.routines.items():
            was = before.routines[name].state if name in before.routines else None
            if was != routine.state:
                self._add("state", routine=name, flow=routine.flow, was=was, now=routine.state)

    def _compare_flow(self, before: FlowStatistics, now: FlowStatistics) -> None:
        failed = now.state == "failed" != before.state
        if failed or now.restarts > before.restarts:
            self._add(
                "crash",
                flow=now.name,
                last_exit=now.last_exit,
                reason=now.last_reason,
                restarts=now.restarts,
                state=now.state,
            )
        if now.pid not in (0, before.pid):
            self._add("restart", flow=now.name, pid=now.pid, restarts=now.restarts)


def _fresh(now: PipeStatistics) -> PipeStatistics:
    """The pipe as it was when nothing had happened in it."""
    flows = {
        name: replace(flow, state="running", pid=0 if flow.restarts else flow.pid, restarts=0)
        for name, flow in now.flows.items()
    }
    return PipeStatistics(now.time_s, {}, {}, flows)


# ---- server-sent events --------------------------------------------------------------------------

router = APIRouter(tags=["look"])


async def _journal_of(request: Request) -> Journal:
    """That of a pipe which is built: a refusal has to come before the stream begins."""
    pipe: Pipe = request.app.state.pipe
    pipe._built()
    journal: Journal = request.app.state.journal
    journal.start()
    return journal


# FastAPI sends a comment after 15 s of silence, so that no proxy takes the connection for dead.
@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={409: {"model": Problem, "description": "The pipe is not built yet"}},
)
async def events(
    journal: Annotated[Journal, Depends(_journal_of)], last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """Sends what happens as server-sent events: first what is remembered, then the new, until the pipe ends.

    Each has an `id`; with the header `Last-Event-ID`, which browsers send by themselves when they connect again, it goes on
    after that one. `data` is a JSON object with `time` (seconds since the epoch) and, by event:

    - `state`: `routine`, `flow`, `was`, `now`: the routine's state changed; `was` is null for the first that is known.
    - `crash`: `flow`, `last_exit`, `reason` (as `last_reason` in the statistics), `restarts`, `state` (`failed` when it is for
      good): the flow's process died.
    - `restart`: `flow`, `pid`, `restarts`: the flow has a process again.
    - `removed`: `flow`: the flow was removed.
    - `log`: `level`, `logger`, `flow`, `routine`, `message`, `exception`: a record that reached the pipe's logger.
    - `lost`: `count` entries are not remembered any more, since the client was too slow.
    - `end`: the pipe has ended, and so does the stream.
    """
    known = last_event_id or ""
    after = int(known) if known.isdecimal() and len(known) < 20 else 0
    if after > journal.count:
        after = 0  # it is that of an earlier server
    first = after == 0
    yield ServerSentEvent(retry=RETRY_MS)
    while True:
        over = journal.over  # before the look: what came until then is told
        entries = journal.after(after)
        lost = entries[-1].number - after - len(entries) if entries else 0
        if lost and not first:
            yield _event("lost", after, {"count": lost})
        first = False
        for entry in entries:
            yield _event(entry.kind, entry.number, {"time": entry.time, **entry.details})
        if over:
            return
        if entries:
            after = entries[-1].number
        await asyncio.sleep(LOOK_S)


def _event(kind: str, number: int, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(id=str(number), event=kind, data=data)
