"""What main_logic and handlers can't be is told by the call that can first know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pipert_shm import (
    DestinationRoutine,
    FPSRoutine,
    FunctionalMiddleRoutine,
    MiddleRoutine,
    Pipe,
    Routine,
    RoutineError,
    SourceRoutine,
    events,
    from_callable,
)
from refusing import refuses
from routines import Items, Sink, chain


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


# ---- what is called ------------------------------------------------------------------------------


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
