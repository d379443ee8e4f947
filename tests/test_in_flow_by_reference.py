"""What does not pickle is passed by reference within a flow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from loop import Flow
from pipert_shm import Data
from within import SHAPE, assert_read_only


@dataclass
class WithLock(Data):
    lock: Any
    boxes: list[int]
    frame: np.ndarray


@pytest.mark.parametrize(
    "thing",
    [threading.Lock, threading.Event, lambda: (n for n in range(3)), lambda: lambda: 1],
    ids=["lock", "event", "generator", "lambda"],
)
def test_what_does_not_pickle_is_passed_by_reference(thing: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    """Alone, in containers and in dataclasses, whose other parts are each receiver's own all the same."""
    shared, frame = thing(), np.full(SHAPE, 7, np.uint8)
    with caplog.at_level(logging.WARNING), Flow(near=2) as flow:
        assert all(got is shared for got in flow.trip(shared))
        in_dict = flow.trip({"thing": shared, "boxes": [1], "frame": frame})
        in_dataclass = flow.trip(WithLock(shared, [1], frame))
        frame[...] = 9
        for first, second, *parts in (
            (in_dict[0]["boxes"], in_dict[1]["boxes"], *(got["thing"] for got in in_dict), *(got["frame"] for got in in_dict)),
            (
                in_dataclass[0].boxes,
                in_dataclass[1].boxes,
                *(got.lock for got in in_dataclass),
                *(got.frame for got in in_dataclass),
            ),
        ):
            assert first is not second
            assert parts[0] is parts[1] is shared
            for got in parts[2:]:
                assert (got == 7).all()
                assert_read_only(got)
        del in_dict, in_dataclass, parts, got
    assert len(caplog.records) == 1
    assert "does not pickle" in caplog.text
    assert "'sender'" in caplog.text


def test_loans_in_what_is_passed_by_reference_turn_read_only() -> None:
    class Holder:
        def __init__(self, frame: np.ndarray) -> None:
            self.frame, self.lock = frame, threading.Lock()

    with Flow() as flow:
        frame = flow.loan(SHAPE)
        holder = Holder(frame)
        (got,) = flow.trip(holder)
        assert got is holder
        assert not frame.flags.writeable
        del frame, holder, got


def test_an_object_that_fails_to_load_costs_its_message(caplog: pytest.LogCaptureFixture) -> None:
    with Flow(near=1) as flow:
        flow.send(Unloadable())
        with pytest.raises(ValueError, match="not today"):
            flow.receive()
        assert flow.trip(5) == [5]


class Unloadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not today")


def test_tensors_on_devices_are_passed_by_reference() -> None:
    torch = pytest.importorskip("torch")
    there, here = torch.empty(3, device="meta"), torch.ones(3)
    with Flow(near=2) as flow:
        first, second = flow.trip({"there": there, "here": here})
        assert first["there"] is second["there"] is there
        first["here"][0] = 5
        assert second["here"][0] == here[0] == 1
