"""Frames of each format where they are written, shown, recorded and previewed: people see the same picture."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from mcap.reader import make_reader

from media import bikes, frames_of
from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, SourceRoutine, VideoSource, Wire
from pipert_shm.api.preview import as_jpeg, picture_of
from pipert_shm.data import Format, Meta
from pipert_shm.display.pictures import Mosaic, scaled, viewable
from pipert_shm.testing import RoutineHarness
from pipert_shm.video import (
    DetectedFrame,
    Detections,
    MjpegServer,
    MotionDetector,
    Recorder,
    Replay,
    RerunWriter,
    SnapshotWriter,
    VideoError,
    VideoWriter,
    luma,
)
from pipert_shm.video.formats import format_of
from routines import Record, chain, received
from serving import serving
from test_formats import BGR, FORMATS, made, meta_of, seen
from test_rerun import Read, needs_rerun, read
from test_screen import pictures, port, viewer
from test_writer import Codec, codec
from waiting import eventually

__all__ = ["codec", "port", "read"]  # fixtures

PICTURE = cv2.resize(BGR, (640, 480))
HALF = cv2.resize(PICTURE, (320, 240), interpolation=cv2.INTER_AREA)


def told(format: Format, frame: np.ndarray) -> Meta:
    return meta_of(format, len(frame))


def colours_of(format: Format, bgr: np.ndarray) -> np.ndarray:
    """What is to be seen of a frame in the format."""
    return cv2.cvtColor(made("gray", bgr), cv2.COLOR_GRAY2BGR) if format == "gray" else bgr


def decoded(jpeg: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


# ---- pictures to look at -------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_frame_is_scaled_to_a_picture_in_bgr(format: Format) -> None:
    frame = made(format, PICTURE)
    frame.flags.writeable = False
    whole, one = scaled(frame, 640, format)
    small, half = scaled(frame, 320, format)
    assert (one, half) == (1, 0.5)
    if format != "gray":
        assert np.array_equal(whole, seen(frame, format))
        assert cv2.PSNR(small, HALF) > 35
    assert np.array_equal(viewable(frame, format), whole)
    assert scaled(frame, 101, format)[0].shape[:2] in ((76, 101), (76, 100))
    assert scaled(frame, 1, format)[0].ndim in (2, 3), "however small"


def test_of_16_bits_the_upper_8_are_seen() -> None:
    deep = PICTURE.astype(np.uint16) * 256 + 77
    assert np.array_equal(viewable(deep, "bgr"), PICTURE)
    assert np.array_equal(viewable(deep[:, :, ::-1], "rgb"), PICTURE)
    assert scaled(deep, 320, "bgr")[0].dtype == np.uint8


@pytest.mark.parametrize("format", FORMATS)
def test_a_mosaic_has_tiles_of_all_formats(format: Format) -> None:
    mosaic, frame = Mosaic(), made(format, PICTURE)
    alone = mosaic.add("a", frame, format)
    assert alone is not None
    assert np.array_equal(alone, frame if format == "gray" else seen(frame, format))
    mosaic.put("a", frame, format)
    both = mosaic.add("b", PICTURE, "bgr")
    assert both is not None
    left, right = np.split(both, 2, axis=1)
    assert left.shape == right.shape == (480, 640, 3)
    assert cv2.PSNR(left[30:], colours_of(format, PICTURE)[30:]) > 35
    assert np.array_equal(right[30:], PICTURE[30:])


@pytest.mark.parametrize("format", FORMATS)
def test_browsers_see_frames_of_each_format(port: int, format: Format) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Stills(format), MjpegServer(port, name="server"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["server"].received >= 1, "a frame")
        response = viewer(port)
        picture = next(pictures(response))
        response.close()
        pipe.notify_event("kill")
    assert cv2.PSNR(picture, colours_of(format, PICTURE)) > 28


class Stills(SourceRoutine):
    """Sends one picture again and again."""

    def __init__(self, format: Format) -> None:
        super().__init__("camera")
        self.format = format
        self.set_const_fps(100)

    def main_logic(self) -> Any:
        frame = made(self.format, PICTURE)
        loan = self.loan(frame.shape)
        loan[:] = frame
        self.meta.describe(self.format, len(frame))
        return loan


@pytest.mark.parametrize("format", FORMATS)
def test_a_preview_shows_frames_of_each_format(format: Format) -> None:
    def with_camera(board: Any) -> Pipe:
        pipe = Pipe(grace_period=1)
        chain(pipe, Stills(format), MotionDetector("detector"), Record("end", Path("/dev/null")))
        return pipe

    with serving(make=with_camera) as served:
        served.do("/start")
        for routine in ("camera", "detector"):
            answer = served.client.get(f"/routines/{routine}/preview.jpg")
            assert answer.status_code == 200, answer.text
            assert cv2.PSNR(decoded(answer.content), colours_of(format, PICTURE)) > 28


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_of_a_preview_are_where_they_belong(format: Format) -> None:
    frame = made(format, cv2.resize(np.zeros_like(PICTURE), (1280, 720)))
    payload = DetectedFrame(frame, Detections([[100, 200, 300, 400]]))
    picture = picture_of(payload, told(format, frame))
    rows, columns = np.nonzero(picture.max(axis=2) if picture.ndim == 3 else picture)
    assert [int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max())] == [99, 200, 49, 150]
    assert decoded(as_jpeg(payload, told(format, frame))).shape == (360, 640, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_a_log_of_payloads_shows_frames_of_each_format(format: Format, caplog: pytest.LogCaptureFixture) -> None:
    """As `log_data` sends them to a cockpit."""
    caplog.set_level(logging.INFO)

    def picture(kind: str) -> str | None:
        found = [record for record in caplog.records if record.getMessage().startswith(kind)]
        return found[0].__dict__["image_base64"] if found else None

    with Pipe(policy="block") as pipe:
        chain(pipe, Stills(format), Record("end", Path("/dev/null")))
        pipe.build()
        pipe.notify_event("log_data")
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: bool(picture("input") and picture("output")), "a picture of each kind")
        pipe.notify_event("kill")
    for kind in ("input", "output"):
        assert cv2.PSNR(decoded(base64.b64decode(picture(kind) or "")), colours_of(format, HALF)) > 25


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_video_of_each_format_shows_the_same(tmp_path: Path, codec: Codec, format: Format) -> None:
    def write(form: Format) -> list[np.ndarray]:
        path = tmp_path / f"{form}.mp4"
        with RoutineHarness(VideoWriter(path, 25, codec=codec), role="destination") as harness:
            for level in range(1, 6):
                harness.send(made(form, PICTURE // 6 * level), format=form)
        return list(frames_of(path))

    plain, other = write("bgr"), write(format)
    assert len(plain) == len(other) == 5
    for one, another in zip(plain, other, strict=True):
        assert one.shape == another.shape == PICTURE.shape
        assert cv2.PSNR(another, colours_of(format, one)) > 28


@pytest.mark.parametrize("format", ["i420", "nv12"])
def test_planes_go_to_the_encoder_as_they_are(tmp_path: Path, format: Format) -> None:
    path, frame = tmp_path / "out.mkv", made(format, PICTURE)
    with RoutineHarness(VideoWriter(path, 25, codec="h264"), role="destination") as harness:
        for _ in range(3):
            harness.send(frame, format=format)
    with av.open(path) as container:
        *_, last = container.decode(video=0)
        got = last.to_ndarray(format="yuv420p")
    assert np.abs(got.astype(int) - made("i420", PICTURE)).mean() < 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_video_takes_frames_of_several_formats_and_sizes(
    tmp_path: Path, codec: Codec, format: Format, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of an odd size: planar frames can't be scaled to that, but pictures can."""
    path, odd = tmp_path / "out.mp4", np.ascontiguousarray(PICTURE[:479, :639])
    with RoutineHarness(VideoWriter(path, 25, codec=codec), role="destination") as harness:
        harness.send(odd)
        harness.send(made(format, PICTURE), format=format)
        harness.send(made(format, cv2.resize(PICTURE, (320, 240))), format=format)
        assert harness.statistics().errors == 0
    first, *others = frames_of(path)
    assert len(others) == 2
    for other in others:
        assert cv2.PSNR(other, colours_of(format, first)) > 25


