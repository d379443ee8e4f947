"""Graphs that can't be: build() names the culprit, leaves nothing behind, and takes the graph once it is put right."""

from __future__ import annotations

import pytest

from pipert_shm import (
    START_EVENT_NAME,
    FloatingRoutine,
    Pipe,
    PipertError,
    Routine,
    RoutineError,
    SourceRoutine,
    UniqueRoutineName,
    Wire,
    WiresValidation,
)
from refusing import pipe_of, refuses
from routines import Forward, Items, Sink


@pytest.mark.parametrize("how", ["two wires", "one wire", "auto-wired"])
def test_same_pair_wired_twice(how: str) -> None:
    source, sink = Items("one", []), Sink("other")
    if how == "auto-wired":
        pipe = Pipe()
        pipe.create_flow("flow", True, source, sink)
        pipe.link(Wire(source, sink))
    else:
        wires = (Wire(source, sink), Wire(source, sink)) if how == "two wires" else (Wire(source, (sink, sink)),)
        pipe = pipe_of((source,), (sink,), wires=wires)
    refuses(pipe, WiresValidation, "'one'", "'other'", "twice")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_cycle(length: int) -> None:
    source, *ring, sink = Items("source", []), *(Forward(f"m{n}") for n in range(length)), Sink("sink")
    wires = [Wire(a, b) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)]
    pipe = pipe_of((source, *ring, sink), wires=(Wire(source, ring[0]), *wires, Wire(ring[-1], sink)))
    refuses(pipe, WiresValidation, "cycle", *(f"'m{n}'" for n in range(length)))


def test_floating_routine() -> None:
    source, sink = Items("source", []), Sink("sink")
    pipe = pipe_of((source, sink), (Forward("lost"),), wires=(Wire(source, sink),))
    refuses(pipe, FloatingRoutine, "'lost'", "'flow1'")


@pytest.mark.parametrize("kind", [Forward, Sink])
def test_middle_or_destination_that_nothing_leads_to(kind: type[Routine]) -> None:
    source, lost, sink = Items("source", []), kind("lost"), Sink("sink")
    wires = [Wire(source, sink)]
    if kind is Forward:
        wires.append(Wire(lost, sink))
    refuses(pipe_of((source, lost, sink), wires=tuple(wires)), FloatingRoutine, "'lost'")


def test_wire_into_a_source_and_out_of_a_destination() -> None:
    source, other, sink = Items("source", []), Items("other", []), Sink("sink")
    pipe = pipe_of((source, other, sink), wires=(Wire(source, other), Wire(other, sink)))
    refuses(pipe, RoutineError, "'other'", "SourceRoutine")
    source, sink, last = Items("source", []), Sink("sink"), Sink("last")
    pipe = pipe_of((source, sink, last), wires=(Wire(source, sink), Wire(sink, last)))
    refuses(pipe, RoutineError, "'sink'", "DestinationRoutine")


@pytest.mark.parametrize("flows", [1, 2])
def test_two_routines_of_one_name(flows: int) -> None:
    source, one, other = Items("source", []), Sink("twin"), Sink("twin")
    groups = ((source, one, other),) if flows == 1 else ((source, one), (other,))
    with pytest.raises(UniqueRoutineName, match=r"'twin'.*'flow0'"):
        pipe_of(*groups)
    Pipe().create_flow("elsewhere", False, other)  # it is in no flow


def test_wire_to_a_routine_that_is_in_no_flow() -> None:
    source, sink = Items("source", []), Sink("stranger")
    refuses(pipe_of((source,), wires=(Wire(source, sink),)), WiresValidation, "'stranger'", "no flow")


def test_routine_in_two_flows() -> None:
    source, sink = Items("source", []), Sink("sink")
    pipe = Pipe()
    pipe.create_flow("first", True, source, sink)
    with pytest.raises(PipertError, match="'source' is in flow 'first' already"):
        pipe.create_flow("second", False, source)
    with pytest.raises(PipertError, match="'sink' is in flow 'first' already"):
        Pipe().create_flow("of another pipe", False, sink)


def test_routine_twice_in_one_flow() -> None:
    source, sink = Items("double", []), Sink("sink")
    with pytest.raises(UniqueRoutineName, match="'double'"):
        pipe_of((source, source, sink))


def test_a_pipe_without_routines() -> None:
    with pytest.raises(WiresValidation, match="the pipe has no routines: create_flow"):
        Pipe().build()


def test_flow_names_and_members() -> None:
    pipe = Pipe()
    pipe.create_flow("flow", True, Items("a", []), Sink("b"))
    with pytest.raises(PipertError, match="there is a flow 'flow' already"):
        pipe.create_flow("flow", False, Sink("c"))
    with pytest.raises(PipertError, match="'empty' has no routines"):
        pipe.create_flow("empty", False)
    with pytest.raises(TypeError, match="is not a Routine"):
        pipe.create_flow("other", False, "no routine")  # type: ignore[arg-type]


def test_a_routine_that_does_not_call_super_init() -> None:
    class Forgetful(SourceRoutine):
        def __init__(self) -> None:
            self.name = "forgetful"

    with pytest.raises(PipertError, match=r"Forgetful.*super\(\)\.__init__"):
        Pipe().create_flow("flow", False, Forgetful())


def test_as_many_receivers_as_there_are_holder_bits() -> None:
    source = Items("source", range(3))
    sinks = [Sink(f"sink{n}") for n in range(31)]
    pipe = pipe_of((source,), *((sink,) for sink in sinks), wires=(Wire(source, sinks),))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [wire.received for wire in pipe.statistics().wires.values()] == [3] * 31


def test_one_receiver_too_many() -> None:
    source = Items("source", range(3))
    sinks = [Sink(f"sink{n}") for n in range(32)]
    pipe = pipe_of((source,), *((sink,) for sink in sinks), wires=(Wire(source, sinks),))
    refuses(pipe, WiresValidation, "'source'", "32", "31")


def test_receivers_in_the_same_flow_need_no_bits() -> None:
    source = Items("source", range(3))
    sinks = [Sink(f"sink{n}") for n in range(64)]
    pipe = pipe_of((source, *sinks), wires=(Wire(source, sinks),))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [wire.received for wire in pipe.statistics().wires.values()] == [3] * 64
    source, one_more = Items("source", []), [Sink(f"sink{n}") for n in range(65)]
    refuses(pipe_of((source, *one_more), wires=(Wire(source, one_more),)), WiresValidation, "'source'", "65", "64")


def test_a_pipe_that_was_refused_can_be_put_right() -> None:
    source, sink = Items("source", [1, 2]), Sink("sink")
    pipe = pipe_of((source,), (sink,))
    refuses(pipe, FloatingRoutine, "'source'")
    pipe.link(Wire(source, sink))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().wires["source", "sink"].received == 2
