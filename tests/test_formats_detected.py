"""What detectors find in frames of each format: in a pipe what a plain loop with OpenCV finds, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from media import bikes, carphone, centerface, vtest
from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, Wire
from pipert_shm.data import Format
from pipert_shm.testing import RoutineHarness
from pipert_shm.video import (
    Annotator,
    CenterFaceHead,
    DetectedFrame,
    Detections,
    Detector,
    DnnDetector,
    HaarDetector,
    HogPeopleDetector,
    MotionDetector,
    Tracker,
    VideoSource,
    YoloHead,
    to_bgr,
)
from pipert_shm.video.classic import CASCADES
from pipert_shm.video.formats import format_of
from routines import Record, chain, received
from test_detection import as_lists, needs_haar, needs_hog
from test_dnn import network
from test_formats import FORMATS, made, seen

Boxes = list[list[float]]


class Beginning(VideoSource):
    """The first frames of a clip, in a format."""

    def __init__(self, source: Path, count: int, format: Format, name: str = "camera") -> None:
        super().__init__(source, name, format=format)
        self.left = count

    def main_logic(self) -> Any:
        if not self.left:
            raise EndOfStream
        self.left -= 1
        return super().main_logic()


def in_a_pipe(path: Path, clip: Path, count: int, format: Format, detector: Detector | DnnDetector) -> list[Any]:
    """What is found, each routine in a process of its own; nothing is copied."""
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(clip, count, format), detector, Record("record", path, lambda data: as_lists(data.detections)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    routines = pipe.statistics().routines
    assert sum(routine.errors for routine in routines.values()) == 0
    assert sum(routine.copied_bytes for routine in routines.values()) == 0
    got = [message.value for message in received(path)]
    assert len(got) == count
    return got


def frames(clip: Path, count: int, format: Format) -> Iterator[np.ndarray]:
    """The same frames, in no pipe."""
    source = Beginning(clip, count, format)
    source.setup()
    with suppress(EndOfStream):
        while True:
            yield source.main_logic()
    source.cleanup()


def brightness(frame: np.ndarray, format: Format) -> np.ndarray:
    if format in ("i420", "nv12"):
        return frame[: len(frame) * 2 // 3]
    codes = {"bgr": cv2.COLOR_BGR2GRAY, "rgb": cv2.COLOR_RGB2GRAY}
    return frame if format == "gray" else cv2.cvtColor(frame, codes[format])


def corners(rectangles: Any) -> Boxes:
    return [[float(x), float(y), float(x + width), float(y + height)] for x, y, width, height in rectangles]


# ---- motion --------------------------------------------------------------------------------------


def motion(clip: Path, count: int, format: Format, size: tuple[int, int] | None) -> list[Boxes]:
    """A plain loop."""
    model, found = cv2.createBackgroundSubtractorMOG2(100, 25, detectShadows=True), []
    for frame in frames(clip, count, format):
        picture = brightness(frame, format) if format in ("i420", "nv12") else frame
        height, width = picture.shape[:2]
        across, down, speck, gap = 1.0, 1.0, (3, 3), (13, 13)
        if size is not None:
            picture = brightness(cv2.resize(picture, size), "gray" if picture.ndim == 2 else format)
            across, down, speck, gap = width / size[0], height / size[1], (1, 1), (7, 7)  # of half the size
        mask = cv2.threshold(model.apply(picture), 127, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones(speck, np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones(gap, np.uint8))
        outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        boxes = corners(cv2.boundingRect(each) for each in outlines if cv2.contourArea(each) * across * down >= 300)
        found.append((np.array(boxes, np.float32).reshape(-1, 4) * np.array([across, down] * 2, np.float32)).tolist())
    return found


@pytest.mark.parametrize("is_small", [False, True], ids=["whole", "small"])
@pytest.mark.parametrize("format", ["bgr", "gray", "nv12"])
@pytest.mark.parametrize(("clip", "count", "half", "least"), [(bikes, 25, (320, 136), 10), (vtest, 15, (384, 288), 10)])
def test_motion_in_a_pipe_is_that_of_a_plain_loop(
    tmp_path: Path, clip: Callable[[], Path], count: int, half: tuple[int, int], least: int, format: Format, is_small: bool
) -> None:
    size = half if is_small else None
    got = [boxes for boxes, *_ in in_a_pipe(tmp_path / "got", clip(), count, format, MotionDetector(size=size))]
    assert got == motion(clip(), count, format, size)
    assert sum(map(len, got)) >= least, "there is something to see"


def square(is_there: bool, format: Format, *, deep: bool = False) -> np.ndarray:
    bgr = np.zeros((240, 320, 3), np.uint8)
    bgr[80:120, 160:220] = 200 * is_there
    frame = made(format, bgr)
    return frame.astype(np.uint16) * 257 if deep else frame


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("size", [None, (80, 60)])
@pytest.mark.parametrize("format", FORMATS)
def test_what_moves_is_found_in_pixels_of_the_frame(format: Format, size: tuple[int, int] | None, deep: bool) -> None:
    if deep and format in ("i420", "nv12"):
        return
    with RoutineHarness(MotionDetector(size=size, min_area=2000)) as harness:
        for _ in range(5):
            harness.send(square(False, format, deep=deep), format=format)
        (box,) = harness.send(square(True, format, deep=deep), format=format).detections.boxes.tolist()
        assert np.abs(np.array(box) - [160, 80, 220, 120]).max() <= 4
    with RoutineHarness(MotionDetector(size=size, min_area=2500)) as harness:
        for is_there in (False, False, False, True):
            found = harness.send(square(is_there, format, deep=deep), format=format)
        assert not len(found.detections), "it has 2,400 pixels of the frame, however small the picture is"


@pytest.mark.parametrize("size", [None, (80, 60)])
def test_noise_in_the_lower_8_of_16_bits_is_no_motion(size: tuple[int, int] | None) -> None:
    random = np.random.default_rng(2)
    with RoutineHarness(MotionDetector(size=size, min_area=10)) as harness:
        for _ in range(12):
            frame = 30_000 + 200 * random.integers(0, 2, (24, 32), np.uint16)
            assert not len(harness.send(cv2.resize(frame, (320, 240))).detections)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size is a width and a height .* such as \(320, 180\), not \(320, 0\)"):
        MotionDetector(size=(320, 0))


# ---- faces and people ----------------------------------------------------------------------------


@needs_haar
@pytest.mark.parametrize("format", FORMATS)
def test_faces_in_a_pipe_are_those_of_a_plain_loop(tmp_path: Path, format: Format) -> None:
    cascade = cv2.CascadeClassifier(str(Path(CASCADES) / "haarcascade_frontalface_default.xml"))
    expected = []
    for frame in frames(carphone(), 12, format):
        grey = cv2.equalizeHist(brightness(frame, format))
        expected.append(sorted(corners(cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(24, 24)))))
    got = [boxes for boxes, *_ in in_a_pipe(tmp_path / "got", carphone(), 12, format, HaarDetector())]
    assert got == expected
    assert sum(map(len, got)) >= 10


@needs_hog
@pytest.mark.parametrize("format", ["bgr", "i420"])
def test_people_in_a_pipe_are_those_of_a_plain_loop(tmp_path: Path, format: Format) -> None:
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
    expected = []
    for frame in frames(vtest(), 3, format):
        picture = brightness(frame, format) if format in ("i420", "nv12") else frame
        expected.append(sorted(corners(hog.detectMultiScale(picture, hitThreshold=0.0, winStride=(8, 8), scale=1.05)[0])))
    got = [boxes for boxes, *_ in in_a_pipe(tmp_path / "got", vtest(), 3, format, HogPeopleDetector())]
    assert got == expected
    assert sum(map(len, got)) >= 3


@needs_haar
@needs_hog
@pytest.mark.parametrize("make", [HaarDetector, HogPeopleDetector])
def test_of_16_bits_the_upper_8_are_looked_at(make: Callable[[], Detector]) -> None:
    (frame,) = frames(carphone(), 1, "bgr")
    frame = cv2.resize(frame, None, fx=2, fy=2)
    with RoutineHarness(make()) as harness:
        deep, plain = harness.send(frame.astype(np.uint16) * 256), harness.send(frame)
    assert as_lists(deep.detections) == as_lists(plain.detections)
    assert deep.frame.dtype == np.uint16


# ---- networks ------------------------------------------------------------------------------------


def as_the_network_gets_it(frame: np.ndarray, format: Format, size: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """The network's input by a plain loop: planes are scaled, then converted; and by how much it was scaled."""
    if format not in ("i420", "nv12"):
        height, width = frame.shape[:2]
        ratio = min(size[0] / width, size[1] / height)
        fitted = round(width * ratio), round(height * ratio)
        small = seen(cv2.resize(frame, fitted), format)
        across, down = fitted[0] / width, fitted[1] / height
    else:
        height, width = len(frame) * 2 // 3, frame.shape[1]
        ratio = min(size[0] / width, size[1] / height)
        across, down = round(width * ratio) // 2 * 2, round(height * ratio) // 2 * 2
        colours = frame[height:].reshape(2, height // 2, -1) if format == "i420" else frame[height:].reshape(height // 2, -1, 2)
        if format == "nv12":
            colours = np.moveaxis(colours, 2, 0)
        planes = [cv2.resize(frame[:height], (across, down))]
        planes += [cv2.resize(np.ascontiguousarray(each), (across // 2, down // 2)) for each in colours]
        small = seen(np.concatenate([plane.ravel() for plane in planes]).reshape(-1, across), "i420")
        across, down = across / width, down / height
    whole = np.full((size[1], size[0], 3), 114, np.uint8)
    whole[: small.shape[0], : small.shape[1]] = small
    return whole, across, down


@pytest.mark.parametrize("format", ["rgb", "i420"])
def test_a_network_in_a_pipe_finds_what_a_plain_loop_finds(tmp_path: Path, format: Format) -> None:
    size = (192, 160)  # of 176x144: planes are scaled to 192x156, and others to 192x157
    loaded, head, expected = cv2.dnn.readNetFromONNX(str(centerface())), CenterFaceHead(), []
    for frame in frames(carphone(), 10, format):
        whole, across, down = as_the_network_gets_it(frame, format, size)
        loaded.setInput(cv2.dnn.blobFromImages([whole], 1.0, swapRB=True))
        (found,) = head(loaded.forward(loaded.getUnconnectedOutLayersNames()))
        found.boxes = np.clip(found.boxes / np.array([across, down] * 2, np.float32), 0, np.array([176, 144] * 2, np.float32))
        expected.append(as_lists(found))
    got = in_a_pipe(tmp_path / "got", carphone(), 10, format, DnnDetector(centerface(), CenterFaceHead(), size=size))
    for (boxes, *others), (wanted, *rest) in zip(got, expected, strict=True):
        assert np.allclose(boxes, wanted, atol=1e-3)
        assert np.allclose(others[0], rest[0], atol=1e-6)
        assert others[1:] == rest[1:]
    assert sum(len(boxes) for boxes, *_ in got) >= 8


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_finds_the_same_whatever_the_format(format: Format) -> None:
    """But for what colours at half the size take away."""
    detector, found = DnnDetector(centerface(), CenterFaceHead(), "detector", size=(192, 160)), []
    for each in ("bgr", format):
        with RoutineHarness(detector) as harness:
            found.append(harness.run(frames(carphone(), 5, each), format=each))
    for plain, other in zip(*found, strict=True):
        assert len(plain.detections) == len(other.detections)
        assert np.abs(plain.detections.boxes - other.detections.boxes).max(initial=0) < 3


def test_one_batch_may_have_frames_of_all_formats(tmp_path: Path) -> None:
    """A red one of each, and a grey one, of cameras of one detector."""
    red = np.full((64, 64, 3), (0, 0, 255), np.uint8)
    model, head = network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"])
    detector = DnnDetector(model, head, "detector", size=(64, 64), batch_size=5, max_wait=20)
    cameras = [Still(made(format, red), format) for format in FORMATS]
    record = Record("record", tmp_path / "got", lambda data: data.detections.labels)
    with Pipe(policy="block") as pipe:
        pipe.create_flow("cameras", False, *cameras)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("record", False, record)
        pipe.link(*(Wire(camera, detector) for camera in cameras), Wire(detector, record))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert sum(routine.errors for routine in pipe.statistics().routines.values()) == 0
    labels = {message.origin: message.value for message in received(tmp_path / "got")}
    assert labels == {"bgr": ["red"], "rgb": ["red"], "i420": ["red"], "nv12": ["red"], "gray": ["red", "blue"]}


class Still(VideoSource):
    """Sends one frame."""

    def __init__(self, frame: np.ndarray, format: Format) -> None:
        super().__init__(bikes(), format)
        self.frame: np.ndarray | None = frame
        self.format = format

    def main_logic(self) -> Any:
        if self.frame is None:
            raise EndOfStream
        frame, self.frame = self.frame, None
        self.meta.describe(self.format, len(frame))
        return frame


def test_what_is_no_frame_is_refused_by_a_network(tmp_path: Path) -> None:
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=(64, 64))
    with RoutineHarness(detector) as harness, pytest.raises(ValueError, match=r"shape \(64, 64, 4\) is no frame: that is"):
        harness.send(np.zeros((64, 64, 4), np.uint8))


def test_16_bits_are_taken_by_a_network(tmp_path: Path) -> None:
    red = np.full((64, 64, 3), (0, 0, 65535), np.uint16)
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=(64, 64))
    with RoutineHarness(detector) as harness:
        assert harness.send(red).detections.labels == ["red"]
        assert harness.send(red[:, :, ::-1].copy(), format="rgb").detections.labels == ["red"]


# ---- a detector of one's own, and what comes after -----------------------------------------------


class Reddest(Detector):
    """A box around the reddest pixel."""

    def detect(self, frame: np.ndarray) -> Detections:
        bgr = to_bgr(frame, format_of(frame, self.meta)).astype(int)
        row, column = np.unravel_index((bgr[:, :, 2] - bgr[:, :, 0]).argmax(), bgr.shape[:2])
        return Detections([[column, row, column + 8, row + 8]])


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_are_drawn_in_bgr_on_a_frame_of_each_format(tmp_path: Path, format: Format) -> None:
    """And who else gets the frame sees nothing of it."""
    camera, detector = Beginning(bikes(), 6, format), Reddest("detector")
    tracker, annotator = Tracker("tracker"), Annotator(name="annotator")
    drawn = Record("drawn", tmp_path / "drawn", lambda data: (format_of(data.frame, drawn.meta), drawn.meta.format, data))
    plain = Record("plain", tmp_path / "plain", lambda data: (format_of(data.frame, plain.meta), plain.meta.format, data))
    with Pipe(policy="block") as pipe:
        for routine in (camera, detector, tracker, annotator, drawn, plain):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(camera, detector), Wire(detector, tracker), Wire(tracker, (annotator, plain)), Wire(annotator, drawn))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert sum(routine.errors for routine in pipe.statistics().routines.values()) == 0
    with_boxes, without = ([message.value for message in received(tmp_path / name)] for name in ("drawn", "plain"))
    assert len(with_boxes) == len(without) == 6
    for (is_now, told, one), (was, its, other), frame in zip(with_boxes, without, frames(bikes(), 6, format), strict=True):
        assert (is_now, told, was, its) == ("bgr", "bgr", format, format)
        assert np.array_equal(other.frame, frame)
        scene = np.array(seen(frame, format))
        for left, top, right, bottom in one.detections.boxes.astype(int).tolist():
            cv2.rectangle(scene, (left, top), (right - 1, bottom - 1), (0, 255, 0), 2)
        assert np.array_equal(one.frame, scene)


def test_16_bits_are_drawn_on_in_8() -> None:
    deep = np.full((48, 64, 3), 0x1234, np.uint16)
    with RoutineHarness(Annotator()) as harness:
        frame = harness.send(DetectedFrame(deep, Detections([[10, 10, 30, 30]]))).frame
    assert frame.dtype == np.uint8
    assert frame[0, 0].tolist() == [0x12] * 3
    assert frame[10, 10].tolist() == [0, 255, 0]
