"""max_age: what is too old when it comes is dropped, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, SourceRoutine, Wire, binding
from routines import Forward, Record, received

COUNT = 40
OLD = 3  # every third message is from long ago


class Late(SourceRoutine):
    """Frames of which some were captured long ago."""

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence == COUNT:
            raise EndOfStream
        if self.meta.sequence % OLD == 0:
            self.meta.captured_ns = binding.now_ns() - 1000 * 10**9
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
    pipe.link(Wire(source, middle), Wire(middle, fresh, max_age=500), Wire(middle, every, max_age=2000))
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
