"""Flows that are removed from a running pipe: what they leave, and what the others feel of it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import processes
from audit import IN_USE
from growing import add_sink, camera_pipe, fork_servers_of, moves
from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    await_successor,
    drain,
    flows_of,
    launcher_of,
    pid_of,
    running,
    snapshot_of,
)
from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    Join,
    Pipe,
    PipeFailed,
    PipeStateError,
    Routine,
    UnknownTarget,
    Wire,
    WiresValidation,
)
from routines import Burst, Forward, Frames, Gated, Items, Record, Sink, chain, one_value, received
from waiting import Board, eventually

GATE, TAKEN = 0, 1


def number_of(pipe: Pipe, routine: str) -> int:
    assert pipe._session is not None
    return pipe._session.plan.get(routine).number


def in_background(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Does something on another thread; gets what that raises, too."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    return thread, errors


# ---- the others ----------------------------------------------------------------------------------


def test_the_others_lose_nothing(tmp_path: Path) -> None:
    """Not one frame on a lossless wire, and none at a camera's rate, while a flow comes and goes 10 times beside it."""
    pipe = Pipe(policy="block", capacity=4, grace_period=2)
    camera, film = Frames("camera", None, loan=True), Record("film", tmp_path / "film", one_value)
    live, screen = Frames("live", None, loan=True), Record("screen", tmp_path / "screen", one_value)
    live.set_const_fps(25)
    for routine in (camera, film, live, screen):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(camera, film), Wire(live, screen, policy="drop_oldest", capacity=64))  # more than two seconds
    with running(pipe):
        for _ in range(10):
            both = Sink("both")
            pipe.link(Wire(live, both, policy="drop_oldest"))
            add_sink(pipe, camera, both)
            moves(pipe, "camera", "both")
            moves(pipe, "live", "both", 2)
            pipe.remove_flow("both")
            assert "both" not in pipe.statistics().routines
            moves(pipe, "camera", "film")
        drain(pipe, "camera", "live")
        assert_sound(pipe)
        assert pipe.statistics().wires["live", "screen"].lost == 0
        pipe.join(to_kill=True)
    for name in ("film", "screen"):
        messages = received(tmp_path / name)
        assert [message.sequence for message in messages] == list(range(len(messages)))
        assert all(message.value == message.sequence % 251 for message in messages)
        assert len(messages) >= 20


def test_what_a_removed_camera_sent_is_delivered_and_then_its_receiver_ends(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block", capacity=8, grace_period=2)
    chain(pipe, Burst("camera", board, GATE), Forward("middle"), Record("film", tmp_path / "film", one_value))
    slow = Gated("slow", board, 5, 6)
    pipe.create_flow("slow", False, slow)
    pipe.link(Wire(pipe.flows["middle"].routines["middle"], slow))
    with running(pipe):
        board[GATE] = 8
        eventually(lambda: pipe.statistics().wires["camera", "middle"].sent == 8, "eight frames")
        pipe.remove_flow("camera")
        board[5] = 100
        pipe.join()
    assert [message.value for message in received(tmp_path / "film")] == list(range(8))
    assert board[6] == 8


def test_a_receiver_may_wait_for_the_next_camera(tmp_path: Path) -> None:
    """It goes on as it was, also when its process dies meanwhile; each message has the name of its own camera."""
    pipe = Pipe(policy="block", capacity=4, grace_period=2)
    chain(pipe, Frames("first", None), record := Record("film", tmp_path / "film", lambda frame: None), **FAST)
    with running(pipe):
        moves(pipe, "first", "film")
        for number in range(3):
            name = ("first", "second", "third")[number]
            pipe.remove_flow(name, receivers_wait=True)
            if number == 1:
                os.kill(pid := pid_of(pipe, "film"), signal.SIGKILL)
                await_successor(pipe, "film", pid)
            await_states(pipe, film="running")
            name = ("second", "third", "first")[number]
            pipe.create_flow(name, False, camera := Frames(name, None), **FAST)
            pipe.link(Wire(camera, record))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME, specific_routine=name)
            moves(pipe, name, "film")
        pipe.remove_flow("first")
        await_states(pipe, film="ended")
        pipe.join()
    turns = [name for name, _ in groupby(message.origin for message in received(tmp_path / "film"))]
    assert turns[-2:] == ["third", "first"]
    assert turns[:-2] == ["first", "second"][: len(turns) - 2]  # the process that was killed may not have written it


