"""Flows that are added to a pipe that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from growing import Doubled, add_sink, camera_pipe, fork_servers_of, moves
from killing import FAST, assert_sound, await_motion, await_states, drain, kill_flows, pid_of, pipe_id_of, running
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    Join,
    MiddleRoutine,
    Pipe,
    UnknownTarget,
    Wire,
    events,
)
from pipert_shm.shm.listing import list_pipe
from routines import Forward, Frames, Items, Record, Sink, one_value, received
from waiting import Board

# ---- they run ------------------------------------------------------------------------------------


def test_a_new_sink_on_a_running_camera(tmp_path: Path) -> None:
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("late", False, late := Record("late", tmp_path / "r", one_value), **FAST)
        pipe.link(Wire(camera, late))
        pipe.build()
        assert pipe.statistics().routines["late"].state == "built"
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe, messages=20)
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)
    messages = received(tmp_path / "r")
    assert len(messages) >= 20
    assert all(message.origin == "camera" and message.value == message.sequence % 251 for message in messages)


def test_a_new_source_and_sink(tmp_path: Path) -> None:
    """In two flows of their own, of which nobody else knows; the pipe's end waits for theirs."""
    with camera_pipe() as (pipe, _):
        frames = Frames("frames", 30)
        record = Record("record", tmp_path / "r", one_value)
        pipe.create_flow("frames", False, frames)
        pipe.create_flow("record", False, record, choosy := Sink("choosy"))
        pipe.link(Wire(frames, record, policy="block", capacity=3, data_transmitter=Doubled()))
        pipe.link(Wire(frames, choosy, max_age=1e-9))
        pipe.build()
        wire = pipe.statistics().wires["frames", "record"]
        assert (wire.policy, wire.capacity, wire.sent) == ("block", 3, 0)
        pipe.notify_event(START_EVENT_NAME)
        await_states(pipe, frames="ended", record="ended", choosy="ended")
        assert pipe.statistics().wires["frames", "choosy"].dropped["expired"] == 30
        assert pipe.statistics().wires["frames", "record"].received == 30
    assert [(m.origin, m.sequence, m.value) for m in received(tmp_path / "r")] == [("frames", n, 2 * n) for n in range(30)]


def test_a_pipe_ends_by_itself_when_its_new_flows_have() -> None:
    pipe = Pipe(policy="block")
    pipe.create_flow("first", True, Items("one", [1]), Sink("two"))
    pipe.build()
    pipe.create_flow("second", True, Frames("three", 50), Sink("four"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().wires["three", "four"].received == 50


def test_frames_through_new_routines_and_back_to_old_ones(tmp_path: Path) -> None:
    """camera -> new -> old sink: by reference to the new one, and on from there; origins are known everywhere."""
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    camera, old = Frames("camera", None, loan=True), Record("old", tmp_path / "r", one_value)
    clock = Frames("clock", None)
    for routine in (camera, clock, old):
        pipe.create_flow(routine.name, False, routine, **FAST)
    sink = Sink("sink")
    pipe.create_flow("sink", False, sink, **FAST)
    pipe.link(Wire(camera, sink), Wire(clock, old))
    with running(pipe), pipe.tap("camera"):
        new, source = Forward("new"), Frames("source", None)
        pipe.create_flow("new", False, new, **FAST)
        pipe.create_flow("source", False, source, **FAST)
        pipe.link(Wire(camera, new), Wire(new, old), Wire(source, old))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe, messages=20)
        kill_flows(pipe, "old", "camera", "new")
        await_motion(pipe, messages=20)
        assert pipe.statistics().routines["new"].copied_bytes == 0
        drain(pipe, "camera", "clock", "source")
        assert_sound(pipe)
        pipe.join(to_kill=True)
    messages = received(tmp_path / "r")
    assert {message.origin for message in messages} == {"camera", "clock", "source"}
    starts = {(message.value - message.sequence) % 251 for message in messages if message.origin == "camera"}
    assert len(starts) <= 2  # a camera that was restarted counts its frames from 0 again


class Pairs(DestinationRoutine):
    """Takes one of each input."""

    join = Join(by="seq")

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        if sorted(data) == ["camera", "forward"]:
            self.board.add(0)


def test_a_new_routine_that_joins() -> None:
    board = Board()
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("more", False, forward := Forward("forward"), pairs := Pairs("pairs", board))
        pipe.link(Wire(camera, [forward, pairs]), Wire(forward, pairs))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        board.wait(0, 10)
        pipe.join(to_kill=True)


def test_a_third_build_and_restarts_of_earlier_ones(tmp_path: Path) -> None:
    """A flow of the second build that is wired to one of the third is forked by a process that does not hold that one."""
    with camera_pipe() as (pipe, camera):
        second = Record("second", tmp_path / "r", one_value)  # small records, which a SIGKILL can't cut in two
        add_sink(pipe, camera, second)
        third = Frames("third", None)
        pipe.create_flow("third", False, third, **FAST)
        pipe.link(Wire(third, second))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)
        kill_flows(pipe, "second", "preview")
        await_motion(pipe, messages=10)
        kill_flows(pipe, "third", "camera")
        await_motion(pipe, messages=10)
        drain(pipe, "third", "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)
    assert {message.origin for message in received(tmp_path / "r")} == {"camera", "third"}


def test_wires_alone_between_routines_that_run() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, sink := Sink("sink"))
        before = fork_servers_of(pipe)
        clock = Frames("clock", None)
        pipe.create_flow("clock", True, clock, Sink("other"), **FAST)
        pipe.build()
        pipe.link(Wire(clock, sink, policy="drop_newest", capacity=1))
        pipe.build()
        assert len(fork_servers_of(pipe)) == len(before) + 1  # of the second build only: wires need none
        pipe.notify_event(START_EVENT_NAME)
        moves(pipe, "clock", "sink")
        pipe.join(to_kill=True)


