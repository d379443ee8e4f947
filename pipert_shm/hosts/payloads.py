"""Turns payloads into bytes for another host, and back, without pickles: a host runs no code that another one sent.

A payload is an array, or plain values, containers and this package's classes with arrays in them (see `video.recorded`). A
picture may go as a JPEG, and everything may be compressed by Zstandard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from pipert_shm.data import FORMATS, Meta
from pipert_shm.errors import PayloadError
from pipert_shm.extras import to_install
from pipert_shm.video.opencv import cv2
from pipert_shm.video.recorded import json_from_payload, payload_from_json

Codec = Literal["none", "jpeg", "zstd"]
CODECS: tuple[Codec, ...] = get_args(Codec)
QUALITY = 90
_KINDS = "biufc"  # kinds of dtypes whose bytes say all

Loan = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]


def check_zstandard() -> None:
    """:raises ImportError: when Zstandard is not installed."""
    try:
        import zstandard  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"codec 'zstd' needs the package zstandard ({error}): {to_install('hosts')}") from error


def encode(payload: Any, meta: Meta, codec: Codec) -> bytes:
    """Returns the payload's bytes. An array's memory is read once, and may change afterwards.

    :raises PayloadError: when it holds an object that can't go to another host.
    """
    pictures: list[np.ndarray]
    if type(payload) is np.ndarray and payload.dtype.kind in _KINDS and payload.dtype.isnative:
        plain, pictures = b"", [payload]
    else:
        try:
            plain, pictures = json_from_payload(payload)
        except TypeError as error:
            reason = f"it holds {error}; send arrays, Detections, DetectedFrame, and plain values in lists, tuples and dicts"
            raise PayloadError("", "", reason, what="a message to another host") from error
    parts = [_encoded(picture, codec) for picture in pictures]
    told = {
        "plain": len(plain),
        "arrays": [
            [array.dtype.str, array.shape, name, len(part)] for array, (name, part) in zip(pictures, parts, strict=True)
        ],
        "sequence": meta.sequence,
        "pts": meta.pts,
        "wall_clock": meta.wall_clock,
        "described": meta.described,
    }
    head = json.dumps(told, separators=(",", ":")).encode()
    whole = b"".join([len(head).to_bytes(4, "little"), head, plain, *(part for _, part in parts)])
    if codec != "zstd":
        return b"\0" + whole
    import zstandard

    return b"\1" + zstandard.compress(whole, 3)


def _encoded(array: np.ndarray, codec: Codec) -> tuple[str, bytes | memoryview]:
    is_picture = array.dtype == np.uint8 and array.size > 0 and array.ndim in (2, 3) and array.shape[2:] in ((), (3,))
    if codec == "jpeg" and is_picture:
        done, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(array), (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if done:
            return "jpeg", jpeg.data.cast("B")
    return "none", np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def decode(data: bytes, meta: Meta, loan: Loan) -> Any:
    """Makes the payload again, and sets what `meta` says of it. Arrays lie in what `loan` gives.

    :raises ValueError: when the data is no payload.
    """
    try:
        return _decoded(_whole(data), meta, loan)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError, cv2.error) as error:
        raise ValueError(f"no payload: {type(error).__name__}: {error}") from error


def _whole(data: bytes) -> memoryview:
    if data[:1] != b"\1":
        return memoryview(data)[1:]
    check_zstandard()
    import zstandard

    try:
        return memoryview(zstandard.decompress(memoryview(data)[1:]))
    except zstandard.ZstdError as error:
        raise ValueError(f"no payload: {error}") from error


def _decoded(whole: memoryview, meta: Meta, loan: Loan) -> Any:
    size = int.from_bytes(whole[:4], "little")
    told = json.loads(bytes(whole[4 : 4 + size]))
    plain = bytes(whole[4 + size : 4 + size + told["plain"]])
    at = 4 + size + len(plain)
    arrays = []
    for kind, shape, name, length in told["arrays"]:
        arrays.append(_array(whole[at : at + length], np.dtype(str(kind)), tuple(map(int, shape)), name, loan))
        at += length
    if at != len(whole):
        raise ValueError(f"no payload: {len(whole)} bytes, and it says {at}")
    meta.pts, meta.wall_clock = told["pts"], told["wall_clock"]
    format, rows = told["described"]
    if format in FORMATS:
        meta.describe(format, rows)
    return payload_from_json(plain, arrays) if plain else arrays[0]


def _array(part: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str, loan: Loan) -> np.ndarray:
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of dtype {dtype}")
    if name == "jpeg":
        found = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR if len(shape) == 3 else cv2.IMREAD_GRAYSCALE)
        if found is None or found.shape != shape:
            raise ValueError("a picture that is no JPEG of its size")
    elif len(part) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(part)} bytes for an array {shape} of {dtype}")
    else:
        found = np.frombuffer(part, dtype).reshape(shape)
    array = loan(shape, dtype)
    array[...] = found
    return array
