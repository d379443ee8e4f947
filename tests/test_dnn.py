"""The network detector: CenterFace on a real face, and YOLO heads on a small network that is made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnx
import onnx.helper as make
import pytest
from onnx import TensorProto, numpy_helper

from media import Beginning, carphone, centerface, frames_of
from pipert_shm import START_EVENT_NAME, Pipe, Wire
from pipert_shm.video import CenterFaceHead, DnnDetector, YoloHead
from routines import Record, received
from test_detection import as_lists, digest

Backend = Literal["opencv", "onnxruntime"]
BACKENDS: list[Backend] = ["opencv", "onnxruntime"]
SIZE = (64, 64)

# Three boxes as centre and size, in pixels of the input; the second overlaps the first.
CENTRED = np.array([[16, 16, 16, 8], [17, 16, 16, 8], [48, 40, 8, 16]], np.float32)
# Per box and class, how its score follows from the mean red, green and blue of the image.
WEIGHTS = np.array([[[1, 0, 0], [0, 0, 0]], [[0.5, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]], np.float32)


def network(path: Path, version: int, batch: int | str = "batch") -> Path:
    """A network whose output looks like YOLO's: of the first box class 0 is as likely as the image is red, and so on."""
    objectness = np.ones((1, 3, 1 if version == 5 else 0), np.float32)
    nodes = [
        make.make_node("GlobalAveragePool", ["image"], ["mean"]),  # (batch, 3, 1, 1)
        make.make_node("Reshape", ["mean", "row"], ["colour"]),  # (batch, 3)
        make.make_node("MatMul", ["colour", "weights"], ["flat"]),  # (batch, 6)
        make.make_node("Reshape", ["flat", "grid"], ["scores"]),  # (batch, 3, 2)
        make.make_node("Mul", ["scores", "zero"], ["nothing"]),
        make.make_node("ReduceSum", ["nothing", "axes"], ["pad"], keepdims=1),  # (batch, 3, 1)
        make.make_node("Add", ["pad", "boxes"], ["placed"]),  # (batch, 3, 4), and 1 for version 5
        make.make_node("Concat", ["placed", "scores"], ["rows"], axis=2),
        make.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
    ]
    output, shape = ("rows", [batch, 3, 7]) if version == 5 else ("columns", [batch, 6, 3])
    values = {
        "row": np.array([-1, 3]),
        "weights": WEIGHTS.reshape(6, 3).T.copy(),
        "grid": np.array([-1, 3, 2]),
        "zero": np.zeros(1, np.float32),
        "axes": np.array([2]),
        "boxes": np.concatenate([CENTRED[None], objectness], axis=2),
    }
    graph = make.make_graph(
        nodes[: len(nodes) - (version == 5)],
        "boxes",
        [make.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 64, 64])],
        [make.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 64) -> np.ndarray:
    """:param colour: blue, green, red."""
    return np.full((height, width, 3), colour, np.uint8)


RED, BLUE, BLACK = plain((0, 0, 255)), plain((255, 0, 0)), plain((0, 0, 0))
LEFT, RIGHT = [8.0, 12.0, 24.0, 20.0], [44.0, 32.0, 52.0, 48.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("version", "batch"), [(8, "batch"), (8, 1), (5, "batch"), (5, 1)])
def test_each_frame_of_a_batch_gets_its_own_finds(tmp_path: Path, backend: Backend, version: int, batch: int | str) -> None:
    model = network(tmp_path / "yolo.onnx", version, batch)
    detector = DnnDetector(model, YoloHead(["red", "blue"]), size=SIZE, backend=backend)
    detector.setup()
    for frames in ([RED], [RED, BLACK, BLUE, BLUE], [BLUE, RED], [BLACK]):
        detected = detector.main_logic(frames)
        assert all(one.frame is frame for one, frame in zip(detected, frames, strict=True))
        for one in detected:
            found = one.detections
            expected = {id(RED): ["red"], id(BLUE): ["blue"], id(BLACK): []}[id(one.frame)]
            assert found.labels == expected, "of two that overlap, the better one stays"
            assert found.boxes.tolist() == [{"red": LEFT, "blue": RIGHT}[label] for label in expected]
            assert found.scores == pytest.approx([1.0] * len(expected))


def test_frames_of_all_sizes_go_in_at_their_own_proportions_and_boxes_come_back_in_their_pixels(tmp_path: Path) -> None:
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"], threshold=0.1), size=SIZE)
    detector.setup()
    large, wide = plain((0, 0, 255), 128, 128), plain((255, 0, 0), 128, 64)
    of_large, of_wide = detector.detect([large, wide])
    assert of_large.boxes.tolist() == [[2 * value for value in LEFT]]
    by_label = dict(zip(of_wide.labels, of_wide.boxes.tolist(), strict=True))
    assert by_label["blue"] == [88, 64, 104, 64], "twice as wide as the input, and cut off at the frame's edge"


