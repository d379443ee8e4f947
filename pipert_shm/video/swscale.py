"""Converts PyAV's frames straight into arrays in shared memory: the part, the size and the format in one pass.

PyAV itself can't write into memory that it is given, so the libswscale that it has loaded is called by cffi, which releases the
GIL meanwhile.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import av
import cffi
import numpy as np

from pipert_shm.data import Format
from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import is_planar, planes, size_of
from pipert_shm.video.opencv import VideoError

AREA, BICUBIC = 0x20, 4  # libswscale's ways, the best to shrink, and to enlarge
SAFE = 32
"""Pixels of which a row must be a multiple for libswscale to write into it: it writes blocks, past the end of other rows."""

_PLAIN = re.compile(r"yuvj?4\d\dp(\d\d(le)?)?|nv12|nv21|gray(\d\d(le)?)?|rgb24|bgr24")
"""Formats of which a part begins where the numbers of their components say."""

_ffi = cffi.FFI()
_ffi.cdef("""
    typedef struct SwsContext SwsContext;
    SwsContext *sws_alloc_context(void);
    int sws_init_context(SwsContext *, void *, void *);
    int sws_scale(SwsContext *, const uint8_t *const *, const int *, int, int, uint8_t *const *, const int *);
    void sws_freeContext(SwsContext *);
    int av_get_pix_fmt(const char *);
    int av_opt_set_int(void *, const char *, int64_t, int);
