"""Routines made of functions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import START_EVENT_NAME, EndOfStream, FunctionalMiddleRoutine, Meta, Pipe, RoutineError, Wire, from_callable
from routines import Items, Record, chain, received


class Counter:
    """A callable object with a state of its own."""

    def __init__(self) -> None:
        self.numbers = count()

    def __call__(self) -> int:
        number = next(self.numbers)
        if number == 3:
            raise EndOfStream
        return number


def run(*routines: Any) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, *routines)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()


def test_a_function_in_the_middle(tmp_path: Path) -> None:
    odd = FunctionalMiddleRoutine(lambda number: number * 10 if number % 2 else None, "odd")
    run(Items("source", range(6)), odd, Record("record", tmp_path / "got"))
    assert [(message.sequence, message.value) for message in received(tmp_path / "got")] == [(1, 10), (3, 30), (5, 50)]


def test_any_callable_takes_the_role_that_its_wires_give_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"

    def note(number: int) -> None:
        with path.open("a") as file:
            file.write(f"{number} ")

    run(from_callable(Counter()), from_callable(int.bit_length, "bits"), from_callable(note))
    assert path.read_text() == "0 1 2 "


def test_names() -> None:
    def blur(frame: Any) -> Any:
        return frame

    assert from_callable(blur).name == "blur"
    assert from_callable(blur, "soften").name == "soften"
    assert from_callable(lambda: 1).name != from_callable(lambda: 1).name
    assert from_callable(Counter()).name.startswith("FPSRoutine-")
    assert FunctionalMiddleRoutine(blur).name.startswith("FunctionalMiddleRoutine-")


def test_a_callable_that_does_not_fit_its_place_is_refused_at_build() -> None:
    pipe = Pipe()
    chain(pipe, Items("source", []), from_callable(lambda: 1, "middle"), from_callable(print, "sink"))
    with pytest.raises(RoutineError, match="main_logic"):
        pipe.build()


# ---- functions that look at the meta ---------------------------------------------------------------


def told(data: Any, meta: Meta) -> Any:
    return data, meta.origin, meta.sequence, meta.format


class Planar(Items):
    """Says a format of what it sends."""

    def main_logic(self) -> Any:
        self.meta.format = "i420"
        return super().main_logic()


@pytest.mark.parametrize("make", [from_callable, FunctionalMiddleRoutine])
def test_a_function_with_a_parameter_meta_gets_that_of_the_message(tmp_path: Path, make: Callable[..., Any]) -> None:
    run(Planar("source", "ab"), make(told, "middle"), Record("record", tmp_path / "got"))
    expected = [("a", "source", 0, "i420"), ("b", "source", 1, "i420")]
    assert [message.value for message in received(tmp_path / "got")] == expected


def test_each_replica_of_such_a_function_has_the_meta_of_its_own_messages(tmp_path: Path) -> None:
    source, middle, record = Planar("source", range(40)), from_callable(told, "middle"), Record("record", tmp_path / "got")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("source", False, source)
        pipe.create_flow("middle", False, middle, replicas=2, ordered=True)
        pipe.create_flow("record", False, record)
        pipe.link(Wire(source, middle), Wire(middle, record))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    got = [message.value for message in received(tmp_path / "got")]
    assert got == [(number, "source", number, "i420") for number in range(40)]


def test_a_source_may_say_the_format_and_a_destination_see_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"

    def frames(*, meta: Meta) -> int:
        if meta.sequence == 2:
            raise EndOfStream
        meta.format = "nv12"
        return meta.sequence

    def note(number: int, meta: Meta) -> None:
        with path.open("a") as file:
            file.write(f"{number} {meta.format} ")

    run(from_callable(frames), from_callable(note))
    assert path.read_text() == "0 nv12 1 nv12 "


def test_such_a_function_that_does_not_fit_its_place_is_refused_at_build() -> None:
    pipe = Pipe()
    chain(pipe, Items("source", []), from_callable(lambda *, meta: 1, "middle"), from_callable(print, "sink"))
    with pytest.raises(RoutineError, match="main_logic"):
        pipe.build()
    assert from_callable(lambda meta: meta, "payload").main_logic("its only parameter is the payload") is not None
