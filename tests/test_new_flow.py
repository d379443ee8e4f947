"""Flows that are added to a pipe that runs."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import processes
from audit import take_snapshot
from conftest import StartScript
from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    await_successor,
    drain,
    kill_flows,
    launcher_of,
    pid_of,
    pipe_id_of,
    running,
)
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    Join,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipertError,
    PipeStateError,
    RoutineError,
    SharedMemoryFull,
    UnknownTarget,
    Wire,
    WiresValidation,
    events,
)
from pipert_shm.footprint import LINKS, NEWCOMERS
from pipert_shm.segments import list_pipe
from pipert_shm.transmit import BasicTransmitter, DataTransmitter
from routines import Forward, Frames, Items, Record, Sink, one_value, received
from waiting import Board, eventually


@contextmanager
def camera_pipe(*, capacity: int = 2, **options: Any) -> Iterator[tuple[Pipe, Frames]]:
    """A camera and a preview, running, each in a flow of its own."""
    pipe = Pipe(policy="block", capacity=capacity, grace_period=2, **options)
    camera = Frames("camera", None, loan=True)
    preview = Sink("preview")
    pipe.create_flow("camera", False, camera, **FAST)
    pipe.create_flow("preview", False, preview, **FAST)
    pipe.link(Wire(camera, preview))
    with running(pipe):
        yield pipe, camera


def add_sink(pipe: Pipe, camera: Any, sink: Any, **options: Any) -> None:
    """Adds a flow of one sink, named after it, and starts it."""
    pipe.create_flow(sink.name, False, sink, **{**FAST, **options})
    pipe.link(Wire(camera, sink))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)


def fork_servers_of(pipe: Pipe) -> list[int]:
    assert pipe._session is not None
    return sorted(pipe._session._fork_servers)


def moves(pipe: Pipe, sender: str, receiver: str, messages: int = 10) -> None:
    """Until a wire has carried so many messages from now on."""
    before = pipe.statistics().wires[sender, receiver].received
    eventually(
        lambda: pipe.statistics().wires[sender, receiver].received >= before + messages, f"motion from {sender} to {receiver}"
    )


class Doubled(DataTransmitter):
    """Doubles what is sent."""

    def transmit(self) -> Callable[[Any], Any]:
        return lambda frame: frame * 2

    def receive(self) -> Callable[[Any], Any]:
        return lambda frame: frame


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


# ---- deaths --------------------------------------------------------------------------------------


def test_a_new_flow_is_restarted(tmp_path: Path) -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Record("late", tmp_path / "r", one_value))
        for _ in range(5):
            moves(pipe, "camera", "late")
            kill_flows(pipe, "late")
        kill_flows(pipe, "late", "camera")
        moves(pipe, "camera", "late")
        flow = pipe.statistics().flows["late"]
        assert (flow.restarts, flow.last_exit, flow.state) == (6, -signal.SIGKILL, "running")
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)


def test_a_new_flow_is_restarted_on_request() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), restart="never")
        moves(pipe, "camera", "late")
        dead = pid_of(pipe, "late")
        pipe.restart_flow("late")
        await_successor(pipe, "late", dead)
        moves(pipe, "camera", "late")


def test_a_new_flow_that_must_not_be_restarted_has_failed() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, late := Sink("late"), restart="never")
        moves(pipe, "camera", "late")
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        await_states(pipe, late="failed")
        moves(pipe, "camera", "preview")
        pipe.create_flow("another", False, another := Frames("another", None))
        pipe.link(Wire(another, late))
        with pytest.raises(WiresValidation, match=r"'late'.*failed for good"):
            pipe.build()
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
        assert failure.value.exit_codes == {"late": -signal.SIGKILL}


def test_the_fork_server_is_killed() -> None:
    """Its flows have failed, the others go on, and a later build is none the worse."""
    known = processes.descendants()
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("late", False, late := Sink("late"), **FAST)
        pipe.create_flow("pair", True, Frames("source", None), Sink("sink"), **FAST)
        pipe.link(Wire(camera, late))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)
        pids = [pid_of(pipe, flow) for flow in ("late", "pair")]
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGKILL)
        await_states(pipe, late="failed", source="failed", sink="failed")
        eventually(lambda: all(processes.is_zombie(pid) or pid not in processes.descendants() for pid in pids), "their end")
        moves(pipe, "camera", "preview")
        assert {pipe.statistics().flows[flow].state for flow in ("late", "pair")} == {"failed"}
        kill_flows(pipe, "camera")
        moves(pipe, "camera", "preview")
        add_sink(pipe, camera, Sink("later"))
        moves(pipe, "camera", "later")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
        assert set(failure.value.exit_codes) == {"late", "pair"}
    processes.reap_orphans(set(known))


def test_the_fork_server_is_killed_while_its_flow_waits_for_a_restart() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), max_restarts=10, restart_window=60)
        moves(pipe, "camera", "late")
        for _ in range(6):  # now it takes more than a second
            pid = pid_of(pipe, "late")
            os.kill(pid, signal.SIGKILL)
            await_successor(pipe, "late", pid)
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["late"].state == "restarting", "the wait")
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGKILL)
        await_states(pipe, late="failed")
        moves(pipe, "camera", "preview")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)


def test_the_fork_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed then, since it could still fork later on."""
    monkeypatch.setattr("pipert_shm.launcher.fork_server.PATIENCE", 0.3)
    known = set(processes.descendants())
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGSTOP)
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        await_states(pipe, late="failed")
        eventually(lambda: processes.is_zombie(server), "the fork server's end")
        moves(pipe, "camera", "preview")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)
    processes.reap_orphans(known)


