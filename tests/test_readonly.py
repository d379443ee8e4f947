"""Arrays arrive read-only, for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from loop import Loop
from payloads import LAYOUTS, STRUCTURED, filled, same
from pipert_shm import BasicTransmitter


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


def assert_read_only(array: np.ndarray) -> None:
    """No way that numpy knows of makes it, or what it stands on, writable."""
    link: Any = array
    while isinstance(link, np.ndarray):
        assert not link.flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            link.flags.writeable = True
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            link.setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            link[...] = 0
        link = link.base
    assert memoryview(link).readonly
    if array.size and array.dtype.kind not in "MmV":
        view = array.data
        assert view.readonly
        assert not np.asarray(view).flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            np.asarray(view).flags.writeable = True


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("dtype", ["B", ">f8", "M8[us]", STRUCTURED], ids=str)
def test_received_arrays_are_read_only(loop: Loop, dtype: Any, size: int) -> None:
    for layout in LAYOUTS.values():
        array = layout(filled(dtype, (size, 60)))
        for arrived in (loop.trip(array), loop.trip({"k": array})["k"]):
            assert_read_only(arrived)
            assert_read_only(arrived.view())
            assert same(arrived, array)


def test_referenced_and_private_arrays_are_read_only_too() -> None:
    with Loop(borrow_cap=1) as loop:
        loan = loop.loan((90, 100))
        loan[...] = 5
        kept = loop.trip([loan, loan[10:60, ::2]])
        for array in kept:
            assert_read_only(array)
        private = loop.trip(np.full((90, 100), 6, np.uint8))  # past the cap
        assert_read_only(private)
        assert np.unique(private).tolist() == [6]
        del loan, kept, array, private


def test_a_loan_that_was_sent_is_read_only_at_its_sender(loop: Loop) -> None:
    loan = loop.loan((90, 100))
    loan[...] = 5
    loop.send({"inside": [loan]})
    assert not loan.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        loan[0, 0] = 1
    assert loop.receive()["inside"][0][0, 0] == 5


@pytest.mark.parametrize("size", [3, 9000])
@pytest.mark.parametrize("frozen", [False, True], ids=["writable", "read-only"])
def test_basic_transmitter_gives_writable_copies(size: int, frozen: bool) -> None:
    """Also of an array that its sender got from elsewhere, and can't write to."""
    array = np.asfortranarray(np.arange(2 * size).reshape(2, size))
    array.setflags(write=not frozen)
    with Loop(BasicTransmitter()) as loop:
        for arrived in (loop.trip([array])[0], loop.trip(array), loop.trip([array[:, ::2]])[0]):
            arrived[0, 0] = 77
    assert array[0, 0] == 0
