"""Traces: each hop of each frame is there, in order; drops with their reasons; deaths and ends while somebody traces."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SHM
from killing import await_successor, kill_flows, pid_of
from media import bikes
from pipert_shm import (
    START_EVENT_NAME,
    APIWrapper,
    BatchRoutine,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeStateError,
    RemoteRefusal,
    SourceRoutine,
    VideoSource,
    Wire,
    events,
)
from pipert_shm.binding import trace
from pipert_shm.cli.trace import default_file, is_url, trace_by_name, trace_over_http
from pipert_shm.control.messages import TraceInto
from pipert_shm.limits import Policy
from pipert_shm.parent.tracing import Noted
from pipert_shm.shm import tracing
from pipert_shm.trace import answers
from pipert_shm.trace.recording import whole_file
from pipert_shm.trace.timeline import timeline
from routines import Burst, Forward, Frames, Gated, Items, Sink, chain
from serving import free_port
from streams import serve
from tampering import tampering
from traces import ReadTrace
from waiting import Board, eventually

pytest.importorskip("perfetto")

FRAMES = 12
GATE, TAKEN = 0, 1


class Spans(MiddleRoutine):
    """Forwards, within spans."""

    def main_logic(self, data: Any) -> Any:
        with self.span("outer"), self.span("inner"):
            return data


class Plain(SourceRoutine):
    """Sends what can't be sent by C: lists."""

    def main_logic(self) -> Any:
        return [self.meta.sequence] if self.meta.sequence < FRAMES else self.end()

    def end(self) -> Any:
        from pipert_shm import EndOfStream

        raise EndOfStream


def run(pipe: Pipe, path: Path, **options: Any) -> ReadTrace:
    """Runs a pipe to its end under a trace."""
    pipe.build()
    with pipe.tracing(path, **options) as report:
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert (report.path, report.missing) == (path, [])
    return ReadTrace.of(path)


def in_order(steps: list[str], wanted: list[str]) -> bool:
    """Whether the wanted steps are there once, in this order."""
    return [step for step in steps if step in wanted] == wanted


def arrows_between(*parts: list[int]) -> bool:
    """Whether each part has an arrow in common with the next."""
    return all(set(one) & set(other) for one, other in pairwise(parts))


