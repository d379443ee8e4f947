"""Moments of pipes that never ran, for diagnoses: each number is what a test says, and 0 otherwise."""

from __future__ import annotations

from typing import Any

from pipert_shm import FlowStatistics, Latency, PipeStatistics, RoutineStatistics, WireStatistics
from pipert_shm.diagnosis import Finding, Moment, diagnose

NOTHING = Latency(())


def routine(name: str, **numbers: Any) -> RoutineStatistics:
    given: dict[str, Any] = {
        "flow": name,
        "state": "running",
        "received": 0,
        "sent": 0,
        "errors": 0,
        "logs_lost": 0,
        "copied_bytes": 0,
        "in_band_bytes": 0,
        "busy_s": 0.0,
        "lost_in_crash": 0,
        "age": NOTHING,
        "counters": {},
    }
    return RoutineStatistics(name=name, **{**given, **numbers})


def wire(sender: str, receiver: str, **numbers: Any) -> WireStatistics:
    given: dict[str, Any] = {
        "policy": "drop_oldest",
        "capacity": 2,
        "linked": True,
        "sent": 0,
        "received": 0,
        "waiting": 0,
        "dropped": {},
        "private_bytes": 0,
        "protocol_errors": 0,
        "hop": NOTHING,
    }
    return WireStatistics(sender, receiver, **{**given, **numbers})


def moment(time_s: float, *parts: RoutineStatistics | WireStatistics | FlowStatistics, **further: Any) -> Moment:
    """A pipe of these. Flows that are not among them run."""
    routines = {part.name: part for part in parts if isinstance(part, RoutineStatistics)}
    wires = {(part.sender, part.receiver): part for part in parts if isinstance(part, WireStatistics)}
    flows = {one.flow: FlowStatistics(one.flow, "running", 100, 0, 0) for one in routines.values()}
    flows |= {part.name: part for part in parts if isinstance(part, FlowStatistics)}
    return Moment(PipeStatistics(time_s, routines, wires, flows), **further)


def chain(
    *later: RoutineStatistics | WireStatistics | FlowStatistics,
    earlier: tuple[RoutineStatistics | WireStatistics | FlowStatistics, ...] = (),
    now: dict[str, Any] | None = None,
    before: dict[str, Any] | None = None,
) -> list[Finding]:
    """What is found of camera -> detector -> screen, in which 100 messages went through within 10 s, but for these parts.

    Parts of `later` that have no counterpart in `earlier` started from nothing.
    """
    base: list[Any] = [
        routine("camera", sent=100, busy_s=1.0),
        routine("detector", received=100, sent=100, busy_s=4.0),
        routine("screen", received=100, busy_s=0.5),
        wire("camera", "detector", sent=100, received=100),
        wire("detector", "screen", sent=100, received=100),
    ]
    parts = {_key(part): part for part in (*base, *later)}
    start: list[Any] = [routine("camera"), routine("detector"), routine("screen"), wire("camera", "detector")]
    start.append(wire("detector", "screen"))
    first = {_key(part): part for part in (*start, *earlier)}
    return diagnose(moment(20.0, *parts.values(), **(now or {})), moment(10.0, *first.values(), **(before or {})))


def _key(part: RoutineStatistics | WireStatistics | FlowStatistics) -> object:
    return (part.sender, part.receiver) if isinstance(part, WireStatistics) else (type(part), part.name)
