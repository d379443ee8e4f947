"""Exports what becomes of frames as spans of OpenTelemetry: of a sampled share of the frames, as a trace for each."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import PipeStateError, shown
from pipert_shm.extras import to_install
from pipert_shm.limits import check_seconds, is_number
from pipert_shm.pipe import Pipe, check_pipe
from pipert_shm.trace.recording import Known, Recorded, TraceReport, observing
from pipert_shm.trace.timeline import Frame, Slice, Track

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

LIBRARY = "pipert_shm"


def export_spans(
    pipe: Pipe, provider: TracerProvider | None = None, *, seconds: float = 5.0, share: float = 0.01
) -> TraceReport:
    """Traces a pipe for some seconds, and exports what became of some of its frames to OpenTelemetry.

    Each of these frames is a trace of its own: a span for the whole way, and within it one for each call, queue, loan, send and
    wait, and for what `Routine.span` has marked. Drops are spans with `pipert.reason`. Whether a frame is one of them follows
    from its origin's name and its sequence number alone, so all pipes that see it agree. Call it again and again to go on; it
    returns when the provider has the spans. Any thread.

    :param provider: what exports them; None: the one that the program has set for OpenTelemetry.
    :param seconds: how long. It is shorter if the pipe ends.
    :param share: of the frames that are exported, from 0 to 1.
    :raises ImportError: when the extra `telemetry` is missing.
    :raises PipeStateError: when the pipe is not built, has ended, or is being traced already.
    :raises ValueError: when the share or the time is out of range.
    """
    check_pipe("export_spans(pipe, …)", pipe)
    check_seconds("seconds", seconds, positive=True)
    if not (is_number(share) and 0 < share <= 1):
        raise ValueError(f"share must be more than 0 and at most 1, not {shown(share)}")
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ImportError(f"OpenTelemetry is not installed ({error}): {to_install('telemetry')}") from error
    session = pipe._built()
    if session.gone.is_set():
        raise PipeStateError("export_spans(): the pipe has ended")
    with observing(session) as recorded:
        session.gone.wait(seconds)
    tracer = (provider or trace.get_tracer_provider()).get_tracer(LIBRARY)
    _Export(tracer, recorded, pipe.name).export(share)
    return recorded.report


class _Export:
    def __init__(self, tracer: Tracer, recorded: Recorded, pipe: str) -> None:
        self._tracer = tracer
        self._recorded = recorded
        self._known: Known = recorded.known
        self._pipe = pipe
        self._epoch = time.time_ns() - time.monotonic_ns()  # what is to be added to a time of a slice

    def export(self, share: float) -> None:
        frames: dict[Frame, list[Slice]] = defaultdict(list)
        for slice in self._recorded.slices:
            for frame in slice.frames:
                frames[frame].append(slice)
        for (origin, sequence), slices in frames.items():
            name = self._known.names[origin]
            if zlib.crc32(f"{name} {sequence}".encode()) < share * (1 << 32):
                self._export_frame(f"{name} #{sequence}", slices)

    def _export_frame(self, name: str, slices: list[Slice]) -> None:
        begin, end = min(slice.begin for slice in slices), max(slice.end for slice in slices)
        whole = self._start(f"frame {name}", begin, {"pipert.pipe": self._pipe, "pipert.frame": name}, None)
        open_spans: dict[Track, list[tuple[int, Span]]] = defaultdict(list)  # by track: those that a slice may be within
        for slice in sorted(slices, key=lambda slice: (slice.begin, -slice.end)):
            around = open_spans[slice.track]
            while around and around[-1][0] < slice.end:
                around.pop()
            span = self._start(slice.name, slice.begin, self._attributes(slice), around[-1][1] if around else whole)
            span.end(slice.end + self._epoch)
            around.append((slice.end, span))
        whole.end(end + self._epoch)

    def _start(self, name: str, begin: int, attributes: dict[str, Any], within: Span | None) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        around = Context() if within is None else set_span_in_context(within, Context())
        return self._tracer.start_span(name, around, attributes=attributes, start_time=begin + self._epoch)

    def _attributes(self, slice: Slice) -> dict[str, Any]:
        track, known = slice.track, self._known
        attributes: dict[str, Any] = {f"pipert.{name}": value for name, value in slice.notes.items()}
        if track.kind == "wire":
            attributes["pipert.wire"] = f"{known.names[track.number]} -> {known.names[track.other]}"
        else:
            attributes["pipert.routine"] = known.names[track.number]
            flow = known.flow_of.get(track.number)
            attributes["pipert.flow"] = known.flows.get(flow, "") if flow is not None else ""
        return attributes
