"""What runs a network: which library, on which device, with which options, and what a detector makes of these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import carphone, centerface, frames_of, nudenet
from pipert_shm.video import CenterFaceHead, DnnDetector, YoloHead
from pipert_shm.video.models.by_onnxruntime import plan_engine, wanted_providers
from pipert_shm.video.models.by_openvino import TELEMETRY
from pipert_shm.video.models.choice import Choice
from pipert_shm.video.models.description import TensorInfo
from test_dnn import EVERY, FINDS, RED, SIZE, constant

OPENVINO_IN_ORT = [("OpenVINOExecutionProvider", {"device_type": "GPU"})]


def ready(model: Path, *arguments: Any, **settings: Any) -> DnnDetector:
    detector = DnnDetector(model, *arguments, **settings)
    detector.setup()
    return detector


# ---- OpenVINO ------------------------------------------------------------------------------------


def test_openvino_finds_what_opencv_finds_and_keeps_what_it_has_compiled(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    frames = list(frames_of(carphone(), 3))
    head = CenterFaceHead()
    by_opencv = ready(centerface(), head, size=(192, 160), backend="opencv").detect(frames)
    by_openvino = ready(centerface(), head, size=(192, 160), backend="openvino", threads=1, cache_dir=kept).detect(frames)
    for ours, theirs in zip(by_openvino, by_opencv, strict=True):
        assert np.allclose(ours.boxes, theirs.boxes, atol=0.01)
        assert len(ours) == 1
    assert list(kept.rglob("*.blob")), "compiled for the device once"


def test_openvino_reports_to_nobody() -> None:
    pytest.importorskip("openvino")
    ready(centerface(), CenterFaceHead(), size=(64, 64), backend="openvino")
    assert TELEMETRY not in sys.modules


@pytest.mark.parametrize(
    ("device", "message"),
    [("GPU.7", "this OpenVINO has no GPU.7; it has: CPU.*and AUTO"), ("TPU", "this OpenVINO has no TPU; it has: CPU")],
)
def test_a_device_that_openvino_does_not_have(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(centerface(), CenterFaceHead(), size=(64, 64), backend="openvino", device=device)


def test_what_openvino_can_not_read(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"OpenVINO can't read the model '.*broken\.onnx': "):
        ready(path, YoloHead(["a"]), backend="openvino")


def test_without_openvino_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"openvino is not installed .*pip install .*\[openvino\]'"):
        ready(centerface(), CenterFaceHead(), backend="openvino")


# ---- what is kept for a device -------------------------------------------------------------------


def test_engines_are_kept_where_the_user_says() -> None:
    choice = Choice(device="tensorrt", cache_dir="/var/cache/yard")
    wanted, (note,) = wanted_providers(choice, EVERY, Path("yolo.onnx"))
    assert wanted[0][1]["trt_engine_cache_path"] == "/var/cache/yard"
    assert "keeps it in /var/cache/yard" in note
    choice = Choice(providers=OPENVINO_IN_ORT, cache_dir="kept")
    wanted, _ = wanted_providers(choice, ["OpenVINOExecutionProvider"], Path("yolo.onnx"))
    assert wanted == [("OpenVINOExecutionProvider", {"device_type": "GPU", "cache_dir": "kept"})]


def test_one_engine_serves_all_batches() -> None:
    free = TensorInfo("images", "float32", ("batch", 3, 640, 640))
    asked: list[tuple[str, dict[str, object]]] = [("TensorrtExecutionProvider", {}), ("CPUExecutionProvider", {})]
    plan_engine(asked, free, (640, 384), 8)
    assert asked == [
        (
            "TensorrtExecutionProvider",
            {
                "trt_profile_min_shapes": "images:1x3x384x640",
                "trt_profile_opt_shapes": "images:8x3x384x640",
                "trt_profile_max_shapes": "images:8x3x384x640",
            },
        ),
        ("CPUExecutionProvider", {}),
    ]
    own: dict[str, object] = {"trt_profile_min_shapes": "images:2x3x640x640"}
    plan_engine([("TensorrtExecutionProvider", own)], free, (640, 640), 8)
    assert own == {"trt_profile_min_shapes": "images:2x3x640x640"}, "the user's own"
    fixed: dict[str, object] = {}
    plan_engine([("TensorrtExecutionProvider", fixed)], TensorInfo("images", "float32", (1, 3, 640, 640)), (640, 640), 8)
    assert fixed == {}


# ---- a detector's settings -----------------------------------------------------------------------


@pytest.mark.parametrize("classes", [["class1"], [1], [1, "class1"]])
def test_only_the_classes_that_are_asked_for_are_found(tmp_path: Path, classes: list[str | int]) -> None:
    model = constant(tmp_path / "end.onnx", FINDS[None])
    detector = ready(model, YoloHead([f"class{number}" for number in range(80)]), size=SIZE, classes=classes)
    assert detector.detect([RED])[0].labels == ["class1"]


def test_a_network_that_tells_its_names_needs_no_head(tmp_path: Path) -> None:
    model = constant(tmp_path / "end.onnx", FINDS[None])
    found = ready(model, names=[f"class{number}" for number in range(80)], threshold=0.7).detect([RED])[0]
    assert found.labels == ["class0"], "and not the one of 0.6"
    with pytest.raises(ValueError, match="give names, such as"):
        ready(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["a"]}, r"the head has names of its own: give these to YoloHead\(…\)"),
        ({"threshold": 0.4, "overlap": 0.5}, "the head has threshold and overlap of its own"),
        ({"head": None, "threshold": 40}, "threshold must be a number from 0 to 1, not 40"),
        ({"classes": "person"}, r"classes are a list of class names or ids to keep, such as \['person', 'car'\], not 'person'"),
        ({"classes": []}, "classes are a list"),
        ({"classes": [1.5]}, "classes are names or ids, not 1.5"),
        ({"classes": ["cat"]}, "cat"),
        ({"threads": 0}, "threads must be a whole number from 1 to 1024, not 0"),
        ({"device": "GPU"}, "others, such as 'GPU', are OpenVINO's: backend='openvino'"),
        ({"backend": "openvino", "device": "0"}, "device must be one of OpenVINO's, such as 'CPU', 'GPU.1' or 'AUTO', not '0'"),
        ({"backend": "openvino", "providers": ["CPUExecutionProvider"]}, "providers are onnxruntime's"),
        ({"cache_dir": "kept"}, "nothing else compiles, so leave it away"),
        ({"cache_dir": "kept", "backend": "opencv"}, "nothing else compiles"),
        ({"cache_dir": 3, "backend": "openvino"}, "cache_dir is a directory, not 3"),
    ],
)
def test_settings_that_can_not_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DnnDetector("yolo.onnx", **{"head": YoloHead(["person"]), **settings})


def test_threads_are_onnxruntimes(tmp_path: Path) -> None:
    detector = ready(constant(tmp_path / "end.onnx", FINDS[None]), YoloHead(["a", "b"]), threads=1)
    (session,) = (cell.cell_contents for cell in detector._network.runtime.run.__closure__ or () if "Session" in str(cell))
    options = session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_the_log_says_what_reads_and_runs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ready(constant(tmp_path / "end.onnx", FINDS[None]), names=["a", "b"], backend="onnxruntime")
    assert "end.onnx is run by onnxruntime on CPUExecutionProvider" in caplog.text
    assert "its outputs are read by YoloHead, with 2 class names; it takes 64x64 pixels" in caplog.text


# ---- real weights --------------------------------------------------------------------------------


def test_a_real_yolo_needs_nothing_but_its_file() -> None:
    """Names, size and head are told by the file, and all backends find the same face."""
    frames = list(frames_of(carphone(), 3))
    found = {backend: ready(nudenet(), backend=backend, threads=1).detect(frames) for backend in ("onnxruntime", "openvino")}
    for ours, theirs in zip(found["onnxruntime"], found["openvino"], strict=True):
        assert ours.labels == theirs.labels == ["FACE_FEMALE"], "of a man, but a face"
        assert np.allclose(ours.boxes, theirs.boxes, atol=0.05)
        ((left, top, right, bottom),) = ours.boxes
        assert left < 85 < right, "the nose"
        assert top < 70 < bottom
    detector = ready(nudenet(), classes=["FACE_MALE"], size=(160, 160), threshold=0.5)
    assert [len(each) for each in detector.detect(frames)] == [0, 0, 0]
