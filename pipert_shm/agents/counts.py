"""A pipe's statistics on their way from another host: as JSON, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from pipert_shm.flow_statistics import FlowStatistics
from pipert_shm.statistics import Latency, PipeStatistics, RoutineStatistics, WireStatistics

One = TypeVar("One", RoutineStatistics, WireStatistics, FlowStatistics)


def told_of(now: PipeStatistics) -> dict[str, Any]:
    """The statistics in plain values, for `heard`. Of a histogram only the buckets that are not empty."""
    return {
        "time_s": now.time_s,
        "routines": [_plain(routine) for routine in now.routines.values()],
        "wires": [_plain(wire) for wire in now.wires.values()],
        "flows": [_plain(flow) for flow in now.flows.values()],
    }


def heard(told: dict[str, Any]) -> PipeStatistics:
    """What `told_of` was given.

    >>> now = PipeStatistics(7.0, {}, {}, {"gate": FlowStatistics("gate", "running", 12, 0, 0)})
    >>> heard(told_of(now)) == now
    True
    """
    wires = [_made(WireStatistics, each) for each in told["wires"]]
    return PipeStatistics(
        told["time_s"],
        routines={each["name"]: _made(RoutineStatistics, each) for each in told["routines"]},
        wires={(wire.sender, wire.receiver): wire for wire in wires},
        flows={each["name"]: _made(FlowStatistics, each) for each in told["flows"]},
    )


def _plain(one: One) -> dict[str, Any]:
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: _filled(value) if isinstance(value, Latency) else value for name, value in values.items()}


def _filled(latency: Latency) -> dict[str, Any]:
    return {"buckets": len(latency.counts), "filled": [[place, count] for place, count in enumerate(latency.counts) if count]}


def _made(kind: type[One], told: dict[str, Any]) -> One:
    values: dict[str, Any] = {name: _latency(value) if name in ("hop", "age") else value for name, value in told.items()}
    return kind(**values)


def _latency(told: dict[str, Any]) -> Latency:
    counts = [0] * told["buckets"]
    for place, count in told["filled"]:
        counts[place] = count
    return Latency(tuple(counts))
