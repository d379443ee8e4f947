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
from av.video.reformatter import ColorRange

from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import is_planar, planes
from pipert_shm.video.opencv import VideoError

BT_601 = 5  # a number of FFmpeg's for a matrix
ONE = 1 << 16  # in libswscale's fixed-point numbers
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
    const int *sws_getCoefficients(int);
    int sws_setColorspaceDetails(SwsContext *, const int *, int, const int *, int, int, int, int);
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

    Colours are those that OpenCV gives: BGR and RGB by the matrix that the video tells of, else by BT.601. Planes stay what
    they are, but for their range: that of a video in full range is converted to 16 to 235.

    :param name: of the video, for errors.
    """

    def __init__(self, name: str, wanted: Wanted, logger: logging.Logger | None = None) -> None:
        self._name = name
        self._wanted = wanted
        self._logger = logger
        self._kind: tuple[object, ...] = ()
        self._shape: tuple[int, ...] = ()
        self._step: _Step | None = None
        self._turns = 0

    def shape(self, frame: av.VideoFrame) -> tuple[int, ...]:
        """Shape of the array for a frame.

        :raises VideoError: when the frame does not contain the wanted part.
        """
        kind = frame.width, frame.height, frame.format.name, frame.color_range, frame.colorspace, frame.rotation
        if kind != self._kind:
            self.close()
            self._turns = round(frame.rotation / 90) % 4
            size = (frame.height, frame.width) if self._turns % 2 else (frame.width, frame.height)
            self._shape = self._wanted.shape(self._name, *size)
            self._kind = kind
        return self._shape

    def fill(self, frame: av.VideoFrame, out: np.ndarray | None) -> np.ndarray:
        """Returns what is wanted of the frame, in `out` if that has the right shape and dtype, else in a new array.

        :raises VideoError: when the frame does not contain the wanted part, or has no 16 bits where these are wanted.
        """
        wanted, shape = self._wanted, self.shape(frame)
        if out is None or out.shape != shape or out.dtype != wanted.dtype:
            out = np.empty(shape, wanted.dtype)
        if self._step is None:
            self._step = self._begin(frame)
        if self._step.part_is_wanted:
            self._step.run(frame, out)
            return out
        whole = np.empty((frame.height, frame.width, 3), wanted.dtype)
        self._step.run(frame, whole)
        return wanted.fill(self._name, np.rot90(whole, self._turns), out)

    def _begin(self, frame: av.VideoFrame) -> _Step:
        """The step for frames of this kind. Of those that must be turned, and of a part that begins between two colours, it
        makes the whole picture, in BGR.
        """
        wanted = self._wanted
        self._check_bits(frame)
        part = None if self._turns else wanted.part_of(self._name, frame.width, frame.height)
        if part is None or not _begins_at(frame, *part[:2]):
            return _Step(self._name, frame, None, Wanted("bgr", wanted.bits))
        return _Step(self._name, frame, part, wanted)

    def close(self) -> None:
        """Frees what libswscale has."""
        step, self._step, self._kind = self._step, None, ()
        if step is not None:
            step.close()

    def _check_bits(self, frame: av.VideoFrame) -> None:
        bits = bits_of(frame.format)
        if self._wanted.bits == 16 and bits <= 8:
            raise no_sixteen_bits(self._name, frame.format)
        if self._wanted.bits == 8 and bits > 8 and frame.format.name.startswith("gray") and self._logger is not None:
            self._logger.warning("%r has %d bits a pixel, of which the upper 8 are kept: bits=16 keeps all", self._name, bits)
            self._logger = None


def bits_of(format: av.VideoFormat) -> int:
    """Bits of the channel that has the most."""
    return max(component.bits for component in format.components)


def no_sixteen_bits(name: str, format: av.VideoFormat) -> VideoError:
    """The error where 16 bits are wanted of a video that has fewer."""
    return VideoError(name, f"{name!r} has {bits_of(format)} bits a channel ({format.name}): leave bits=16 away")


class _Step:
    """One pass of libswscale over frames of one kind.

    :param frame: one of them.
    :param part: left, top, width and height of the part; None for the whole picture.
    :raises VideoError: when libswscale can't do it.
    """

    def __init__(self, name: str, frame: av.VideoFrame, part: tuple[int, int, int, int] | None, wanted: Wanted) -> None:
        self.part_is_wanted = part is not None
        left, top, width, height = part or (0, 0, frame.width, frame.height)
        to_width, to_height = wanted.size or (width, height)
        if wanted.size is None or wanted.size == (width, height):
            # An odd size would be scaled, at three times the cost and not as exactly.
            to_width = width = min(width + width % 2, frame.width - left)
            to_height = height = min(height + height % 2, frame.height - top)
        self._format = wanted.format
        self._size = to_width, to_height
        self._height = height
        self._begins = _begins(frame, left, top)
        self._what = f"frames of {name!r} ({frame.format.name}, {frame.width}x{frame.height}) to {_target(frame, wanted)}"
        self._name = name
        self._context = self._opened(frame, (width, height), _target(frame, wanted))
        self._scale = _library("libswscale").sws_scale
        self._sources, self._source_lines = _ffi.new("uint8_t *[4]"), _ffi.new("int[4]")
        self._targets, self._target_lines = _ffi.new("uint8_t *[4]"), _ffi.new("int[4]")

    def run(self, frame: av.VideoFrame, out: np.ndarray) -> None:
        """Fills an array.

        :raises VideoError: when libswscale can't do it.
        """
        parts = planes(out, self._format) if is_planar(self._format) else (out,)
        direct = out.flags.c_contiguous and len(parts[0]) == self._size[1] and all(each.shape[1] % SAFE == 0 for each in parts)
        rooms = parts if direct else [_room(each) for each in parts]
        for place, (plane, (row, byte)) in enumerate(zip(frame.planes, self._begins, strict=True)):
            self._source_lines[place] = plane.line_size
            self._sources[place] = _ffi.cast("uint8_t *", plane.buffer_ptr + row * plane.line_size + byte)
        for place, room in enumerate(rooms):
            self._target_lines[place] = room.strides[0]
            self._targets[place] = _ffi.cast("uint8_t *", room.__array_interface__["data"][0])
        if (
            self._scale(self._context, self._sources, self._source_lines, 0, self._height, self._targets, self._target_lines)
            <= 0
        ):
            raise self._failed()
        if not direct:
            for each, room in zip(parts, rooms, strict=True):
                np.copyto(each, room[: len(each), : each.shape[1]])

    def _opened(self, frame: av.VideoFrame, size: tuple[int, int], target: str) -> Any:
        source, full = frame.format.name, frame.color_range == ColorRange.JPEG
        shrinks = size != self._size and size[0] >= self._size[0] and size[1] >= self._size[1]
        options = {
            "srcw": size[0],
            "srch": size[1],
            "src_format": _number_of(source.replace("yuvj", "yuv")),
            "src_range": full or source.startswith(("yuvj", "gray")),
            "dstw": self._size[0],
            "dsth": self._size[1],
            "dst_format": _number_of(target),
            "dst_range": target.startswith("gray"),
            "sws_flags": AREA if shrinks else BICUBIC,
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
            raise self._failed()
        if _is_told(frame.colorspace) and target.startswith(("bgr", "rgb")):
            ours, theirs = (swscale.sws_getCoefficients(matrix) for matrix in (BT_601, int(frame.colorspace)))
            swscale.sws_setColorspaceDetails(context, theirs, options["src_range"], ours, 1, 0, ONE, ONE)
        return context

    def _failed(self) -> VideoError:
        return VideoError(self._name, f"libswscale can't convert {self._what}")

    def close(self) -> None:
        """Frees what libswscale has."""
        _library("libswscale").sws_freeContext(self._context)


def _target(frame: av.VideoFrame, wanted: Wanted) -> str:
    """FFmpeg's name of what a frame is converted to. A grey frame keeps its values: 10 bits stay 10."""
    if wanted.bits == 8:
        return {"bgr": "bgr24", "rgb": "rgb24", "i420": "yuv420p"}.get(wanted.format, wanted.format)
    if wanted.format != "gray":
        return f"{wanted.format}48le"
    source: str = frame.format.name
    return source.replace("be", "le") if source.startswith("gray") else "gray16le"


