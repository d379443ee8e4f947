"""Payloads that hold arrays and go from routine to routine within a flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pipert_shm import BasicTransmitter, Data, FrameData, SharedMemoryTransmitter

SHAPE = (60, 80, 3)
NBYTES = 60 * 80 * 3


@dataclass
class Reading(Data):
    frame: Any
    boxes: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    frame: Any
    boxes: list[Any]


class Plain:
    def __init__(self, frame: Any, boxes: list[Any]) -> None:
        self.frame = frame
        self.boxes = boxes


class Framed(FrameData):
    def __init__(self, frame: Any, boxes: list[Any]) -> None:
        super().__init__()
        self.frame = frame
        self.boxes = boxes

    def get_frame(self) -> np.ndarray:
        frame: np.ndarray = self.frame
        return frame


by_transmitters = pytest.mark.parametrize(
    "transmitter", [SharedMemoryTransmitter(), BasicTransmitter()], ids=["shared", "basic"]
)


def assert_read_only(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
