"""What a sink delivers: one JSON object for each event, frame of detections or dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.errors import shown
from pipert_shm.limits import is_number
from pipert_shm.routine import Routine
from pipert_shm.video.detection import DetectedFrame, Detections, finite, found_in
from pipert_shm.video.detection_output import jsonable, line_of

LAST_TIME = 253402300800  # seconds since the epoch, at the end of the year 9999


@dataclass(frozen=True, slots=True)
class Letter:
    """One message on its way out.

    Attributes:
        key: the same each time that this message is sent, and for no other: an event's id and phase, `1f0c-start`,
            and of anything else a random one.
        camera: the origin of what it tells.
        kind: an event's kind, such as `enter`; `detections`; of a dict its `kind`, or else `data`.
        body: what it tells, as values that JSON knows.
        number: its place in the spool, from 1.
        time: when the spool took it, seconds since the epoch.
    """

    key: str
    camera: str
    kind: str
    body: dict[str, Any]
    number: int = 0
    time: float = 0.0

    @property
    def captured(self) -> float:
        """When the frame was captured that it tells of, seconds since the epoch; or else when the spool took it."""
        times = (self.body.get("time"), self.body.get("capture_time"))
        known = (time for time in times if isinstance(time, int | float) and is_number(time) and 0 <= time < LAST_TIME)
        return float(next(known, self.time))

    def to_json(self) -> bytes:
        """Returns the body as JSON, in ASCII."""
        return json.dumps(self.body, allow_nan=False).encode()


def encoded(text: str) -> bytes:
    """Returns a text in UTF-8; also one with lone surrogates, which have no form there."""
    return text.encode("utf-8", "backslashreplace")


def letters_of(routine: Routine, data: object) -> list[Letter]:
    """Returns what is to be delivered of a payload. A frame in which nothing was found is nothing.

    :param routine: whose message it is; it counts boxes that are not finite.
    :raises TypeError: when the payload is none that sinks take.
    """
    if isinstance(data, list | tuple):
        return [letter for item in data for letter in _letters(routine, item)]
    return _letters(routine, data)


def _letters(routine: Routine, data: object) -> list[Letter]:
    meta = routine.meta
    if isinstance(data, DetectionEvent):
        return [Letter(f"{data.id}-{data.phase}", data.camera, data.kind, jsonable(data.to_dict()))]
    if isinstance(data, DetectedFrame | Detections):
        found = finite(routine, found_in(data))
        return [Letter(uuid4().hex, meta.origin, "detections", line_of(meta, found, data))] if len(found) else []
    if isinstance(data, Mapping):
        body = jsonable(dict(data))
        if not isinstance(body, dict):
            raise TypeError(f"a sink takes a dict of at most 1,000 items, not one of {len(data):,}")
        camera, kind = body.get("camera"), body.get("kind")
        return [
            Letter(
                uuid4().hex, camera if isinstance(camera, str) else meta.origin, kind if isinstance(kind, str) else "data", body
            )
        ]
    raise TypeError(
        f"a sink takes a DetectionEvent, a DetectedFrame, Detections or a dict, or a list of these, not {shown(data)}"
    )
