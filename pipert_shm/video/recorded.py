"""Converts payloads to messages of a recording and back, without pickles: pictures in ROS's format, all else as JSON.

Pictures within a payload are messages of their own before it, so that any tool shows them. The payload's JSON has
`{"$picture": 0}` in their place, and other arrays as `{"$array": …}`. A payload of another class is pickled by the recorder.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipert_shm.data import FORMATS, MOST_ROWS, PLANAR, Format, Meta
from pipert_shm.limits import is_count
from pipert_shm.video.detection import DetectedFrame, Detections

IMAGE_NAME = "sensor_msgs/msg/Image"
IMAGE_DEFINITION = b"""std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""

LITTLE_ENDIAN = b"\0\1\0\0"  # the first bytes of CDR data
DEEPEST = 100  # levels of containers in a payload
LARGEST = (1 << 32) - 1  # bytes of a picture

_ENCODINGS: dict[tuple[str, int], str] = {
    ("uint8", 0): "mono8",
    ("uint8", 1): "8UC1",
    ("uint8", 3): "bgr8",
    ("uint8", 4): "bgra8",
    ("uint16", 0): "mono16",
    ("uint16", 1): "16UC1",
    ("uint16", 3): "bgr16",
    ("float32", 0): "32FC1",
}
_LAYOUTS = {name: layout for layout, name in _ENCODINGS.items()} | {"rgb8": ("uint8", 3), "rgb16": ("uint16", 3)}
_KINDS = "biufcmM"  # kinds of NumPy's dtypes whose bytes say all


def is_picture(value: object) -> bool:
    """Whether the value is an array that other tools can show as a picture."""
    return type(value) is np.ndarray and value.size > 0 and _encoding_of(value) is not None


def _encoding_of(array: np.ndarray) -> str | None:
    if array.ndim not in (2, 3) or not array.dtype.isnative or array.nbytes > LARGEST:
        return None
    return _ENCODINGS.get((array.dtype.name, 0 if array.ndim == 2 else array.shape[2]))


