"""Two streams of one camera as one source: real RTSP servers in step, that are slow, killed, and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camera_streams import STEPS, Camera, tick_of
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DetectedFrame,
    Detections,
    Detector,
    EndOfStream,
    Meta,
    NoFreeSlot,
    Pipe,
    PipeFailed,
    PipelineFile,
    RoutineStatistics,
    SourceRoutine,
    ToMain,
    TwinFrame,
    TwinSource,
    Wire,
)
from pipert_shm.data import Data
from pipert_shm.limits import Policy
from pipert_shm.video.formats import to_bgr
from routines import Forward, Gated, Record, chain, received, running
from streams import Server, free_port, listens
from waiting import Board, eventually

MAIN, SUB, LARGER = (320, 240), (160, 120), (480, 360)

Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a stream of a camera: `serve(camera, size, fps, …)`, and waits until it listens."""
    servers: list[Server] = []

    def begin(camera: Camera, size: tuple[int, int], fps: int = 15, *, port: int | None = None, **options: Any) -> Server:
        port = port or free_port()
        server = camera.serve(size, fps, port=port, **options)
        servers.append(server)
        eventually(lambda: listens(port), "the server")
        return server

    yield begin
    for server in servers:
        server.kill()


class Notes(Record):
    """Writes down of each pair both times in ticks, both shapes, and what the meta tells."""

    def main_logic(self, data: TwinFrame) -> None:
        assert data.get_frame() is data.frame
        main, frame = data.main, data.frame
        assert not main.flags.writeable
        assert not frame.flags.writeable
        note = (
            tick_of(to_bgr(main, data.main_format)),
            tick_of(frame),
            data.main.shape,
            frame.shape,
            self.meta.captured_ns,
            self.meta.wall_clock,
        )
        super().main_logic(note)


def gate(pipe: Pipe) -> RoutineStatistics:
    return pipe.statistics().routines["gate"]


def notes_of(path: Path) -> list[Any]:
    return [message.value for message in received(path)]


def in_step(notes: list[Any]) -> None:
    """All pairs are of the same moment, and come in order."""
    assert [main for main, *_ in notes] == [sub for _, sub, *_ in notes]
    assert all(a < b for a, b in pairwise(captured for *_, captured, _ in notes))


@pytest.mark.parametrize(
    ("main_fps", "sub_fps", "delays", "tells"),
    [
        (15, 15, (0.0, 0.0), False),
        (30, 15, (0.0, 0.0), False),
        (30, 15, (0.1, 0.0), True),
        (15, 30, (0.0, 0.15), True),
    ],
    ids=["as they come", "twice as many of the large", "the large one later", "the small one later, and twice as many"],
)
def test_each_pair_is_of_the_same_moment(
    tmp_path: Path, serve: Serve, main_fps: int, sub_fps: int, delays: tuple[float, float], tells: bool
) -> None:
    camera = Camera(tells=tells)
    main, sub = serve(camera, MAIN, main_fps, delay=delays[0]), serve(camera, SUB, sub_fps, delay=delays[1])
    source = TwinSource(main.url, sub.url, "gate", main_format="i420")
    with running(Pipe(), source, Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: gate(pipe).sent >= 10, "pairs")
        before = gate(pipe)
        eventually(lambda: gate(pipe).sent >= before.sent + 45, "three seconds of pairs")
        after = gate(pipe)
    notes = notes_of(tmp_path / "got")
    in_step(notes)
    assert {shapes for _, _, *shapes_ in notes for shapes in [tuple(shapes_[:2])]} == {((360, 320), (120, 160, 3))}
    steps = [(b[0] - a[0]) % STEPS for a, b in pairwise(notes[10:])]
    assert sum(step == 2 for step in steps) > 0.7 * len(steps), "as a rule, each frame of the slower stream has its pair"
    assert after.copied_bytes == 0, "both pictures travel by reference"
    assert (after.counters["connected_main"], after.counters["connected_sub"], after.errors) == (1, 1, 0)
    if main_fps != sub_fps:
        assert after.counters["unpaired"] > before.counters["unpaired"], "what has no partner is counted"
    if tells:
        assert camera.clock is not None
        for tick, *_, told in notes:
            assert told is not None
            assert round((told - camera.clock) * 30) % STEPS == tick, "it is the camera's clock"