def test_a_log_handler_can_not_build() -> None:
    """It would fork the process in the midst of a handler."""
    logger = logging.getLogger("of test_new_flow")
    errors: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                pipe.build()
            except PipeStateError as error:
                errors.append(error)

    with camera_pipe(logger=logger) as (pipe, camera):
        logger.addHandler(handler := Handler())
        pipe.create_flow("late", False, late := Sink("late"))
        pipe.link(Wire(camera, late))
        kill_flows(pipe, "preview")
        try:
            eventually(lambda: bool(errors), "a log record")
        finally:
            logger.removeHandler(handler)
        assert "log handler" in str(errors[0])
        assert "late" not in pipe.statistics().routines
        pipe.join(to_kill=True)


def test_the_launcher_is_killed() -> None:
    known = set(processes.descendants())
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        os.kill(launcher_of(pipe), signal.SIGKILL)
        with pytest.raises(PipeFailed):
            pipe.join()
    processes.reap_orphans(known)


SCRIPT = """
    import os, sys
    from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire

    class Camera(SourceRoutine):
        def main_logic(self):
            return b"x" * 10000

    class Screen(DestinationRoutine):
        def main_logic(self, data):
            pass

    camera = Camera("camera")
    pipe = Pipe(policy="block")
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen := Screen("screen"))
    pipe.link(Wire(camera, screen))
    pipe.build()
    pipe.create_flow("late", False, late := Screen("late"))
    pipe.link(Wire(camera, late))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    while not pipe.statistics().wires["camera", "late"].received:
        pass
    try:
        print("runs", flush=True)
        pipe.join()
    except KeyboardInterrupt:  # it came before join() did
        pipe.join(to_kill=True)
"""


def test_the_parent_is_killed(start_script: StartScript) -> None:
    known = set(processes.descendants())
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    assert script.process.stdout.readline().strip() == "runs"
    assert len(set(processes.descendants()) - known) == 6  # itself, launcher, fork server, three flows
    script.process.kill()
    script.process.wait()
    processes.reap_orphans(known)


def test_the_parent_is_interrupted(start_script: StartScript) -> None:
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    assert script.process.stdout.readline().strip() == "runs"
    os.killpg(script.process.pid, signal.SIGINT)
    finished = script.finish()
    assert (finished.returncode, finished.stderr) == (0, "")


# ---- what can't be -------------------------------------------------------------------------------


def all_of(pipe: Pipe) -> tuple[Any, ...]:
    """What a build that fails must leave as it was."""
    shot = take_snapshot(pipe_id_of(pipe))
    statistics = pipe.statistics()
    edges = [(int(edge["sender"]), int(edge["receiver"]), int(edge["capacity"])) for edge in shot.edges]
    return (
        edges,
        [int(incarnation["state"]) for incarnation in shot.incarnations],
        sorted(statistics.routines),
        sorted(statistics.wires),
        {flow.name: flow.pid for flow in statistics.flows.values()},
        pipe.get_pipe_structure(),
        sorted(shot.rings),
        fork_servers_of(pipe),
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir(f"/proc/{launcher_of(pipe)}/fd")),
    )


