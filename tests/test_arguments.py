"""Wrong arguments are told by the call that gives them, in a text that shows the right call."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    APIWrapper,
    BatchRoutine,
    Crop,
    CvtColor,
    DestinationRoutine,
    FunctionalMiddleRoutine,
    Join,
    Latency,
    MjpegServer,
    Pipe,
    PipertError,
    QueueNetwork,
    Resize,
    RoutineError,
    RPCPipeWrapper,
    SharedMemoryTransmitter,
    SourceRoutine,
    UniqueRoutineName,
    UnknownEvent,
    UnknownTarget,
    VideoSource,
    VideoWriter,
    Wire,
    WiresValidation,
    create_app,
    events,
    from_callable,
    writable,
)
from pipert_shm.limits import FASTEST_FPS, SLOWEST_FPS
from pipert_shm.plan import Plan, audience_of
from routines import Items, Sink, chain

NAN, INF = float("nan"), float("inf")
WRONG_SECONDS: list[Any] = [0, -1, NAN, INF, "5", True, []]


def ends() -> tuple[Items, Sink]:
    return Items("source", []), Sink("sink")


# ---- what is called --------------------------------------------------------------------------------


async def coroutine(*_: Any) -> None: ...
async def asynchronous_generator(*_: Any) -> Any:
    yield 1


def generator(*_: Any) -> Any:
    yield 1


class Asynchronous:
    async def __call__(self, *_: Any) -> None: ...


DEFERRED = [
    (coroutine, r"is `async def`.*asyncio\.run"),
    (asynchronous_generator, r"is `async def`.*asyncio\.run"),
    (generator, "is a generator function.*list"),
    (Asynchronous(), r"is `async def`.*asyncio\.run"),
    (partial(coroutine, 1), r"is `async def`.*asyncio\.run"),
]


@pytest.mark.parametrize(("function", "says"), DEFERRED)
@pytest.mark.parametrize("name", ["main_logic", "setup", "cleanup"])
def test_methods_that_would_not_run(name: str, function: Callable[..., Any], says: str) -> None:
    sink = Sink("sink")
    setattr(sink, name, function)
    pipe = Pipe()
    chain(pipe, Items("source", []), sink)
    with pytest.raises(RoutineError, match=rf"routine 'sink': {name}\(\) {says}"):
        pipe.build()
    with pytest.raises(RoutineError, match=says):
        pipe.check()


@pytest.mark.parametrize(("function", "says"), DEFERRED)
@pytest.mark.parametrize("make", [FunctionalMiddleRoutine, from_callable])
def test_functions_that_would_not_run(make: Callable[..., Any], function: Callable[..., Any], says: str) -> None:
    with pytest.raises(RoutineError, match=f"routine 'it': its function {says}"):
        make(function, "it")


@pytest.mark.parametrize("make", [FunctionalMiddleRoutine, from_callable])
def test_no_function(make: Callable[..., Any]) -> None:
    with pytest.raises(RoutineError, match="its function can't be called: it is 3"):
        make(3, "it")


def test_handlers_that_would_not_run() -> None:
    class Zooms(Sink):
        @events("zoom")
        async def zoom(self) -> None: ...

    class Pans(Sink):
        @events("pan")
        def pan(self) -> Any:
            yield

    for kind, says in ((Zooms, r"zoom\(\) is `async def`"), (Pans, r"pan\(\) is a generator function")):
        pipe = Pipe()
        chain(pipe, Items("source", []), kind("sink"))
        with pytest.raises(RoutineError, match=says):
            pipe.build()


def test_a_decorated_coroutine_that_does_run() -> None:
    """What counts is what is called, not what it wraps."""
    import asyncio
    import functools

    def running(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any) -> Any:
            return asyncio.run(function(*arguments))

        return run

    class Runs(DestinationRoutine):
        main_logic = running(coroutine)

    pipe = Pipe()
    chain(pipe, Items("source", []), Runs("runs"))
    pipe.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("hang_timeout", value) for value in WRONG_SECONDS),
        *(("max_errors", value) for value in (0, -1, 1.5, NAN, "5", True)),
    ],
)
def test_limits_of_a_routine(name: str, value: Any) -> None:
    sink = Sink("sink")
    setattr(sink, name, value)
    pipe = Pipe()
    chain(pipe, Items("source", []), sink)
    with pytest.raises(RoutineError, match=f"'sink': {name} must be"):
        pipe.build()


# ---- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fps", [NAN, INF, -INF, -1, -1e-300, 1e-300, SLOWEST_FPS / 2, FASTEST_FPS * 1.01, True, False, "5", None, [5]]
)
def test_rates_that_can_not_be(fps: Any) -> None:
    source = Items("source", [])
    source.set_const_fps(7)
    with pytest.raises(
        ValueError, match=r"^fps must be 0 for no limit, or a number from 1/86,400 \(one call a day\) to 1,000,000"
    ):
        source.set_const_fps(fps)
    assert source._const_fps == 7


@pytest.mark.parametrize("fps", [0, 0.0, SLOWEST_FPS, 1, 12.5, FASTEST_FPS, np.float32(25), np.int64(25)])
def test_rates_that_can(fps: Any) -> None:
    source = Items("source", [])
    source.set_const_fps(fps)
    assert source._const_fps == fps
    assert type(source._const_fps) is float


# ---- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [object, "O", [("a", "u1"), ("b", object)], np.dtype([("a", [("b", "O")])])])
@pytest.mark.parametrize("how", ["loan", "declare_output"])
def test_frames_of_objects(how: str, dtype: Any) -> None:
    with pytest.raises(TypeError, match="Python objects don't lie in shared memory"):
        getattr(Items("source", []), how)((2, 2), dtype)


@pytest.mark.parametrize("shape", [(-1, 3), (2**62, 2**62), (1 << 47, 2), -5, [3, -1], (1,) * 33])
@pytest.mark.parametrize("how", ["loan", "declare_output"])
def test_frames_that_can_not_be(how: str, shape: Any) -> None:
    with pytest.raises(ValueError, match="there can't be a frame of shape"):
        getattr(Items("source", []), how)(shape)


@pytest.mark.parametrize("shape", [(1.5, 2), ("3",), None, {"a"}])
def test_shapes_that_are_none(shape: Any) -> None:
    with pytest.raises(TypeError, match="whole numbers, such as"):
        Items("source", []).loan(shape)


@pytest.mark.parametrize("shape", [(4, 6), [4, 6], np.array([4, 6]), (np.int64(4), 6)])
@pytest.mark.parametrize("dtype", [np.uint8, "f4", np.dtype("u2"), [("a", "u1"), ("b", "f8")]])
def test_frames_that_can(shape: Any, dtype: Any) -> None:
    for _ in range(2):
        frame = Items("source", []).loan(shape, dtype)
        assert (frame.shape, frame.dtype) == ((4, 6), np.dtype(dtype))


def test_a_frame_of_one_axis_and_of_none() -> None:
    assert Items("source", []).loan(5).shape == (5,)  # type: ignore[arg-type]
    assert Items("source", []).loan(()).shape == ()


# ---- pipes and wires -------------------------------------------------------------------------------


def test_wires_of_the_wrong_things() -> None:
    source, sink = ends()
    right = r"Wire\(camera, \[detector, screen\], policy=\"block\", capacity=8\)"
    wrong: list[Callable[[], Any]] = [
        lambda: Wire(source, sink, "block"),  # type: ignore[arg-type]
        lambda: Wire(source, [sink], 8),  # type: ignore[arg-type]
        lambda: Wire("source", sink),  # type: ignore[arg-type]
        lambda: Wire(source, "sink"),  # type: ignore[arg-type]
        lambda: Wire(source, ["sink"]),  # type: ignore[list-item]
        lambda: Wire(source, 3),  # type: ignore[arg-type]
        lambda: Wire([source], sink),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(TypeError, match=right):
            call()


@pytest.mark.parametrize("age", [0, -1, NAN, INF, "1", True])
def test_ages_that_can_not_be(age: Any) -> None:
    with pytest.raises(ValueError, match="max_age must be a number of seconds"):
        Wire(*ends(), max_age=age)


@pytest.mark.parametrize(
    "settings",
    [
        *({"grace_period": value} for value in (-1, NAN, INF, "5", None, True)),
        *({"memory_budget": value} for value in (0, -1, 1.5, "1G", True)),
        {"on_failure": ["stop"]},
    ],
)
def test_pipes_of_the_wrong_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} must be"):
        Pipe(**settings)


def test_pipes_of_the_wrong_things() -> None:
    right = r'Pipe\(policy="block", capacity=8\)'
    for arguments in (("block",), (None, "camera"), (None, None, "block"), (None, logging)):
        with pytest.raises(TypeError, match=right):
            Pipe(*arguments)
    with pytest.raises(TypeError, match="put_block must be True or False, not 3"):
        QueueNetwork(2, 3)  # type: ignore[arg-type]


def test_flows_of_the_wrong_things() -> None:
    pipe = Pipe()
    source, sink = ends()
    with pytest.raises(TypeError, match=r"routines come after it: create_flow\('flow', True, first, second\)"):
        pipe.create_flow("flow", source, sink)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a flow must be called by a str, not 3"):
        pipe.create_flow(3, True, source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data_transmitter must be a DataTransmitter, not 'block'"):
        pipe.create_flow("flow", True, source, data_transmitter="block")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"link\(\) takes wires.*pipe\.link\(Wire\(camera, screen\)"):
        pipe.link([Wire(source, sink)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a routine must be called by a str, not 3"):
        Sink(3)  # type: ignore[arg-type]
    pipe.create_flow("flow", True, source, sink)  # nothing of all this was kept
    pipe.check()


@pytest.mark.parametrize(
    "settings",
    [
        *({"max_restarts": value} for value in (-1, 1.5, NAN, INF, "5", True)),
        *({"restart_window": value} for value in (0, -1, NAN, "5", True)),
        *({"replicas": value} for value in (0, 1.5, "2", True)),
        {"restart": ["never"]},
    ],
)
def test_flows_of_the_wrong_numbers(settings: dict[str, Any]) -> None:
    pipe = Pipe()
    source, sink = ends()
    with pytest.raises(ValueError, match=r"must be|unknown restart policy"):
        pipe.create_flow("flow", True, source, sink, **settings)
    pipe.create_flow("flow", True, source, sink, restart_window=math.inf)  # its routines are in no flow yet


@pytest.mark.parametrize(
    "settings",
    [
        *({"batch_size": value} for value in (0, 1.5, "8", NAN, True)),
        *({"max_wait": value} for value in (-1, NAN, INF, "1", True)),
    ],
)
def test_batches_of_the_wrong_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} must be"):
        BatchRoutine("batch", **settings)


# ---- the right call -------------------------------------------------------------------------------


def flow_of(*arguments: Any, **settings: Any) -> Any:
    return lambda source, sink: Pipe().create_flow(*(found(argument, source, sink) for argument in arguments), **settings)


def found(argument: Any, source: Any, sink: Any) -> Any:
    """SOURCE and SINK stand for the test's routines, also in lists."""
    if isinstance(argument, list):
        return [found(each, source, sink) for each in argument]
    return {"SOURCE": source, "SINK": sink}.get(argument, argument) if isinstance(argument, str) else argument


