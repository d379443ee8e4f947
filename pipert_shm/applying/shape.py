"""Pipelines as they are compared: what each says, in one way only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from pipert_shm.pipeline_file.schema import FlowSettings, Pipeline, RoutineSettings, Section, WireSettings

Pair: TypeAlias = tuple[str, str]  # the names of a sender and a receiver

FIXED = ("pipe", "api", "logging")  # sections that hold for as long as a pipe runs


@dataclass(frozen=True, slots=True)
class Shape:
    """A pipeline as it is compared: what it says, in one way only.

    Attributes:
        flows: the settings of each flow, without those of its wires.
        routines: the settings of each routine.
        wires: the settings of each wire, and which section of the file they stand in, by pair.
        fixed: the sections that hold as long as the pipe runs.
    """

    flows: Mapping[str, FlowSettings]
    routines: Mapping[str, RoutineSettings]
    wires: Mapping[Pair, WireSettings]
    fixed: Mapping[str, Any]

    @property
    def flow_of(self) -> dict[str, str]:
        """The flow of each routine."""
        return {routine: name for name, flow in self.flows.items() for routine in flow.routines}


def shape_of(pipeline: Pipeline) -> Shape:
    """The shape of a pipeline that was read and found to be in order."""
    flows = {
        name: flow.model_copy(update={"auto_wire": False, "data_transmitter": None, "routines": sorted(flow.routines)})
        for name, flow in pipeline.flows.items()
    }
    fixed = {name: getattr(pipeline, name) for name in FIXED}
    return Shape(flows, dict(pipeline.routines), dict(_wires_of(pipeline)), fixed)


def _wires_of(pipeline: Pipeline) -> Iterator[tuple[Pair, WireSettings]]:
    for flow in pipeline.flows.values():
        for source, destination in pairwise(flow.routines) if flow.auto_wire else ():
            yield (
                (source, destination),
                WireSettings(source=source, destinations=[destination], data_transmitter=flow.data_transmitter),
            )
    for wire in pipeline.wires:
        for destination in wire.destinations:
            yield (wire.source, destination), wire.model_copy(update={"destinations": [destination]})


def same(one: Any, other: Any) -> bool:
    """Whether two values of a file mean the same: 1 is neither 1.0 nor true there."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Section):
        return all(same(getattr(one, name), getattr(other, name)) for name in type(one).model_fields)
    return bool(one == other) or (one != one and other != other)