def test_a_video_has_no_16_bits_whatever_the_format(tmp_path: Path) -> None:
    with RoutineHarness(VideoWriter(tmp_path / "out.mp4"), role="destination") as harness:
        for format in ("bgr", "rgb", "gray"):
            with pytest.raises(VideoError, match=r"8 bits a channel are needed; .*\(frame >> 8\)"):
                harness.send(made(format, PICTURE).astype(np.uint16), format=format)


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_snapshot_of_each_format_shows_the_frame(tmp_path: Path, format: Format, deep: bool) -> None:
    frame = made(format, PICTURE)
    if deep and format in ("i420", "nv12"):
        return
    frame = frame.astype(np.uint16) * 257 if deep else frame
    with RoutineHarness(SnapshotWriter(tmp_path, suffix=".png"), role="destination") as harness:
        harness.notify("SNAPSHOT")
        harness.send(frame, format=format)
    got = cv2.imread(str(tmp_path / "source-000000.png"), cv2.IMREAD_UNCHANGED)
    expected = made("gray", PICTURE) if format == "gray" else seen(made(format, PICTURE), format)
    assert got is not None
    assert np.array_equal(got, expected.astype(np.uint16) * 257 if deep else expected)


# ---- recordings ----------------------------------------------------------------------------------


class Beginning(VideoSource):
    def __init__(self, format: Format) -> None:
        super().__init__(bikes(), "camera", format=format)

    def main_logic(self) -> Any:
        if self.meta.sequence == 8:
            raise EndOfStream
        return super().main_logic()


def run(*routines: Any) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, *routines)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert sum(routine.errors for routine in pipe.statistics().routines.values()) == 0


