"""`pipert-shm model`: what it tells of a network, and what it finds in a picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from pipert_shm.cli import main
from pipert_shm.pipeline_file.loading import PipelineFile
from test_dnn import FINDS, constant, network


def told(path: Path, **metadata: object) -> Path:
    """Writes metadata into the file, as Ultralytics does."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    onnx.save(model, path)
    return path


def ultralytics(path: Path) -> Path:
    names = {0: "red", 1: "blue"}
    return told(network(path, 8), author="Ultralytics", task="detect", names=names, imgsz=[64, 64], end2end=False)


def test_it_tells_which_head_reads_a_network_and_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ultralytics(tmp_path / "yolo.onnx")
    assert main(["model", str(model)]) == 0
    text = capsys.readouterr().out
    for line in (
        "inputs   image float32 (batch, 3, 64, 64)",
        "outputs  columns float32 (batch, 6, 3)",
        "size     64x64",
        "names    red, blue",
        "metadata task: detect",
        "head     YoloHead: the metadata of Ultralytics tell of the task 'detect', and its output is of the form 'v8'",
        f"Python   DnnDetector('{model}', size=(64, 64))",
    ):
        assert line in text


def test_it_finds_what_is_in_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "red.png"
    cv2.imwrite(str(picture), np.full((64, 64, 3), (0, 0, 255), np.uint8))
    assert main(["model", str(ultralytics(tmp_path / "yolo.onnx")), "--picture", str(picture), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["head"], report["preprocessing"]["fit"]) == ("YoloHead", "letterbox")
    assert report["found"] == [{"label": "red", "score": 1.0, "box": [8.0, 12.0, 24.0, 20.0]}]


def test_in_doubt_it_says_what_is_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = constant(tmp_path / "silent.onnx", FINDS[None])
    assert main(["model", str(model)]) == 1
    assert "head     not told: its file tells no class names" in capsys.readouterr().out
    assert main(["model", str(model), "--names", "a, b"]) == 0
    text = capsys.readouterr().out
    assert f"DnnDetector('{model}', YoloHead(['a', 'b'], form='end-to-end'), size=(64, 64))" in text
    (line,) = [line.removeprefix("YAML     ") for line in text.splitlines() if line.startswith("YAML")]
    writer = "writer: {class: pipert_shm.JsonLinesWriter, parameters: {path: x.jsonl}}"
    camera = "camera: {class: pipert_shm.VideoSource, parameters: {source: x.mp4}}"
    flows = "flows: {all: {routines: [camera, detector, writer]}}\nwires:\n  - {source: camera, destinations: [detector]}\n"
    file = tmp_path / "pipeline.yaml"
    routines = f"routines:\n  {camera}\n  {line}\n  {writer}\n"
    file.write_text(f"pipe: {{name: x}}\n{routines}{flows}  - {{source: detector, destinations: [writer]}}\n")
    PipelineFile(file).make_pipe()  # the line is one that it takes


def test_a_file_that_is_no_network_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    assert main(["model", str(tmp_path / "x.onnx")]) == 1
    assert "onnxruntime can't read the model" in capsys.readouterr().err
    assert main(["model", str(tmp_path / "y.onnx")]) == 2
    assert main(["model", str(tmp_path / "x.onnx"), "--size", "big"]) in (1, 2)


def test_a_size_that_a_network_does_not_take_is_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ultralytics(tmp_path / "yolo.onnx")
    assert main(["model", str(model), "--size", "32x48"]) == 1
    (line,) = capfd.readouterr().err.splitlines()[:1]
    assert line == f"pipert-shm: {str(model)!r} takes pictures of 64x64 only: leave --size away"


def test_a_network_that_no_detector_runs_gets_no_lines_to_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(constant(tmp_path / "last.onnx", FINDS[None], size=(64, 3)))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64  # (batch, height, width, 3)
    onnx.save(model, tmp_path / "last.onnx")
    assert main(["model", str(tmp_path / "last.onnx"), "--names", "a, b"]) == 1
    assert "it must take three channels, (batch, 3, height, width)" in capsys.readouterr().err
