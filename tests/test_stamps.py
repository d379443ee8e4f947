"""meta.pts: where in its video a message stands, wherever it goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Join, Pipe, SourceRoutine, Wire
from routines import Forward

COUNT = 12


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
    with Pipe(policy="block") as pipe:
        if within:
            pipe.create_flow("flow", False, source, middle, sink)
        else:
            for routine in (source, middle, sink):
                pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(source, middle), Wire(middle, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
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