def function(data: Any) -> Any:
    return data


CONFUSED: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "a pipe's name": (lambda *_: Pipe("front door"), TypeError, r"Pipe\(logger=logging\.getLogger\('front door'\)\)"),  # type: ignore[arg-type]
    "a routine for auto_wire": (flow_of("a", "SOURCE"), TypeError, r"create_flow\('a', True, first, second\)"),
    "a list of routines": (flow_of("a", True, ["SOURCE", "SINK"]), TypeError, "given one by one: create_flow"),
    "no routine": (flow_of("a", False), PipertError, "has no routines: create_flow"),
    "a number for auto_wire": (flow_of("a", 2, "SOURCE"), TypeError, "auto_wire must be True or False, not 2"),
    "a class": (flow_of("a", True, Sink), TypeError, r"a class of them: make one of it, such as Sink\('camera'\)"),
    "a function": (flow_of("a", True, function), TypeError, r"from_callable\(function\)"),
    "a wire in a flow": (lambda a, b: Pipe().create_flow("a", True, Wire(a, b)), TypeError, r"pipe\.link\(wire\)"),  # type: ignore[arg-type]
    "twice the same": (flow_of("a", True, "SOURCE", "SOURCE"), UniqueRoutineName, "'source'.*give each its own"),
    "ordered": (flow_of("a", True, "SOURCE", ordered="yes"), TypeError, "ordered must be True or False, not 'yes'"),
    "a close restart policy": (flow_of("a", True, "SOURCE", restart="on_failure"), ValueError, "did you mean 'on-failure'"),
    "a close policy": (lambda *_: Pipe(policy="Drop-Oldest"), ValueError, r"there are: .*; did you mean 'drop_oldest'\?$"),  # type: ignore[arg-type]
    "no close policy": (lambda *_: Pipe(policy="fastest"), ValueError, "drop_newest, block$"),  # type: ignore[arg-type]
    "auto pacing": (lambda *_: Pipe(auto_pacing_mechanism="no"), TypeError, "auto_pacing_mechanism must be True or False"),  # type: ignore[arg-type]
    "a wire the wrong way": (lambda a, b: Wire(b, a), WiresValidation, r"the sender comes first: Wire\(source, sink\)"),
    "a class at a wire": (lambda a, b: Wire(a, Sink), TypeError, "which is a class: make a routine of it"),  # type: ignore[arg-type]
    "a mapping of receivers": (lambda a, b: Wire(a, {b: 8}), TypeError, "destinations must be routines"),
    "routines to link()": (lambda a, b: Pipe().link(a, b), TypeError, r"pipe\.link\(Wire\(camera, screen\)"),
    "an event's name": (lambda a, b: Pipe().notify_event(a), ValueError, "an event's name must be a str"),
    "a mark without a name": (lambda *_: events(function), TypeError, r'@events\("zoom"\) above def function\(self'),  # type: ignore[arg-type]
    "a mark of nothing": (lambda *_: events("zoom")(3), TypeError, r"@events\('zoom'\) marks a method, and can't mark 3"),  # type: ignore[type-var]
    "a name before the function": (
        lambda *_: FunctionalMiddleRoutine("half", function),  # type: ignore[arg-type]
        TypeError,
        r"FunctionalMiddleRoutine\(function, 'half'\)",
    ),
    "a routine as a function": (lambda a, _: from_callable(a), TypeError, "is a routine or a class of them already"),
    "a class as a function": (lambda *_: from_callable(Sink), TypeError, "is a routine or a class of them already"),
    "a shape in two": (lambda a, _: a.loan(640, 480), TypeError, r"a shape is one tuple, such as \(480, 640, 3\)"),
    "no dtype": (lambda a, _: a.declare_output((2, 2), "uint9"), TypeError, "such as np.uint8, not 'uint9'"),
    "no array": (lambda *_: writable({"frame": 3}), TypeError, r"writable\(\) takes an array, not \{'frame': 3\}"),  # type: ignore[arg-type]
    "an odd join": (lambda *_: Join("sequence"), ValueError, r"Join\(by=\"time\", tolerance=0.02\)"),  # type: ignore[arg-type]
    "a percentage": (lambda *_: Latency((1,)).percentile_us(101), ValueError, "percent must be a number from 0 to 100"),
    "no pipe to serve": (lambda a, _: create_app(a), TypeError, r"create_app\(pipe, …\) takes a pipe, not"),
    "no pipe to call": (lambda *_: RPCPipeWrapper(Pipe), TypeError, "takes a pipe, not <class"),  # type: ignore[arg-type]
    "a port": (lambda *_: APIWrapper("127.0.0.1", "80", Pipe()), ValueError, "port must be a whole number"),  # type: ignore[arg-type]
    "a port of pictures": (lambda *_: MjpegServer(70_000), ValueError, "port must be a whole number from 0"),
    "a size": (lambda *_: Resize("640x480"), ValueError, r"such as \(640, 480\), not '640x480'"),  # type: ignore[arg-type]
    "half a size": (lambda *_: Resize((640,)), ValueError, r"not \(640,\)"),  # type: ignore[arg-type]
    "a part": (lambda *_: Crop(0, 0, 10, 2.5), ValueError, "not 0, 0, 10, 2.5"),  # type: ignore[arg-type]
    "a colour's name": (lambda *_: CvtColor("gray"), TypeError, r"such as cv2\.COLOR_BGR2GRAY, not 'gray'"),  # type: ignore[arg-type]
    "a rate of a file": (lambda *_: VideoWriter("x.mp4", "25"), ValueError, "fps must be a number .*, not '25'; "),  # type: ignore[arg-type]
    "a rate of a source": (lambda *_: VideoSource("x.mp4", fps="25"), ValueError, "fps must be positive, .*'25'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", CONFUSED)