def noting(path: Path) -> Record:
    """Notes what comes, and what the meta says of it."""

    def note(data: Any) -> Any:
        frame, luminous = (data.frame, data.additional_data.get("luma")) if isinstance(data, DetectedFrame) else (data, None)
        kinds = [None if each is None else format_of(each, record.meta) for each in (frame, luminous)]
        return record.meta.format, kinds, frame.tobytes(), frame.shape, None if luminous is None else luminous.tobytes()

    record = Record("record", path, note)
    return record


@pytest.mark.parametrize("is_detected", [False, True], ids=["frames", "detected frames"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_recording_keeps_the_format(tmp_path: Path, format: Format, is_detected: bool) -> None:
    camera, recorder, live = Beginning(format), Recorder(tmp_path / "r.mcap", "recorder"), noting(tmp_path / "live")
    with Pipe(policy="block") as pipe:
        steps = [camera, WithLuma("detector")] if is_detected else [camera]
        for routine in (*steps, recorder, live):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(*([Wire(*steps)] if is_detected else []), Wire(steps[-1], (recorder, live)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    run(Replay(recorder.path, "replay", paced=False), noting(tmp_path / "again"))
    first, again = ([message.value for message in received(tmp_path / name)] for name in ("live", "again"))
    assert first == again
    assert len(first) == 8
    assert first[0][:2] == (format, [format, "gray" if is_detected else None])
    with recorder.path.open("rb") as file:
        messages = [(channel, data.data) for _, channel, data in make_reader(file).iter_messages()]
    told = [(channel.metadata.get("format"), data) for channel, data in messages if channel.metadata["pipert_shm"] != "stamp"]
    assert {each for each, _ in told} == {format}
    names = {"bgr": b"bgr8\0", "rgb": b"rgb8\0"}
    assert names.get(format, b"mono8\0") in told[0][1][:80]


class WithLuma(MotionDetector):
    """Sends a part of a planar frame along, which is grey."""

    def main_logic(self, data: Any) -> DetectedFrame:
        found = super().main_logic(data)
        format = format_of(data, self.meta)
        found.additional_data["luma"] = luma(data, format) if format in ("i420", "nv12", "gray") else data[:, :, 0].copy()
        return found


def test_16_bits_in_colour_are_pictures_for_the_tools(tmp_path: Path) -> None:
    deep = PICTURE.astype(np.uint16) * 257
    path = tmp_path / "r.mcap"
    with RoutineHarness(Recorder(path), role="destination") as harness:
        harness.send(deep)
        harness.send(deep, format="rgb")
    with path.open("rb") as file:
        names = [data.data[:80] for _, _, data in make_reader(file).iter_messages()]
    assert [b"bgr16" in names[0], b"rgb16" in names[1]] == [True, True]
    with RoutineHarness(Replay(path, paced=False)) as harness:
        one, other = harness.take(2)
        assert np.array_equal(one, deep)
        assert np.array_equal(other, deep)
        assert [output.meta.format for output in harness.outputs] == [None, "rgb"]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"format": "i420", "rows": "720"}, "i420"),
        ({"format": "i420", "rows": "-1"}, None),
        ({"format": "i420", "rows": "9" * 5000}, None),
        ({"format": "i420", "rows": "٣"}, "i420"),
        ({"format": "YUV"}, None),
        ({}, None),
    ],
)
def test_what_another_program_wrote_in_place_of_a_format_says_nothing(metadata: dict[str, str], expected: str | None) -> None:
    from pipert_shm.video.recorded import describe

    meta = meta_of(None)
    describe(meta, metadata)
    assert meta.format == expected


# ---- Rerun ---------------------------------------------------------------------------------------


@needs_rerun
@pytest.mark.parametrize("quality", [80, None], ids=["JPEG", "as it is"])
@pytest.mark.parametrize("format", FORMATS)
def test_rerun_gets_frames_of_each_format(tmp_path: Path, read: Read, format: Format, quality: int | None) -> None:
    path = tmp_path / "out.rrd"
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(format), RerunWriter(path, "writer", quality=quality))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert pipe.statistics().routines["writer"].errors == 0
    rows, source = read(path, "/camera"), Beginning(format)
    source.setup()
    frame = source.main_logic()
    source.cleanup()
    assert len(rows) == 8
    if quality is not None:
        assert cv2.PSNR(decoded(base64.b64decode(rows[0]["blob"])), seen(frame, format)) > 28
        return
    (kind,) = rows[0]["format"]
    assert (kind["width"], kind["height"]) == (640, 272)
    assert bytes(rows[0]["buffer"][0]) == frame.tobytes()
    kinds: dict[str, Callable[[], bool]] = {
        "i420": lambda: kind["pixel_format"] == 20,  # Y_U_V12_LimitedRange
        "nv12": lambda: kind["pixel_format"] == 26,
        "bgr": lambda: kind["color_model"] == 4,
        "rgb": lambda: kind["color_model"] == 2,
        "gray": lambda: kind["color_model"] == 1,
    }
    assert kinds[format](), kind
