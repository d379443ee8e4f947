"""A configuration of Frigate, as a pipeline file: its cameras, zones, objects, recordings and MQTT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipert_shm.errors import ConfigError, Fault, shown
from pipert_shm.importing.counterparts import UNKNOWN, why
from pipert_shm.importing.frigate_streams import VARIABLE, filled, source, streams
from pipert_shm.importing.frigate_zones import LOST, zones
from pipert_shm.importing.section import Notes, Section, dotted, leftovers
from pipert_shm.pipeline_file.reader import YamlFile
from pipert_shm.pipeline_file.text import yaml_of

MODEL = "MODEL.onnx"
_BATCH = 8  # of the detector, at most
_OBJECTS = ["person"]  # what Frigate tracks if nothing is said
_THRESHOLD = 0.5


@dataclass
class Imported:
    """A pipeline file made of another system's configuration.

    Attributes:
        pipeline: what the file says.
        notes: what was left out, and what is to be done by hand.
    """

    pipeline: dict[str, Any]
    notes: Notes

    def text(self, origin: str) -> str:
        """Returns the file. It begins with comments that tell what is to be done, and what has no counterpart.

        :param origin: the name of the file that it was made of.
        """
        lines = [f"# Made of {origin} by `pipert-shm import`."]
        if self.notes.to_do:
            lines += ["#", "# To do by hand:", *(f"# - {each}" for each in self.notes.to_do)]
        if left := self.left_out():
            lines += ["#", "# Without a counterpart, so left out:", *(f"# - {each}" for each in left)]
        return "\n".join(lines) + "\n\n" + yaml_of(self.pipeline)

    def left_out(self) -> list[str]:
        """Returns a line for each setting that was left out."""
        return [f"{dotted(path)}: {reason}" for path, reason in sorted(self.notes.left.items()) if reason]


def import_frigate(path: Path, model: str | None = None) -> Imported:
    """Reads a configuration of Frigate, of versions 0.12 to 0.17, and makes a pipeline of it.

    :param path: the file.
    :param model: the ONNX file of the network, in place of Frigate's.
    :raises ConfigError: when the file can't be read, or has no camera that can be used.
    """
    data = YamlFile(path).data
    if not isinstance(data, dict) or not isinstance(data.get("cameras"), dict):
        raise ConfigError([Fault(str(path), 0, "cameras", "there are no cameras, so this is no configuration of Frigate's")])
    notes = Notes()
    draft = _Draft(Section(notes, ((), data)), model)
    for name in data["cameras"]:
        draft.add(str(name))
    if not draft.cameras:
        said = "; ".join(f"{dotted(path)}: {reason}" for path, reason in notes.left.items())
        raise ConfigError([Fault(str(path), 0, "cameras", f"none of the cameras can be used: {said}")])
    pipeline = draft.pipeline()
    for each in leftovers(data, notes.taken):
        for part in _parts(each, data):
            notes.leave(part, why(part))
    return Imported(pipeline, notes)


def _parts(path: tuple[str, ...], data: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A setting that was left out, or where nothing is known of it as a whole, those in it."""
    value: Any = data
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if why(path) == UNKNOWN and isinstance(value, dict) and value:
        for key in value:
            yield from _parts((*path, str(key)), data)
    else:
        yield path