@pytest.mark.parametrize("where", ["across", "within"])
@pytest.mark.parametrize("kind", ["loans", "lists"])
def test_every_hop_of_every_frame_is_there_once_and_in_order(where: str, kind: str, tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source: SourceRoutine = Frames("camera", FRAMES, (60, 80, 3), loan=True) if kind == "loans" else Plain("camera")
    routines = source, Spans("detector"), Sink("screen")
    if where == "across":
        chain(pipe, *routines)
    else:
        pipe.create_flow("flow", True, *routines)
    shown = run(pipe, tmp_path / "t")
    for number in range(FRAMES):
        frame = f"camera #{number}"
        camera = [one.name for one in shown.of_frame(frame, "camera")]
        detector = [one.name for one in shown.of_frame(frame, "detector")]
        screen = [one.name for one in shown.of_frame(frame, "screen")]
        assert in_order(camera, ["main_logic", "send"])
        if kind == "loans":
            assert in_order(camera, ["main_logic", "loan", "send"])
        assert in_order(detector, ["decode", "main_logic", "outer", "inner", "forward"]), detector
        assert in_order(screen, ["decode", "main_logic"])
        (inner,) = (one for one in shown.of_frame(frame, "detector") if one.name == "inner")
        assert inner.within == ("main_logic", "outer")
        (send,), (forward,) = ([one for one in shown.of_frame(frame) if one.name == name] for name in ("send", "forward"))
        first, second = ([one for one in shown.of_frame(frame, row)] for row in ("camera -> detector", "detector -> screen"))
        assert [one.name for one in (*first, *second)] == ["queue", "queue"]
        decodes = [one for one in shown.of_frame(frame) if one.name == "decode"]
        assert arrows_between(
            send.arrows, first[0].arrows, decodes[0].arrows, forward.arrows, second[0].arrows, decodes[1].arrows
        )
        moments = [send.begin, first[0].begin, first[0].end, forward.begin, second[0].begin, second[0].end]
        assert moments == sorted(moments)
    sequences = [one for one in shown.shown if one.name == "queue"]
    assert len(sequences) == 2 * FRAMES
    assert shown.rows["camera -> detector"] == "wires"
    assert shown.rows["camera"] == ("flow camera" if where == "across" else "flow flow")


def test_a_frame_that_comes_two_ways_has_arrows_of_its_own_on_each(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    camera, quick, late, screen = Items("camera", range(FRAMES)), Forward("quick"), Spans("late"), Sink("screen")
    for routine in (camera, quick, late, screen):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(camera, [quick, late]), Wire(quick, screen), Wire(late, screen))
    pipe.build()
    with pipe.tracing(tmp_path / "t"):
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    shown = ReadTrace.of(tmp_path / "t")  # which looks at the arrows
    for row in ("quick -> screen", "late -> screen"):
        for hop in shown.on(row, "queue"):
            ends = [one.row for one in shown.shown if set(one.arrows) & set(hop.arrows)]
            assert sorted(ends) == sorted((row.split()[0], row, "screen"))
    passages = [one.arrows[-1] for one in shown.on("screen", "main_logic")]
    assert len(set(passages)) == 2 * FRAMES, "its two calls are none of one passage"


def test_waits_are_shown(tmp_path: Path) -> None:
    """A sender that waits for room, within its send; a receiver that waits for a message, and wakes up."""
    board = Board()
    pipe = Pipe(policy="block", capacity=1, grace_period=0.1)
    chain(pipe, Burst("camera", board, GATE), gated := Gated("screen", board, GATE + 2, TAKEN))
    pipe.build()
    with pipe.tracing(tmp_path / "t"):
        pipe.notify_event(START_EVENT_NAME)
        board[GATE] = 4  # one in hand, one in the queue, and one that waits
        eventually(lambda: pipe.statistics().wires["camera", gated.name].sent == 3)
        time.sleep(0.02)
        board[GATE + 2] = 100
        board.wait(TAKEN, 4)
        time.sleep(0.02)
        board[GATE] = 5
        board.wait(TAKEN, 5)
    pipe.join(to_kill=True)
    shown = ReadTrace.of(tmp_path / "t")
    rooms = shown.on("camera", "wait for room")
    assert rooms
    assert {one.within[-1] for one in rooms} == {"send"}
    assert max(one.end - one.begin for one in rooms) > 15_000_000
    last = [one.name for one in shown.on("screen")]
    assert last[-4:] == ["wait for a message", "wake", "decode", "main_logic"]
    waited = shown.of_frame("camera #2", "camera -> screen")
    assert waited[0].begin >= max(
        one.end for one in rooms if "camera #2" in one.frames
    )  # not in the queue while it had no room


@pytest.mark.parametrize("where", ["across", "within"])
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_drop_has_its_reason_and_its_frame(policy: Policy, where: str, tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy=policy, capacity=2)
    camera, screen = Frames("camera", FRAMES, (40, 40), loan=True), Gated("screen", board, GATE, TAKEN)
    if where == "across":
        chain(pipe, camera, screen)
    else:
        pipe.create_flow("flow", True, camera, screen)
    pipe.build()
    with pipe.tracing(tmp_path / "t"):
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["camera"].sent == FRAMES)
        board[GATE] = 100
        pipe.join()
    shown = ReadTrace.of(tmp_path / "t")
    drops = shown.on("camera -> screen", "dropped: ")
    wire = pipe.statistics().wires["camera", "screen"]
    assert Counter(one.name for one in drops) == {f"dropped: {reason}": n for reason, n in wire.dropped.items() if n}
    received = [one.frames[0] for one in shown.on("camera -> screen", "queue")]
    assert sorted(received + [one.frames[0] for one in drops]) == sorted(f"camera #{n}" for n in range(FRAMES))
    if policy == "drop_oldest":
        assert all(one.end > one.begin for one in drops)  # it shows for how long it had waited


def test_a_receiver_s_drops_are_there_too(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    camera, screen = Items("camera", range(FRAMES)), Sink("screen")
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen)
    pipe.link(Wire(camera, screen, max_age=1e-9))
    shown = run(pipe, tmp_path / "t")
    assert [one.frames for one in shown.on("camera -> screen", "dropped: expired")] == [[f"camera #{n}"] for n in range(FRAMES)]