def picture_data(picture: np.ndarray, log_time: int, origin: str, format: Format | None = None) -> list[bytes | memoryview]:
    """Returns the picture as a `sensor_msgs/msg/Image` in CDR, in pieces. The last piece is the array's memory, if contiguous.

    A planar one is `mono8`, its luma above its colours: the tools know no name for its format, and show it so.

    :param log_time: ns since the epoch.
    :param format: of the picture.
    """
    body = bytearray(struct.pack("<iI", log_time // 10**9 % (1 << 31), log_time % 10**9))
    _put_text(body, origin)
    body += bytes(-len(body) % 4) + struct.pack("<II", *picture.shape[:2])
    encoding = _encoding_of(picture) or ""
    _put_text(body, encoding.replace("bgr", "rgb") if format == "rgb" else encoding)
    body += b"\0"  # little-endian
    body += bytes(-len(body) % 4) + struct.pack("<II", picture.nbytes // picture.shape[0], picture.nbytes)
    return [LITTLE_ENDIAN + bytes(body), np.ascontiguousarray(picture).data.cast("B")]


def format_told(meta: Meta) -> dict[str, str]:
    """What a channel says of the format of its messages' frames."""
    format, rows = meta.described
    if format is None:
        return {}
    return {"format": format, "rows": str(rows)} if format in PLANAR else {"format": format}


def describe(meta: Meta, told: Mapping[str, str]) -> None:
    """Sets the format that a channel tells of. Any other text in its place, of another program, says nothing."""
    rows = told.get("rows", "0")
    for format in FORMATS:
        if told.get("format") == format and rows.isdecimal() and len(rows) <= 10 and int(rows) <= MOST_ROWS:
            meta.describe(format, int(rows))


def stamp_data(meta: Meta) -> bytes | None:
    """What was known of one message, as JSON, beyond what its channel and its record say; None where nothing was."""
    told: dict[str, Any] = {"pts": meta.pts, "wall_clock": meta.wall_clock}
    told = {name: value for name, value in told.items() if value is not None}
    if meta.sequence > LARGEST:
        told["sequence"] = meta.sequence
    return json_from_payload(told)[0] if told else None


def stamp_from(data: bytes) -> dict[str, Any]:
    """Reads what `stamp_data` wrote.

    :raises ValueError: when the data is none.
    """
    told = payload_from_json(data, [])
    if not isinstance(told, dict):
        raise ValueError("it has no stamp before it")
    for name in ("pts", "wall_clock"):
        if name in told and not (isinstance(told[name], int | float) and not isinstance(told[name], bool)):
            raise ValueError(f"its {name} is no number")
    if "sequence" in told and not (is_count(told["sequence"], 0) and told["sequence"] < 1 << 64):
        raise ValueError("its sequence is no number of a message")
    return told


def captured_at(log_time: int, told: Mapping[str, str]) -> int | None:
    """When a message was captured, CLOCK_MONOTONIC of the recorder's machine; None where its channel does not tell.

    :param log_time: the same, ns since the epoch.
    """
    epoch = told.get("epoch_ns", "")
    if not epoch.isdecimal() or len(epoch) > 20 or int(epoch) > log_time:
        return None
    return log_time - int(epoch)


def _put_text(body: bytearray, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace") + b"\0"
    body += struct.pack("<I", len(data)) + data


def picture_from(data: bytes) -> np.ndarray:
    """Reads what `picture_data` wrote.

    :raises ValueError: when the data is no such picture.
    """
    body = memoryview(data)[len(LITTLE_ENDIAN) :]
    try:
        (length,) = struct.unpack_from("<I", body, 8)
        at = _aligned(12 + length)
        height, width, length = struct.unpack_from("<III", body, at)
        encoding = bytes(body[at + 12 : at + 11 + length]).decode()
        dtype, channels = _LAYOUTS[encoding]
    except (struct.error, KeyError) as error:
        raise ValueError(f"it is no picture: {error}") from error
    shape = (height, width, channels) if channels else (height, width)
    pixels = body[_aligned(at + 12 + length + 1) + 8 :]
    return np.frombuffer(pixels, dtype, math.prod(shape)).reshape(shape)


def _aligned(at: int) -> int:
    return at + -at % 4


def json_from_payload(payload: Any) -> tuple[bytes, list[np.ndarray]]:
    """Converts a payload to JSON, and to a list of the pictures in it.

    :raises TypeError: when it contains an object that has no form in JSON; the text says which.
    """
    pictures: list[np.ndarray] = []
    plain = _Plain(pictures)
    return json.dumps(plain.of(payload, 0), allow_nan=False, separators=(",", ":")).encode(), pictures


class _Plain:
    """Converts values to forms of JSON. A subclass is refused, since only a pickle keeps its class."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self._pictures = pictures

    def of(self, value: Any, depth: int) -> Any:
        if depth > DEEPEST:
            raise TypeError(f"more than {DEEPEST} levels of containers")
        make = _MAKERS.get(type(value))
        if make is not None:
            return make(self, value, depth + 1)
        if isinstance(value, np.generic):
            return {"$scalar": self._array(np.asarray(value))}
        kind = type(value)
        raise TypeError(f"an object of class {kind.__module__}.{kind.__qualname__}")

    def _float(self, value: float, depth: int) -> Any:
        return value if math.isfinite(value) else {"$float": repr(value)}

    def _list(self, value: list[Any], depth: int) -> Any:
        return [self.of(item, depth) for item in value]

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.of(item, depth) for key, item in value.items()}
        return {"$dict": [[self.of(key, depth), self.of(item, depth)] for key, item in value.items()]}

    def _ndarray(self, value: np.ndarray, depth: int) -> Any:
        if is_picture(value):
            self._pictures.append(value)
            return {"$picture": len(self._pictures) - 1}
        return {"$array": self._array(value)}

    def _array(self, value: np.ndarray) -> Any:
        if value.dtype.kind not in _KINDS or type(value.dtype).__module__ != "numpy.dtypes":
            raise TypeError(f"an array of dtype {value.dtype}")
        data = base64.b64encode(value.tobytes()).decode()
        return {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}

    def _detections(self, value: Detections, depth: int) -> Any:
        fields: list[Any] = [value.boxes, value.scores, value.class_ids, value.names, value.track_ids]
        more = {name: column.tolist() if column.dtype.kind in "US" else column for name, column in value.data.items()}
        later = [value.keypoints, value.corners, value.masks, more]  # which earlier versions don't read
        if value.data or any(column is not None for column in later[:3]):
            fields += later
        return {"$Detections": [self.of(field, depth) for field in fields]}

    def _detected_frame(self, value: DetectedFrame, depth: int) -> Any:
        if set(vars(value)) != {"frame", "detections", "additional_data"}:
            raise TypeError("a DetectedFrame with attributes of its own")
        return {"$DetectedFrame": [self.of(field, depth) for field in (value.frame, value.detections, value.additional_data)]}


_MAKERS: dict[type, Callable[[_Plain, Any, int], Any]] = {
    type(None): lambda plain, value, depth: value,
    bool: lambda plain, value, depth: value,
    int: lambda plain, value, depth: value,
    str: lambda plain, value, depth: value,
    float: _Plain._float,
    bytes: lambda plain, value, depth: {"$bytes": base64.b64encode(value).decode()},
    list: _Plain._list,
    tuple: lambda plain, value, depth: {"$tuple": plain._list(list(value), depth)},
    dict: _Plain._dict,
    np.ndarray: _Plain._ndarray,
    Detections: _Plain._detections,
    DetectedFrame: _Plain._detected_frame,
}


def payload_from_json(data: bytes, pictures: list[np.ndarray]) -> Any:
    """Makes the payload again, only from plain values, arrays and classes of this package, whatever the file says.

    :raises ValueError: when the data is no payload.
    """
    try:
        return json.loads(data, object_hook=lambda told: _made(told, pictures))
    except (TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no payload: {type(error).__name__}: {error}") from error


def _made(told: dict[str, Any], pictures: list[np.ndarray]) -> Any:
    if len(told) != 1:
        return told
    ((name, value),) = told.items()
    match name:
        case "$picture":
            return pictures[value]
        case "$array":
            return _array_from(value)
        case "$scalar":
            return _array_from(value)[()]
        case "$float":
            return float(value)
        case "$bytes":
            return base64.b64decode(value, validate=True)
        case "$tuple":
            return tuple(value)
        case "$dict":
            return dict(value)
        case "$Detections":
            return Detections(*value)
        case "$DetectedFrame":
            frame = DetectedFrame(value[0], value[1])
            frame.additional_data.update(value[2])
            return frame
    return told


def _array_from(told: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(str(told["dtype"]))
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of dtype {dtype}")
    return np.frombuffer(base64.b64decode(told["data"], validate=True), dtype).reshape(told["shape"])