def test_the_right_call_is_told(what: str) -> None:
    call, error, says = CONFUSED[what]
    source, sink = ends()
    with pytest.raises(error, match=says):
        call(source, sink)
    Pipe().create_flow("other", True, source, sink)  # nothing of it was kept


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"by": "time", "tolerance": value}, "tolerance") for value in ("0.1", NAN, INF, -1, 0, True, None)),
        *(({"depth": value}, "depth must be a whole number of at least 1") for value in (0, -1, 1.5, "8", True)),
        ({"tolerance": 1}, "tolerance"),
        ({"by": 3}, "by must be"),
    ],
)
def test_joins_of_the_wrong_numbers(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Join(**settings)


@pytest.mark.parametrize("size", [0, -1, 1.5, "4k", True, None])
def test_transmitters_of_the_wrong_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match=r"data_size_threshold .* must be a whole number of at least 1"):
        SharedMemoryTransmitter(size)


@pytest.mark.parametrize("flag", [True, False, 1, 0, np.True_])
def test_flags(flag: Any) -> None:
    pipe = Pipe(auto_pacing_mechanism=flag)
    pipe.create_flow("flow", flag, *ends())
    assert len(pipe._wires) == flag


def test_names_that_are_nearly_right() -> None:
    class Zooms(Sink):
        @events("zoom_in")
        def zoom(self) -> None: ...

    pipe = Pipe()
    pipe.create_flow("flow", True, Items("camera", []), Zooms("screen"))
    for event, told in (("zoom-in", UnknownEvent), ("strat", UnknownEvent)):
        early = Pipe()
        early.create_flow("flow", True, Items("camera", []), Zooms("screen"))
        early.notify_event(event)
        with pytest.raises(told, match=r"did you mean '(zoom_in|start)'\?"):
            early.build()
    pipe.notify_event("start", specific_routine="camrea")
    with pytest.raises(UnknownTarget, match="there are: camera, screen; did you mean 'camera'"):
        pipe.build()


