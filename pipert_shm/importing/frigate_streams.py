"""Frigate's streams of a camera, as sources here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipert_shm.errors import shown
from pipert_shm.importing.counterparts import why
from pipert_shm.importing.section import Section

_RESTREAM = re.compile(r"rtsp://(?:127\.0\.0\.1|localhost):8554/([^/?#]+)")
VARIABLE = re.compile(r"\{(FRIGATE_\w+)\}")
_HARDWARE = {"vaapi": "vaapi", "nvidia": "cuda", "cuda": "cuda", "qsv": "qsv"}


@dataclass(frozen=True, slots=True)
class Streams:
    """What a camera is read from.

    Attributes:
        detect: URL of the stream that is looked at.
        record: URL of the stream that is kept; None: nothing is said to be recorded.
        hwaccel: what decodes, as `VideoSource` calls it; None: the CPU.
    """

    detect: str
    record: str | None
    hwaccel: str | None


def streams(camera: Section, restreams: Section, environment: Mapping[str, str] = os.environ) -> Streams | None:
    """Reads `ffmpeg.inputs` of a camera; None, and a note, where nothing is said to be detected in.

    :param restreams: `go2rtc.streams`, whose URLs stand for those at port 8554.
    :param environment: where `{FRIGATE_…}` is looked up.
    """
    ffmpeg = camera.section("ffmpeg")
    inputs = ffmpeg.take("inputs")
    found: dict[str, str] = {}
    hwaccel = ffmpeg
    for number, given in enumerate(inputs if isinstance(inputs, list) else []):
        path = (*ffmpeg.path, f"inputs[{number}]")
        if not isinstance(given, dict) or "path" not in given:
            camera.notes.leave(path, f"a mapping with path and roles is expected, not {shown(given)}")
            continue
        one = Section(camera.notes, (path, given))
        url = _url(one, restreams, environment)
        roles = one.texts("roles") or ["detect"]
        for role in roles:
            if role in ("detect", "record"):
                found.setdefault(role, url)
            else:
                camera.notes.leave((*path, f"roles.{role}"), "sound is not listened to" if role == "audio" else "unknown")
        if found.get("detect") == url and "detect" in roles:
            hwaccel = Section(camera.notes, (path, given)).over(ffmpeg)
        for key in given.keys() - {"path", "roles", *(["hwaccel_args"] if "detect" in roles else [])}:
            camera.notes.leave((*path, str(key)), why((*path, str(key))))
    if "detect" not in found:
        camera.notes.leave(camera.path, "no input has the role detect, so there is nothing to look at")
        return None
    return Streams(found["detect"], found.get("record"), _hwaccel(hwaccel))


def _url(one: Section, restreams: Section, environment: Mapping[str, str]) -> str:
    url = str(one.take("path"))
    if match := _RESTREAM.match(url):
        given = restreams.take(match[1])
        first = given[0] if isinstance(given, list) and given else given
        if isinstance(first, str):
            url = first.removeprefix("ffmpeg:").split("#")[0]
        if "://" not in url or not isinstance(first, str):
            one.notes.ask(f"{match[0]} is Frigate's own restream: give the camera's URL in its place")
            url = match[0]
    return filled(url, one, environment)


def filled(text: str, one: Section, environment: Mapping[str, str]) -> str:
    """Returns a text with the values of the variables `{FRIGATE_…}` in it; what is not set stays, with a note.

    :param one: the part of the file that it is from.
    """
    return VARIABLE.sub(lambda match: _value(match[1], one, environment), text)


def _value(name: str, one: Section, environment: Mapping[str, str]) -> str:
    if name not in environment:
        one.notes.ask(f"put the value of {name} where {{{name}}} stands: no such variable is set here")
        return f"{{{name}}}"
    return environment[name]


def _hwaccel(ffmpeg: Section) -> str | None:
    given = ffmpeg.take("hwaccel_args")
    if not given:
        return None
    said = " ".join(map(str, given)) if isinstance(given, list) else str(given)
    if said == "auto":
        return "auto"
    for word, name in _HARDWARE.items():
        if word in said:
            return name
    ffmpeg.notes.leave((*ffmpeg.path, "hwaccel_args"), f"{said!r} names no hardware that is known here: give hwaccel")
    return None


def source(streams: Streams, camera: Section) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Returns the parameters of the camera's `VideoSource`, and the size in which it is looked at, if that is said."""
    detect = camera.section("detect")
    parameters: dict[str, Any] = {"source": streams.detect, "fps": detect.number("fps") or 5}
    width, height = detect.number("width"), detect.number("height")
    size = (int(width), int(height)) if width and height else None
    if size is not None:
        parameters["size"] = list(size)
    if streams.hwaccel is not None:
        parameters["hwaccel"] = streams.hwaccel
    return parameters, size
