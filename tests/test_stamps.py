"""meta.pts: where in its video a message stands, wherever it goes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    Join,
    Meta,
    MiddleRoutine,
    Pipe,
    Routine,
    SourceRoutine,
    Wire,
)
from pipert_shm.data import Format
from routines import Forward

COUNT = 12


def run(*routines: Routine, within: bool) -> None:
    """Runs a chain of routines to its end, within one flow or each in a flow of its own."""
    with Pipe(policy="block") as pipe:
        for number, members in enumerate([routines] if within else [(routine,) for routine in routines]):
            pipe.create_flow(f"flow-{number}", False, *members)
        pipe.link(*(Wire(a, b) for a, b in pairwise(routines)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)


class Stamped(SourceRoutine):
    """Messages every second of which says where in its video it stands."""

    def __init__(self, name: str, make: Callable[[int], Any]) -> None:
        super().__init__(name)
        self.make = make

    def main_logic(self) -> Any:
        if self.meta.sequence == COUNT:
            raise EndOfStream
        if self.meta.sequence % 2:
            self.meta.pts = self.meta.sequence / 25
        return self.make(self.meta.sequence)


EXPECTED = [(number, number / 25 if number % 2 else None) for number in range(COUNT)]


class Stamps(DestinationRoutine):
    """Writes down the number and the stamp of each message."""

    def __init__(self, path: Path) -> None:
        super().__init__("stamps")
        self.path = path

    def main_logic(self, data: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{self.meta.sequence} {self.meta.pts} {value_of(data)}\n")


def value_of(data: Any) -> int:
    return int(data["frame"].max() if isinstance(data, dict) else data.max())


def stamps(path: Path) -> list[tuple[int, float | None]]:
    lines = [line.split() for line in path.read_text().splitlines()]
    assert all(sequence == value for sequence, _, value in lines), "the payload is decoded from where it stands"
    return [(int(sequence), None if pts == "None" else float(pts)) for sequence, pts, _ in lines]


@pytest.mark.parametrize(
    "make",
    [
        lambda number: np.full((64, 64, 3), number, np.uint8),
        lambda number: np.full(3, number, np.uint8),
        lambda number: {"frame": np.full((64, 64, 3), number, np.uint8)},
    ],
    ids=["frame", "small array", "pickle"],
)
@pytest.mark.parametrize("within", [True, False], ids=["within", "across"])
def test_a_stamp_goes_with_its_message(tmp_path: Path, make: Callable[[int], Any], within: bool) -> None:
    source, middle, sink = Stamped("source", make), Forward("middle"), Stamps(tmp_path / "got")
    run(source, middle, sink, within=within)
    assert stamps(tmp_path / "got") == EXPECTED


def test_a_stamp_goes_through_ordered_replicas(tmp_path: Path) -> None:
    source = Stamped("source", lambda number: np.full((64, 64, 3), number, np.uint8))
    middle, sink = Forward("middle"), Stamps(tmp_path / "got")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("source", False, source)
        pipe.create_flow("middle", False, middle, replicas=2, ordered=True)
        pipe.create_flow("sink", False, sink)
        pipe.link(Wire(source, middle), Wire(middle, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert stamps(tmp_path / "got") == EXPECTED


class JoinedStamps(Stamps):
    """Of pairs."""

    join = Join(by="seq", depth=COUNT)

    def main_logic(self, data: dict[str, np.ndarray]) -> None:
        super().main_logic(data["one"])


def test_a_join_has_the_stamp_of_its_first(tmp_path: Path) -> None:
    one, two = (Stamped(name, lambda number: np.full((64, 64, 3), number, np.uint8)) for name in ("one", "two"))
    sink = JoinedStamps(tmp_path / "got")
    with Pipe(policy="block") as pipe:
        for routine in (one, two, sink):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(one, sink), Wire(two, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert stamps(tmp_path / "got") == EXPECTED


class Told(SourceRoutine):
    """Messages of which everything is said, or one thing each, or nothing."""

    def main_logic(self) -> np.ndarray:
        number = self.meta.sequence
        if number == len(TOLD):
            raise EndOfStream
        self.meta.pts, self.meta.wall_clock, self.meta.format = TOLD[number]
        return np.full((96, 64), number, np.uint8)


class Later(MiddleRoutine):
    """Says something else of every second message, before it has looked at what is said of it."""

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        if data[0, 0] % 2:
            self.meta.pts = 99.0
        return data


class Hear(DestinationRoutine):
    """Writes down what is said of each message."""

    def __init__(self, path: Path) -> None:
        super().__init__("hear")
        self.path = path

    def main_logic(self, data: np.ndarray) -> None:
        with self.path.open("a") as file:
            file.write(f"{(self.meta.pts, self.meta.wall_clock, self.meta.format)}\n")


TOLD: list[tuple[float | None, float | None, Format | None]] = [
    (None, None, None),
    (1.5, None, None),
    (None, 1.7e9, None),
    (None, None, "i420"),
    (2.5, 1.7e9, "nv12"),
    (0.0, 0.0, "gray"),
]


@pytest.mark.parametrize("within", [True, False], ids=["within", "across"])
def test_all_that_is_said_of_a_picture_goes_with_it_and_each_routine_may_say_more(tmp_path: Path, within: bool) -> None:
    source, middle, sink = Told("source"), Later("middle"), Hear(tmp_path / "got")
    run(source, middle, sink, within=within)
    expected = [(99.0 if number % 2 else pts, *rest) for number, (pts, *rest) in enumerate(TOLD)]
    assert (tmp_path / "got").read_text().splitlines() == [str(each) for each in expected]


def test_a_format_that_there_is_not() -> None:
    meta = Meta(("camera",), 0, 0)
    for wrong in ("yuv", 5, ["i420"]):
        with pytest.raises(ValueError, match="format must be one of bgr, rgb, gray, i420, nv12, or None, not"):
            meta.format = wrong  # type: ignore[assignment]


def test_a_stamp_that_is_no_number_is_an_error_and_its_message_counted(tmp_path: Path) -> None:
    def make(number: int) -> np.ndarray:
        source.meta.pts = "now" if number == 4 else None  # type: ignore[assignment]
        return np.full((64, 64, 3), number, np.uint8)

    source, sink = Stamped("source", make), Stamps(tmp_path / "got")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("source", False, source)
        pipe.create_flow("sink", False, sink)
        pipe.link(Wire(source, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert [number for number, _ in stamps(tmp_path / "got")] == [number for number in range(COUNT) if number != 4]
    statistics = pipe.statistics()
    assert statistics.routines["source"].errors == 1
    assert statistics.wires["source", "stamps"].dropped["error"] == 1