# ---- what would be dropped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "parameters", "says"),
    [
        (
            "link",
            {"link_routine_name": "screen", "capcity": 8},
            r"takes no capcity; it takes: capacity, .*did you mean 'capacity'",
        ),
        ("unlink", {"unlink_routine_name": "screen", "policy": "block"}, "takes no policy; it takes: unlink_routine_name"),
        ("update_fps", {"fps": 5, "since": 3}, "takes no since; it takes: fps"),
        ("stop", {"force": True}, "takes no force; it takes: how"),
        ("start", {"how": "slowly"}, "takes no how; it takes: nothing"),
    ],
)
def test_parameters_that_no_one_takes(event: str, parameters: dict[str, Any], says: str) -> None:
    class Stops(Sink):
        @events("stop")
        def stopped(self, how: str = "") -> None: ...

    def pipe_with(event: str, parameters: dict[str, Any]) -> Plan:
        pipe = Pipe()
        pipe.create_flow("flow", True, Items("camera", []), Stops("screen"))
        plan = pipe._make_plan()
        audience_of(plan).address(event, None, "screen" if event != "link" else "camera", parameters)
        return plan

    with pytest.raises(UnknownEvent, match=says):
        pipe_with(event, parameters)
    pipe_with("stop", {"how": "fast"})


