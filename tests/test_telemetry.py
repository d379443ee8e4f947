"""Spans for OpenTelemetry: of the chosen frames each hop, within one trace a frame; and nothing of the others."""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict

import pytest

from pipert_shm import START_EVENT_NAME, Pipe, PipeStateError, export_spans
from routines import Frames, Sink, chain
from test_trace import Spans
from waiting import eventually

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

COUNT = 40


def exported(share: float) -> dict[str, list[ReadableSpan]]:
    """The spans of a pipe's whole life, by frame."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    pipe = Pipe(policy="block", name="yard")
    chain(pipe, Frames("camera", COUNT, loan=True), Spans("middle"), Sink("sink"))
    pipe.build()
    running = threading.Thread(target=_run, args=(pipe,))
    running.start()
    report = export_spans(pipe, provider, seconds=60, share=share)
    running.join()
    assert report.missing == []
    by_trace: dict[int, list[ReadableSpan]] = defaultdict(list)
    for span in exporter.get_finished_spans():
        assert span.context is not None
        by_trace[span.context.trace_id].append(span)
    frames = {}
    for spans in by_trace.values():
        (whole,) = (span for span in spans if span.parent is None)
        assert whole.attributes is not None
        assert whole.attributes["pipert.pipe"] == "yard"
        frames[str(whole.attributes["pipert.frame"])] = spans
    frames.pop(f"camera #{COUNT}", None)  # the call that ended the stream
    return frames


def _run(pipe: Pipe) -> None:
    eventually(lambda: pipe._built().tracing.is_on)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def _times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_a_frame_is_a_trace_with_all_its_hops() -> None:
    frames = exported(1.0)
    assert set(frames) == {f"camera #{number}" for number in range(COUNT)}
    for spans in frames.values():
        by_id = {span.context.span_id: span for span in spans if span.context is not None}
        where = [(span.name, (span.attributes or {}).get("pipert.routine")) for span in spans]
        assert {("main_logic", "camera"), ("loan", "camera"), ("main_logic", "middle"), ("main_logic", "sink")} <= set(where)
        assert where.count(("outer", "middle")) == where.count(("inner", "middle")) == 1
        wires = [(span.attributes or {}).get("pipert.wire") for span in spans if span.name == "queue"]
        assert sorted(map(str, wires)) == ["camera -> middle", "middle -> sink"]
        for span in spans:
            if span.parent is not None:
                around = by_id[span.parent.span_id]
                assert _times(around)[0] <= _times(span)[0] <= _times(span)[1] <= _times(around)[1]
        (inner,) = (span for span in spans if span.name == "inner")
        assert inner.parent is not None
        assert by_id[inner.parent.span_id].name == "outer"


def test_only_a_share_is_exported_and_always_the_same_frames() -> None:
    chosen = {f"camera #{n}" for n in range(COUNT) if zlib.crc32(f"camera {n}".encode()) < 0.25 * 2**32}
    assert 0 < len(chosen) < COUNT
    assert set(exported(0.25)) == chosen


def test_what_is_refused() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("camera", 1), Sink("sink"))
    with pytest.raises(PipeStateError, match="not built"):
        export_spans(pipe)
    for share in (0, 1.5, "all"):
        with pytest.raises(ValueError, match="share must be more than 0 and at most 1"):
            export_spans(pipe, share=share)  # type: ignore[arg-type]