class Pairs(BatchRoutine):
    """Takes batches."""

    def main_logic(self, batch: list[Any]) -> list[Any]:
        return batch


def test_a_batch_shows_all_of_its_frames(tmp_path: Path) -> None:
    pipe = Pipe(policy="block", capacity=8)
    chain(pipe, Items("camera", range(8)), Pairs("pairs", batch_size=4, max_wait=10), Sink("screen"))
    shown = run(pipe, tmp_path / "t")
    calls = [one.frames for one in shown.on("pairs", "main_logic")]
    assert calls == [[f"camera #{n}" for n in range(4)], [f"camera #{n}" for n in range(4, 8)]]
    assert [one.frames for one in shown.on("pairs", "forward")] == [[f"camera #{n}"] for n in range(8)]


class Moody(DestinationRoutine):
    """Fails, and takes an event."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, frame: np.ndarray) -> None:
        raise ValueError(f"it has {frame.size} pixels")

    @events("WINK")
    def wink(self) -> None:
        self.board.add(TAKEN)


def test_errors_events_and_commands_are_there(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=0.1)
    chain(pipe, Burst("camera", board, GATE), Forward("forward"), Moody("moody", board))
    pipe.build()
    with pipe.tracing(tmp_path / "t"):
        pipe.notify_event(START_EVENT_NAME)
        board[GATE] = 1
        pipe.notify_event("WINK")
        pipe.notify_event("WINK")
        board.wait(TAKEN, 2)  # the first one is noted when the second one is handled
        eventually(lambda: pipe.statistics().routines["moody"].errors == 1)
    pipe.join(to_kill=True)
    shown = ReadTrace.of(tmp_path / "t")
    assert [one.name for one in shown.on("events of flow moody")].count("WINK") >= 1
    assert shown.on("moody", "command: start")
    (error,) = shown.on("moody", "error: ValueError")
    assert error.frames == ["camera #0"]


def test_a_death_and_a_restart_are_in_the_trace(tmp_path: Path) -> None:
    pipe = Pipe()
    chain(pipe, camera := Frames("camera", None, (40, 40), loan=True), Forward("detector"), Sink("screen"))
    camera.set_const_fps(200)
    pipe.build()
    with pipe.tracing(tmp_path / "t") as report:
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["screen"].received > 20)
        dead = pid_of(pipe, "detector")
        kill_flows(pipe, "detector")
        await_successor(pipe, "detector", dead)
        before = pipe.statistics().routines["detector"].received
        eventually(lambda: pipe.statistics().routines["detector"].received > before + 20)
        during = [path.name for path in SHM.glob("pipert-*-t*")]
    assert len(during) == 5  # of four processes, and the dead one
    assert not list(SHM.glob("pipert-*-t*"))
    pipe.join(to_kill=True)
    shown = ReadTrace.of(tmp_path / "t")
    flow = [one.name for one in shown.on("flow detector")]
    assert flow.count("up") == 2
    (down,) = shown.on("flow detector", "down")
    assert ("exit code", -signal.SIGKILL) in down.notes
    (restart,) = shown.on("flow detector", "restart")
    calls = shown.on("detector", "main_logic")
    assert any(one.end <= restart.begin for one in calls)
    assert any(one.begin >= restart.begin for one in calls)
    assert not report.missing


def test_there_is_one_trace_at_a_time(tmp_path: Path) -> None:
    pipe = Pipe()
    chain(pipe, camera := Frames("camera", None, (40, 40)), Sink("screen"))
    camera.set_const_fps(200)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pipe.tracing(tmp_path / "one"):
        with pytest.raises(PipeStateError, match="being traced already"), pipe.tracing(tmp_path / "two"):
            pass
        assert not (tmp_path / "two").exists()
        eventually(lambda: pipe.statistics().routines["screen"].received > 5)
    assert ReadTrace.of(tmp_path / "one").on("screen", "main_logic")
    report = pipe.trace(tmp_path / "three", seconds=0.1)  # and then the next
    assert report.events > 0
    assert not list(SHM.glob("pipert-*-t*"))
    pipe.join(to_kill=True)
    with pytest.raises(PipeStateError, match="has ended"):
        pipe.trace(tmp_path / "four", seconds=1)


def test_a_trace_that_an_error_ends_leaves_nothing(tmp_path: Path) -> None:
    pipe = Pipe()
    chain(pipe, camera := Frames("camera", None, (40, 40)), Sink("screen"))
    camera.set_const_fps(200)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(KeyboardInterrupt), pipe.tracing(tmp_path / "t"):
        raise KeyboardInterrupt
    assert not (tmp_path / "t").exists()
    eventually(lambda: not list(SHM.glob("pipert-*-t*")))
    with pytest.raises(OSError, match="No such file"), pipe.tracing(tmp_path / "none" / "t"):
        pass
    with pytest.raises(ValueError, match="events must be"), pipe.tracing(tmp_path / "t", events=1 << 25):
        pass
    pipe.join(to_kill=True)


@pytest.mark.parametrize("way", ["missing", "flipped", "doubled"])
def test_a_flow_that_is_not_told_is_missing_in_the_trace_and_nothing_else(way: str, tmp_path: Path) -> None:
    with tampering() as orders:
        pipe = Pipe(policy="block")
        chain(pipe, Items("camera", range(FRAMES)), Sink("screen"))
        pipe.build()
        orders.change(TraceInto, way, by_launcher=True)
        with pipe.tracing(tmp_path / "t") as report:
            eventually(lambda: orders.is_done)
            pipe.notify_event(START_EVENT_NAME)
            pipe.join()
    assert report.missing == ([] if way == "doubled" else ["camera"])
    shown = ReadTrace.of(tmp_path / "t")
    assert len(shown.on("screen", "main_logic")) == FRAMES
    assert len(shown.on("camera", "send")) == (FRAMES if way == "doubled" else 0)


def test_what_is_overwritten_is_counted(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Items("camera", range(200)), Sink("screen"))
    pipe.build()
    with pipe.tracing(tmp_path / "t", events=64) as report:
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert report.lost.keys() == {"camera", "screen"}
    assert report.lost["screen"] > 500
    assert report.events <= 3 * 64
    shown = ReadTrace.of(tmp_path / "t")
    assert any("earlier events are overwritten" in one.name for one in shown.on("flow screen"))
    assert shown.of_frame("camera #199", "screen")  # the newest are there


def test_messages_that_wait_at_the_same_time_have_rows_of_their_own() -> None:
    noted = np.zeros(4, trace.LAYOUT)
    noted["kind"], noted["routine"], noted["sequence"] = trace.RECEIVE, 1, range(4)
    noted["began_ns"], noted["time_ns"] = (10, 20, 30, 45), (40, 50, 60, 70)
    slices = timeline([Noted(0, 1, (), 0, noted)])
    assert [(one.frames[0][1], one.track.lane) for one in slices] == [(0, 0), (1, 1), (2, 2), (3, 0)]


def test_a_span_costs_nothing_but_a_look_while_nobody_traces() -> None:
    routine = Forward("forward")
    assert routine.span("a") is routine.span("b")
    assert not tracing.on


def test_a_ring_keeps_names_as_far_as_they_go() -> None:
    """In this process, without a pipe."""
    tracing.begin("0" * 12, 1, 64, 0, 1)
    try:
        numbers = [tracing.name_index(f"name {n} {'ä' * 40}") for n in range(300)]
        tracing.note(trace.SPAN, 1, other=numbers[-1])
        address, size = tracing._ring[1:] if tracing._ring else (0, 0)
        head, noted = trace.read_trace(address, size)
    finally:
        tracing.end()
    assert numbers == [*range(255), *[255] * 45]
    assert head.names[255] == tracing.OTHERS
    assert head.names[3].startswith("name 3 ä")
    assert len(head.names[3].encode()) <= 63
    assert np.array_equal(noted["other"], [255])
    assert not list(SHM.glob("pipert-*-t*"))


def spans_of_a_source(source: VideoSource, path: Path) -> ReadTrace:
    """A trace of a source and a screen, while some frames come."""
    pipe = Pipe(policy="block")
    chain(pipe, source, Sink("screen"))
    pipe.build()
    with pipe.tracing(path):
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["screen"].received > 5)
    pipe.join(to_kill=True)
    return ReadTrace.of(path)


def test_a_file_s_decoding_and_conversion_are_in_the_call(tmp_path: Path) -> None:
    pytest.importorskip("av")
    shown = spans_of_a_source(VideoSource(str(bikes()), "camera"), tmp_path / "t")
    for name in ("decode", "convert"):
        found = [one for one in shown.on("camera", name) if one.within == ("main_logic",)]
        assert len(found) > 4
        assert sum(one.end - one.begin for one in found) > 1_000_000


def test_a_live_stream_s_capture_and_decoding_are_on_the_thread_that_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("av")
    url = f"http://127.0.0.1:{free_port()}/stream"
    server = serve("mpjpeg", url, 320, 240)
    try:
        shown = spans_of_a_source(VideoSource(url, "camera"), tmp_path / "t")
    finally:
        server.kill()
    (row,) = (row for row in shown.rows if row.startswith("camera, thread"))
    assert shown.rows[row] == "flow camera"
    capture, decode, convert = (shown.on(row, name) for name in ("capture", "decode", "convert"))
    assert len(convert) > 4
    assert all(one.within == () for one in (*capture, *decode, *convert))
    assert sum(one.end - one.begin for one in capture) > 10 * sum(one.end - one.begin for one in decode)  # it waits for frames


# ---- by others -----------------------------------------------------------------------------------


def test_another_program_traces_by_name_and_over_http(tmp_path: Path) -> None:
    pipe, port = Pipe(name="traced"), free_port()
    chain(pipe, camera := Frames("camera", None, (40, 40), loan=True), Sink("screen"))
    camera.set_const_fps(500)
    with pipe, APIWrapper("127.0.0.1", port, pipe).run():
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["screen"].received > 5)
        command = [sys.executable, "-m", "pipert_shm.cli", "trace", "traced", "--seconds", "0.2", "-o", str(tmp_path / "t")]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr
        assert " events; open it at" in told.stdout
        content, report = trace_over_http(f"127.0.0.1:{port}", 0.2, None)
        assert report.endswith(" events")
        for shown in (ReadTrace.of(tmp_path / "t"), ReadTrace(content)):
            assert len(shown.on("screen", "main_logic")) > 10
        with pipe.tracing(tmp_path / "own"):
            with pytest.raises(RemoteRefusal, match="being traced already"):
                trace_over_http(f"127.0.0.1:{port}", 0.2, None)
            with pytest.raises(PipeStateError, match="being traced already"):
                trace_by_name("traced", 0.2)
        assert not list(SHM.glob("pipert-*-t*"))
        pipe.join(to_kill=True)


def test_a_file_that_was_there_stays_until_the_trace_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "yard.pftrace"
    path.write_bytes(b"an earlier one")

    def break_off() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_off()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("yard.pftrace", b"an earlier one")]
    with whole_file(path) as file:
        file.write(b"whole")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("yard.pftrace", b"whole")]


@pytest.mark.parametrize(
    ("pipe", "by_url", "file"),
    [
        ("yard", False, "yard.pftrace"),
        ("my yard", False, "my_yard.pftrace"),
        ("127.0.0.1:8080", True, "127.0.0.1_8080.pftrace"),
        ("http://gate/", True, "gate_.pftrace"),
    ],
)
def test_the_command_line_knows_names_from_addresses(pipe: str, by_url: bool, file: str) -> None:
    assert is_url(pipe) == by_url
    assert default_file(pipe) == Path(file)


def test_a_trace_that_is_larger_than_a_message_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PIECE", 100)
    pipe = Pipe()
    chain(pipe, camera := Frames("camera", None, (40, 40)), Sink("screen"))
    camera.set_const_fps(200)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    traces = answers.Traces(weakref.ref(pipe._built()))
    content, report = answers.fetch(traces.answer, 0.1)
    assert len(content) > 1000
    assert report.endswith(" events")
    assert ReadTrace(content).rows
    with pytest.raises(PipeStateError, match="not there any more"):
        traces.answer(b'{"number": 7, "from": 0}')
    first, second = (json.loads(traces.answer(b'{"seconds": 0.05}')) for _ in range(2))
    for told in (first, second):  # the second one has not replaced the first
        assert len(traces.answer(json.dumps({"number": told["number"], "from": 0}).encode())) == 100
    pipe.join(to_kill=True)
    with pytest.raises(PipeStateError, match="has ended"):
        answers.fetch(traces.answer, 0.1)
