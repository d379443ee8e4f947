"""Flows that can't be added to a pipe that runs: the build fails, and changes nothing."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from audit import take_snapshot
from growing import add_sink, camera_pipe, fork_servers_of, moves
from killing import FAST, assert_sound, await_motion, drain, launcher_of, pipe_id_of, running
from pipert_shm import (
    START_EVENT_NAME,
    Pipe,
    PipeFailed,
    PipertError,
    PipeStateError,
    RoutineError,
    SharedMemoryFull,
    Wire,
    WiresValidation,
)
from pipert_shm.transmitters import BasicTransmitter
from routines import Forward, Frames, Sink
from waiting import Board, at_rest

LINKS, NEWCOMERS = 32, 16


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nobody would wait for thousands of flows."""
    monkeypatch.setattr("pipert_shm.launcher.footprint.LINKS", LINKS)
    monkeypatch.setattr("pipert_shm.launcher.footprint.NEWCOMERS", NEWCOMERS)


def all_of(pipe: Pipe) -> tuple[Any, ...]:
    """What a build that fails must leave as it was."""
    shot = take_snapshot(pipe_id_of(pipe))
    statistics = pipe.statistics()
    edges = [(int(edge["sender"]), int(edge["receiver"]), int(edge["capacity"])) for edge in shot.edges if edge["capacity"]]
    return (
        edges,
        [int(incarnation["state"]) for incarnation in shot.incarnations if incarnation["state"]],
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
        before = at_rest(lambda: all_of(pipe))
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
            pipe.create_flow("workers", False, Forward("worker"), replicas=0)
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
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        moves(pipe, "source", "worker#0")
        moves(pipe, "source", "worker#1")
        pipe.join(to_kill=True)


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("source", RoutineError, "a source can't have replicas"),
        ("whole", RoutineError, "needs them all"),
        ("fan", WiresValidation, "'new' is ordered: its routines have to be a chain"),
        ("spread", WiresValidation, "'new' is ordered: what it sends to can't have replicas itself"),
        ("middle", WiresValidation, "'workers' is ordered: its routines have to be a chain"),
        ("name", PipertError, "there is a flow 'workers#0' already"),
    ],
)
def test_replicas_that_do_not_fit_change_nothing(what: str, error: type[Exception], text: str) -> None:
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    camera, worker, packer, preview = Frames("camera", None), Forward("worker"), Forward("packer"), Sink("preview")
    pipe.create_flow("camera", False, camera, **FAST)
    pipe.create_flow("workers", True, worker, packer, replicas=2, ordered=True, **FAST)
    pipe.create_flow("preview", False, preview, **FAST)
    pipe.link(Wire(camera, worker), Wire(packer, preview))
    with running(pipe):
        await_motion(pipe)
        before = at_rest(lambda: all_of(pipe))
        new, other = Forward("new"), Forward("other")
        if what == "source":
            pipe.create_flow("new", False, Frames("source", None), replicas=2)
        elif what == "whole":
            new.replicable = False
            pipe.create_flow("new", False, new, replicas=2)
            pipe.link(Wire(camera, new))
        elif what == "fan":
            pipe.create_flow("new", False, new, other, replicas=2, ordered=True)
            pipe.link(Wire(camera, (new, other)), Wire(new, preview))
        elif what == "spread":
            pipe.create_flow("new", False, new, replicas=2, ordered=True)
            pipe.create_flow("other", False, other, replicas=2)
            pipe.link(Wire(camera, new), Wire(new, other))
        elif what == "middle":
            pipe.link(Wire(camera, packer))
        else:
            pipe.create_flow("workers#0", False, new)
            pipe.link(Wire(camera, new))
        with pytest.raises(error, match=text):
            pipe.build()
        assert all_of(pipe) == before
        await_motion(pipe, messages=10)
        pipe.join(to_kill=True)


def test_a_flow_that_does_not_come_up_has_failed() -> None:
    """Its process dies before it says that it is there."""
    with camera_pipe() as (pipe, camera):
        late = Sink("late")
        pipe.create_flow("late", False, late)
        pipe.link(Wire(camera, late))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipert_shm.launcher.fork_server_process.run_flow", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
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