def _declared(name: str, size: int) -> Frames:
    frames = Frames(name, None)
    frames.declare_output((size,))
    return frames


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("floating", RoutineError, "wired to no other"),
        ("cycle", WiresValidation, "cycle"),
        ("source", WiresValidation, "source"),
        ("stranger", WiresValidation, "in no flow"),
        ("again", WiresValidation, "wired to 'preview' already"),
        ("capacity", WiresValidation, "can hold"),
        ("transmitter", WiresValidation, "transmitter"),
        ("memory", SharedMemoryFull, "the ring of 'large'"),
        ("routines", WiresValidation, "17 more are too many"),
        ("wires", WiresValidation, "no place"),
        ("thread", RoutineError, "a thread"),
    ],
)
def test_a_build_that_fails_changes_nothing(what: str, error: type[Exception], text: str) -> None:
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    camera, middle, preview = Frames("camera", None), Forward("middle"), Sink("preview")
    for routine in (camera, middle, preview):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(camera, middle), Wire(middle, preview))
    with running(pipe):
        await_motion(pipe)
        before = all_of(pipe)
        new, sink = Forward("new"), Sink("sink")
        new_flow, wires = [new, sink], [Wire(camera, new), Wire(new, sink)]
        if what == "floating":
            new_flow.append(Sink("floating"))
        elif what == "cycle":
            wires += [Wire(middle, new), Wire(new, middle)]
        elif what == "source":
            wires.append(Wire(new, camera))
        elif what == "stranger":
            wires.append(Wire(new, Sink("stranger")))
        elif what == "again":
            wires.append(Wire(middle, preview))
        elif what == "capacity":
            wires.append(Wire(middle, sink, capacity=1000))
        elif what == "transmitter":
            wires.append(Wire(middle, sink, data_transmitter=BasicTransmitter()))
        elif what == "memory":
            new_flow += [small := _declared("small", 1000), large := _declared("large", 1 << 40)]
            wires += [Wire(small, preview), Wire(large, preview)]
        elif what == "routines":
            more = [Sink(f"more{number}") for number in range(NEWCOMERS - 1)]
            new_flow += more
            wires += [Wire(new, one) for one in more]
        elif what == "wires":
            more = [Sink(f"more{number}") for number in range(NEWCOMERS - 2)]
            new_flow += more
            wires += [Wire(sender, one) for sender in (new, camera, middle) for one in more][: LINKS - 1]
        else:
            new.held = threading.Thread()  # type: ignore[attr-defined]
        pipe.create_flow("new", False, *new_flow)
        pipe.link(*wires)
        with pytest.raises(error, match=text):
            pipe.build()
        assert all_of(pipe) == before
        with pytest.raises(PipeStateError, match="nothing was added"):
            pipe.build()
        await_motion(pipe, messages=10)
        if what != "thread":
            pipe.create_flow("better", False, new, sink)
            pipe.link(Wire(camera, new), Wire(new, sink))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            await_motion(pipe, messages=10)
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)


def test_as_many_as_there_is_room_for() -> None:
    with camera_pipe() as (pipe, camera):
        sinks = [Sink(f"sink{number}") for number in range(NEWCOMERS)]
        for sink in sinks[:3]:
            add_sink(pipe, camera, sink)
        pipe.create_flow("rest", False, *sinks[3:])
        pipe.link(Wire(camera, sinks[3:]))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)
        with pytest.raises(WiresValidation, match="room for 18; 1 more"):
            add_sink(pipe, camera, Sink("one too many"))
        await_motion(pipe)
        pipe.join(to_kill=True)


def test_what_create_flow_refuses_of_a_running_pipe() -> None:
    with camera_pipe() as (pipe, _):
        with pytest.raises(ValueError, match="replicas"):
            pipe.create_flow("workers", False, Forward("worker"), replicas=2)
        with pytest.raises(PipertError, match="already"):
            pipe.create_flow("camera", False, Sink("sink"))
        pipe.join(to_kill=True)


def test_wires_of_replicas() -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2)
    camera, worker, last = Frames("camera", None), Forward("worker"), Sink("last")
    pipe.create_flow("ends", False, camera, last)
    pipe.create_flow("workers", False, worker, replicas=2)
    pipe.link(Wire(camera, worker), Wire(worker, last))
    with running(pipe):
        add_sink(pipe, worker, Sink("late", board))
        assert {wire for wire in pipe.statistics().wires if wire[1] == "late"} == {("worker#0", "late"), ("worker#1", "late")}
        moves(pipe, "worker#0", "late")
        moves(pipe, "worker#1", "late")
        pipe.create_flow("more", False, source := Frames("source", None))
        pipe.link(Wire(source, worker))
        with pytest.raises(WiresValidation, match="replicas"):
            pipe.build()
        pipe.join(to_kill=True)


def test_a_flow_that_does_not_come_up_has_failed() -> None:
    """Its process dies before it says that it is there."""
    with camera_pipe() as (pipe, camera):
        late = Sink("late")
        pipe.create_flow("late", False, late)
        pipe.link(Wire(camera, late))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipert_shm.launcher.fork_server.run_flow", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            pipe.build()
        assert pipe.statistics().flows["late"].state == "failed"
        moves(pipe, "camera", "preview")
        with pytest.raises(PipeFailed, match="'late'"):
            pipe.join(to_kill=True)


def test_the_pipe_is_killed_meanwhile() -> None:
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("late", False, late := Sink("late"))
        pipe.link(Wire(camera, late))
        pipe.notify_event("kill")
        with pytest.raises(PipeStateError, match="ended"):
            pipe.build()
        pipe.join()