@dataclass
class _Draft:
    """The pipeline while it is put together."""

    whole: Section
    model: str | None
    cameras: dict[str, dict[str, Any]] = field(default_factory=dict)
    recorders: dict[str, dict[str, Any]] = field(default_factory=dict)
    zones: dict[str, Any] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    clips: bool = False

    def add(self, name: str) -> None:
        """Adds a camera, with what the whole file says for all cameras behind what is said for it."""
        own = self.whole.section("cameras").section(name)
        camera = own.over(self.whole)
        if not own.flag("enabled", True):
            own.notes.leave(own.path, "this camera is switched off")
            return
        found = streams(camera, self.whole.section("go2rtc").section("streams"))
        if found is None:
            return
        parameters, size = source(found, camera)
        footage = self._footage(camera, name)
        if not camera.section("detect").flag("enabled", self._detects_by_default()):
            own.notes.ask(f"camera {name}: Frigate does not detect in it; take it off the detector's wire if that is meant")
        self.cameras[name] = parameters
        if footage is not None and found.record in (None, found.detect):
            parameters["footage"] = footage
        elif footage is not None:
            kept = {"source": found.record, "skip_frame": "nokey", "footage": {**footage, "camera": name}}
            self.recorders[f"{name}_record"] = kept
        self._objects(camera, name)
        its_zones, rules = zones(own, size, parameters["fps"])
        if its_zones:
            self.zones[name] = its_zones
        self.rules += rules

    def _detects_by_default(self) -> bool:
        """Whether a camera is looked at that says nothing of it. From 0.16 on Frigate does not; it sets this in older files."""
        return str(self.whole.take("version") or "") < "0.16"

    def _objects(self, camera: Section, name: str) -> None:
        objects = camera.section("objects")
        labels = objects.texts("track") or _OBJECTS
        self.labels += [label for label in labels if label not in self.labels]
        rule: dict[str, Any] = {"name": name, "kind": "dwell", "cameras": [name], "labels": labels, "seconds": 1, "lost": LOST}
        scores, thresholds = [], {}
        for label, each in objects.section("filters").sections():
            scores += [(label, score) for score in [each.number("min_score")] if score is not None]
            if (threshold := each.number("threshold")) is not None and label in labels:
                rule["min_score"] = min(threshold, rule.get("min_score", threshold))
                thresholds[label] = threshold
        if len(set(thresholds.values())) > 1:
            objects.notes.ask(f"camera {name}: its rule goes by the lowest threshold, {rule['min_score']}, for all of {labels}")
        self.scores += [score for label, score in scores if label in labels]
        self.rules.append(rule)

    def _footage(self, camera: Section, name: str) -> dict[str, Any] | None:
        record = camera.section("record")
        if not record.flag("enabled", False):
            return None
        clips: dict[str, Any] = {}
        for kind in ("alerts", "detections", "events"):
            part = record.section(kind)
            for key, ours in (("pre_capture", "before"), ("post_capture", "after")):
                if (seconds := part.number(key)) is not None:
                    clips[ours] = max(seconds, clips.get(ours, 0))
            retain = part.section("retain")
            days = retain.number("days") or retain.number("default")
            if days:
                clips["days"] = max(days, clips.get("days", 0))
        clips.setdefault("days", 10)
        footage: dict[str, Any] = {"directory": "footage", "clips": clips}
        days = record.section("continuous").number("days") or record.section("retain").number("days")
        if days:
            footage["continuous"] = {"days": days}
            retain = record.section("retain")
            if retain.text("mode") not in (None, "all"):
                record.notes.leave((*retain.path, "mode"), f"{name} is recorded all the time, whether something moves or not")
        self.clips = True
        return footage

    def pipeline(self) -> dict[str, Any]:
        """The whole file."""
        cameras = list(self.cameras)
        routines: dict[str, Any] = {}
        for name, parameters in (*self.cameras.items(), *self.recorders.items()):
            routines[name] = {"class": "pipert_shm.VideoSource", "parameters": parameters}
        routines["detector"] = {"class": "pipert_shm.DnnDetector", "parameters": self._detector(len(cameras))}
        routines["tracker"] = {"class": "pipert_shm.Tracker"}
        routines["zones"] = {"class": "pipert_shm.Zones", "parameters": {"zones": self.zones}}
        routines["events"] = {
            "class": "pipert_shm.EventSource",
            "parameters": {"rules": self.rules, **({"clips": True} if self.clips else {})},
        }
        routines["log"] = {"class": "pipert_shm.JsonLinesWriter", "parameters": {"path": "events.jsonl"}}
        sinks = ["log"]
        if (mqtt := self._mqtt()) is not None:
            routines["mqtt"] = {"class": "pipert_shm.MqttSink", "parameters": mqtt}
            sinks.append("mqtt")
        flows: dict[str, Any] = {}
        for name in cameras:
            recorder = f"{name}_record"
            flows[name] = {"routines": [name, *([recorder] if recorder in self.recorders else [])]}
        flows["detect"] = {"routines": ["detector"]}
        flows["events"] = {"routines": ["tracker", "zones", "events"], "auto_wire": True}
        flows["output"] = {"routines": sinks}
        found: dict[str, Any] = {"pipe": {"name": "frigate"}, "routines": routines, "flows": flows}
        found["wires"] = [
            {"source": name, "destinations": ["detector"], "policy": "drop_oldest", "capacity": 2} for name in cameras
        ]
        found["wires"] += [
            {"source": "detector", "destinations": ["tracker"], "policy": "block"},
            {"source": "events", "destinations": sinks, "policy": "block"},
        ]
        level = self.whole.section("logger").text("default")
        if level is not None:
            found["logging"] = {"level": level.upper()}
        return found

    def _detector(self, cameras: int) -> dict[str, Any]:
        told = self.whole.section("model").text("path")
        model = self.model or (told if told is not None and told.endswith(".onnx") else None)
        if model is None:
            self.whole.notes.ask(
                f"give the detector a network in ONNX format in place of {MODEL}"
                + (f" (Frigate's was {shown(told)})" if told else "")
                + "; `pipert-shm model FILE` shows whether it is known"
            )
        parameters: dict[str, Any] = {"model": model or MODEL, "batch_size": min(cameras, _BATCH), "classes": self.labels}
        for name, each in self.whole.section("detectors").sections():
            kind, device = each.text("type"), each.text("device")
            if kind == "openvino":
                parameters |= {"backend": "openvino", "device": (device or "AUTO").upper()}
            elif kind in ("onnx", "tensorrt"):
                parameters["backend"] = "onnxruntime"
                if kind == "tensorrt":
                    parameters["device"] = "tensorrt"
            elif kind != "cpu":
                self.whole.notes.leave(
                    each.path, f"{name} is of the kind {shown(kind)}; here the CPU, CUDA or OpenVINO runs it"
                )
        if self.scores:
            parameters["threshold"] = min(self.scores)
        return parameters

    def _mqtt(self) -> dict[str, Any] | None:
        mqtt = self.whole.section("mqtt")
        host = mqtt.text("host")
        if host is None or not mqtt.flag("enabled", True):
            if mqtt.keys():
                mqtt.notes.leave(mqtt.path, "it is switched off, or names no host")
            return None
        is_encrypted = mqtt.text("tls_ca_certs") is not None
        port = mqtt.number("port")
        address = f"{'mqtts' if is_encrypted else 'mqtt'}://{host}" + (f":{int(port)}" if port else "")
        parameters: dict[str, Any] = {"url": address, "home_assistant": "homeassistant"}
        if (user := mqtt.text("user")) is not None:
            parameters["user"] = filled(user, mqtt, os.environ)
        if (password := mqtt.text("password")) is not None:
            name = VARIABLE.fullmatch(password)
            parameters["password"] = {"env": name[1]} if name else password
        for key, ours in (("tls_ca_certs", "ca"), ("tls_client_cert", "certificate"), ("tls_client_key", "key")):
            if (value := mqtt.text(key)) is not None:
                parameters[ours] = value
        return parameters
