"""Routines made of functions."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import START_EVENT_NAME, EndOfStream, FunctionalMiddleRoutine, Pipe, RoutineError, from_callable
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
