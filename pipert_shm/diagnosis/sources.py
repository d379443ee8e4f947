"""Cameras and files: what a `VideoSource` counts of its own."""

from __future__ import annotations

from collections.abc import Iterator

from pipert_shm.diagnosis.finding import Finding, Severity
from pipert_shm.diagnosis.span import FULL, Span, wire_name
from pipert_shm.statistics import RoutineStatistics


def find_sources(span: Span) -> Iterator[Finding]:
    """Sources that are not connected, or leave frames out."""
    for routine in span.now.routines.values():
        if span.is_video_source(routine.name):
            yield from _of(span, routine)


def _of(span: Span, routine: RoutineStatistics) -> Iterator[Finding]:
    name = routine.name
    rate = f"it sends {span.per_second(span.count(routine, 'sent')):.1f} a second"
    if routine.state == "running" and not routine.counters["connected"]:
        yield _finding(
            routine,
            "lost source",
            "problem",
            f"{name} is not connected: its stream is lost, or can't be opened. Reconnects so far: "
            f"{routine.counters['reconnects']}.",
            "",
            (
                "read the log: each try says why it failed, and when the next one comes",
                "VideoSource(…, timeout=…, transport=…)",
            ),
        )
    for counter, severity, what, advice in _COUNTERS:
        count = span.own_count(routine, counter)
        if count:
            what = what.format(name=name, count=count, rate=span.per_second(count), seconds=span.seconds)
            why = _why_skipped(span, routine) if counter == "skipped" else ""
            waits = counter == "skipped" and _blocked_on(span, routine)
            grave: Severity = "cost" if waits else severity
            yield _finding(routine, counter, grave, f"{what}; {rate}.", why, advice, count)


_COUNTERS: tuple[tuple[str, Severity, str, tuple[str, ...]], ...] = (
    (
        "reconnects",
        "problem",
        "{name} lost its stream and opened it again {count} times in {seconds:.1f} s",
        ("read the log: it says why the stream was lost", "VideoSource(…, timeout=…): how long silence may last"),
    ),
    (
        "late",
        "problem",
        "{name} passed over {rate:.1f} frames a second that were late: they come faster than they are decoded, or piled up",
        (
            'VideoSource(…, size=(…, …), skip_frame="noref" or "nokey", hwaccel="auto"): less to decode',
            "the camera's second, smaller stream",
        ),
    ),
    (
        "damaged",
        "problem",
        "{name} left out {rate:.1f} damaged frames a second",
        ('VideoSource(…, transport="tcp") for RTSP: nothing is lost on the way', "read the log: it counts them as they come"),
    ),
    (
        "skipped",
        "note",
        "{name} skipped {rate:.1f} frames a second",
        ("VideoSource(…, fps=…) at what the pipe can take: what is skipped before it is decoded costs less",),
    ),
)


def _blocked_on(span: Span, routine: RoutineStatistics) -> list[str]:
    return [wire_name(wire) for wire in span.blocked() if wire.sender == routine.name]


def _why_skipped(span: Span, routine: RoutineStatistics) -> str:
    blocked = _blocked_on(span, routine)
    if blocked:
        return f"They came while it waited for room on {', '.join(blocked)}."
    if routine.name in {ring.owner for ring in span.starved()}:
        return "They came while it waited for a free slot."
    if routine.counters["idle"]:
        return "Nothing moves in the picture, so only key frames are decoded (idle=)."
    share = span.busy_s(routine.name) / span.seconds
    told = f"It is in `main_logic` {100 * share:.0f} % of the time"
    if share < FULL:
        return f"{told}, and rests otherwise: that is what fps= does."
    return f"{told}: what it leaves out is left out by fps=, skip_frame= or idle=, or came while it handed the last frame on."


def _finding(
    routine: RoutineStatistics,
    kind: str,
    severity: Severity,
    what: str,
    why: str,
    advice: tuple[str, ...],
    share: float = 0.0,
) -> Finding:
    counters = ", ".join(f"{name} {count}" for name, count in routine.counters.items())
    return Finding(kind, severity, "routine", routine.name, what, why, advice, f"its own counters: {counters}", share)