def _subsampling(frame: av.VideoFrame) -> tuple[int, int]:
    """Pixels across, and down, of which one colour is kept."""
    return 8 // (frame.format.chroma_width(8) or 8), 8 // (frame.format.chroma_height(8) or 8)


def _is_told(matrix: int) -> bool:
    """Whether a frame's matrix is told of: 0 is that of RGB, and 2 stands for an unknown one."""
    return matrix not in (0, 2)


def _begins_at(frame: av.VideoFrame, left: int, top: int) -> bool:
    """Whether a part that begins there can be had by other pointers."""
    across, down = _subsampling(frame)
    return (left, top) == (0, 0) or (left % across == 0 == top % down and _PLAIN.fullmatch(frame.format.name) is not None)


def _begins(frame: av.VideoFrame, left: int, top: int) -> list[tuple[int, int]]:
    """Where a part begins in each plane: after so many rows, and bytes of a row."""
    across, down = _subsampling(frame)
    found = []
    for place in range(len(frame.planes)):
        step = sum((each.bits + 7) // 8 for each in frame.format.components if each.plane == place)
        x, y = (left // across, top // down) if place else (left, top)
        found.append((y, x * step))
    return found


def _room(part: np.ndarray) -> np.ndarray:
    """An array for a plane with rows that libswscale may write past."""
    width = -(-part.shape[1] // SAFE) * SAFE + SAFE
    return np.empty((len(part) + 1, width, *part.shape[2:]), part.dtype)
