"""Mistakes, each told by an error that names the culprit, at the call that can first know; and nothing is left behind."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    FloatingRoutine,
    FPSRoutine,
    MiddleRoutine,
    PayloadError,
    Pipe,
    PipertError,
    PipeStateError,
    QueueNetwork,
    Routine,
    RoutineError,
    SharedMemoryTransmitter,
    SourceRoutine,
    UniqueRoutineName,
    UnknownEvent,
    UnknownTarget,
    Wire,
    WiresValidation,
    events,
)
from pipert_shm.events import LARGEST_PARAMETERS
from routines import Forward, Items, Sink, chain
from waiting import Board


def pipe_of(*flows: tuple[Routine, ...], wires: tuple[Wire, ...] = ()) -> Pipe:
    pipe = Pipe(policy="block", grace_period=1)
    for number, routines in enumerate(flows):
        pipe.create_flow(f"flow{number}", False, *routines)
    pipe.link(*wires)
    return pipe


def refuses(pipe: Pipe, error: type[PipertError], *words: str) -> None:
    """build() raises this very error, with these words in it."""
    with pytest.raises(error) as caught:
        pipe.build()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(PipeStateError):
        pipe.join()  # it is not built


# ---- the graph -----------------------------------------------------------------------------------


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


# ---- main_logic ----------------------------------------------------------------------------------


class SourceWithData(SourceRoutine):
    def main_logic(self, data: Any) -> Any:  # type: ignore[override]
        return data


class MiddleWithout(MiddleRoutine):
    def main_logic(self) -> Any:  # type: ignore[override]
        return 1


class DestinationWithTwo(DestinationRoutine):
    def main_logic(self, data: Any, more: Any) -> None:  # type: ignore[override]
        return None


class NoLogicSource(SourceRoutine):
    pass


class NoLogicMiddle(MiddleRoutine):
    pass


class NoLogicFPS(FPSRoutine):
    pass


class NoLogicAtAll(Routine):
    pass


class NotCallable(SourceRoutine):
    main_logic = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (SourceWithData, "main_logic(self)"),
        (MiddleWithout, "main_logic(self, data)"),
        (DestinationWithTwo, "main_logic(self, data)"),
        (NoLogicSource, "no main_logic"),
        (NoLogicMiddle, "no main_logic"),
        (NoLogicFPS, "no main_logic"),
        (NoLogicAtAll, "no main_logic"),
        (NotCallable, "no main_logic"),
    ],
)
def test_main_logic_that_is_missing_or_has_the_wrong_signature(kind: type[Routine], word: str) -> None:
    routine = kind("culprit")
    routines: list[Routine] = [routine]
    if not issubclass(kind, SourceRoutine):
        routines.insert(0, Items("source", []))
    if not issubclass(kind, DestinationRoutine):
        routines.append(Sink("sink"))
    pipe = Pipe()
    pipe.create_flow("flow", True, *routines)
    refuses(pipe, RoutineError, "'culprit'", kind.__name__, word)


# ---- attributes that do not survive a fork -------------------------------------------------------


class Holder(SourceRoutine):
    def __init__(self, thing: object) -> None:
        super().__init__("holder")
        self.thing = thing

    def main_logic(self) -> None:
        return None


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    return path


@pytest.fixture
def torch() -> Iterator[ModuleType]:
    """Something that looks like PyTorch: a tensor of the real one needs a GPU to be on."""
    module = ModuleType("torch")
    exec("class Tensor:\n    def __init__(self, is_cuda):\n        self.is_cuda = is_cuda", module.__dict__)
    sys.modules["torch"] = module
    yield module
    del sys.modules["torch"]


WRAPPINGS: list[Callable[[object], object]] = [
    lambda thing: thing,
    lambda thing: [thing],
    lambda thing: {"key": thing},
    lambda thing: (1, thing),
]


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["itself", "list", "dict", "tuple"])
def test_open_capture(clip: Path, wrap: Callable[[object], object]) -> None:
    capture = cv2.VideoCapture(str(clip))
    assert capture.isOpened()
    routine, sink = Holder(wrap(capture)), Sink("sink")
    pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
    refuses(pipe, RoutineError, "'holder'", "'thing'", "cv2.VideoCapture", "setup()")
    capture.release()
    pipe.build()  # one that is closed does no harm
    pipe.join(to_kill=True)


def test_open_video_writer(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "out.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    routine, sink = Holder(writer), Sink("sink")
    refuses(pipe_of((routine, sink), wires=(Wire(routine, sink),)), RoutineError, "'holder'", "'thing'", "cv2.VideoWriter")
    writer.release()


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["itself", "list", "dict", "tuple"])
def test_thread_and_socket(wrap: Callable[[object], object]) -> None:
    with socket.socket() as open_socket:
        things = ((threading.Thread(), "a thread"), (threading.Timer(1, print), "a thread"), (open_socket, "a socket"))
        for thing, word in things:
            routine, sink = Holder(wrap(thing)), Sink("sink")
            pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
            refuses(pipe, RoutineError, "'holder'", "'thing'", word, "setup()")


def test_cuda_tensor(torch: ModuleType) -> None:
    routine, sink = Holder([torch.Tensor(True)]), Sink("sink")
    pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
    refuses(pipe, RoutineError, "'holder'", "'thing'", "a CUDA tensor", "setup()")
    routine.thing = torch.Tensor(False)
    pipe.build()
    pipe.join(to_kill=True)


# ---- events --------------------------------------------------------------------------------------


class Handles(SourceRoutine):
    def main_logic(self) -> None:
        return None

    @events("known")
    def handler(self, needed: int, optional: int = 0) -> None:
        return None


@pytest.fixture
def running() -> Iterator[Pipe]:
    handles, sink = Handles("handles"), Sink("sink")
    pipe = Pipe(grace_period=1)
    chain(pipe, handles, sink)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    yield pipe
    pipe.join(to_kill=True)


def test_unknown_event(running: Pipe) -> None:
    with pytest.raises(UnknownEvent, match=r"'unheard'.*handle: .*known") as caught:
        running.notify_event("unheard")
    assert caught.value.event == "unheard"
    assert "known" in caught.value.known
    with pytest.raises(UnknownEvent, match="'known'"):
        running.notify_event("known", {"sink": []}, needed=1)  # another routine handles it, but that one is not addressed


@pytest.mark.parametrize("event", ["known", START_EVENT_NAME, STOP_EVENT_NAME])
def test_unknown_targets(running: Pipe, event: str) -> None:
    with pytest.raises(UnknownTarget, match=r"flow 'nowhere'.*handles") as caught:
        running.notify_event(event, {"nowhere": []}, needed=1)
    assert (caught.value.target, caught.value.known) == ("nowhere", ["handles", "sink"])
    with pytest.raises(UnknownTarget, match="'sink'"):
        running.notify_event(event, {"handles": ["sink"]}, needed=1)
    with pytest.raises(UnknownTarget, match="routine 'nobody'"):
        running.notify_event(event, specific_routine="nobody", needed=1)


def test_missing_parameter_of_a_handler(running: Pipe) -> None:
    with pytest.raises(UnknownEvent, match=r"'known'.*'needed'"):
        running.notify_event("known")
    with pytest.raises(UnknownEvent, match="'needed'"):
        running.notify_event("known", optional=1)


def test_parameter_that_does_not_pickle(running: Pipe) -> None:
    with pytest.raises(PayloadError, match=r"'known'.*'needed'.*cannot pickle '_thread\.lock'"):
        running.notify_event("known", needed=threading.Lock())
    running.notify_event("known", needed=1)  # the pipe still takes events


def test_parameter_that_is_too_large(running: Pipe) -> None:
    with pytest.raises(PayloadError, match=r"'known'.*20,000,\d+ bytes.*1,048,576.*wire") as caught:
        running.notify_event("known", needed=bytes(20_000_000))
    assert caught.value.size is not None
    assert caught.value.size > 20_000_000
    assert caught.value.limit == LARGEST_PARAMETERS
    running.notify_event("known", needed=1)


@pytest.mark.parametrize("name", ["flow_routines", "only_if_built", "name", "event", "self_"])
def test_parameters_of_any_name_reach_their_handler(name: str) -> None:
    class Takes(Handles):
        board = Board()

        @events("any")
        def any(self, **parameters: Any) -> None:
            self.board[0] = list(parameters.items()) == [(name, 7)]

    pipe = Pipe()
    chain(pipe, takes := Takes("takes"), Sink("sink"))
    pipe.build()
    try:
        pipe.notify_event("any", **{name: 7})  # type: ignore[arg-type]
    finally:
        pipe.join(to_kill=True)
    assert takes.board[0] == 1


@pytest.mark.parametrize("mistake", [{"event_name": "unheard"}, {"event_name": "start", "specific_routine": "nobody"}])
def test_mistaken_events_before_build_are_told_by_build(mistake: dict[str, Any]) -> None:
    pipe = Pipe()
    chain(pipe, Handles("handles"), Sink("sink"))
    pipe.notify_event(**mistake)
    with pytest.raises((UnknownEvent, UnknownTarget)):
        pipe.build()


def test_events_of_a_routine_that_is_in_no_pipe() -> None:
    with pytest.raises(PipeStateError, match="'alone'"):
        Handles("alone").notify_event(START_EVENT_NAME)


# ---- the pipe's state ----------------------------------------------------------------------------


def test_calls_before_build() -> None:
    pipe = pipe_of((Items("source", []),))
    calls: list[Callable[[], Any]] = [pipe.join, pipe.statistics, lambda: pipe.tap("source"), lambda: pipe.join(to_kill=True)]
    for call in calls:
        with pytest.raises(PipeStateError, match="not built"):
            call()


def test_nothing_to_build(running: Pipe) -> None:
    with pytest.raises(PipeStateError, match=r"build\(\).*nothing"):
        running.build()


def test_building_after_the_end() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Items("source", [1]), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    extra = Sink("extra")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("link", lambda: pipe.link(Wire(Items("new", []), extra))),
        ("build", pipe.build),
        ("create_flow", lambda: pipe.create_flow("more", False, extra)),
    ]
    for name, call in calls:
        with pytest.raises(PipeStateError, match=f"{name}\\(\\)"):
            call()
    assert extra.flow_name is None


def test_calls_after_the_end() -> None:
    pipe = Pipe(policy="block")
    handles = Items("source", [1])
    chain(pipe, handles, Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    for event in (START_EVENT_NAME, STOP_EVENT_NAME):
        with pytest.raises(PipeStateError, match=f"ended.*'{event}'"):
            pipe.notify_event(event)
    with pytest.raises(PipeStateError, match="ended"):
        handles.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeStateError, match="ended"):
        pipe.tap("source")
    pipe.notify_event("kill")  # there is nothing left to kill, which is what was wanted
    pipe.join()
    pipe.join(to_kill=True)


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"policy": "drop_all"}, "'drop_all'"),
        ({"policy": ""}, "policy"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": -1}, "capacity"),
        ({"capacity": 65537}, "65537"),
        ({"capacity": 1.5}, "capacity"),
        ({"timeout": -0.1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, r"timeout.*86,400 \(None: wait for ever\), not inf"),
        ({"timeout": 86_401}, "timeout"),
        ({"timeout": 10**5000}, "timeout.*something of type int"),
        ({"timeout": True}, "timeout.*True"),
        ({"timeout": "1s"}, "timeout.*'1s'"),
        ({"timeout": [1]}, "timeout"),
        ({"capacity": True}, "capacity.*True"),
        ({"capacity": "8"}, "capacity.*'8'"),
        ({"policy": ["block"]}, "policy.*block"),
        ({"policy": 3}, "policy 3"),
    ],
)
def test_queue_settings_out_of_range(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Pipe(**settings)
    with pytest.raises(ValueError, match=word):
        Wire(Items("a", []), Sink("b"), **settings)


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-300, 86_400, np.float32(1.5)])
def test_unusual_timeouts_that_make_sense(timeout: float) -> None:
    source, sink = Items("source", range(3)), Sink("sink")
    pipe = pipe_of((source,), (sink,), wires=(Wire(source, sink, policy="block", timeout=timeout),))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    wire = pipe.statistics().wires["source", "sink"]
    assert wire.received + wire.lost == 3


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="capacity"):
        QueueNetwork(max_queue_sizes=0)
    with pytest.raises(ValueError, match="timeout"):
        QueueNetwork(timeout=-1)
    with pytest.raises(ValueError, match="either network or"):
        Pipe(network=QueueNetwork(), capacity=1)
    with pytest.raises(ValueError, match="fps"):
        Items("a", []).set_const_fps(-1)
    with pytest.raises(ValueError, match="data_size_threshold"):
        SharedMemoryTransmitter(0)
    with pytest.raises(WiresValidation, match="'a'"):
        Wire(Items("a", []), [])
    with pytest.raises(TypeError, match="destinations"):
        Wire(Items("a", []), "b")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a/b", "/", "", ".", ".."])
def test_names_that_no_http_path_can_hold(name: str) -> None:
    with pytest.raises(ValueError, match=r"a routine can't be called .* a part of a path"):
        Sink(name)
    with pytest.raises(ValueError, match=r"an event can't be called .* a part of a path"):
        events(name)
    with pytest.raises(ValueError, match=r"a flow can't be called .* a part of a path"):
        Pipe().create_flow(name, False, Sink("sink"))