""")


@cache
def _library(name: str) -> Any:
    """A library that PyAV has loaded.

    :raises ImportError: when it is not there: PyAV has been built without shared libraries.
    """
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        path = line.split(maxsplit=5)[-1]
        if re.fullmatch(rf"{name}\b.*\.so.*", path.rpartition("/")[2]):
            return _ffi.dlopen(path)
    raise ImportError(
        f"PyAV {av.__version__} has no {name} as a shared library: pip install --force-reinstall av, or backend='opencv'"
    )


@cache
def _number_of(pixel_format: str) -> int:
    """The number that libswscale has for a format."""
    return int(_library("libavutil").av_get_pix_fmt(pixel_format.encode()))


class Scaler:
    """Makes the arrays that are wanted of PyAV's frames. One thread at a time.

    Colours are those that OpenCV gives: by BT.601, whatever the video says of its matrix; its range (`yuvj420p`) is heeded.

    :param name: of the video, for errors.
    """

    def __init__(self, name: str, wanted: Wanted, logger: logging.Logger | None = None) -> None:
        self._name = name
        self._wanted = wanted
        self._logger = logger
        self._key: tuple[object, ...] = ()
        self._context: Any = None

    def shape(self, frame: av.VideoFrame) -> tuple[int, ...]:
        """Shape of the array for a frame.

        :raises VideoError: when the frame does not contain the wanted part.
        """
        size = (frame.height, frame.width) if _turns(frame) % 2 else (frame.width, frame.height)
        return self._wanted.shape(self._name, *size)

    def fill(self, frame: av.VideoFrame, out: np.ndarray | None) -> np.ndarray:
        """Returns what is wanted of the frame, in `out` if that has the right shape and dtype, else in a new array.

        :raises VideoError: when the frame does not contain the wanted part, or has no 16 bits where these are wanted.
        """
        wanted = self._wanted
        shape = self.shape(frame)
        self._check_bits(frame)
        result = np.empty(shape, wanted.dtype) if out is None or out.shape != shape or out.dtype != wanted.dtype else out
        turns = _turns(frame)
        left, top, width, height = (0, 0, 0, 0) if turns else wanted.part_of(self._name, frame.width, frame.height)
        if turns or not _begins_at(frame, left, top):
            whole = np.empty((frame.height, frame.width, 3), wanted.dtype)
            self._convert(frame, (0, 0, frame.width, frame.height), _target(frame, "bgr", wanted.bits), "bgr", whole)
            return wanted.fill(self._name, np.rot90(whole, turns), result)
        self._convert(frame, (left, top, width, height), _target(frame, wanted.format, wanted.bits), wanted.format, result)
        return result

    def close(self) -> None:
        """Frees what libswscale has."""
        if self._context is not None:
            _library("libswscale").sws_freeContext(self._context)
            self._context, self._key = None, ()

    def _check_bits(self, frame: av.VideoFrame) -> None:
        bits = max(component.bits for component in frame.format.components)
        if self._wanted.bits == 16 and bits <= 8:
            raise VideoError(self._name, f"{self._name!r} has {bits} bits a channel ({frame.format.name}): leave bits=16 away")
        if self._wanted.bits == 8 and bits > 8 and frame.format.name.startswith("gray") and self._logger is not None:
            self._logger.warning("%r has %d bits a pixel, of which the upper 8 are kept: bits=16 keeps all", self._name, bits)
            self._logger = None

    def _convert(
        self, frame: av.VideoFrame, part: tuple[int, int, int, int], target: str, format: Format, out: np.ndarray
    ) -> None:
        left, top, width, height = part
        to_width, to_height = size_of(out, format)
        if (width, height) == (to_width, to_height):  # an odd size would be scaled, at three times the cost and not as exactly
            to_width = width = min(width + width % 2, frame.width - left)
            to_height = height = min(height + height % 2, frame.height - top)
        parts = planes(out, format) if is_planar(format) else (out,)
        direct = out.flags.c_contiguous and len(parts[0]) == to_height and all(each.shape[1] % SAFE == 0 for each in parts)
        rooms = parts if direct else [_room(each) for each in parts]
        swscale, context = _library("libswscale"), self._context_for(frame, (width, height), (to_width, to_height), target)
        sources = _ffi.new("uint8_t *[4]", _begins(frame, left, top))
        lines = _ffi.new("int[4]", [plane.line_size for plane in frame.planes])
        targets = _ffi.new("uint8_t *[4]", [_ffi.cast("uint8_t *", each.__array_interface__["data"][0]) for each in rooms])
        if (
            swscale.sws_scale(
                context, sources, lines, 0, height, targets, _ffi.new("int[4]", [each.strides[0] for each in rooms])
            )
            <= 0
        ):
            raise self._cannot(frame, target)
        if not direct:
            for each, room in zip(parts, rooms, strict=True):
                np.copyto(each, room[: len(each), : each.shape[1]])

    def _context_for(self, frame: av.VideoFrame, size: tuple[int, int], to_size: tuple[int, int], target: str) -> Any:
        source, full = frame.format.name, frame.color_range == av.video.reformatter.ColorRange.JPEG
        key = source, full, size, target, to_size
        if key == self._key:
            return self._context
        self.close()
        shrinks = size[0] >= to_size[0] and size[1] >= to_size[1]
        options = {
            "srcw": size[0],
            "srch": size[1],
            "src_format": _number_of(source.replace("yuvj", "yuv")),
            "src_range": full or source.startswith(("yuvj", "gray")),
            "dstw": to_size[0],
            "dsth": to_size[1],
            "dst_format": _number_of(target),
            "dst_range": target.startswith("gray"),
            "sws_flags": AREA if shrinks and size != to_size else BICUBIC,
        }
        swscale, avutil = _library("libswscale"), _library("libavutil")
        context = swscale.sws_alloc_context()
        for name, value in options.items():
            if avutil.av_opt_set_int(context, name.encode(), int(value), 0) < 0:
                raise VideoError(
                    self._name, f"this libswscale has no option {name}: pip install --upgrade av, or backend='opencv'"
                )
        if swscale.sws_init_context(context, _ffi.NULL, _ffi.NULL) < 0:
            swscale.sws_freeContext(context)
            raise self._cannot(frame, target)
        self._context, self._key = context, key
        return context

    def _cannot(self, frame: av.VideoFrame, target: str) -> VideoError:
        return VideoError(
            self._name,
            f"libswscale can't convert frames of {self._name!r} ({frame.width}x{frame.height}, {frame.format.name}) to {target}",
        )


def _turns(frame: av.VideoFrame) -> int:
    """How many quarter turns to the left the frame needs."""
    return round(frame.rotation / 90) % 4


def _target(frame: av.VideoFrame, format: Format, bits: int) -> str:
    """FFmpeg's name of what a frame is converted to. A grey frame keeps its values: 10 bits stay 10."""
    if bits == 8:
        return {"bgr": "bgr24", "rgb": "rgb24", "i420": "yuv420p"}.get(format, format)
    if format != "gray":
        return f"{format}48le"
    source: str = frame.format.name
    return source.replace("be", "le") if source.startswith("gray") else "gray16le"


def _subsampling(frame: av.VideoFrame) -> tuple[int, int]:
    """Pixels across, and down, of which one colour is kept."""
    return 8 // (frame.format.chroma_width(8) or 8), 8 // (frame.format.chroma_height(8) or 8)


def _begins_at(frame: av.VideoFrame, left: int, top: int) -> bool:
    """Whether a part that begins there can be had by other pointers."""
    across, down = _subsampling(frame)
    return (left, top) == (0, 0) or (left % across == 0 == top % down and _PLAIN.fullmatch(frame.format.name) is not None)


def _begins(frame: av.VideoFrame, left: int, top: int) -> list[Any]:
    """Where a part begins in each plane."""
    across, down = _subsampling(frame)
    found = []
    for place, plane in enumerate(frame.planes):
        components = [each for each in frame.format.components if each.plane == place]
        x, y = (left // across, top // down) if place else (left, top)
        step = sum((each.bits + 7) // 8 for each in components)
        found.append(_ffi.cast("uint8_t *", plane.buffer_ptr + y * plane.line_size + x * step))
    return found


def _room(part: np.ndarray) -> np.ndarray:
    """An array for a plane with rows that libswscale may write past."""
    width = -(-part.shape[1] // SAFE) * SAFE + SAFE
    return np.empty((len(part) + 1, width, *part.shape[2:]), part.dtype)
