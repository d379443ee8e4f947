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
    BatchRoutine,
    DestinationRoutine,
    FunctionalMiddleRoutine,
    Pipe,
    QueueNetwork,
    RoutineError,
    SourceRoutine,
    Wire,
    events,
    from_callable,
)
from pipert_shm.limits import FASTEST_FPS, SLOWEST_FPS
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


def test_names_are_plain_text() -> None:
    class Name(str):
        __slots__ = ()

    assert type(SourceRoutine(Name("camera")).name) is str
