"""max_age: what is too old when it comes is dropped, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, Routine, SourceRoutine, Wire, binding
from routines import Forward, Record, received

COUNT = 40
OLD = 3  # every third message is from long ago
AGE = 60  # s; less than the machine is up, since the clock is 0 when it starts


class Late(SourceRoutine):
    """Frames of which some were captured long ago."""

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence == COUNT:
            raise EndOfStream
        if self.meta.sequence % OLD == 0:
            self.meta.captured_ns = binding.now_ns() - AGE * 10**9
        return np.full((64, 64, 3), self.meta.sequence, np.uint8)


@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
def test_what_is_too_old_is_dropped_and_counted(tmp_path: Path, across: bool) -> None:
    """By the capture at the origin, wherever on its way it is."""
    source, middle = Late("source"), Forward("middle")
    fresh = Record("fresh", tmp_path / "fresh", lambda frame: int(frame[0, 0, 0]))
    every = Record("every", tmp_path / "every", lambda frame: int(frame[0, 0, 0]))
    pipe = Pipe(policy="block")
    if across:
        for routine in (source, middle, fresh, every):
            pipe.create_flow(routine.name, False, routine)
    else:
        pipe.create_flow("flow", False, source, middle, fresh, every)
    pipe.link(Wire(source, middle), Wire(middle, fresh, max_age=AGE / 2), Wire(middle, every, max_age=AGE * 2))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "fresh")] == [n for n in range(COUNT) if n % OLD]
    assert [message.value for message in received(tmp_path / "every")] == list(range(COUNT))
    statistics = pipe.statistics()
    wire = statistics.wires["middle", "fresh"]
    old = len(range(0, COUNT, OLD))
    assert (wire.sent, wire.received, wire.lost, wire.dropped["expired"]) == (COUNT, COUNT - old, old, old)
    assert statistics.routines["fresh"].received == COUNT - old
    assert statistics.wires["middle", "every"].lost == 0


@pytest.mark.parametrize("age", [0, -1.0])
def test_an_age_that_nothing_could_have(age: float) -> None:
    with pytest.raises(ValueError, match="max_age must be a number of seconds, more than 0"):
        Wire(Late("source"), Forward("middle"), max_age=age)


class Misdated(SourceRoutine):
    """Every third message has a capture time, or a number, that no message can have."""

    def __init__(self, name: str, field: str, *, bare: bool) -> None:
        super().__init__(name)
        self.field, self.bare = field, bare

    def main_logic(self) -> Any:
        number = self.meta.sequence
        if number == COUNT:
            raise EndOfStream
        if number % OLD == 0:
            setattr(self.meta, self.field, -5)
        frame = self.loan((64, 64, 3))
        frame[:] = number
        return frame if self.bare else {"frame": frame}


@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
@pytest.mark.parametrize("bare", [True, False], ids=["frame", "dict"])
@pytest.mark.parametrize("field", ["captured_ns", "sequence"])
def test_a_message_with_an_impossible_meta_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str, bare: bool, across: bool
) -> None:
    source = Misdated("source", field, bare=bare)
    record = Record("record", tmp_path / "record", lambda got: int((got if bare else got["frame"])[0, 0, 0]))
    pipe = Pipe(policy="block")
    flows: list[list[Routine]] = [[source], [record]] if across else [[source, record]]
    for flow in flows:
        pipe.create_flow(flow[0].name, False, *flow)
    pipe.link(Wire(source, record))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert [message.value for message in received(tmp_path / "record")] == [n for n in range(COUNT) if n % OLD]
    wire = pipe.statistics().wires["source", "record"]
    wrong = len(range(0, COUNT, OLD))
    assert (wire.sent, wire.received, wire.dropped["error"]) == (COUNT, COUNT - wrong, wrong)
    assert f"ValueError: meta.{field} must be from 0 to 2**64 - 1, not -5" in caplog.text