def test_messages_of_a_removed_camera_keep_its_name_when_another_has_its_number(tmp_path: Path) -> None:
    board = Board()

    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    pipe = Pipe(policy="block", capacity=8, grace_period=2)
    old = Items("old", range(4))
    chain(pipe, old, middle := Forward("middle"), Slow("film", tmp_path / "film"))
    with running(pipe):
        eventually(lambda: pipe.statistics().wires["middle", "film"].sent == 4, "its messages behind the middle")
        number = number_of(pipe, "old")
        pipe.remove_flow("old", receivers_wait=True)
        eventually(lambda: pipe.statistics().routines["middle"].received == 4, "the end of what it sent")
        pipe.create_flow("decoy", False, decoy := Items("decoy", range(10, 13)))
        pipe.link(Wire(decoy, middle))
        pipe.build()  # from here on nothing holds the number of the old one
        pipe.create_flow("new", False, new := Items("new", range(20, 23)))
        pipe.link(Wire(new, middle))
        pipe.build()
        assert number in (number_of(pipe, "decoy"), number_of(pipe, "new"))
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["middle"].sent == 10, "all of them")
        board[GATE] = 1
        pipe.join()
    got = received(tmp_path / "film")
    assert [(message.origin, message.value) for message in got[:4]] == [("old", value) for value in range(4)]
    assert {(message.origin, message.value) for message in got[4:]} == {
        *(("decoy", value) for value in range(10, 13)),
        *(("new", value) for value in range(20, 23)),
    }


def test_views_of_a_removed_camera_stay_valid_and_its_number_is_not_used_until_they_are_gone() -> None:
    with camera_pipe() as (pipe, _), pipe.tap("camera") as tap:
        pipe.create_flow("other", True, Frames("other", None), Sink("sink"), **FAST)
        pipe.build()
        frame = tap.read(10)
        number, value = number_of(pipe, "camera"), one_value(frame)
        pipe.remove_flow("camera", "preview")
        assert one_value(frame) == value
        for _ in range(3):
            pipe.create_flow("again", True, Frames("camera", None), Sink("preview"), **FAST)
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            moves(pipe, "camera", "preview", 50)
            assert number_of(pipe, "camera") != number
            assert one_value(frame) == value
            pipe.remove_flow("again")
        del frame

        def is_free() -> bool:
            assert pipe._session is not None
            return number in [free for free, _ in pipe._session.numbers(8)]

        eventually(is_free, "the number")
        pipe.join(to_kill=True)


# ---- those that do not go easily -----------------------------------------------------------------


class Stuck(DestinationRoutine):
    """Never returns."""

    def main_logic(self, data: Any) -> None:
        while True:
            time.sleep(1)


@pytest.mark.parametrize("stopped", [False, True], ids=["hangs", "is stopped"])
def test_a_flow_that_does_nothing_any_more_is_removed(stopped: bool) -> None:
    """The camera, which waits for room on the wire to it, goes on. One that is stopped hears no word, and needs a SIGKILL."""
    with camera_pipe(grace=0.3) as (pipe, camera):
        add_sink(pipe, camera, Stuck("stuck"))
        eventually(lambda: pipe.statistics().wires["camera", "stuck"].waiting == 2, "a full queue")
        pid = pid_of(pipe, "stuck")
        if stopped:
            processes.stop(pid)
        pipe.remove_flow("stuck")
        assert pid not in processes.descendants()
        moves(pipe, "camera", "preview")
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)


def test_its_routines_are_cleaned_up(tmp_path: Path) -> None:
    class Tidy(Sink):
        def cleanup(self) -> None:
            (tmp_path / self.name).touch()

    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Tidy("tidy"))
        moves(pipe, "camera", "tidy")
        pipe.remove_flow("tidy")
        assert (tmp_path / "tidy").exists()
        pipe.join(to_kill=True)