def test_the_pixels_that_the_network_gets_are_those_of_the_frame(tmp_path: Path) -> None:
    got: list[np.ndarray] = []
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=SIZE)
    detector.setup()
    run = detector._run
    detector._run = lambda blob: got.append(blob) or run(blob)  # type: ignore[func-returns-value]
    frame = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    detector.detect([frame])
    expected = np.concatenate([frame[:, :, ::-1], np.full((32, 64, 3), 114)]).transpose(2, 0, 1) / 255
    assert np.allclose(got[0][0], expected)


# ---- a real network ------------------------------------------------------------------------------


def test_a_real_face_is_found_whatever_the_batch() -> None:
    detector = DnnDetector(centerface(), CenterFaceHead(), size=(352, 288))
    detector.setup()
    frames = list(frames_of(carphone(), 6))
    alone = [as_lists(detector.detect([frame])[0]) for frame in frames]
    assert [as_lists(found) for found in detector.detect(frames[:5])] == alone[:5]
    assert [as_lists(found) for found in detector.detect(frames)] == alone
    for boxes, scores, class_ids, _, names in alone:
        ((left, top, right, bottom),) = boxes
        assert left < 85 < right, "the nose"
        assert top < 70 < bottom
        assert right - left < 80
        assert scores[0] > 0.8
        assert (class_ids, names) == ([0], ("face",))
    upside_down = detector.detect([cv2.flip(frames[0], 0)])[0]
    assert len(upside_down) == 0 or upside_down.boxes[0][1] > 30


def test_one_detector_for_two_cameras_finds_what_one_loop_finds(tmp_path: Path) -> None:
    detector = DnnDetector(centerface(), CenterFaceHead(), "detector", size=(192, 160), batch_size=4)
    cameras = [Beginning(carphone(), 25, f"camera{number}") for number in range(2)]
    record = Record("record", tmp_path / "got", digest)
    with Pipe(policy="block") as pipe:
        for camera in cameras:
            pipe.create_flow(camera.name, False, camera)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("record", False, record)
        pipe.link(*(Wire(camera, detector) for camera in cameras), Wire(detector, record))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    alone = DnnDetector(centerface(), CenterFaceHead(), size=(192, 160))
    alone.setup()
    expected = [digest(alone.main_logic([frame])[0]) for frame in frames_of(carphone(), 25)]
    got = received(tmp_path / "got")
    for camera in cameras:
        assert [message.value for message in got if message.origin == camera.name] == expected
    assert sum(len(boxes) for _, boxes, *_ in expected) >= 20


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        (
            YoloHead(["a"]),
            [(1, 7, 3)],
            r"with 1 names the network's one output is \(batch, 5, n\) or \(batch, n, 6\), not \(1, 7, 3\)",
        ),
        (YoloHead(["a"]), [(1, 5, 3), (1, 2)], r"not \(1, 5, 3\), \(1, 2\)"),
        (CenterFaceHead(), [(1, 1, 8, 8)], r"CenterFace has outputs of 1, 2, 2 and 10 channels, not \(1, 1, 8, 8\)"),
    ],
)
def test_a_head_that_does_not_fit_the_network(head: Any, outputs: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head([np.zeros(shape, np.float32) for shape in outputs])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_is_missing_or_none(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "yolo.onnx"
    with pytest.raises(FileNotFoundError, match=r"there is no model '.*/yolo\.onnx'; check the path"):
        DnnDetector(path, YoloHead([]), backend=backend).setup()
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"can't read the model '.*/yolo\.onnx': "):
        DnnDetector(path, YoloHead([]), backend=backend).setup()


def test_a_fixed_batch_is_refused_where_it_can_not_be_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes batches of 4 only; export it with a free batch axis, or of 1"):
        DnnDetector(network(tmp_path / "four.onnx", 8, 4), YoloHead([]), backend="onnxruntime").setup()


def test_without_onnxruntime_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"onnxruntime is not installed .*pip install 'pipert_shm\[onnx\]'"):
        DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead([]), backend="onnxruntime").setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": (0, 64)}, "size is a width and a height"), ({"backend": "cuda"}, "one of opencv, onnxruntime, not 'cuda'")],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DnnDetector("yolo.onnx", YoloHead([]), **arguments)
