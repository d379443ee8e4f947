"""What `RerunWriter` logs, as Rerun reads it back; in scripts and flows, so that this process never loads it."""

from __future__ import annotations

import base64
import json
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import RunScript
from media import Beginning, bikes, frames_of, in_package, limit_files
from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, PipeFailed, SourceRoutine
from pipert_shm.video import DetectedFrame, Detections, MotionDetector, RerunWriter
from routines import chain
from streams import Server, free_port, listens
from waiting import eventually

needs_rerun = pytest.mark.skipif(
    find_spec("rerun") is None, reason="rerun-sdk (500 MB) is not in the dev extra: pip install -e '.[rerun]'"
)

READ = """
import base64, json, pyarrow
from rerun.chunk import RrdReader

def values(column):
    if pyarrow.types.is_temporal(column.type):
        column = column.cast(pyarrow.int64())
    return column.to_pylist()

for chunk in RrdReader({path!r}).stream():
    batch = chunk.to_record_batch()
    columns = {{name.split(":")[-1]: values(column) for name, column in zip(batch.schema.names, batch.columns)}}
    for number in range(batch.num_rows):
        row = {{name: column[number] for name, column in columns.items() if name != "rerun.controls.RowId"}}
        if "blob" in row:
            row["blob"] = base64.b64encode(bytes(row["blob"][0])).decode()
        print(json.dumps({{"entity": chunk.entity_path, **row}}, default=str))
"""

UNFINISHED = """
import warnings
warnings.simplefilter("ignore")  # of a file whose writer was killed, that it has no footer
"""

Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def read(run_script: RunScript) -> Read:
    """The rows of an entity, in order."""

    def rows(path: Path, entity: str, head: str = "") -> list[dict[str, Any]]:
        done = run_script(head + READ.format(path=str(path)))
        assert done.returncode == 0, done.stderr
        return [row for row in map(json.loads, done.lines) if row["entity"] == entity]

    return rows


def boxes_of(row: dict[str, Any]) -> list[list[float]]:
    """As left, top, right, bottom."""
    return [
        [x - half_width, y - half_height, x + half_width, y + half_height]
        for (x, y), (half_width, half_height) in zip(row["centers"], row["half_sizes"], strict=True)
    ]


class Payloads(SourceRoutine):
    """Sends these; the odd ones have a place in a video."""

    def __init__(self, *payloads: Any) -> None:
        super().__init__("front door")
        self.payloads = list(payloads)
        self.next = 0

    def main_logic(self) -> Any:
        if self.next == len(self.payloads):
            raise EndOfStream
        if self.next % 2:
            self.meta.pts = self.next / 25
        self.next += 1
        return self.payloads[self.next - 1]


