"""Loans: of any shape, sent or not, kept or thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loop import Loop
from pipert_shm import NoFreeSlot, Pipe, SharedMemoryTransmitter, Wire
from placing import SHAPE, copied, place, run
from routines import Frames, Record, chain, one_value, received


def test_a_loan_that_is_never_sent_is_given_back() -> None:
    with Loop(slots=4) as loop:
        for _ in range(20):
            first, second = loop.loan((5000,)), loop.loan((5000,))
            assert place(first) != place(second)
        assert loop.held_slots() == 2
        del first, second
        assert loop.held_slots() == 0


def test_a_source_that_often_throws_its_loan_away(tmp_path: Path) -> None:
    class Picky(Frames):
        def main_logic(self) -> Any:
            frame = super().main_logic()
            return frame if self.next % 5 == 0 else None

    pipe = Pipe(policy="block")
    chain(pipe, Picky("picky", 200, SHAPE, loan=True), Record("record", tmp_path / "r", one_value))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [n % 251 for n in range(4, 200, 5)]


def test_loans_that_are_all_kept_are_told_by_holder() -> None:
    with Loop(slots=6) as loop:
        kept = [loop.loan((5000,)) for _ in range(6)]
        with pytest.raises(NoFreeSlot, match=r"'sender'.*holds 6") as caught:
            loop.loan((5000,))
        assert (caught.value.routine, caught.value.slots, sum(caught.value.holders.values())) == ("sender", 6, 6)
        kept.pop()
        assert loop.loan((5000,)).shape == (5000,)
        kept.clear()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4097,)])
@pytest.mark.parametrize("dtype", ["u1", "f8", ">i4", "M8[s]", "?"])
def test_loans_of_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    with Loop() as loop:
        loan = loop.loan(shape, dtype)
        assert (loan.shape, loan.dtype, loan.flags.writeable) == (shape, np.dtype(dtype), True)
        loan[...] = np.ones(shape).astype(dtype)
        arrived = loop.trip(loan)
        assert np.array_equal(arrived, np.ones(shape).astype(dtype))
        del loan, arrived


@pytest.mark.parametrize("wired", ["within the flow only", "out of it too", "out of it by another transmitter"])
def test_a_loan_that_stays_in_its_flow(tmp_path: Path, wired: str) -> None:
    pipe = Pipe(policy="block")
    source = Frames("source", 20, SHAPE, loan=True)
    near = Record("near", tmp_path / "near", lambda frame: (one_value(frame), frame.flags.writeable))
    far = Record("far", tmp_path / "far", one_value)
    if wired == "within the flow only":
        pipe.create_flow("a", True, source, near)
    else:
        pipe.create_flow("a", True, source, near)
        pipe.create_flow("b", False, far)
        pipe.link(Wire(source, far, data_transmitter=None if wired == "out of it too" else SharedMemoryTransmitter()))
    run(pipe)
    assert [message.value[0] for message in received(tmp_path / "near")] == list(range(20))
    if wired != "within the flow only":
        assert not any(message.value[1] for message in received(tmp_path / "near"))
        assert [message.value for message in received(tmp_path / "far")] == list(range(20))
        assert set(copied(pipe).values()) == {0}


def test_a_loan_outside_a_pipe_is_a_plain_array() -> None:
    loan = Frames("alone", 1).loan((3, 4), "f4")
    assert (loan.shape, loan.dtype.str, place(loan)) == ((3, 4), "<f4", None)