def test_an_event_goes_one_way() -> None:
    pipe = Pipe()
    pipe.create_flow("flow", True, *ends())
    pipe.notify_event("stop", {"flow": ["sink"]}, specific_routine="source")
    with pytest.raises(ValueError, match="goes to specific_routine or to those of specific_flow_routines: give 'source' or"):
        pipe.build()


def test_a_join_that_is_none() -> None:
    sink = Sink("sink")
    sink.join = "time"  # type: ignore[assignment]
    pipe = Pipe()
    one, other = Items("one", []), Items("other", [])
    pipe.create_flow("flow", False, one, other, sink)
    pipe.link(Wire(one, sink), Wire(other, sink))
    with pytest.raises(RoutineError, match=r"join must be a Join, such as Join\(by=\"seq\"\), not 'time'"):
        pipe.check()


def test_a_transmitter_for_no_wire(caplog: pytest.LogCaptureFixture) -> None:
    Pipe().create_flow("flow", False, *ends(), data_transmitter=SharedMemoryTransmitter())
    assert "give it to the wires: Wire(camera, screen, data_transmitter=…)" in caplog.text


def test_what_waits_for_build_and_a_tap_with_an_odd_patience(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(policy="block")
    source, sink = ends()
    chain(pipe, source, sink)
    with pipe:
        pipe.build()
        for timeout in (-1, "1", NAN):
            with pipe.tap(source) as tap, pytest.raises(ValueError, match="timeout must be a number of seconds"):
                tap.read(timeout)  # type: ignore[arg-type]
        assert "build()" not in caplog.text
        pipe.create_flow("late", False, Sink("late"))
        pipe.link(Wire(source, Sink("later")))
        pipe.notify_event("start")
    assert "1 flows and 1 wires are not in the pipe yet: call build() once more" in caplog.text


def test_names_are_plain_text() -> None:
    class Name(str):
        __slots__ = ()

    assert type(SourceRoutine(Name("camera")).name) is str
