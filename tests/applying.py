"""A pipeline's file that is changed while its pipe runs, and the classes that it names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from pipert_shm import (
    START_EVENT_NAME,
    DataTransmitter,
    DestinationRoutine,
    Join,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipelineFile,
    SourceRoutine,
    parameter,
)
from pipert_shm.applying.apply import apply_pipeline
from waiting import eventually

HERE = __name__


class Numbers(SourceRoutine):
    """Frames with their number in them. It counts its runs in a file, a line each."""

    def __init__(self, name: str, *, runs: str | None = None, fps: float = 0) -> None:
        super().__init__(name)
        self.runs = runs
        self.set_const_fps(fps)

    def setup(self) -> None:
        _note(self.runs, "setup")

    def main_logic(self) -> np.ndarray:
        frame = self.loan((16,), np.int64)
        frame[:] = self.meta.sequence
        return frame

    def cleanup(self) -> None:
        _note(self.runs, "cleanup")


class Step(MiddleRoutine):
    """Forwards what it gets, and writes what it is set to into a file."""

    def __init__(self, name: str, *, runs: str | None = None, level: int = 0, gain: float = 1, size: int = 1) -> None:
        super().__init__(name)
        if level < 0:
            raise ValueError(f"level must be at least 0, not {level}")
        self.runs, self.level, self.gain, self.size = runs, level, gain, size

    @parameter("level")
    def set_level(self, level: int) -> None:
        if level == 13:
            raise RuntimeError("13 can't be set")
        self.level = level
        _note(self.runs, f"level {level}")

    def setup(self) -> None:
        if self.size == 13:
            raise RuntimeError("there is no such size")
        if self.size == 14:
            os._exit(14)
        _note(self.runs, f"setup {self.level} {self.size}")

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        return data

    def cleanup(self) -> None:
        _note(self.runs, "cleanup")


class Writer(DestinationRoutine):
    """Writes the numbers that it gets into a file, eight bytes each."""

    def __init__(self, name: str, *, path: str, runs: str | None = None) -> None:
        super().__init__(name)
        self.path = path
        self.runs = runs

    def setup(self) -> None:
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        _note(self.runs, "setup")

    def main_logic(self, data: np.ndarray) -> None:
        self.file.write(int(data[0]).to_bytes(8, "little"))

    def cleanup(self) -> None:
        self.file.close()
        _note(self.runs, "cleanup")


class InOrder(DestinationRoutine):
    """Writes into a file whether the numbers of each camera came in their order."""

    def __init__(self, name: str, *, path: str) -> None:
        super().__init__(name)
        self.path = path
        self.last: dict[str, int] = {}

    def setup(self) -> None:
        Path(self.path).write_text("in order")

    def main_logic(self, data: np.ndarray) -> None:
        number, last = int(data[0]), self.last.get(self.meta.origin, -1)
        if number <= last:
            Path(self.path).write_text(f"{number} came after {last}")
        self.last[self.meta.origin] = number


class Sink(DestinationRoutine):
    """Takes everything."""

    def __init__(self, name: str, *, size: int = 0) -> None:
        super().__init__(name)
        self.size = size

    def setup(self) -> None:
        if self.size == 13:
            raise RuntimeError("there is no such size")

    def main_logic(self, data: Any) -> None: ...


class Pairs(DestinationRoutine):
    """Takes pairs of numbers."""

    join = Join(by="time", tolerance=0.02)  # those that are built anew count anew

    def main_logic(self, data: Any) -> None: ...


def _note(path: str | None, text: str) -> None:
    if path is not None:
        with open(path, "a") as file:
            file.write(f"{text}\n")


def notes(path: Path) -> list[str]:
    """The lines that a routine wrote."""
    return path.read_text().splitlines() if path.exists() else []


def numbers_in(path: Path) -> np.ndarray:
    """The numbers that a `Writer` wrote."""
    return np.fromfile(path, np.int64)


class Yard:
    """A pipeline's file, and the pipe that was made of it.

    Attributes:
        data: what the file says: change it, and call `apply`.
    """

    def __init__(self, directory: Path, data: dict[str, Any]) -> None:
        self.directory = directory
        self.path = directory / "yard.yaml"
        self.data = data
        self.save()
        self.pipe: Pipe = PipelineFile(self.path).make_pipe()

    def save(self) -> None:
        YAML(typ="safe", pure=True).dump(self.data, self.path)

    def apply(self, **options: Any) -> Any:
        self.save()
        return apply_pipeline(self.pipe, self.path, **options)

    def pid(self, flow: str) -> int:
        return self.pipe.statistics().flows[flow].pid

    def pids(self) -> dict[str, int]:
        return {name: flow.pid for name, flow in self.pipe.statistics().flows.items()}

    def states(self) -> dict[str, str]:
        return {name: routine.state for name, routine in self.pipe.statistics().routines.items()}

    def moves(self, sender: str, receiver: str, messages: int = 5) -> None:
        """Until a wire has carried so many messages from now on."""
        before = self.pipe.statistics().wires[sender, receiver].received
        try:
            eventually(
                lambda: self.pipe.statistics().wires[sender, receiver].received >= before + messages,
                f"motion from {sender} to {receiver}",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.pipe.statistics()}") from None


def routine(cls: type, **parameters: Any) -> dict[str, Any]:
    """A routine's section."""
    return {"class": f"{HERE}.{cls.__name__}", "parameters": parameters}


def wire(source: str, *destinations: str, **options: Any) -> dict[str, Any]:
    return {"source": source, "destinations": list(destinations), **options}


@contextmanager
def yard(directory: Path, data: dict[str, Any], *, start: bool = True) -> Iterator[Yard]:
    """A pipe that runs from a file, and is killed in the end."""
    sys.path.insert(0, str(Path(__file__).parent))
    it = Yard(directory, data)
    it.pipe.build()
    try:
        if start:
            it.pipe.notify_event(START_EVENT_NAME)
        yield it
    finally:
        with suppress(PipeFailed):
            it.pipe.join(to_kill=True)
        while str(directory) in sys.path:
            sys.path.remove(str(directory))
        sys.path.remove(str(Path(__file__).parent))


def branches(directory: Path) -> dict[str, Any]:
    """Numbers that go to a writer without loss, and by a step to a sink."""
    return {
        "routines": {
            "numbers": {**routine(Numbers, runs=str(directory / "numbers")), "fps": 500.0},
            "writer": routine(Writer, path=str(directory / "written"), runs=str(directory / "writer")),
            "step": routine(Step, runs=str(directory / "step"), level=1),
            "sink": routine(Sink),
        },
        "flows": {name: {"routines": [name]} for name in ("numbers", "writer", "step", "sink")},
        "wires": [wire("numbers", "writer", policy="block"), wire("numbers", "step"), wire("step", "sink", policy="block")],
        "pipe": {"grace_period": 2.0},
    }


class Added(DataTransmitter):
    """Adds something to what is sent."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def transmit(self) -> Callable[[Any], Any]:
        return lambda data: data + self.number

    def receive(self) -> Callable[[Any], Any]:
        return lambda data: data


def added(number: int) -> dict[str, Any]:
    """The section of such a transmitter."""
    return {"class": f"{HERE}.Added", "parameters": {"number": number}}