def test_links_to_and_from_new_routines() -> None:
    with camera_pipe() as (pipe, _):
        # Apart, since the audit can't explain a message that a stopped routine keeps for a wire within its flow.
        pipe.create_flow("clock", False, clock := Frames("clock", None), **FAST)
        pipe.create_flow("sink", False, sink := Sink("sink"), **FAST)
        pipe.link(Wire(clock, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        for _ in range(3):
            pipe.notify_event(LINK_EVENT_NAME, specific_routine="camera", link_routine_name="sink")
            pipe.notify_event(LINK_EVENT_NAME, specific_routine="clock", link_routine_name="preview")
            moves(pipe, "camera", sink.name)
            moves(pipe, "clock", "preview")
            kill_flows(pipe, "clock", "preview")
            moves(pipe, "camera", sink.name)
            pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="camera", unlink_routine_name="sink")
            pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="clock", unlink_routine_name="preview")
        drain(pipe, "camera", "clock")
        assert_sound(pipe)
        pipe.join(to_kill=True)


# ---- it is known to all --------------------------------------------------------------------------


class Zoom(DestinationRoutine):
    """Handles an event whose default value and annotation don't pickle."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None: ...

    @events("zoom")
    def zoom(self, cell: int, how: Callable[[int], int] = lambda number: number + 1) -> None:
        self.board[cell] = how(self.board[cell])


class Asks(MiddleRoutine):
    """Notifies the event when it gets the first message after the board says so."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> Any:
        if self.board[9] == 1:
            self.board[9] = 2
            self.notify_event("zoom", specific_routine="zoom", cell=2)
        return data


def test_events_taps_and_structure_know_it() -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2)
    camera, asks, last = Frames("camera", None), Asks("asks", board), Sink("last")
    for routine in (camera, asks, last):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(camera, asks), Wire(asks, last))
    with running(pipe), pipe.tap("asks") as old_tap:
        with pytest.raises(UnknownTarget):
            pipe.notify_event("zoom", specific_routine="zoom", cell=1)
        pipe.create_flow("new", False, zoom := Zoom("zoom", board), source := Frames("source", None))
        pipe.link(Wire(source, [zoom, asks]))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.notify_event("zoom", {"new": ["zoom"]}, cell=1)
        board.wait(1)
        board[9] = 1  # from a routine that was there before
        board.wait(2)
        entry = {"flow_name": "new", "routine_name": "zoom", "events": ["start", "stop", "unlink", "zoom"]}
        assert entry in pipe.get_pipe_structure()["Routines"]
        with pipe.tap("source") as tap:
            assert tap.read(10).shape == source.shape
        origins: set[str] = set()
        while origins != {"camera", "source"}:
            old_tap.read(10)
            assert old_tap.meta is not None
            origins.add(old_tap.meta.origin)
        listing = list_pipe(pipe_id_of(pipe))
        assert listing is not None
        assert any("source" in segment.what for segment in listing.segments)
        assert any(segment.owner == f"flow new, pid {pid_of(pipe, 'new')}" for segment in listing.segments), listing.segments
        flow = pipe.statistics().flows["new"]
        assert (flow.state, flow.restarts) == ("running", 0)
        assert pipe.statistics().routines["zoom"].flow == "new"
        pipe.notify_event(STOP_EVENT_NAME)
        await_states(pipe, source="stopped", zoom="stopped")
        pipe.join(to_kill=True)
