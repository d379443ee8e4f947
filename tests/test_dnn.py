"""The network detector: CenterFace on a real face, and YOLO heads on a small network that is made here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from pipert_shm.video import CenterFaceHead, DetectedFrame, Detections, DnnDetector, YoloHead, YoloObbHead
from pipert_shm.video.models.by_onnxruntime import wanted_providers
from pipert_shm.video.models.choice import Choice
from routines import Record, received
from test_detection import as_lists, digest

Backend = Literal["onnxruntime", "opencv", "openvino"]
BACKENDS: list[Backend] = ["onnxruntime", "opencv", "openvino"]
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
    assert by_label["blue"] == [88, 32, 104, 64], "twice as wide as the input, in its middle"


def test_the_pixels_that_the_network_gets_are_those_of_the_frame(tmp_path: Path) -> None:
    got: list[np.ndarray] = []
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=SIZE)
    detector.setup()
    run = detector._network.runtime.run
    taken = replace(detector._network.runtime, run=lambda blob, more: got.append(blob.copy()) or run(blob, more))  # type: ignore[func-returns-value]
    detector._network.runtime = taken
    frame = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    detector.detect([frame])
    grey = np.full((16, 64, 3), 114)
    expected = np.concatenate([grey, frame[:, :, ::-1], grey]).transpose(2, 0, 1) / 255
    assert np.allclose(got[0][0], expected)


# ---- end to end ----------------------------------------------------------------------------------

# Left, top, right, bottom, score, class id; then padding.
FINDS = np.array([[8, 12, 24, 20, 0.9, 0], [44, 32, 52, 48, 0.6, 1], [0, 0, 4, 4, 0.1, 1], [0] * 6], np.float32)


def constant(
    path: Path, *outputs: np.ndarray, size: tuple[int | str, int | str] = (64, 64), dtype: int = TensorProto.FLOAT
) -> Path:
    """A network that gives these for any image: each is repeated for each image of the batch."""
    nodes, values, infos = [], [], []
    nodes.append(make.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1))
    nodes.append(make.make_node("Mul", ["mean", "zero"], ["nothing"]))  # (batch, 1, 1, 1)
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    values.append(numpy_helper.from_array(np.zeros(1, kind), "zero"))
    for number, output in enumerate(outputs):
        ones = np.array([-1, *[1] * (output.ndim - 1)])
        values.append(numpy_helper.from_array(ones, f"ones{number}"))
        values.append(numpy_helper.from_array(output.astype(kind), f"value{number}"))
        nodes.append(make.make_node("Reshape", ["nothing", f"ones{number}"], [f"shaped{number}"]))
        nodes.append(make.make_node("Add", [f"shaped{number}", f"value{number}"], [f"output{number}"]))
        infos.append(make.make_tensor_value_info(f"output{number}", dtype, ["batch", *output.shape[1:]]))
    image = make.make_tensor_value_info("image", dtype, ["batch", 3, *size])
    graph = make.make_graph(nodes, "constant", [image], infos, values)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [2, 3, 80])
def test_an_end_to_end_network_is_read(tmp_path: Path, backend: Backend, classes: int) -> None:
    model = constant(tmp_path / "end.onnx", FINDS[None])
    names = [f"class{number}" for number in range(classes)]
    detector = DnnDetector(model, YoloHead(names), size=SIZE, backend=backend)
    detector.setup()
    detected = detector.detect([RED, BLUE, BLACK])
    assert len(detected) == 3
    for found in detected:
        assert found.boxes.tolist() == [LEFT, RIGHT]
        assert found.labels == ["class0", "class1"]
        assert found.scores == pytest.approx([0.9, 0.6])


def test_of_one_class_the_values_tell_what_six_columns_are() -> None:
    ends = np.where(np.arange(6) == 5, 0, FINDS)[None].astype(np.float32)
    (found,) = YoloHead(["thing"])([ends])
    assert found.boxes.tolist() == [LEFT, RIGHT]
    assert found.labels == ["thing", "thing"]
    centred = np.concatenate([CENTRED, [[0.9, 1], [0.8, 1], [0.6, 1]]], axis=1)[None].astype(np.float32)
    (found,) = YoloHead(["thing"])([centred])
    assert found.boxes.tolist() == [LEFT, RIGHT], "of version 5, even with class scores of exactly 1"


def test_an_end_to_end_network_with_nothing_to_see() -> None:
    for classes in (1, 2, 80):
        (found,) = YoloHead(["a"] * classes)([np.zeros((1, 300, 6), np.float32)])
        assert len(found) == 0


@pytest.mark.parametrize(
    ("classes", "change", "message"),
    [
        (1, {}, "there is a class id 1"),
        (1, {"ids": [37, 5, 0, 0]}, "with 1 names: there is a class id 37; give the names that it was trained with"),
        (3, {"ids": [0, 1, 79, 0]}, "there is a class id 79"),
        (3, {"ids": [0, 1, 0.5, 0]}, "the sixth column has no class ids"),
        (3, {"scores": [0.9, 37, 0.1, 0]}, "the fifth column has no scores from 0 to 1"),
        (3, {"boxes": CENTRED}, "the first four columns are no corners"),
        (1, {"ids": [0.9, 0.5, 0.3, 0], "scores": [0, 0, 0, 0]}, "whole numbers in its fifth column and others in its sixth"),
        (1, {"ids": [0, 0, 0, 0], "scores": [1.5, 0, 0, 0]}, "the fifth column has no scores from 0 to 1"),
    ],
)
def test_six_columns_of_something_else_are_refused(classes: int, change: dict[str, Any], message: str) -> None:
    output = FINDS.copy()
    output[:, 5] = change.get("ids", output[:, 5])
    output[:, 4] = change.get("scores", output[:, 4])
    output[:3, :4] = change.get("boxes", output[:3, :4])
    with pytest.raises(ValueError, match=message):
        YoloHead([f"class{number}" for number in range(classes)])([output[None]])


@pytest.mark.parametrize("classes", [1, 2])
def test_padding_and_weak_rows_of_finds_make_no_difference(classes: int) -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, 0] = [10, 10, 50, 50, 0.9, 0]
    output[0, 1] = [30, 30, 20, 40, 0.02, 0]  # no box, and no find either
    output[0, 2:] = -1
    (found,) = YoloHead(["a"] * classes)([output])
    assert found.boxes.tolist() == [[10, 10, 50, 50]]


def test_a_row_that_makes_no_box_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.concatenate([[[30, 30, 29, 40, 0.8, 1], [30, np.nan, 40, 40, 0.7, 0]], FINDS]).astype(np.float32)
    detector = DnnDetector(constant(tmp_path / "end.onnx", rows[None]), YoloHead(["red", "blue"]), size=SIZE)
    detector.setup()
    before = detector.counters["no_box"]
    for found in (*detector.detect([RED, BLUE]), *detector.detect([BLACK])):
        assert found.boxes.tolist() == [LEFT, RIGHT]
        assert found.labels == ["red", "blue"]
    assert detector.counters["no_box"] - before == 6, "two of each picture"
    assert caplog.text.count("such are left out, and counted as no_box") == 1


@pytest.mark.parametrize("head", [YoloHead(["a", "b", "c"]), YoloObbHead(["a", "b", "c"])])
def test_a_network_that_tells_no_boxes_is_refused_even_where_it_tells_one_at_a_time(head: YoloHead) -> None:
    row = [30, 30, -20, 40, 0.9, *[0] * (2 if isinstance(head, YoloObbHead) else 1)]
    wrong = np.array([[row]], np.float32)
    right = np.abs(wrong) + np.array([0, 0, 20, 0, *[0] * (len(row) - 4)], np.float32)
    assert len(head([wrong])[0]) == 0, "one may be an accident"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"four columns are no corners|are no width and height"):
            head([wrong])
    assert head.left_out == 1, "what is refused is not left out"
    for _ in range(3):
        assert len(head([right])[0]) == 1
    assert len(head([wrong])[0]) == 0
    assert head.left_out == 2


@pytest.mark.parametrize(
    ("score", "message"), [(np.nan, "scores are NaN"), (37.0, r"scores are from 0 to 37, not from 0 to 1")]
)
@pytest.mark.parametrize("columns", [6, 7])
def test_scores_that_are_none_are_refused(score: float, message: str, columns: int) -> None:
    output = np.zeros((1, columns, 5), np.float32)
    output[0, -1, 2] = score
    if columns == 7:  # version 5
        output = output.transpose(0, 2, 1)
        output[..., 4] = 1
    with pytest.raises(ValueError, match=message):
        YoloHead(["a", "b"])([output])


# ---- who runs it ---------------------------------------------------------------------------------


def test_a_network_that_onnxruntime_refuses_goes_to_opencv(caplog: pytest.LogCaptureFixture) -> None:
    detector = DnnDetector(centerface(), CenterFaceHead(), size=(192, 160))  # its file tells of 32x32 pixels
    detector.setup()
    assert in_use(detector) == {"opencv", "cpu"}
    assert "takes batches of 10 only" in caplog.text
    assert "so OpenCV runs it" in caplog.text


def test_a_network_that_opencv_refuses_is_run_by_onnxruntime(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = refused_by_opencv(tmp_path / "refused.onnx")
    detector = DnnDetector(model, YoloHead(["red", "blue"]), size=SIZE)
    detector.setup()
    (found,) = detector.detect([RED])
    assert found.labels == ["red", "blue"]
    assert in_use(detector) == {"onnxruntime", "cpu"}
    assert not caplog.text
    with pytest.raises(ValueError, match=r"OpenCV can't .*; backend='onnxruntime' may"):
        DnnDetector(model, YoloHead(["red", "blue"]), size=SIZE, backend="opencv").setup()


def test_a_network_that_takes_other_pictures_is_not_left_to_opencv(tmp_path: Path) -> None:
    """OpenCV would run it on pictures whose axes mean something else."""
    model = onnx.load(constant(tmp_path / "last.onnx", FINDS[None], size=(64, 3)))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64  # (batch, height, width, 3), as TensorFlow has it
    onnx.save(model, tmp_path / "last.onnx")
    with pytest.raises(ValueError, match=r"it must take three channels, \(batch, 3, height, width\)$"):
        DnnDetector(tmp_path / "last.onnx", YoloHead(["red", "blue"])).setup()


def test_a_file_of_pytorch_is_told_what_to_do_with_it(tmp_path: Path) -> None:
    (tmp_path / "yolo11n.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"export it to ONNX, such as by `yolo export model=yolo11n.pt format=onnx`"):
        DnnDetector(tmp_path / "yolo11n.pt").setup()


def refused_by_opencv(path: Path) -> Path:
    """With an operator that OpenCV does not know."""
    model = onnx.load(constant(path, FINDS[None]))
    model.graph.node.append(make.make_node("Multinomial", ["odds"], ["drawn"]))
    model.graph.node.append(make.make_node("Cast", ["drawn"], ["extra"], to=TensorProto.FLOAT))
    model.graph.node.append(make.make_node("Mul", ["extra", "zero"], ["extra_zero"]))
    model.graph.node.append(make.make_node("Add", ["output0", "extra_zero"], ["output"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 2), np.float32), "odds"))
    model.graph.output[0].name = "output"
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def in_use(detector: DnnDetector) -> set[str]:
    return {name for name, value in detector.counters.items() if value}


def test_without_onnxruntime_what_opencv_refuses_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"OpenCV can't .*; onnxruntime may: pip install .*\[onnx\]'"):
        DnnDetector(refused_by_opencv(tmp_path / "refused.onnx"), YoloHead(["a", "b"]), size=SIZE).setup()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"onnxruntime", "cpu"}),
        ({"backend": "opencv"}, {"opencv", "cpu"}),
        ({"backend": "openvino"}, {"openvino", "cpu"}),
        ({"backend": "openvino", "device": "cpu", "threads": 1}, {"openvino", "cpu"}),
        ({"backend": "onnxruntime"}, {"onnxruntime", "cpu"}),
        ({"backend": "onnxruntime", "device": "cpu"}, {"onnxruntime", "cpu"}),
        ({"providers": ["CPUExecutionProvider"]}, {"onnxruntime", "cpu"}),
        ({"providers": [("CPUExecutionProvider", {"use_arena": "0"})]}, {"onnxruntime", "cpu"}),
    ],
)
def test_who_runs_the_network_is_in_the_statistics(tmp_path: Path, arguments: dict[str, Any], expected: set[str]) -> None:
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=SIZE, **arguments)
    detector.setup()
    assert in_use(detector) == expected


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model = network(tmp_path / "yolo.onnx", 8)
    for arguments, message in (
        ({"device": "cuda", "backend": "opencv"}, "this OpenCV has no 'cuda'"),
        ({"device": "cuda:1", "backend": "onnxruntime"}, "this onnxruntime has no CUDAExecutionProvider; it has: .*CPU"),
        ({"device": "tensorrt"}, "has no TensorrtExecutionProvider, CUDAExecutionProvider"),
        ({"providers": ["NoneOfTheirs"]}, "has no NoneOfTheirs; it has: "),
    ):
        with pytest.raises(ValueError, match=message):
            DnnDetector(model, YoloHead(["red", "blue"]), size=SIZE, **arguments).setup()


EVERY = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]


def test_tensorrt_is_taken_on_request_only_and_keeps_its_engine() -> None:
    model = Path("models/yolo.onnx")
    wanted, notes = wanted_providers(Choice(), EVERY, model)
    assert ([name for name, _ in wanted], notes) == (["CUDAExecutionProvider", "CPUExecutionProvider"], [])
    assert wanted_providers(Choice(), ["CPUExecutionProvider"], model) == ([("CPUExecutionProvider", {})], [])
    wanted, (note,) = wanted_providers(Choice(device="tensorrt:1"), EVERY, model)
    assert wanted[0] == (
        "TensorrtExecutionProvider",
        {"device_id": 1, "trt_engine_cache_enable": True, "trt_engine_cache_path": "models/yolo.tensorrt"},
    )
    assert wanted[1:] == [("CUDAExecutionProvider", {"device_id": 1}), ("CPUExecutionProvider", {})]
    assert note == "TensorRT builds its engine at the first start, which may take minutes, and keeps it in models/yolo.tensorrt"
    wanted, (note,) = wanted_providers(Choice(providers=["TensorrtExecutionProvider"]), EVERY, model)
    assert wanted[0][1]["trt_engine_cache_enable"] is True
    off = Choice(providers=[("TensorrtExecutionProvider", {"trt_engine_cache_enable": False})])
    wanted, (note,) = wanted_providers(off, EVERY, model)
    assert wanted == [("TensorrtExecutionProvider", {"trt_engine_cache_enable": False})]
    assert "anew at each start" in note


def test_a_network_in_half_precision_is_run(tmp_path: Path) -> None:
    model = constant(tmp_path / "half.onnx", FINDS[None], dtype=TensorProto.FLOAT16)
    detector = DnnDetector(model, YoloHead(["a", "b"]), size=SIZE, backend="onnxruntime")
    detector.setup()
    assert detector.detect([RED])[0].boxes.tolist() == [LEFT, RIGHT]


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


def test_what_a_frame_carries_besides_goes_on_with_it(tmp_path: Path) -> None:
    detector = DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead(["red", "blue"]), size=SIZE)
    detector.setup()
    data = DetectedFrame(RED, Detections([]))
    data.additional_data["weather"] = "fog"
    plain, carrying = detector.main_logic([RED, data])
    assert (plain.additional_data, carrying.additional_data) == ({}, {"weather": "fog"})
    assert carrying.detections.labels == ["red"]


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


def test_a_head_that_does_not_fit_is_told_at_the_start(tmp_path: Path) -> None:
    model = network(tmp_path / "yolo.onnx", 8)
    with pytest.raises(ValueError, match=r"with 3 names .*, not \(1, 6, 3\)"):
        DnnDetector(model, YoloHead(["a", "b", "c"]), size=SIZE).setup()

    class Few:
        scale = 1.0

        def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
            return []

    with pytest.raises(ValueError, match="Few returned 0 Detections for 1 images; it must return one for each"):
        DnnDetector(model, Few(), size=SIZE).setup()


def test_a_size_that_the_network_does_not_take_is_told_at_the_start(tmp_path: Path) -> None:
    model = network(tmp_path / "yolo.onnx", 8)
    with pytest.raises(ValueError, match=r"takes 64x64 pixels, not 640x640: give size=\(64, 64\)"):
        DnnDetector(model, YoloHead(["red", "blue"]), size=(640, 640), backend="onnxruntime").setup()


def test_the_size_is_that_of_the_network(tmp_path: Path) -> None:
    model = network(tmp_path / "yolo.onnx", 8)
    for backend in BACKENDS:
        detector = DnnDetector(model, YoloHead(["red", "blue"]), backend=backend)
        detector.setup()
        assert detector.detect([plain((0, 0, 255), 128, 128)])[0].boxes.tolist() == [[2 * value for value in LEFT]]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("coco.names", TypeError, r"YoloHead\(Path\('coco.names'\).read_text\(\).splitlines\(\)\)"),
        (Path("coco.names"), TypeError, r"YoloHead\(Path\('coco.names'\).read_text\(\).splitlines\(\)\)"),
        (80, TypeError, "names are a list of class names"),
        ({"person": 0}, TypeError, "go by class id"),
        ({0: "person", 2: "car"}, ValueError, r"every class id from 0 on needs a name; there are names for \[0, 2\] only"),
    ],
)
def test_names_that_can_not_be_meant_are_refused_at_the_call(names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        YoloHead(names)


def test_names_by_class_id_are_taken() -> None:
    assert YoloHead({1: "car", 0: "person"}).names == ("person", "car")


@pytest.mark.parametrize("make_head", [lambda **given: YoloHead(["a"], **given), CenterFaceHead])
@pytest.mark.parametrize("given", [{"threshold": 25}, {"overlap": -0.1}, {"threshold": "0.5"}, {"threshold": float("nan")}])
def test_a_share_out_of_range_is_refused(make_head: Callable[..., object], given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(given))} must be a number from 0 to 1, not "):
        make_head(**given)


@pytest.mark.parametrize("head", [YoloHead, dict, "yolo", ["person"]])
def test_what_is_no_head_is_refused_at_the_call(head: Any) -> None:
    with pytest.raises(TypeError, match=r"head makes detections of the outputs: YoloHead\(names\), CenterFaceHead\(\), or"):
        DnnDetector("yolo.onnx", head)


def test_a_model_and_a_head_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(TypeError, match=r"model is the path of an .onnx file, not .*: DnnDetector\('yolo.onnx', YoloHead\("):
        DnnDetector(YoloHead(["a"]), "yolo.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        (
            YoloHead(["a"]),
            [(1, 7, 3)],
            r"with 1 names the network's one output is \(batch, 5, n\) or \(batch, n, 6\), or .* end to end, not \(1, 7, 3\)",
        ),
        (YoloHead(["a"]), [(1, 5, 3), (1, 2)], r"not \(1, 5, 3\), \(1, 2\)"),
        (YoloHead(["a"]), [(1, 5)], r"not \(1, 5\)"),
        (YoloHead(["a"]), [(300, 6)], r"not \(300, 6\)"),
        (YoloHead(["a"] * 80), [(1, 300, 7)], r"not \(1, 300, 7\)"),
        (YoloHead(["a"] * 80), [(1, 116, 3), (1, 32, 160, 160)], r"not \(1, 116, 3\), \(1, 32, 160, 160\)"),
        (YoloHead(["a"] * 80), [], "not "),
        (CenterFaceHead(), [(1, 1, 8, 8)], r"CenterFace has outputs of 1, 2, 2 and 10 channels, .*, not \(1, 1, 8, 8\)"),
        (CenterFaceHead(), [(1, 1), (1, 2), (1, 2), (1, 10)], "this is not|it is another one"),
        (CenterFaceHead(), [(1, 1, 8, 8), (1, 2, 8, 8), (1, 2, 4, 4), (1, 10, 8, 8)], "of one size, not"),
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
    with pytest.raises(ImportError, match=r"onnxruntime is not installed .*pip install .*\[onnx\]'"):
        DnnDetector(network(tmp_path / "yolo.onnx", 8), YoloHead([]), backend="onnxruntime").setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 64)}, r"size is a width and a height of at least 1 pixel, such as \(640, 640\), not \(0, 64\)"),
        ({"size": 640}, "not 640"),
        ({"size": (640, 640, 3)}, "size is a width and a height"),
        ({"backend": "cuda"}, "one of auto, onnxruntime, opencv, openvino, not 'cuda'"),
        ({"device": "gpu"}, "device must be 'cpu', 'cuda' or 'tensorrt', the latter two as 'cuda:1' too, not 'gpu'"),
        ({"device": 0}, "device must be"),
        ({"device": "tensorrt", "backend": "opencv"}, "device='tensorrt' is for backend='onnxruntime'"),
        ({"device": "cpu", "providers": ["CPUExecutionProvider"]}, "give either a device or providers"),
        ({"providers": ["CPUExecutionProvider"], "backend": "opencv"}, "providers are onnxruntime's"),
        ({"providers": "CPUExecutionProvider"}, r"providers are a list of names .*, such as \['CUDAExecutionProvider'\]"),
        ({"providers": []}, "providers are a list"),
        ({"providers": [("CUDAExecutionProvider", 1)]}, "providers are a list"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DnnDetector("yolo.onnx", YoloHead([]), **arguments)
