"""How many frames a second a detector reads, alone and in a pipe, beside a loop that is written with the library by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from pipert_shm import DestinationRoutine, DnnDetector, EndOfStream, Pipe, SourceRoutine, Wire, YoloHead
from pipert_shm.video.models.by_onnxruntime import by_onnxruntime
from pipert_shm.video.models.choice import Choice
from pipert_shm.video.models.runtime import Wanted

from .figures import Figure, Section, Settings

NETWORK = Path(sys.prefix) / "share" / "pipert_shm" / "320n.onnx"
"""A YOLOv8 with real weights, out of the package `nudenet`: `make .venv/nudenet`."""

SIZE = 320
SHAPE = (720, 1280, 3)
THRESHOLD, OVERLAP = 0.25, 0.45
CLASSES = 18


def _frames(count: int = 8) -> list[np.ndarray]:
    """Smooth noise: nothing in it is found, so that both ways do the same."""
    rng = np.random.default_rng(1)
    return [cv2.resize(rng.integers(0, 256, (45, 80, 3), np.uint8), SHAPE[1::-1]) for _ in range(count)]


class _Frames(SourceRoutine):
    """Sends frames that lie ready in its memory."""

    def __init__(self, frames: list[np.ndarray], count: int) -> None:
        super().__init__("frames")
        self.declare_output(SHAPE)
        self._frames, self._left = frames, count

    def main_logic(self) -> np.ndarray:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        out = self.loan(SHAPE)
        np.copyto(out, self._frames[self._left % len(self._frames)])
        return out


class _Clock(DestinationRoutine):
    """Notes when the first and the last came."""

    def setup(self) -> None:
        self._first = self._last = 0

    def main_logic(self, data: object) -> None:
        self._last = time.monotonic_ns()
        self._first = self._first or self._last
        self.counters["took_us"] = (self._last - self._first) // 1000

    counter_names = ("took_us",)


def _detector() -> DnnDetector:
    head = YoloHead([f"class{number}" for number in range(CLASSES)], threshold=THRESHOLD, overlap=OVERLAP)
    return DnnDetector(NETWORK, head, "detector", batch_size=1, backend="onnxruntime", device="cpu")


def by_detector(frames: list[np.ndarray], count: int) -> float:
    """Frames a second of a detector that is called in a loop."""
    detector = _detector()
    detector.setup()
    return _rate(lambda frame: detector.detect([frame]), frames, count)


def _rate(detect: Callable[[np.ndarray], object], frames: list[np.ndarray], count: int) -> float:
    detect(frames[0])
    begun = time.perf_counter()
    for number in range(count):
        detect(frames[number % len(frames)])
    return count / (time.perf_counter() - begun)


def by_pipe(frames: list[np.ndarray], count: int) -> float:
    """Frames a second of a detector in a flow of its own, whose frames come from another one."""
    source = _Frames(frames, count)
    detector, clock = _detector(), _Clock("clock")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("frames", False, source)
        pipe.create_flow("detect", True, detector, clock)
        pipe.link(Wire(source, detector))
        pipe.build()
        pipe.notify_event("start")
    took = pipe.statistics().routines["clock"].counters["took_us"]
    return (count - 1) / took * 1e6


def by_hand(frames: list[np.ndarray], count: int) -> float:
    """Frames a second of the loop that one writes with onnxruntime and OpenCV, as Ultralytics' example does it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(NETWORK, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def detect(frame: np.ndarray) -> list[tuple[int, float, list[float]]]:
        height, width = frame.shape[:2]
        ratio = min(SIZE / width, SIZE / height)
        fitted = round(width * ratio), round(height * ratio)
        left, top = (SIZE - fitted[0]) // 2, (SIZE - fitted[1]) // 2
        small = cv2.resize(frame, fitted, interpolation=cv2.INTER_LINEAR)
        padded = cv2.copyMakeBorder(
            small, top, SIZE - fitted[1] - top, left, SIZE - fitted[0] - left, cv2.BORDER_CONSTANT, value=(114, 114, 114)
        )
        blob = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / 255
        rows = session.run(None, {name: blob})[0][0].T
        scores = rows[:, 4:].max(axis=1)
        likely = scores > THRESHOLD
        boxes, classes = rows[likely, :4], rows[likely, 4:].argmax(axis=1)
        boxes[:, :2] = (boxes[:, :2] - boxes[:, 2:] / 2 - (left, top)) / ratio
        boxes[:, 2:] /= ratio
        kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores[likely].tolist(), classes.tolist(), THRESHOLD, OVERLAP)
        return [(int(classes[each]), float(scores[likely][each]), boxes[each].tolist()) for each in kept]

    return _rate(detect, frames, count)


def at_a_cameras_pace(frames: list[np.ndarray], count: int, *, ours: bool) -> float:
    """CPU milliseconds for a frame, of runs with a pause after each, as between a camera's frames."""
    import onnxruntime

    blob = np.zeros((1, 3, SIZE, SIZE), np.float32)
    if ours:
        runtime = by_onnxruntime(Wanted(NETWORK, (SIZE, SIZE), 1, Choice("onnxruntime", "cpu")))
        run: Callable[[], object] = lambda: runtime.run(blob, {})  # noqa: E731
    else:
        session = onnxruntime.InferenceSession(NETWORK, providers=["CPUExecutionProvider"])
        run = lambda: session.run(None, {"images": blob})  # noqa: E731
    run()
    begun = time.process_time()
    for _ in range(count):
        run()
        time.sleep(0.03)
    return (time.process_time() - begun) / count * 1e3


def detect(settings: Settings) -> Section:
    """Detections a second, letterbox and head included."""
    if not NETWORK.exists():
        raise SystemExit(f"there is no {NETWORK}: make {NETWORK.parent.parent.parent.name}/nudenet")
    section = Section("A detector, YOLOv8 at 320x320 on frames of 720p, by onnxruntime on the CPU")
    frames = _frames()
    count = max(10, int(100 * settings.seconds))
    ways = {"by hand": by_hand, "detector": by_detector, "pipe": by_pipe}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {"by hand": [], "detector": []}
    for _ in range(settings.rounds):
        for name, way in ways.items():
            rates[name].append(way(frames, count))
        for name, of_way in costs.items():
            of_way.append(at_a_cameras_pace(frames, count // 4, ours=name == "detector"))
    section.rows = {"frames_per_second": rates, "cpu_ms_at_a_cameras_pace": costs}
    section.lines += [f"{name}: {np.median(of_way):.1f} frames a second" for name, of_way in rates.items()]
    section.lines += [f"{name}: {np.median(of_way):.1f} ms of CPU at a camera's pace" for name, of_way in costs.items()]

    def over_hand(of: dict[str, list[float]], name: str) -> list[float]:
        return [ours / theirs for ours, theirs in zip(of[name], of["by hand"], strict=True)]

    section.figures = [
        Figure.of("detections a second: DnnDetector / the library by hand", over_hand(rates, "detector"), 0.97, at_least=True),
        Figure.of("detections a second: DnnDetector in a pipe / the library by hand", over_hand(rates, "pipe")),
        Figure.of(
            "CPU of a run at a camera's pace: DnnDetector's session / onnxruntime's own",
            over_hand(costs, "detector"),
            1.0,
        ),
    ]
    return section