def test_a_cleanup_that_fails_is_no_failure_of_the_pipe() -> None:
    class Untidy(Sink):
        def cleanup(self) -> None:
            raise OSError("the disk is gone")

    with camera_pipe(on_failure="stop") as (pipe, camera):
        add_sink(pipe, camera, Untidy("untidy"))
        moves(pipe, "camera", "untidy")
        pipe.remove_flow("untidy")
        moves(pipe, "camera", "preview")
        pipe.join(to_kill=True)


def test_a_flow_is_removed_while_it_waits_for_its_restart() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), max_restarts=100, restart_window=60)
        for _ in range(5):
            moves(pipe, "camera", "late", 1)
            os.kill(pid_of(pipe, "late"), signal.SIGKILL)
            eventually(lambda: pipe.statistics().flows["late"].pid == 0, "its death")
        pipe.remove_flow("late")
        moves(pipe, "camera", "preview")
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        assert pipe.statistics().flows["late"].restarts == 0
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)


def test_a_failed_flow_is_removed_and_does_not_count() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), restart="never")
        moves(pipe, "camera", "late")
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        await_states(pipe, late="failed")
        pipe.remove_flow("late")
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        pipe.join(to_kill=True)  # does not raise


@pytest.mark.parametrize("victim", ["flow", "fork server", "launcher"])
def test_a_death_in_the_midst_of_a_removal(victim: str) -> None:
    """The flow is stopped, so that the removal waits for it."""
    known = set(processes.descendants())
    with camera_pipe(grace=30.0) as (pipe, camera):
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        pid, (server,) = pid_of(pipe, "late"), fork_servers_of(pipe)
        processes.stop(pid)
        thread, errors = in_background(lambda: pipe.remove_flow("late"))
        eventually(lambda: not pipe.statistics().wires["camera", "late"].linked, "its beginning")
        os.kill({"flow": pid, "fork server": server, "launcher": launcher_of(pipe)}[victim], signal.SIGKILL)
        if victim == "launcher":
            os.kill(pid, signal.SIGCONT)
        thread.join(20)
        assert not thread.is_alive()
        if victim == "launcher":
            assert isinstance(errors[0], PipeStateError)
            with pytest.raises(PipeFailed):
                pipe.join()
        else:
            assert not errors
            assert "late" not in pipe.statistics().routines
            assert fork_servers_of(pipe) == []
            add_sink(pipe, camera, Sink("late"))
            moves(pipe, "camera", "late")
            drain(pipe, "camera")
            assert_sound(pipe)
            pipe.join(to_kill=True)
    processes.reap_orphans(known)


def test_a_neighbour_dies_in_the_midst_of_a_removal(tmp_path: Path) -> None:
    """The sender of a stopped flow that is removed, and then its receiver."""
    pipe = Pipe(policy="block", capacity=4, grace_period=0.5)
    camera, middle, film = Frames("camera", None), Forward("middle"), Sink("film")
    flows_of(pipe, camera, middle, film, Sink("preview"), wires={"camera": "middle preview", "middle": "film"})
    with running(pipe):
        await_motion(pipe)
        processes.stop(pid_of(pipe, "middle"))
        thread, errors = in_background(lambda: pipe.remove_flow("middle", receivers_wait=True))
        eventually(lambda: not pipe.statistics().wires["camera", "middle"].linked, "its beginning")
        for name in ("camera", "film"):
            os.kill(pid_of(pipe, name), signal.SIGKILL)
        thread.join(20)
        assert not thread.is_alive()
        assert not errors
        moves(pipe, "camera", "preview")
        pipe.link(Wire(camera, film))
        pipe.build()
        moves(pipe, "camera", "film")
        drain(pipe, "camera")
        pipe.join(to_kill=True)


# ---- what is refused -----------------------------------------------------------------------------


class Pairs(DestinationRoutine):
    join = Join(by="seq")

    def main_logic(self, data: Any) -> None: ...


