"""An error about an argument shows the right call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipert_shm import (
    APIWrapper,
    Crop,
    CvtColor,
    FunctionalMiddleRoutine,
    Join,
    Latency,
    MjpegServer,
    Pipe,
    PipertError,
    Resize,
    RPCPipeWrapper,
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
from routines import Items, Sink


def ends() -> tuple[Items, Sink]:
    return Items("source", []), Sink("sink")


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