def test_what_has_no_partner_and_is_needed_by_no_other_is_not_decoded(tmp_path: Path, serve: Serve) -> None:
    """The B-frames of the large stream lie between the frames of the small one."""
    camera = Camera()
    main, sub = serve(camera, MAIN, 30, bframes=1), serve(camera, SUB)
    with running(Pipe(), TwinSource(main.url, sub.url, "gate"), Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: gate(pipe).sent >= 30, "pairs, and the rhythm")
        before = gate(pipe)
        eventually(lambda: gate(pipe).sent >= before.sent + 45, "three seconds of pairs")
        after = gate(pipe)
    in_step(notes_of(tmp_path / "got"))
    left_out, unpaired = (after.counters[name] - before.counters[name] for name in ("skipped", "unpaired"))
    assert left_out >= 15, "one of four frames is a B-frame"
    assert unpaired <= 40, "those of the others that have no partner"


def test_a_stream_that_is_lost_and_comes_back_larger(tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    camera, port = Camera(), free_port()
    main, sub = serve(camera, MAIN, port=port), serve(camera, SUB)
    with running(Pipe(), TwinSource(main.url, sub.url, "gate", timeout=1), Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: gate(pipe).sent >= 5, "pairs")
        main.kill()
        eventually(lambda: gate(pipe).counters["connected_main"] == 0, "the loss")
        eventually(lambda: "nothing is sent until" in caplog.text, "a log that says so")
        lost = gate(pipe)
        eventually(lambda: gate(pipe).counters["unpaired"] >= lost.counters["unpaired"] + 10, "the other stream goes on")
        assert gate(pipe).sent == lost.sent, "and nothing of it is sent"
        serve(camera, LARGER, port=port)
        eventually(lambda: gate(pipe).sent >= lost.sent + 10, "pairs again")
        assert gate(pipe).counters["reconnects"] == 1
        assert f"nothing is sent until {main.url!r} is back" in caplog.text
        eventually(lambda: "both streams are there again" in caplog.text, "a log that says so")
    notes = notes_of(tmp_path / "got")
    in_step([note for note in notes if note[2] == (240, 320, 3)])
    in_step([note for note in notes if note[2] == (360, 480, 3)])
    shapes = [note[2] for note in notes]
    assert shapes == sorted(shapes), "first those of the one size, then those of the other"
    assert len(set(shapes)) == 2
    assert gate(pipe).copied_bytes == 0


def test_without_reconnection_it_ends_with_one_of_them(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    pipe = Pipe()
    chain(pipe, TwinSource(main.url, sub.url, "gate", reconnect=False), Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: gate(pipe).sent >= 3, "pairs")
    sub.kill()
    pipe.join()
    assert pipe.statistics().routines["notes"].state == "ended"


def test_without_reconnection_one_that_is_not_there_is_an_error(tmp_path: Path, serve: Serve) -> None:
    main = serve(Camera(), MAIN)
    missing = f"rtsp://admin:secret@127.0.0.1:{free_port()}/x"
    pipe = Pipe()
    chain(pipe, TwinSource(main.url, missing, "gate", reconnect=False), Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed) as caught:
        pipe.join()
    assert "no video comes from there" in caught.value.causes[0]
    assert "secret" not in caught.value.causes[0]


def test_a_stop_and_a_start_while_both_are_frozen(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    servers = main, sub = serve(camera, MAIN), serve(camera, SUB)
    with running(Pipe(), TwinSource(main.url, sub.url, "gate", timeout=60), Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: gate(pipe).sent >= 3, "pairs")
        for server in servers:
            server.freeze()
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="gate")
        eventually(lambda: gate(pipe).state == "stopped", "the stop")
        before = gate(pipe).sent
        pipe.notify_event(START_EVENT_NAME, specific_routine="gate")
        eventually(lambda: gate(pipe).state == "running", "the start")
        for server in servers:
            server.thaw()
        eventually(lambda: gate(pipe).sent >= before + 3, "pairs again")
    assert pipe.statistics().flows["gate"].last_exit == 0, "it was not killed"


def test_fewer_pairs_a_second(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN, 30), serve(camera, SUB, 30)
    with running(Pipe(), TwinSource(main.url, sub.url, "gate", fps=5), Notes("notes", tmp_path / "got")) as pipe:
        eventually(lambda: gate(pipe).sent >= 12, "pairs")
    notes = notes_of(tmp_path / "got")
    in_step(notes)
    gaps = sorted((b[0] - a[0]) % STEPS for a, b in pairwise(notes[3:]))
    assert gaps[len(gaps) // 2] >= 5, "about every sixth frame"


# ---- memory ----------------------------------------------------------------------------------------


def test_a_slow_receiver_and_a_small_ring_starve_nobody(tmp_path: Path, serve: Serve) -> None:
    """A pair takes one slot. While the receiver is slow, the newest pair waits, not the oldest."""
    board, camera = Board(), Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    source, slow = TwinSource(main.url, sub.url, "gate", main_size=MAIN, sub_size=SUB), Gated("slow", board, 0, 1)
    slot = 320 * 240 * 3 + 160 * 120 * 3
    pipe = Pipe(memory_budget=6 * slot + 400_000)
    chain_of_two(pipe, source, slow)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: gate(pipe).sent >= 3, "one in hand, one in the queue, one that waits for room")
    skipped = gate(pipe).counters["skipped"]
    eventually(lambda: gate(pipe).counters["skipped"] >= skipped + 30, "a second goes by")
    board[0] = 1000
    eventually(lambda: board[1] >= 10, "the newer ones")
    pipe.join(to_kill=True)
    statistics = gate(pipe)
    assert statistics.errors == 0
    assert statistics.copied_bytes == 0
    assert sum(pipe.statistics().wires["gate", "slow"].dropped.values()) == 0


def chain_of_two(pipe: Pipe, source: TwinSource, slow: Gated) -> None:
    pipe.create_flow("gate", False, source)
    pipe.create_flow("slow", False, slow)
    pipe.link(Wire(source, slow, policy="block", capacity=1))


class Greedy(SourceRoutine):
    """Sends two frames, and then takes all memory that is free at once; the board's cell 2 says how much."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence < 2:
            return self.loan((64, 64))
        assert self._runtime is not None
        held: list[np.ndarray] = []
        with suppress(NoFreeSlot):
            while True:
                held.append(self._runtime.loan((64, 64), np.dtype(np.uint8), wait=False))
        self.board[2] = len(held)
        raise EndOfStream


@pytest.mark.parametrize("policy", ["drop_oldest", "block"])
def test_room_for_further_pairs_costs_no_message(policy: Policy) -> None:
    """Without `wait` a loan neither waits for a slot nor takes one from a message that nobody has read yet."""
    board = Board()
    source, slow = Greedy("source", board), Gated("slow", board, 0, 1)
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("slow", False, slow)
    pipe.link(Wire(source, slow, policy=policy, capacity=2))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(2)
    board[0] = 2
    pipe.join()
    assert pipe.statistics().routines["slow"].received == 2
    assert pipe.statistics().routines["source"].errors == 0


def test_memory_is_set_aside_for_both_pictures(serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    own = TwinSource(main.url, sub.url, "gate", sub_format="gray")._own_frames(0, look=True)
    assert own is not None
    assert own.size == 320 * 240 * 3 + 160 * 120
    assert own.why.startswith("320x240 and 160x120: rtsp://")
    sized = TwinSource(main.url, sub.url, "sized", main_size=(100, 50), sub_size=(40, 30), sub_format="i420")
    assert sized._output_bytes == 100 * 50 * 3 + 40 + 40 * 45, "the second begins at a multiple of 64"
    assert TwinSource(main.url, sub.url)._own_frames(0, look=False) is None


# ---- what is sent ----------------------------------------------------------------------------------


class Bright(Detector):
    """Finds the left half of the small picture."""

    def detect(self, frame: np.ndarray) -> Detections:
        return Detections([[0, 0, frame.shape[1] // 2, frame.shape[0]]], [0.5], [0], ["half"])


class Boxes(Record):
    def main_logic(self, data: Any) -> None:
        boxes = data.detections.boxes.tolist() if isinstance(data, DetectedFrame) else None
        frame = data.frame if isinstance(data, DetectedFrame) else data
        keys = sorted(data.additional_data) if isinstance(data, Data) else []
        super().main_logic((frame.shape, self.meta.format_of(frame), boxes, keys))


def test_the_large_picture_travels_with_the_detections_by_reference(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    source = TwinSource(main.url, sub.url, "gate", main_format="i420", sub_format="bgr")
    bright, to_main, alone = Bright("bright"), ToMain("to_main"), ToMain("alone")
    boxes, frames = Boxes("boxes", tmp_path / "boxes"), Boxes("frames", tmp_path / "frames")
    pipe = Pipe()
    for routine in (source, bright, to_main, alone, boxes, frames):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, bright), Wire(bright, to_main), Wire(to_main, boxes), Wire(source, alone), Wire(alone, frames))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["boxes"].received >= 10, "detections")
    eventually(lambda: pipe.statistics().routines["frames"].received >= 10, "frames")
    pipe.join(to_kill=True)
    assert {(shape, format, str(found), str(keys)) for shape, format, found, keys in notes_of(tmp_path / "boxes")} == {
        ((360, 320), "i420", "[[0.0, 0.0, 160.0, 240.0]]", "[]")
    }
    assert {value[:3] for value in notes_of(tmp_path / "frames")} == {((360, 320), "i420", None)}
    statistics = pipe.statistics()
    assert {name: item.copied_bytes for name, item in statistics.routines.items() if item.copied_bytes} == {}


def test_boxes_are_scaled_to_the_large_picture() -> None:
    twin = TwinFrame(np.zeros((180, 160), np.uint8), np.zeros((480, 640, 3), np.uint8))
    found = Detections([[10, 20, 30, 40]], [0.5], [0], ["cat"], [7])
    frame = DetectedFrame(twin.frame, found)
    frame.additional_data.update(twin.additional_data, weather="fog")
    to_main = ToMain("to_main")
    to_main.meta = Meta(("gate",), 0, 0)
    to_main.meta.describe("i420", 180)
    large = to_main.main_logic(frame)
    assert isinstance(large, DetectedFrame)
    assert large.frame is twin.main
    assert large.detections.boxes.tolist() == [[40, 80, 120, 160]]
    assert large.detections.labels == ["cat"]
    assert large.detections.track_ids is not None
    assert large.detections.track_ids.tolist() == [7]
    assert large.additional_data == {"weather": "fog"}
    assert "main" in frame.additional_data, "others have that, too"
    assert to_main.meta.format == "bgr"


@pytest.mark.parametrize("data", [np.zeros((4, 4, 3), np.uint8), DetectedFrame(np.zeros((4, 4, 3), np.uint8), Detections([]))])
def test_what_has_no_large_picture_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="wire a TwinSource before this routine, and no Resize, Crop or Convert"):
        ToMain("to_main").main_logic(data)


def test_within_one_flow(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    source, forward, notes = TwinSource(main.url, sub.url, "gate"), Forward("forward"), Notes("notes", tmp_path / "got")
    pipe = Pipe()
    pipe.create_flow("all", True, source, forward, notes)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["notes"].received >= 20, "pairs")
    pipe.join(to_kill=True)
    in_step(notes_of(tmp_path / "got"))
    assert gate(pipe).copied_bytes == 0


# ---- options and files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"sub": "rtsp://a/main"}, "main and sub are the same stream"),
        ({"sub": "walk.mp4"}, "reads live streams, and 'walk.mp4' is none: a VideoSource reads files"),
        ({"tolerance": 0}, "tolerance must be more than 0 seconds"),
        ({"fps": -1}, "fps must be positive"),
        ({"main_size": (0, 5)}, "size must be"),
        ({"sub_format": "yuv"}, "format must be one of"),
        ({"timeout": 0}, "timeout must be"),
        ({"transport": "http"}, "transport must be one of"),
    ],
)
def test_options_that_can_not_be_meant(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TwinSource(**{"main": "rtsp://a/main", "sub": "rtsp://a/sub", **arguments})


def test_a_tolerance_that_nothing_meets_is_told_of(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipert_shm.video import twin

    monkeypatch.setattr(twin, "HOPELESS", 20)
    camera = Camera(tells=False)
    main, sub = serve(camera, MAIN), serve(camera, SUB, delay=0.033)
    source = TwinSource(main.url, sub.url, "gate", tolerance=1e-6)
    with running(Pipe(), source, Notes("notes", tmp_path / "got")):
        eventually(lambda: "none had a partner within 1e-06 s (tolerance): the nearest ones were 0.0" in caplog.text, "the log")


def test_in_a_pipelines_file(tmp_path: Path, serve: Serve) -> None:
    camera = Camera()
    main, sub = serve(camera, MAIN), serve(camera, SUB)
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"""
routines:
  gate:
    class: pipert_shm.TwinSource
    parameters: {{main: "{main.url}", sub: "{sub.url}", main_format: i420, sub_size: [80, 60], fps: 10}}
  large: {{class: pipert_shm.ToMain}}
  writer: {{class: pipert_shm.VideoWriter, parameters: {{path: "{tmp_path}/large.mp4"}}}}
flows:
  gate: {{routines: [gate]}}
  large: {{routines: [large, writer], auto_wire: true}}
wires:
  - {{source: gate, destinations: [large]}}
""")
    pipe = PipelineFile(path).make_pipe()
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["writer"].received >= 20, "frames")
    pipe.join(to_kill=True)
    import cv2

    capture = cv2.VideoCapture(str(tmp_path / "large.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == MAIN
    capture.release()