def test_what_is_refused_changes_nothing() -> None:
    pipe = Pipe(policy="block", grace_period=2)
    one, two, pairs, worker, last = Frames("one", None), Frames("two", None), Pairs("pairs"), Forward("worker"), Sink("last")
    for routine in (one, two, pairs, last):
        pipe.create_flow(f"{routine.name} flow", False, routine)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.link(Wire(one, (pairs, worker)), Wire(two, pairs), Wire(worker, last))
    with running(pipe):
        with pytest.raises(UnknownTarget, match="'nobody'"):
            pipe.remove_flow("two flow", "nobody")
        with pytest.raises(UnknownTarget, match="workers#0"):
            pipe.remove_flow("workers#0")
        with pytest.raises(WiresValidation, match=r"'two flow'.*'pairs' joins.*'pairs flow', too"):
            pipe.remove_flow("two flow")
        with pytest.raises(TypeError, match="names of flows"):
            pipe.remove_flow(one)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            pipe.remove_flow()
        before = pipe.statistics()  # of sends: two sources at their own pace are soon too far apart for the join
        eventually(lambda: pipe.statistics().routines["last"].received > before.routines["last"].received + 5)
        eventually(lambda: pipe.statistics().wires["two", "pairs"].sent > before.wires["two", "pairs"].sent + 5)
        pipe.remove_flow("two flow", "pairs flow")
        pipe.remove_flow("workers", "last flow")
        assert set(pipe.statistics().flows) == {"one flow"}
        assert not pipe.statistics().wires
        pipe.join(to_kill=True)
    with pytest.raises(PipeStateError, match="ended"):
        pipe.remove_flow("one flow")


def test_before_build_flows_and_wires_are_just_forgotten() -> None:
    pipe = Pipe(policy="block")
    camera, screen, disk = Items("camera", [1, 2, 3]), Sink("screen"), Sink("disk")
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen)
    pipe.create_flow("disk", True, Forward("packer"), disk)
    pipe.link(Wire(camera, (screen, disk)), Wire(camera, pipe.flows["disk"].routines["packer"]))
    with pytest.raises(WiresValidation, match="no wire from 'screen' to 'disk'"):
        pipe.unlink(screen, disk)
    pipe.unlink(camera, disk)
    pipe.remove_flow("disk")
    pipe.create_flow("again", False, disk)
    pipe.link(Wire(camera, disk))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    wires = pipe.statistics().wires
    assert {wire: counters.received for wire, counters in wires.items()} == {("camera", "screen"): 3, ("camera", "disk"): 3}


def test_a_flow_that_waits_for_build_is_forgotten() -> None:
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("late", False, late := Sink("late"))
        pipe.link(Wire(camera, late))
        pipe.remove_flow("late", "preview")
        pipe.create_flow("later", False, late)
        pipe.link(Wire(camera, late))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        moves(pipe, "camera", "late")
        pipe.join(to_kill=True)


def test_unlink_of_a_running_pipe() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, late := Sink("late"))
        moves(pipe, "camera", "late")
        pipe.unlink(camera, late)
        await_states(pipe, late="ended")
        moves(pipe, "camera", "preview")
        with pytest.raises(WiresValidation, match="no wire"):
            pipe.unlink(camera, late)
        pipe.link(Wire(camera, late))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        moves(pipe, "camera", "late")
        pipe.join(to_kill=True)


