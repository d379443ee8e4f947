"""A trace from its beginning to its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipert_shm.binding import trace
from pipert_shm.graph.model import Plan
from pipert_shm.graph.names import Names
from pipert_shm.limits import check_count
from pipert_shm.parent.session import Session
from pipert_shm.parent.tracing import Noted
from pipert_shm.trace.perfetto_file import PerfettoFile, require_perfetto
from pipert_shm.trace.timeline import Slice, Track, timeline

EVENTS = 1 << 16  # that each process keeps by default


@dataclass
class TraceReport:
    """What is in a trace. It is complete when the trace has ended.

    Attributes:
        path: of the file; None where there is none.
        events: how many events were noted.
        lost: by flow, how many of its events are missing, since later ones have overwritten them.
        missing: flows that have noted nothing: they did not run, or could not be told.
    """

    path: Path | None = None
    events: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.events:,} events"]
        parts += [f"{count:,} of flow {flow!r} are overwritten" for flow, count in self.lost.items()]
        parts += [f"nothing of flow {flow!r}" for flow in self.missing]
        return ", ".join(parts)


class Recorded:
    """What was noted while a pipe was traced; complete when that has ended.

    Attributes:
        report: how much it is.
        known: the flows and routines that it is about.
        slices: what happened, in the order in which it began.
    """

    def __init__(self, plan: Plan) -> None:
        self.report = TraceReport()
        self.known = Known(plan)
        self.slices: list[Slice] = []


@contextmanager
def observing(session: Session, events: int = EVENTS) -> Iterator[Recorded]:
    """Traces a pipe while the context lasts.

    :param events: that each process keeps, at least; the newest ones.
    :raises PipeStateError: when the pipe is being traced already, or has ended.
    :raises ValueError: when a process can't keep so many events.
    """
    check_count("events", events)
    if events > trace.EVENTS:
        raise ValueError(f"events must be at most {trace.EVENTS:,}, not {events:,}")
    recorded = Recorded(session.plan)
    session.tracing.begin(1 << (events - 1).bit_length())
    try:
        yield recorded
    finally:
        noted = session.tracing.end()
    recorded.known.learn(session.plan)  # of what was added or removed meanwhile, too
    _complete(recorded.report, noted, recorded.known.flows)
    recorded.slices = [*_losses(noted), *timeline(noted)]


@contextmanager
def recording(session: Session, events: int = EVENTS) -> Iterator[tuple[TraceReport, list[bytes]]]:
    """The same. When it has ended, the list has the content of a file for Perfetto.

    :raises ImportError: when the extra `trace` is missing.
    """
    require_perfetto()
    content: list[bytes] = []
    with observing(session, events) as recorded:
        yield recorded.report, content
    known = recorded.known
    file = PerfettoFile(known.flows, known.names, known.flow_of)
    file.add(recorded.slices)
    content.append(file.finish())


class Known:
    """The flows and routines of a pipe, those that were removed among them.

    Attributes:
        flows: their names, by number.
        names: of routines, by number, and by the number that messages carry.
        flow_of: by the number of a routine, that of its flow.
    """

    def __init__(self, plan: Plan) -> None:
        self.flows: dict[int, str] = {}
        self.names = Names()
        self.flow_of: dict[int, int] = {}
        self.learn(plan)

    def learn(self, plan: Plan) -> None:
        """Adds those that are there now. One that has the number of another by now replaces it."""
        self.flows.update((number, name) for name, number in plan.flow_numbers.items())
        self.names.update(plan.names)
        self.flow_of.update((item.number, plan.flow_numbers[item.flow]) for item in plan.routines)


def _complete(report: TraceReport, noted: list[Noted], flows: Mapping[int, str]) -> None:
    report.events = sum(len(process.events) for process in noted)
    for process in noted:
        if process.lost:
            name = flows.get(process.flow, "launcher")
            report.lost[name] = report.lost.get(name, 0) + process.lost
    there = {process.flow for process in noted}
    report.missing = [name for number, name in flows.items() if number not in there]


def _losses(noted: list[Noted]) -> Iterator[Slice]:
    """Says on each flow's track how many of its events are missing: before the first that is there."""
    for process in noted:
        if process.lost and len(process.events):
            at = int(process.events["time_ns"].min())
            text = f"{process.lost:,} earlier events are overwritten"
            yield Slice(Track("flow", process.flow), text, at, at, notes={"events": process.lost}, instant=True)


@contextmanager
def recording_to(session: Session, path: str | os.PathLike[str], events: int = EVENTS) -> Iterator[TraceReport]:
    """The same, to a file: see `whole_file`.

    :raises OSError: when the file can't be written.
    """
    path = Path(path)
    with whole_file(path) as file:
        with recording(session, events) as (report, content):
            report.path = path
            yield report
        file.write(content[0])


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of the one of that name when it is whole. It is opened at once, to know if that can be.

    :raises OSError: when it can't be written.
    """
    if path.exists() and not path.is_file():  # /dev/stdout, say
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}")
    with part.open("wb") as file:
        try:
            yield file
            file.flush()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
