"""Is a configuration of Frigate's taken over, and is everything listed that is not?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipert_shm import ConfigError
from pipert_shm.cli import main
from pipert_shm.importing.frigate import import_frigate
from pipert_shm.importing.section import Notes, Section, leftovers
from pipert_shm.pipeline_file.loading import PipelineFile

CONFIG = """
mqtt: {host: 192.168.0.18, user: me, password: '{FRIGATE_MQTT}', topic_prefix: frigate}
detectors:
  ov: {type: openvino, device: GPU}
model: {path: /config/yolov9.onnx, width: 320, height: 320, model_type: yolo-generic}
go2rtc:
  streams:
    gate_main: ["rtsp://me:{FRIGATE_RTSP_PASSWORD}@10.0.0.5/main", "ffmpeg:gate_main#audio=opus"]
objects:
  track: [person, car]
  filters:
    person: {min_score: 0.4, threshold: 0.7, min_area: 5000}
record:
  enabled: True
  retain: {days: 3, mode: motion}
  alerts: {pre_capture: 7, retain: {days: 30}}
birdseye: {enabled: true, mode: objects}
detect: {enabled: yes, stationary: {interval: 50}}
cameras:
  gate:
    ffmpeg:
      hwaccel_args: preset-vaapi
      inputs:
        - {path: rtsp://127.0.0.1:8554/gate_main, input_args: preset-rtsp-restream, roles: [record, audio]}
        - {path: rtsp://10.0.0.5/sub, roles: [detect], hwaccel_args: preset-intel-qsv-h264}
    detect: {width: 640, height: 360, fps: 10}
    motion: {mask: ["0,0,1,0,1,0.1"]}
    zones:
      drive: {coordinates: "320,360,640,360,640,180,320,180", objects: [person], loitering_time: 10}
      lawn: {coordinates: ["0.1,0.5", "0.4,0.5", "0.4,0.9"], inertia: 5, filters: {dog: {min_area: 3}}}
    onvif: {host: 10.0.0.5}
  yard:
    ffmpeg: {inputs: [{path: rtsp://10.0.0.6/main, roles: [detect, record]}]}
    objects: {track: [dog], filters: {dog: {mask: '0,0,1,0,1,1'}}}
  off: {enabled: no, ffmpeg: {inputs: []}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frigate") / "frigate.yml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def made(config: Path) -> dict[str, Any]:
    return import_frigate(config).pipeline


def parameters(made: dict[str, Any], routine: str) -> dict[str, Any]:
    found: dict[str, Any] = made["routines"][routine]["parameters"]
    return found


def test_a_camera_is_read_as_frigate_detects_in_it(made: dict[str, Any]) -> None:
    assert parameters(made, "gate") == {"source": "rtsp://10.0.0.5/sub", "fps": 10, "size": [640, 360], "hwaccel": "qsv"}


def test_a_stream_is_recorded_as_frigate_keeps_it(made: dict[str, Any]) -> None:
    kept = {"directory": "footage", "clips": {"before": 7, "days": 30}, "continuous": {"days": 3}}
    assert parameters(made, "yard")["footage"] == kept
    other = parameters(made, "gate_record")
    assert other["source"] == "rtsp://me:{FRIGATE_RTSP_PASSWORD}@10.0.0.5/main"
    assert other["footage"] == {**kept, "camera": "gate"}
    assert parameters(made, "events")["clips"] is True


def test_a_variable_that_is_set_is_put_in(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRIGATE_RTSP_PASSWORD", "secret")
    assert parameters(import_frigate(config).pipeline, "gate_record")["source"] == "rtsp://me:secret@10.0.0.5/main"


def test_zones_in_pixels_and_in_shares(made: dict[str, Any]) -> None:
    assert parameters(made, "zones")["zones"] == {
        "gate": {
            "drive": {"polygon": [[0.5, 1.0], [1.0, 1.0], [1.0, 0.5], [0.5, 0.5]], "labels": ["person"]},
            "lawn": {"polygon": [[0.1, 0.5], [0.4, 0.5], [0.4, 0.9]]},
        }
    }


def test_rules_for_objects_zones_and_loitering(made: dict[str, Any]) -> None:
    rules = {rule["name"]: rule for rule in parameters(made, "events")["rules"]}
    assert rules["gate"]["labels"] == ["person", "car"]
    assert rules["gate"]["min_score"] == 0.7
    assert rules["yard"]["labels"] == ["dog"]
    assert "min_score" not in rules["yard"]
    assert rules["gate_drive"]["seconds"] == 0.3  # three frames of ten a second
    assert rules["gate_lawn"]["seconds"] == 0.5
    assert rules["gate_drive_loitering"]["seconds"] == 10


def test_detector_and_broker(made: dict[str, Any]) -> None:
    assert parameters(made, "detector") == {
        "model": "/config/yolov9.onnx",
        "batch_size": 2,
        "classes": ["person", "car", "dog"],
        "threshold": 0.4,
        "backend": "openvino",
        "device": "GPU",
    }
    broker = {
        "url": "mqtt://192.168.0.18",
        "home_assistant": "homeassistant",
        "user": "me",
        "password": {"env": "FRIGATE_MQTT"},
    }
    assert parameters(made, "mqtt") == broker


def test_what_has_no_counterpart_is_listed_with_the_reason(config: Path) -> None:
    imported = import_frigate(config)
    said = dict(line.split(": ", 1) for line in imported.left_out())
    assert "dashboard" in said["birdseye"]
    assert "switched off" in said["cameras.off"]
    assert {
        "cameras.gate.ffmpeg.inputs[0].roles.audio",
        "cameras.gate.ffmpeg.inputs[0].input_args",
        "cameras.gate.motion",
        "cameras.yard.objects.filters.dog.mask",
        "cameras.gate.zones.lawn.filters.dog.min_area",
        "cameras.gate.onvif",
        "detect.stationary",
        "mqtt.topic_prefix",
        "objects.filters.person.min_area",
        "record.retain.mode",
    } <= said.keys()
    assert any("FRIGATE_RTSP_PASSWORD" in each for each in imported.notes.to_do)


def mappings(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        yield at
        for key, item in value.items():
            yield from mappings(item, (*at, key))


DATA = YAML(typ="safe").load(CONFIG)
ABOUT_SOMETHING = [at for at in mappings(DATA) if at not in ((), ("go2rtc", "streams"), ("cameras",), ("detectors",))]


@given(st.sampled_from(sorted(ABOUT_SOMETHING)))
def test_no_setting_is_passed_over_in_silence(tmp_path_factory: pytest.TempPathFactory, at: tuple[str, ...]) -> None:
    data = YAML(typ="safe").load(CONFIG)
    inner = data
    for key in at:
        inner = inner[key]
    inner["surprise"] = {"a": 1} if at[-1] in ("zones", "filters") else 7
    path = tmp_path_factory.mktemp("surprise") / "frigate.yml"
    YAML().dump(data, path)
    imported = import_frigate(path)
    listed = [line.split(": ", 1)[0] for line in imported.left_out()]
    name = ".".join((*at, "surprise"))
    assert any(name == each or name.startswith(f"{each}.") or each.startswith(f"{name}.") for each in listed), listed


def test_a_value_of_the_wrong_kind_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "frigate.yml"
    path.write_text(
        "cameras: {gate: {ffmpeg: {inputs: [{path: 'rtsp://10.0.0.5/sub'}]}, detect: {fps: fast}, "
        "zones: {drive: {coordinates: '1,2,x'}}}}"
    )
    imported = import_frigate(path)
    said = "\n".join(imported.left_out())
    assert "cameras.gate.detect.fps: this is to be a number, not 'fast'" in said
    assert "cameras.gate.zones.drive.coordinates: at least three points are expected" in said
    assert any("MODEL.onnx" in each for each in imported.notes.to_do)


@pytest.mark.parametrize(
    ("version", "said"), [("", False), ("version: 0.15-1", False), ("version: 0.16", True), ("version: 0.17-0", True)]
)
def test_from_0_16_on_nothing_is_detected_unless_said(tmp_path: Path, version: str, said: bool) -> None:
    path = tmp_path / "frigate.yml"
    path.write_text(f"{version}\ncameras: {{gate: {{ffmpeg: {{inputs: [{{path: 'rtsp://10.0.0.5/sub'}}]}}}}}}")
    assert any("Frigate does not detect in it" in each for each in import_frigate(path).notes.to_do) == said


@pytest.mark.parametrize("text", ["routines: {}", "cameras: 3", "cameras: {gate: {ffmpeg: {inputs: []}}}"])
def test_a_file_without_cameras_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "frigate.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="camera"):
        import_frigate(path)


def test_the_command_writes_a_file_that_can_be_run(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "yard.yaml"
    assert main(["import", str(config), "-o", str(out), "--model", "yolo.onnx"]) == 0
    assert "left out: birdseye" in capsys.readouterr().err
    assert "# - birdseye: " in out.read_text()
    pipe = PipelineFile(out).make_pipe()
    assert {"gate", "yard", "gate_record", "mqtt"} <= {
        routine for routines in pipe._flows.values() for routine in (each.name for each in routines)
    }
    assert main(["import", str(config), "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err


def test_leftovers_are_the_outermost_settings() -> None:
    notes = Notes()
    data = {"a": {"b": 1, "c": 2}, "d": {"e": 3}, "f": None}
    Section(notes, ((), data)).section("a").take("b")
    assert list(leftovers(data, notes.taken)) == [("a", "c"), ("d",)]