def send(target: str | Path, *payloads: Any) -> int:
    """Through a pipe; how many errors there were."""
    with Pipe(policy="block") as pipe:
        chain(pipe, Payloads(*payloads), RerunWriter(target, "writer"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    return pipe.statistics().routines["writer"].errors


# ---- files ---------------------------------------------------------------------------------------


@needs_rerun
def test_a_file_has_the_frames_the_boxes_and_the_times_of_one_loop(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "new" / "out.rrd"
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(bikes(), 60, "camera"), MotionDetector("detector"), RerunWriter(path, "writer"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert pipe.statistics().routines["writer"].errors == 0
    frames, found = read(path, "/camera"), read(path, "/camera/detections")
    assert [row["sequence"] for row in frames] == [row["sequence"] for row in found] == list(range(60))
    assert [row["pts"] for row in frames] == [row["pts"] for row in found] == [number * 40_000_000 for number in range(60)]
    assert [row["capture_time"] for row in frames] == [row["capture_time"] for row in found]
    assert all(0 < later["capture_time"] - earlier["capture_time"] < 10e9 for earlier, later in pairwise(frames))
    assert abs(frames[0]["log_time"] - frames[0]["capture_time"]) < 10e9
    detector = MotionDetector()
    detector.setup()
    count = 0
    for frame, picture, row in zip(frames_of(bikes(), 60), frames, found, strict=True):
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(picture["blob"]), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert np.abs(shown.astype(int) - frame).mean() < 8, "a JPEG loses a little"
        assert boxes_of(row) == detector.detect(frame).boxes.tolist()
        count += len(row["centers"])
    assert count > 50


@needs_rerun
def test_labels_and_times_are_those_of_the_message_and_none_before_it(tmp_path: Path, read: Read) -> None:
    boxes: list[list[float]] = [[1, 2, 3, 4.5], [5, 6, 7, 8]]
    full = Detections(boxes, [0.5, 0.25], [1, 0], ("cat", "dog"), [7, -1])
    frame = np.full((48, 64, 3), 100, np.uint8)
    payloads = full, DetectedFrame(frame, full), DetectedFrame(frame, Detections(boxes)), frame[:, :, 0]
    assert send(tmp_path / "x.rrd", *payloads) == 0
    rows = read(tmp_path / "x.rrd", r"/front\ door/detections")
    assert [(row["sequence"], boxes_of(row), row["labels"]) for row in rows] == [
        (0, boxes, ["dog #7 0.50", "cat 0.25"]),
        (1, boxes, ["dog #7 0.50", "cat 0.25"]),
        (2, boxes, []),
    ]
    assert [row.get("pts") for row in rows] == [None, 40_000_000, None]
    pictures = read(tmp_path / "x.rrd", r"/front\ door")
    assert [row["sequence"] for row in pictures] == [1, 2, 3]
    assert [row["media_type"] for row in pictures] == [["image/jpeg"]] * 3


@needs_rerun
def test_boxes_that_are_not_finite_are_left_out_and_what_comes_besides_is_a_text(tmp_path: Path, read: Read) -> None:
    data = DetectedFrame(np.zeros((48, 64, 3), np.uint8), Detections(np.array([[np.nan, 0, 1, 1], [1, 2, 3, 4]])))
    data.additional_data["weather"] = {"fog": np.float32(0.5)}
    assert send(tmp_path / "x.rrd", data) == 0
    (row,) = read(tmp_path / "x.rrd", r"/front\ door/detections")
    assert boxes_of(row) == [[1, 2, 3, 4]]
    (row,) = read(tmp_path / "x.rrd", r"/front\ door/additional_data")
    assert [json.loads(text) for text in row["text"]] == [{"weather": {"fog": 0.5}}]


@needs_rerun
def test_each_start_begins_a_new_file_and_a_killed_one_can_be_read(tmp_path: Path, run_script: RunScript, read: Read) -> None:
    path = tmp_path / "out.rrd"
    ended = run_script(
        f"""
        import os, signal
        from pipert_shm import Meta
        from pipert_shm.video import RerunWriter, VideoSource

        source, writer = VideoSource({str(bikes())!r}), RerunWriter({str(path)!r})
        source.setup()
        writer.setup()
        for number in range(50):
            writer.meta = Meta(("camera",), 0, number)
            writer.main_logic(source.main_logic())
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert ended.returncode == -signal.SIGKILL
    assert send(path, np.zeros((48, 64, 3), np.uint8)) == 0
    assert [row["sequence"] for row in read(tmp_path / "out-1.rrd", "/camera", UNFINISHED)] == list(range(50))
    assert [row["sequence"] for row in read(path, r"/front\ door")] == [0]


@needs_rerun
def test_a_file_that_cannot_be_made_is_one_error(tmp_path: Path, run_script: RunScript) -> None:
    (tmp_path / "out.rrd").mkdir()
    done = run_script(
        f"""
        from pipert_shm.video import RerunWriter, VideoError

        writer = RerunWriter({str(tmp_path / "out.rrd")!r})
        try:
            writer.setup()
        except VideoError as error:
            print(error)
        writer.cleanup()
        """
    )
    assert done.stdout.startswith(f"can't write to '{tmp_path}/out.rrd' by Rerun: Failed to create file: Is a directory")
    assert "; check that it is not a directory" in done.stdout


class Cramped(RerunWriter):
    """On a disk that has room for 100 kB."""

    def setup(self) -> None:
        limit_files(100_000)
        super().setup()


@needs_rerun
def test_a_full_disk_is_an_error_of_each_message_and_of_the_end(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)  # 9 kB as a JPEG
    with Pipe(policy="block") as pipe:
        chain(pipe, Payloads(*[noise] * 12), Cramped(tmp_path / "out.rrd", "writer"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        with pytest.raises(PipeFailed, match=r"cleanup of routine 'writer' failed: .*can't write to '.*out\.rrd' by Rerun"):
            pipe.join()
    assert 2 <= pipe.statistics().routines["writer"].errors <= 12


@needs_rerun
def test_what_rerun_refuses_is_an_error(tmp_path: Path, run_script: RunScript) -> None:
    done = run_script(
        f"""
        import warnings
        from pipert_shm import Meta
        from pipert_shm.video import Detections, RerunWriter

        warnings.simplefilter("ignore")
        writer = RerunWriter({str(tmp_path / "out.rrd")!r})
        writer.setup()
        writer.meta = Meta(("camera",), 0, 0)
        try:
            writer.main_logic(Detections([[1, 2, 3, 4]], class_ids=[0], names=["\\udcff"]))
        except ValueError as error:
            print(type(error).__name__)
        writer.cleanup()
        """
    )
    assert done.lines == ["UnicodeEncodeError"], done.stderr


# ---- viewers -------------------------------------------------------------------------------------


def viewer(path: Path) -> Server:
    """One that writes what it gets to a file."""
    port = free_port()
    program = str(in_package("rerun_cli", "rerun"))
    server = Server(
        f"rerun+http://127.0.0.1:{port}/proxy", [program, "--save", str(path), "--bind", "127.0.0.1", "--port", str(port)]
    )
    eventually(lambda: listens(port), "a viewer")
    return server


@needs_rerun
def test_a_viewer_gets_what_is_sent(tmp_path: Path, read: Read) -> None:
    server = viewer(tmp_path / "got.rrd")
    try:
        frame = np.full((48, 64, 3), 100, np.uint8)
        assert send(server.url, *[DetectedFrame(frame, Detections([[1, 2, 3, 4]]))] * 30) == 0
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait()
    for entity in (r"/front\ door", r"/front\ door/detections"):
        assert [row["sequence"] for row in read(tmp_path / "got.rrd", entity, UNFINISHED)] == list(range(30))


@needs_rerun
def test_a_viewer_that_goes_away_is_an_error_of_each_message_and_of_the_end(tmp_path: Path) -> None:
    server = viewer(tmp_path / "got.rrd")
    source = Beginning(bikes(), 10**9, "camera")
    source.set_const_fps(100)
    try:
        with Pipe(policy="block") as pipe:
            chain(pipe, source, RerunWriter(server.url, "writer"))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            eventually(lambda: pipe.statistics().routines["writer"].received >= 20)
            assert pipe.statistics().routines["writer"].errors == 0
            server.kill()
            eventually(lambda: pipe.statistics().routines["writer"].errors >= 20)
            with pytest.raises(PipeFailed, match=r"cleanup of routine 'writer' failed: .*; check that a viewer listens there"):
                pipe.join(to_kill=True)
    finally:
        server.kill()


@needs_rerun
def test_without_a_viewer_it_is_one_error(run_script: RunScript) -> None:
    done = run_script(
        f"""
        from pipert_shm.video import RerunWriter, VideoError

        for target in ("rerun+http://127.0.0.1:{free_port()}/proxy", "http://127.0.0.1:1"):
            writer = RerunWriter(target)
            try:
                writer.setup()
            except VideoError as error:
                print(error)
            writer.cleanup()
        """
    )
    refused, bad = done.lines
    assert "by Rerun: gRPC has been unable to connect for" in refused
    assert refused.endswith("; check that a viewer listens there")
    assert "by Rerun: invalid endpoint" in bad


# ---- what needs no Rerun -------------------------------------------------------------------------


def test_without_rerun_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"Rerun is not installed .*pip install .*\[rerun\]'"):
        RerunWriter(tmp_path / "out.rrd").setup()


@pytest.mark.parametrize("quality", [0, 101])
def test_the_quality_is_one(quality: int) -> None:
    with pytest.raises(ValueError, match=f"quality must be from 1 to 100, or None for no JPEGs, not {quality}"):
        RerunWriter("out.rrd", quality=quality)
