"""Formats of frames: what is converted, what is a view, and what a receiver takes an array for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from media import bikes
from pipert_shm import START_EVENT_NAME, Convert, Crop, CvtColor, EndOfStream, Meta, MiddleRoutine, Pipe, Resize, SourceRoutine
from pipert_shm.data import Format
from pipert_shm.testing import RoutineHarness
from pipert_shm.video import DetectedFrame, Detections, VideoSource, format_of, luma, planes, to_bgr, to_gray
from pipert_shm.video.formats import converted, cropped, eight_bits, resized, size_of
from routines import Forward, Record, chain, received

FORMATS: tuple[Format, ...] = get_args(Format)
SIZE = WIDTH, HEIGHT = 160, 120
BGR = cv2.resize(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), SIZE)


def made(format: str, bgr: np.ndarray = BGR) -> np.ndarray:
    """A frame in a format, by OpenCV alone."""
    height, width = bgr.shape[:2]
    if format == "rgb":
        return np.ascontiguousarray(bgr[:, :, ::-1])
    if format == "gray":
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    if format == "bgr":
        return bgr
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    if format == "i420":
        return i420
    u, v = i420[height:].reshape(2, -1)
    return np.concatenate([i420[:height].ravel(), np.stack([u, v], axis=1).ravel()]).reshape(height * 3 // 2, width)


def seen(frame: np.ndarray, format: str) -> np.ndarray:
    """What a frame shows, in BGR, by OpenCV alone."""
    codes = {
        "rgb": cv2.COLOR_RGB2BGR,
        "gray": cv2.COLOR_GRAY2BGR,
        "i420": cv2.COLOR_YUV2BGR_I420,
        "nv12": cv2.COLOR_YUV2BGR_NV12,
    }
    return frame if format == "bgr" else cv2.cvtColor(np.ascontiguousarray(frame), codes[format])


def meta_of(format: Format | None, rows: int = 0) -> Meta:
    meta = Meta(("camera",), 0, 0)
    meta.describe(format, rows)
    return meta


# ---- conversions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("format", FORMATS)
def test_each_format_becomes_each_other(format: Format, wanted: Format) -> None:
    frame = made(format)
    frame.flags.writeable = False
    got = converted(frame, format, wanted)
    out = np.empty(got.shape, np.uint8)
    assert converted(frame, format, wanted, out) is out
    assert np.array_equal(got, out)
    if wanted == "gray" and format in ("i420", "nv12"):
        assert np.array_equal(got, frame[:HEIGHT])
        return
    assert size_of(got, wanted) == SIZE
    shown = cv2.cvtColor(made(format), cv2.COLOR_BGR2GRAY) if wanted == "gray" and format == "bgr" else got
    assert cv2.PSNR(seen(shown, wanted), seen(made(wanted, seen(frame, format)), wanted)) > 35
    if format == wanted:
        assert np.shares_memory(got, frame)


def test_to_bgr_is_what_opencv_makes_of_it() -> None:
    for format in FORMATS:
        assert np.array_equal(to_bgr(made(format), format), seen(made(format), format)), format
    assert np.array_equal(to_bgr(made("i420")), seen(made("i420"), "i420")), "without a format, two axes are I420"
    assert to_bgr(BGR) is BGR
    loan = np.empty_like(BGR)
    assert to_bgr(BGR, out=loan) is loan
    assert np.array_equal(loan, BGR)


def test_planes_are_views_of_the_frame() -> None:
    i420, nv12 = made("i420"), made("nv12")
    y, u, v = planes(i420)
    assert (y.shape, u.shape, v.shape) == ((120, 160), (60, 80), (60, 80))
    for_nv12 = planes(nv12, "nv12")
    assert [plane.shape for plane in for_nv12] == [(120, 160), (60, 80, 2)]
    assert all(np.shares_memory(plane, i420) for plane in (y, u, v, luma(i420)))
    assert all(np.shares_memory(plane, nv12) for plane in (*for_nv12, luma(nv12, "nv12")))
    assert np.array_equal(np.stack([u, v], axis=2), for_nv12[1])
    assert np.array_equal(y, luma(nv12, "nv12"))
    assert np.array_equal(to_gray(i420, "i420"), y)
    assert np.array_equal(to_gray(BGR), made("gray"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planes(BGR), r"shape \(120, 160, 3\) .* is no frame in i420: that is \(height \* 3/2, width\) uint8"),
        (lambda: planes(np.zeros((71, 64), np.uint8)), r"shape \(71, 64\)"),
        (lambda: planes(np.zeros((72, 63), np.uint8)), "an even width"),
        (lambda: planes(np.zeros((72, 64), np.uint16)), "dtype uint16 is no frame in i420"),
        (lambda: planes(np.zeros((0, 64), np.uint8)), "is no frame in i420"),
        (lambda: planes(BGR, "bgr"), "a frame in bgr has no planes: only i420 and nv12 have"),
        (lambda: planes(np.zeros((72, 128), np.uint8)[:, :64]), r"can't be had without a copy: np.ascontiguousarray\(\) first"),
        (lambda: luma(BGR, "bgr"), "has no planes"),
        (lambda: to_bgr(np.zeros((72, 64, 4), np.uint8)), r"shape \(72, 64, 4\) is no frame in bgr"),
        (lambda: to_bgr(np.zeros((72, 64), np.uint8), "rgb"), r"shape \(72, 64\) is no frame in rgb"),
        (
            lambda: to_bgr(made("i420"), "i420", out=np.empty((180, 160, 3), np.uint8)),
            r"out must have the shape \(120, 160, 3\)",
        ),
        (lambda: to_bgr(made("i420"), "i420", out=np.empty((120, 160, 3), np.uint16)), "and dtype uint8, not .*uint16"),
        (lambda: converted(BGR.astype(np.uint16), "bgr", "nv12"), "nv12 has 8 bits a channel, and this one has uint16"),
        (lambda: resized(made("i420"), "i420", (33, 20)), "a frame in i420 has an even width and height, not 33x20"),
        (lambda: cropped(made("nv12"), "nv12", (0, 3, 8, 8)), r"a part of a frame in nv12 has an even .*, not \(0, 3, 8, 8\)"),
        (lambda: eight_bits(np.zeros((4, 4), np.float32)), "a frame of float32 is no picture"),
        (lambda: meta_of("yuv420p"), "format must be one of bgr, rgb, gray, i420, nv12, or None, not 'yuv420p'"),  # type: ignore[arg-type]
        (lambda: meta_of("i420", -1), "rows must be a whole number from 0 to 4294967295, not -1"),
        (lambda: Convert("grey"), "format must be one of bgr, rgb, gray, i420, nv12, not 'grey'"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_becomes_planar_loses_the_last_row_and_column_of_an_odd_size() -> None:
    odd = cv2.resize(BGR, (63, 47))
    for format in ("i420", "nv12"):
        assert np.array_equal(converted(odd, "bgr", format), made(format, np.ascontiguousarray(odd[:46, :62])))


def test_16_bits_stay_16_bits() -> None:
    deep = BGR.astype(np.uint16) * 257
    assert np.array_equal(to_bgr(converted(deep, "bgr", "rgb"), "rgb"), deep)
    grey = to_gray(deep)
    assert grey.dtype == np.uint16
    assert np.abs(grey.astype(int) - made("gray").astype(int) * 257).max() <= 257
    assert resized(deep, "bgr", (32, 24)).dtype == np.uint16
    assert np.array_equal(eight_bits(deep), BGR)
    assert eight_bits(BGR) is BGR


# ---- what an array is taken for ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "told", "rows", "expected"),
    [
        ((48, 64, 3), None, 0, "bgr"),
        ((48, 64, 3), "rgb", 48, "rgb"),
        ((24, 32, 3), "rgb", 48, "rgb"),
        ((48, 64, 3), "i420", 72, "bgr"),
        ((48, 64, 3), "gray", 48, "bgr"),
        ((72, 64), "i420", 72, "i420"),
        ((72, 64), "nv12", 72, "nv12"),
        ((72, 64), "i420", 0, "i420"),
        ((48, 64), "i420", 72, "gray"),
        ((48, 64), "bgr", 48, "gray"),
        ((48, 64), None, 0, "gray"),
        ((71, 64), "i420", 0, "gray"),
        ((72, 63), "i420", 72, "gray"),
        ((48, 64, 1), "i420", 72, "gray"),
        ((48, 64, 4), "bgr", 48, None),
        ((48,), "i420", 48, None),
    ],
)
def test_the_shape_comes_before_what_the_meta_says(
    shape: tuple[int, ...], told: Format | None, rows: int, expected: Format | None
) -> None:
    assert format_of(np.zeros(shape, np.uint8), meta_of(told, rows)) == expected


def test_16_bits_are_never_planar() -> None:
    assert format_of(np.zeros((72, 64), np.uint16), meta_of("i420", 72)) == "gray"


# ---- routines, in a pipe -------------------------------------------------------------------------


class Shots(SourceRoutine):
    """Sends four frames in a format, each of another brightness."""

    def __init__(self, format: Format, name: str = "camera") -> None:
        super().__init__(name)
        self.format = format

    def main_logic(self) -> Any:
        if self.meta.sequence == 4:
            raise EndOfStream
        frame = made(self.format, BGR // (self.meta.sequence + 1))
        loan = self.loan(frame.shape)
        loan[:] = frame
        self.meta.describe(self.format, len(frame))
        return loan


def shots(format: str) -> list[np.ndarray]:
    return [made(format, BGR // (number + 1)) for number in range(4)]


class Told(Record):
    """Writes down what each frame is, and is taken for."""

    def __init__(self, path: Path) -> None:
        super().__init__("record", path)
        self.digest = self.of

    def of(self, data: Any) -> Any:
        frame = data.frame if isinstance(data, DetectedFrame) else data
        return self.meta.format, format_of(frame, self.meta), np.array(frame)


def through(path: Path, *steps: MiddleRoutine | SourceRoutine, flow: str = "{}", copied: int = 0) -> list[Any]:
    """What a receiver gets, in another process, or in one flow with all that sends."""
    with Pipe(policy="block") as pipe:
        if flow == "{}":
            chain(pipe, *steps, Told(path))
        else:
            pipe.create_flow(flow, False, *steps, record := Told(path))
            pipe.link(*(wire_of(a, b) for a, b in zip((*steps, record), (*steps, record)[1:], strict=False)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    routines = pipe.statistics().routines
    assert sum(routine.errors for routine in routines.values()) == 0
    assert sum(routine.copied_bytes for routine in routines.values()) == copied
    got = [message.value for message in received(path)]
    assert len(got) == 4
    return got


def wire_of(sender: Any, receiver: Any) -> Any:
    from pipert_shm import Wire

    return Wire(sender, receiver)


FLOWS = pytest.mark.parametrize("flow", ["{}", "all"], ids=["across flows", "in one flow"])


@FLOWS
@pytest.mark.parametrize("format", FORMATS)
def test_the_format_goes_with_each_message(tmp_path: Path, format: Format, flow: str) -> None:
    got = through(tmp_path / "got", Shots(format), Forward("middle"), flow=flow)
    for (told, taken_for, frame), sent in zip(got, shots(format), strict=True):
        assert (told, taken_for) == (format, format)
        assert np.array_equal(frame, sent)


def test_the_format_goes_with_each_message_of_a_pipe_that_runs_inline(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Shots("nv12"), Convert("i420", "convert"), Told(tmp_path / "got"))
    pipe.run_inline()
    got = [message.value for message in received(tmp_path / "got")]
    assert [(told, taken_for) for told, taken_for, _ in got] == [("i420", "i420")] * 4


class Made(MiddleRoutine):
    """Makes something else of each frame, and may say so."""

    def __init__(self, make: Callable[[np.ndarray], np.ndarray], says: Format | None = None) -> None:
        super().__init__("middle")
        self.make = make
        self.says: Format | None = says

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        if self.says is not None:
            self.meta.format = self.says  # before anything of the meta was read
        return self.make(data)


@FLOWS
@pytest.mark.parametrize("format", ["i420", "nv12"])
def test_a_new_array_in_bgr_of_a_planar_frame_is_not_misread(tmp_path: Path, format: Format, flow: str) -> None:
    got = through(tmp_path / "got", Shots(format), Made(lambda frame: seen(frame, format)), flow=flow, copied=4 * BGR.nbytes)
    for (told, taken_for, frame), sent in zip(got, shots(format), strict=True):
        assert (told, taken_for) == (format, "bgr"), "its shape says it, since the routine did not"
        assert np.array_equal(frame, seen(sent, format))


@FLOWS
def test_what_a_routine_says_of_its_frame_comes_in_place_of_what_the_source_said(tmp_path: Path, flow: str) -> None:
    got = through(
        tmp_path / "got",
        Shots("i420"),
        Made(lambda frame: seen(frame, "i420")[:, :, ::-1].copy(), "rgb"),
        flow=flow,
        copied=4 * BGR.nbytes,
    )
    for (told, taken_for, frame), sent in zip(got, shots("i420"), strict=True):
        assert (told, taken_for) == ("rgb", "rgb")
        assert np.array_equal(frame[:, :, ::-1], seen(sent, "i420"))


@FLOWS
@pytest.mark.parametrize("format", ["i420", "nv12"])
def test_the_luma_goes_on_as_grey_and_by_reference(tmp_path: Path, format: Format, flow: str) -> None:
    got = through(tmp_path / "got", Shots(format), Made(lambda frame: luma(frame, format)), flow=flow)
    for (told, taken_for, frame), sent in zip(got, shots(format), strict=True):
        assert (told, taken_for) == (format, "gray")
        assert np.array_equal(frame, sent[:HEIGHT])


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("format", FORMATS)
def test_convert_sends_the_format_without_a_copy(tmp_path: Path, format: Format, wanted: Format) -> None:
    got = through(tmp_path / "got", Shots(format), Convert(wanted, "convert"))
    for (told, taken_for, frame), sent in zip(got, shots(format), strict=True):
        assert (told, taken_for) == (wanted, wanted)
        assert np.array_equal(frame, converted(sent, format, wanted))


@pytest.mark.parametrize("format", FORMATS)
def test_frames_of_each_format_are_scaled_and_cropped_in_shared_memory(tmp_path: Path, format: Format) -> None:
    got = through(tmp_path / "got", Shots(format), Resize((80, 60), "resize"), Crop(8, 4, 64, 50, "crop"))
    for (_, taken_for, frame), sent in zip(got, shots(format), strict=True):
        assert taken_for == format
        assert size_of(frame, format) == (64, 50)
        expected = cv2.resize(seen(sent, format), (80, 60), interpolation=cv2.INTER_AREA)[4:54, 8:72]
        assert cv2.PSNR(seen(frame, format), expected) > 32
        if format in ("i420", "nv12"):
            assert np.array_equal(
                luma(frame, format), cv2.resize(luma(sent, format), (80, 60), interpolation=cv2.INTER_AREA)[4:54, 8:72]
            )


def test_a_luma_that_is_scaled_to_as_many_rows_as_the_frame_had_stays_grey(tmp_path: Path) -> None:
    got = through(tmp_path / "got", Shots("i420"), Made(luma), Resize((160, 180), "resize"))
    for (_, taken_for, frame), sent in zip(got, shots("i420"), strict=True):
        assert taken_for == "gray"
        assert np.array_equal(frame, cv2.resize(sent[:HEIGHT], (160, 180), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(
    ("format", "code", "expected"),
    [
        ("i420", cv2.COLOR_YUV2BGR_I420, "bgr"),
        ("i420", cv2.COLOR_YUV2RGB_I420, "rgb"),
        ("nv12", cv2.COLOR_YUV2BGR_NV12, "bgr"),
        ("i420", cv2.COLOR_YUV2GRAY_I420, "gray"),
        ("bgr", cv2.COLOR_BGR2GRAY, "gray"),
        ("bgr", cv2.COLOR_BGR2RGB, "rgb"),
        ("rgb", cv2.COLOR_RGB2BGR, "bgr"),
        ("rgb", cv2.COLOR_RGB2YUV_I420, "i420"),
        ("bgr", cv2.COLOR_BGR2YUV_I420, "i420"),
        ("gray", cv2.COLOR_GRAY2BGR, "bgr"),
        ("bgr", cv2.COLOR_BGR2HSV, None),
        ("bgr", cv2.COLOR_BGR2YUV_YV12, None),
        ("bgr", cv2.COLOR_BGR2BGRA, None),
    ],
)
def test_what_opencv_converts_has_the_format_that_it_has_become(
    tmp_path: Path, format: Format, code: int, expected: Format | None
) -> None:
    first = cv2.cvtColor(shots(format)[0], code)
    got = through(tmp_path / "got", Shots(format), CvtColor(code, "convert"), copied=first.nbytes)
    for (told, _, frame), sent in zip(got, shots(format), strict=True):
        assert told == expected
        assert np.array_equal(frame, cv2.cvtColor(sent, code))


def test_odd_parts_and_sizes_of_planar_frames_are_errors_and_those_of_others_are_not() -> None:
    for make, message in (
        (lambda: Crop(1, 0, 8, 8), r"has an even left, top, width and height, not \(1, 0, 8, 8\)"),
        (lambda: Crop(0, 112, 8, 10), "a frame of 160x120 pixels has no part from 0, 112 to 8, 122"),
        (lambda: Resize((33, 24)), "has an even width and height, not 33x24"),
    ):
        with RoutineHarness(make()) as harness, pytest.raises(ValueError, match=message):
            harness.send(made("i420"), format="i420")
    with RoutineHarness(Crop(1, 3, 7, 9)) as harness:
        assert harness.send(made("rgb"), format="rgb").shape == (9, 7, 3)
    with RoutineHarness(Convert("i420")) as harness, pytest.raises(ValueError, match=r"shape \(48, 64, 4\) is no frame"):
        harness.send(np.zeros((48, 64, 4), np.uint8))


# ---- the harness ---------------------------------------------------------------------------------


class Says(MiddleRoutine):
    def main_logic(self, data: Any) -> Any:
        frame = data.frame if isinstance(data, DetectedFrame) else data
        return self.meta.format, format_of(frame, self.meta)


def test_a_harness_gives_what_is_sent_a_format() -> None:
    with RoutineHarness(Says()) as harness:
        assert harness.send(made("i420"), format="i420") == ("i420", "i420")
        assert harness.send(DetectedFrame(made("nv12"), Detections([])), format="nv12") == ("nv12", "nv12")
        assert harness.run([luma(made("i420"))] * 2, format="rgb") == [("rgb", "gray")] * 2
        assert harness.send(BGR) == (None, "bgr")
        with pytest.raises(ValueError, match="format must be one of bgr"):
            harness.send(BGR, format="BGR")  # type: ignore[arg-type]
    with RoutineHarness(Convert("nv12", "convert")) as harness:
        assert np.array_equal(harness.send(made("i420"), format="i420"), made("nv12"))
        assert harness.outputs[-1].meta.format == "nv12"


# ---- a real source -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_says_its_format_and_all_formats_show_the_same(format: Format) -> None:
    source, plain = VideoSource(bikes(), format=format), VideoSource(bikes())
    source.setup()
    plain.setup()
    frame, bgr = source.main_logic(), plain.main_logic()
    assert frame is not None
    assert bgr is not None
    assert format_of(frame, source.meta) == format
    expected = to_gray(bgr) if format == "gray" else bgr
    assert cv2.PSNR(to_bgr(frame, format), seen(expected, "gray" if format == "gray" else "bgr")) > 30
    source.cleanup()
    plain.cleanup()
