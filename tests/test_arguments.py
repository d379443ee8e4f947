"""Wrong arguments are told by the call that gives them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    BatchRoutine,
    Join,
    Pipe,
    QueueNetwork,
    RoutineError,
    SharedMemoryTransmitter,
    SourceRoutine,
    UnknownEvent,
    Wire,
    events,
)
from pipert_shm.graph.model import Plan
from pipert_shm.graph.plan import audience_of
from pipert_shm.limits import FASTEST_FPS, SLOWEST_FPS
from routines import Items, Sink, chain

NAN, INF = float("nan"), float("inf")
WRONG_SECONDS: list[Any] = [0, -1, NAN, INF, "5", True, []]


def ends() -> tuple[Items, Sink]:
    return Items("source", []), Sink("sink")


# ---- limits --------------------------------------------------------------------------------------


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


# ---- rates ---------------------------------------------------------------------------------------


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


# ---- frames --------------------------------------------------------------------------------------


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


# ---- pipes and wires -----------------------------------------------------------------------------


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


# ---- joins, transmitters, flags ------------------------------------------------------------------


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
    assert len(pipe._blueprint.wires) == flag


# ---- what would be dropped -----------------------------------------------------------------------


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
        plan = pipe._blueprint.plan()
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
