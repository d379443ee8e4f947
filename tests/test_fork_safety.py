"""Attributes of routines that do not survive a fork are told by build()."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from pipert_shm import RoutineError, SourceRoutine, Wire
from refusing import pipe_of, refuses
from routines import Sink


class Holder(SourceRoutine):
    def __init__(self, thing: object) -> None:
        super().__init__("holder")
        self.thing = thing

    def main_logic(self) -> None:
        return None


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    return path


@pytest.fixture
def torch() -> Iterator[ModuleType]:
    """Something that looks like PyTorch: a tensor of the real one needs a GPU to be on."""
    module = ModuleType("torch")
    exec("class Tensor:\n    def __init__(self, is_cuda):\n        self.is_cuda = is_cuda", module.__dict__)
    sys.modules["torch"] = module
    yield module
    del sys.modules["torch"]


WRAPPINGS: list[Callable[[object], object]] = [
    lambda thing: thing,
    lambda thing: [thing],
    lambda thing: {"key": thing},
    lambda thing: (1, thing),
]


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["itself", "list", "dict", "tuple"])
def test_open_capture(clip: Path, wrap: Callable[[object], object]) -> None:
    capture = cv2.VideoCapture(str(clip))
    assert capture.isOpened()
    routine, sink = Holder(wrap(capture)), Sink("sink")
    pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
    refuses(pipe, RoutineError, "'holder'", "'thing'", "cv2.VideoCapture", "setup()")
    capture.release()
    pipe.build()  # one that is closed does no harm
    pipe.join(to_kill=True)


def test_open_video_writer(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "out.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    routine, sink = Holder(writer), Sink("sink")
    refuses(pipe_of((routine, sink), wires=(Wire(routine, sink),)), RoutineError, "'holder'", "'thing'", "cv2.VideoWriter")
    writer.release()


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["itself", "list", "dict", "tuple"])
def test_thread_and_socket(wrap: Callable[[object], object]) -> None:
    with socket.socket() as open_socket:
        things = ((threading.Thread(), "a thread"), (threading.Timer(1, print), "a thread"), (open_socket, "a socket"))
        for thing, word in things:
            routine, sink = Holder(wrap(thing)), Sink("sink")
            pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
            refuses(pipe, RoutineError, "'holder'", "'thing'", word, "setup()")


def test_cuda_tensor(torch: ModuleType) -> None:
    routine, sink = Holder([torch.Tensor(True)]), Sink("sink")
    pipe = pipe_of((routine, sink), wires=(Wire(routine, sink),))
    refuses(pipe, RoutineError, "'holder'", "'thing'", "a CUDA tensor", "setup()")
    routine.thing = torch.Tensor(False)
    pipe.build()
    pipe.join(to_kill=True)