def test_the_last_flow_is_removed() -> None:
    pipe = Pipe(policy="block")
    pipe.create_flow("first", True, Frames("camera", None), Sink("screen"))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.remove_flow("first")
        assert not pipe.statistics().flows
        pipe.create_flow("first", True, Items("camera", range(9)), Sink("screen"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_states(pipe, camera="ended", screen="ended")
        assert pipe.statistics().wires["camera", "screen"].received == 9
    pipe = Pipe(policy="block")
    pipe.create_flow("first", True, Frames("camera", None), Sink("screen"))
    with pipe:  # which ends, though nothing is left that could end
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.remove_flow("first")


# ---- all is given back ---------------------------------------------------------------------------


class Possessions(NamedTuple):
    """What a pipe has, but for the sizes of rings, which grow with the most wires that there were at a time."""

    descriptors: list[int]
    processes: int
    threads: int
    routines: int
    edges: int
    incarnations: int
    rings: int
    budget_is_whole: bool


def possessions(pipe: Pipe) -> Possessions:
    assert pipe._session is not None
    free = pipe._session.numbers(8)
    shot = snapshot_of(pipe)
    pids = [os.getpid(), launcher_of(pipe), *(flow.pid for flow in pipe.statistics().flows.values())]
    return Possessions(
        [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids],
        len(processes.descendants()),
        threading.active_count(),
        min(number for number, _ in free),
        sum(int(edge["capacity"]) != 0 for edge in shot.edges),
        sum(i["state"] in IN_USE for i in shot.incarnations),
        len(shot.rings),
        shot.budget_is_whole,
    )


class Slow(Frames):
    """Sends for ever, some hundred frames a second."""

    def __init__(self, name: str) -> None:
        super().__init__(name, None, (40, 50, 3), loan=True)
        self.set_const_fps(300)


def change_at_random(pipe: Pipe, dice: random.Random, camera: Routine, sink: Routine, added: dict[str, list[Routine]]) -> None:
    """Adds a flow or two, removes one or two, or links and unlinks a wire."""
    free = [name for name in ("a", "b", "c", "d") if name not in added]
    what = dice.choice(("add", "add", "remove", "wire"))
    if what == "add" and free:
        for name in dice.sample(free, dice.randint(1, min(2, len(free)))):
            routines: list[Routine] = [dice.choice((Slow, Forward, Sink))(f"{name}{n}") for n in range(dice.randint(1, 2))]
            pipe.create_flow(name, False, *routines, **FAST)
            for routine in routines:
                if isinstance(routine, Slow):
                    pipe.link(Wire(routine, sink, policy=dice.choice(("block", "drop_oldest"))))
                else:
                    pipe.link(Wire(camera, routine, policy=dice.choice(("block", "drop_oldest"))))
            added[name] = routines
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    elif what == "remove" and added:
        names = dice.sample(sorted(added), dice.randint(1, min(2, len(added))))
        if dice.random() < 0.2:
            os.kill(pid_of(pipe, names[0]), signal.SIGKILL)
        pipe.remove_flow(*names)
        for name in names:
            del added[name]
    elif what == "wire" and added:
        receivers = [one for routines in added.values() for one in routines if not isinstance(one, Slow)]
        for routine in dice.sample(receivers, min(1, len(receivers))):
            pipe.unlink(camera, routine)
            pipe.link(Wire(camera, routine))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)


def come_and_go(rounds: int, seed: int) -> None:
    """Flows come and go at random; then the pipe has what it had before, and a lossless wire beside them has lost nothing."""
    dice = random.Random(seed)
    pipe = Pipe(policy="block", capacity=4, grace_period=2)
    camera, film = Slow("camera"), Sink("film")
    flows_of(pipe, camera, film, wires={"camera": "film"})
    with running(pipe):
        moves(pipe, "camera", "film")
        added: dict[str, list[Routine]] = {}
        before = None
        for number in range(rounds):
            change_at_random(pipe, dice, camera, film, added)
            if before is None and number >= 10 and added:  # when rings have grown as far as they do
                pipe.remove_flow(*added)
                added.clear()
                eventually(lambda: possessions(pipe).rings == 2, "an end of old rings")
                before = possessions(pipe)
        if added:
            pipe.remove_flow(*added)
        if before is not None:
            with suppress(AssertionError):
                eventually(lambda: possessions(pipe) == before)
            assert possessions(pipe) == before
        moves(pipe, "camera", "film")
        drain(pipe, "camera")
        assert_sound(pipe)
        assert pipe.statistics().wires["camera", "film"].lost == 0
        pipe.join(to_kill=True)


def test_a_hundred_random_changes_leave_nothing() -> None:
    """`python tests/test_remove.py 1000` does more of them, which takes too long here."""
    come_and_go(int(os.environ.get("PIPERT_CHANGES", "100")), seed=19)


if __name__ == "__main__":
    import sys

    come_and_go(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
