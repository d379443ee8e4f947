"""Attaching: other processes look at a pipe, and it never suffers from them."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipert_shm
from audit import IN_USE
from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    await_successor,
    drain,
    launcher_of,
    pid_of,
    pipe_id_of,
    snapshot_of,
)
from killing import running as started
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    Attached,
    AttachedSource,
    DestinationRoutine,
    Pipe,
    PipeFailed,
    PipeStateError,
    SourceRoutine,
    Tap,
    UnknownEvent,
    UnknownTarget,
    Wire,
    events,
)
from pipert_shm.control import messages
from pipert_shm.control.channel import Channel, packets_of
from pipert_shm.events import Event
from pipert_shm.shm import segments, sockets
from pipert_shm.shm.listing import Control
from pipert_shm.system import calls
from processes import reap_orphans, stop
from routines import Forward, Frames, Sink, one_value
from waiting import Board, eventually

READY, COUNT, GO, GOT = 0, 1, 2, 3
OWN = os.getpid()  # in the names of pipes, so that no other run on this machine has the same
YARD = f"yard-{OWN}"


class Ticks(SourceRoutine):
    """Sends frames for ever, all pixels of number n being n % 251, some 400 a second."""

    def setup(self) -> None:
        self.set_const_fps(400)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((48, 64, 3))
        frame[...] = self.meta.sequence % 251
        return frame

    @events("zoom")
    def zoom(self, factor: int) -> None:
        self.logger.warning("zoom %d", factor)


class Keeper(DestinationRoutine):
    """Keeps the first frame that it gets."""

    first: np.ndarray | None = None

    def main_logic(self, frame: np.ndarray) -> None:
        if self.first is None:
            self.first = frame


def made(name: str = YARD, **options: Any) -> Pipe:
    """A camera, a detector that forwards, and a screen, each in a flow of its own; nothing is lost on the wires."""
    pipe = Pipe(name=name, policy="block", grace_period=2, **options)
    camera, detect, screen = Ticks("camera"), Forward("detect"), Sink("screen")
    for routine in (camera, detect, screen):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(camera, detect), Wire(detect, screen))
    return pipe


@pytest.fixture
def yard() -> Iterator[Pipe]:
    with started(made()) as pipe:
        yield pipe


def process(work: Callable[[], object]) -> int:
    """Forks a process that does this, and ends with status 0, or 1 if that raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def ended_well(pid: int) -> None:
    assert os.waitpid(pid, 0)[1] == 0


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def at_rest(pipe: Pipe) -> None:
    """Everything that was sent has arrived, all counters add up, and no slot is held."""
    drain(pipe, "camera")
    assert_sound(pipe, {"camera": 4})


# ---- looking, and asking -------------------------------------------------------------------------


def test_another_process_looks_at_a_pipe(yard: Pipe) -> None:
    def look() -> None:
        with pipert_shm.attach(YARD) as its:
            assert (its.name, its.pipe_id) == (YARD, pipe_id_of(yard))
            assert its.structure() == yard.get_pipe_structure()
            assert its.statistics().routines["camera"].state == "running"
            with its.tap("detect") as tap:
                numbers = []
                for _ in range(20):
                    frame = tap.read(timeout=10)
                    assert tap.meta is not None
                    assert (one_value(frame), tap.meta.origin) == (tap.meta.sequence % 251, "camera")
                    assert not frame.flags.writeable
                    numbers.append(tap.meta.sequence)
                assert numbers == sorted(set(numbers))

    for pid in [process(look) for _ in range(3)]:
        ended_well(pid)
    at_rest(yard)


def test_it_may_be_there_before_the_pipe() -> None:
    board = Board()

    def look() -> None:
        board[READY] = 1
        with pipert_shm.attach(f"late one-{OWN}", timeout=30) as its:
            eventually(lambda: its.statistics().routines["screen"].state == "running")
            one_value(its.tap("camera").read(timeout=10))

    pid = process(look)
    board.wait(READY)
    with started(made(f"late one-{OWN}")):
        ended_well(pid)


def test_events_of_an_attached_process(yard: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    with pipert_shm.attach(YARD) as its:
        its.notify_event("zoom", specific_routine="camera", factor=7)
        eventually(lambda: "zoom 7" in caplog.text, "the event")
        with pytest.raises(UnknownEvent, match="factor"):
            its.notify_event("zoom", specific_routine="camera")
        with pytest.raises(UnknownTarget, match="there is no routine 'nobody'"):
            its.notify_event("zoom", specific_routine="nobody", factor=1)
        its.notify_event(STOP_EVENT_NAME)
        await_states(yard, camera="stopped", detect="stopped", screen="stopped")
        its.notify_event(START_EVENT_NAME)
        await_motion(yard)
        its.notify_event("unlink", specific_routine="detect", unlink_routine_name="screen")
        eventually(lambda: not yard.statistics().wires["detect", "screen"].linked)
        with pytest.raises(pipert_shm.WiresValidation, match="camera"):
            its.notify_event("link", specific_routine="detect", link_routine_name="camera")
        its.notify_event("kill")
        assert its.await_end(20)
    yard.join()


def test_questions_to_the_parent(yard: Pipe) -> None:
    session = yard._built()
    asked_on: list[str] = []
    hold = threading.Event()

    def shout(body: bytes) -> bytes:
        asked_on.append(threading.current_thread().name)
        return body.upper()

    def refuse(body: bytes) -> bytes:
        raise UnknownTarget("thing", body.decode(), ["this", "that"])

    session.serve("shout", shout)
    session.serve("refuse", refuse)
    session.serve("hold", lambda body: str(hold.wait(20)).encode())
    session.serve("large", lambda body: bytes(9 << 20))
    with pipert_shm.attach(YARD) as its:
        assert its.relay("shout", b"hello") == b"HELLO"
        assert asked_on == ["pipe-answers-shout"]
        with pytest.raises(UnknownTarget, match="there is no thing 'other'; there are: this, that"):
            its.relay("refuse", b"other")
        with pytest.raises(UnknownTarget, match="kind of question 'nothing'; there are: hold, large, refuse, shout, structure"):
            its.relay("nothing")
        with pytest.raises(pipert_shm.PayloadError, match="8,388,608 is the limit"):
            its.relay("large")
        with pytest.raises(PipeStateError, match=r"has not answered for 0\.05 s"):
            its.relay("hold", timeout=0.05)
        assert its.relay("shout", b"others go on") == b"OTHERS GO ON"
        hold.set()
    assert_attached(yard, 0)


def assert_attached(pipe: Pipe, count: int) -> None:
    """Until the launcher has the channels of so many attached processes, beside its others."""
    folder = Path(f"/proc/{launcher_of(pipe)}/fd")

    def there() -> bool:
        pidfds = 0
        for fd in folder.iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                pidfds += "pidfd" in os.readlink(fd)
        return pidfds == len(pipe.statistics().flows) + count

    eventually(there, f"{count} attached processes")


def test_what_is_added_later_is_known(yard: Pipe) -> None:
    with pipert_shm.attach(YARD) as its:
        late = Forward("late")
        yard.create_flow("late", False, late)
        yard.link(Wire(next(iter(yard.flows["camera"].routines.values())), late))
        end = Sink("late end")
        yard.create_flow("late end", False, end)
        yard.link(Wire(late, end))
        yard.build()
        yard.notify_event(START_EVENT_NAME)
        with its.tap("late") as tap:
            assert tap.read(timeout=10).shape == (48, 64, 3)
            assert tap.meta is not None
            assert tap.meta.hops[0].routine == "late"
        assert its.statistics().routines["late"].flow == "late"
        assert [entry["routine_name"] for entry in its.structure()["Routines"]][-2:] == ["late", "late end"]


# ---- which pipe, and who may ---------------------------------------------------------------------


def test_two_pipes_of_one_name(yard: Pipe) -> None:
    with started(made()) as other:
        ids = sorted([pipe_id_of(yard), pipe_id_of(other)])
        with pytest.raises(
            PipeStateError, match=f"2 pipes are called '{YARD}': attach by the id of one of them: {', '.join(ids)}"
        ):
            pipert_shm.attach(YARD)
        with pipert_shm.attach(pipe_id_of(other)) as its:
            assert its.pipe_id == pipe_id_of(other)


def test_no_such_pipe(yard: Pipe) -> None:
    with pytest.raises(UnknownTarget, match=rf"there is no pipe 'yord-{OWN}'; there are: .*{YARD}.*did you mean '{YARD}'"):
        pipert_shm.attach(f"yord-{OWN}")
    with pytest.raises(UnknownTarget):
        pipert_shm.attach(f"yord-{OWN}", timeout=0.1)
    for wrong, error in ((7, TypeError), (None, TypeError)):
        with pytest.raises(error, match="name or id"):
            pipert_shm.attach(wrong)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="timeout"):
        pipert_shm.attach(YARD, timeout=-1)
    with pytest.raises(ValueError, match="can't be called"):
        Pipe(name="a/b")


def test_a_directory_that_others_may_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / "pipert_shm"
    directory.mkdir(mode=0o755)
    with started(made(f"open-{OWN}")) as pipe:
        await_motion(pipe)
        eventually(lambda: "nobody can attach to this pipe" in caplog.text, "a warning")
        assert f"{directory} is not for this user alone (its owner is user {os.getuid()}, its mode 755)" in caplog.text
        with pytest.raises(PermissionError, match="is not for this user alone"):
            pipert_shm.attach(f"open-{OWN}")
    assert caplog.text.count("nobody can attach") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's directory")
def test_another_users_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "pipert_shm").mkdir(mode=0o700)
    os.chown(tmp_path / "pipert_shm", 65534, 65534)
    with started(made(f"foreign-{OWN}")) as pipe:
        await_motion(pipe)
        with pytest.raises(PermissionError, match="its owner is user 65534"):
            pipert_shm.attach(f"foreign-{OWN}")
    (tmp_path / "pipert_shm").rmdir()
    (tmp_path / "pipert_shm").symlink_to(tmp_path)
    with started(made(f"link-{OWN}")) as pipe:
        await_motion(pipe)
        with pytest.raises(OSError, match="pipert_shm"):
            pipert_shm.attach(f"link-{OWN}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's segment")
def test_another_users_segment_with_the_same_name_is_passed_over(yard: Pipe) -> None:
    own = segments.SHM / f"pipert-{pipe_id_of(yard)}-c"
    foreign = own.with_name("pipert-0123456789ab-c")
    with foreign.open("xb+") as file:
        try:
            os.fchown(file.fileno(), 65534, 65534)
            os.fchmod(file.fileno(), 0o644)
            file.write(own.read_bytes())
            file.flush()
            os.posix_fallocate(file.fileno(), 0, own.stat().st_size)
            assert segments._lock(file.fileno(), fcntl.F_RDLCK)
            with Control("0123456789ab", stale=False) as control:
                assert control.name == YARD
            with pipert_shm.attach(YARD) as its:
                assert its.pipe_id == pipe_id_of(yard)
            with pytest.raises(UnknownTarget, match="there is no pipe '0123456789ab'"):
                pipert_shm.attach("0123456789ab")
        finally:
            foreign.unlink()


def test_where_the_socket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)  # longer than a socket's path may be
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with started(made(f"private-{OWN}")) as pipe:
        path = long / "pipert_shm" / pipe_id_of(pipe)
        eventually(path.exists, "a socket")
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        monkeypatch.delenv("XDG_RUNTIME_DIR")  # of another process it may be another one
        with pipert_shm.attach(f"private-{OWN}") as its:
            assert its.statistics().flows
    assert list(path.parent.iterdir()) == []


def test_the_socket_of_a_dead_launcher_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with started(made(f"first-{OWN}")) as first:
        dead = tmp_path / "pipert_shm" / "0123456789ab"
        half = dead.with_name("0123456789ac.new")
        for path in (dead, half):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
                end.bind(str(path))
        os.utime(half, (0, 0))
        with started(made(f"second-{OWN}")) as second:
            left = {pipe_id_of(first), pipe_id_of(second)}
            eventually(lambda: set(os.listdir(dead.parent)) == left, "the sockets of those that run alone")
    with started(made(f"third-{OWN}")) as third:
        os.kill(launcher_of(third), signal.SIGKILL)
    reap_orphans(set())
    assert sockets.sweep(dead.parent) == []
    assert list(dead.parent.iterdir()) == []


def test_only_so_many_at_a_time(yard: Pipe) -> None:
    with ExitStack() as leaving:
        attached = [leaving.enter_context(pipert_shm.attach(YARD)) for _ in range(64)]
        with pytest.raises(PipeStateError, match="can't attach: 64 processes are attached already"):
            pipert_shm.attach(YARD)
        attached[7].close()

        def again() -> bool:
            try:
                leaving.enter_context(pipert_shm.attach(YARD))
            except PipeStateError:
                return False
            return True

        eventually(again, "a place")
        await_motion(yard)
    assert_attached(yard, 0)


# ---- clients that misbehave ----------------------------------------------------------------------


@contextmanager
def connected(pipe: Pipe) -> Iterator[socket.socket]:
    with sockets.connect(sockets.directory(), pipe_id_of(pipe)) as end:
        yield end


def is_hung_up(end: socket.socket) -> bool:
    end.settimeout(10)
    with suppress(ConnectionError):
        while end.recv(1 << 17):
            continue
    return True


HELLO = packets_of(messages.Hello(0), 1)
EVENT = Event("zoom", ("camera",))
GARBAGE: dict[str, list[bytes]] = {
    "garbage": [b"GET / HTTP/1.1\r\n\r\n"],
    "garbage after a hello": [*HELLO, b"\0" * 64],
    "too long": [*HELLO, b"PSM1" + b"x" * 150_000],
    "an order of the parent's": [*HELLO, *packets_of(messages.RestartFlow("camera"), 0)],
    "the parent's kill": [*HELLO, *packets_of(messages.Kill(), 0)],
    "an answer of a flow's": [*HELLO, *packets_of(messages.TapEnded(0), 0)],
    "no hello": packets_of(messages.Notify(EVENT, 0), 1),
    "a part of too many": [*HELLO, struct.pack("<4sHHIIII", b"PSM1", 5, 0, 65535, 1, 1, 0) + bytes(100 << 10)],
    "a part of too large a message": [*HELLO, struct.pack("<4sHHIIII", b"PSM1", 5, 0, 2, 1, (8 << 20) + 1, 0)],
    "a part behind the last one": [*HELLO, struct.pack("<4sHHIIII", b"PSM1", 5, 0, 0, 1, 1, 0)],
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_client_that_sends_what_it_may_not_is_hung_up_on(yard: Pipe, what: str, caplog: pytest.LogCaptureFixture) -> None:
    with pipert_shm.attach(YARD) as its, its.tap("camera") as tap:
        with connected(yard) as end:
            for packet in GARBAGE[what]:
                end.send(packet)
            assert is_hung_up(end)
        eventually(lambda: f"attached process {os.getpid()}" in caplog.text, "its name in the log")
        tap.read(timeout=10)
        await_motion(yard)
        assert {flow.restarts for flow in yard.statistics().flows.values()} == {0}
        assert its.relay("structure")


def test_a_client_that_makes_no_sense_is_refused(yard: Pipe) -> None:
    with pipert_shm.attach(YARD) as its, its.tap("camera") as tap:
        with connected(yard) as end:
            channel = Channel(end)
            for number, question in enumerate(
                [
                    messages.Hello(0),
                    messages.MakeTap("nobody"),
                    messages.MakeTap("screen"),
                    messages.Notify(Event("zoom", ("nobody",)), 0),
                    messages.Notify(Event("link", ("camera",)), 0),
                    messages.Relay("nothing", b""),
                ],
                1,
            ):
                channel.send(question, number)
                received = channel.receive()
                assert received is not None
                assert received.question == number
                assert isinstance(received.message, messages.Welcome if number == 1 else messages.Answer | messages.Relayed)
            channel.send(messages.EndTap(tap.edge.number))  # another one's
            channel.send(messages.EndTap(10**6))
            channel.send(messages.MakeTap("camera"), 7)
            received = channel.receive()
            assert received is not None
            assert isinstance(received.message, messages.TapMade)
            channel.send(messages.Answer(), 7)  # as one that can't read it
            received = channel.receive()
            assert received is not None
            assert isinstance(received.message, messages.TapEnded)
        for _ in range(3):
            tap.read(timeout=10)
        assert its.statistics().flows["camera"].restarts == 0
    at_rest(yard)


def test_many_that_say_nothing(yard: Pipe) -> None:
    with ExitStack() as leaving:
        ends = [leaving.enter_context(connected(yard)) for _ in range(100)]
        assert is_hung_up(ends[-1])  # more than may wait
        with pytest.raises(PipeStateError, match="has hung up: too many processes want to attach at this moment; try again"):
            pipert_shm.attach(YARD)
        await_motion(yard)

    def is_attached() -> bool:
        try:
            with pipert_shm.attach(YARD) as its:
                return bool(its.statistics().flows)
        except PipeStateError:  # the launcher has not heard of all ends yet
            return False

    eventually(is_attached)


@pytest.mark.parametrize("honest", [True, False])
def test_a_kernel_that_gives_no_pidfd_of_a_peer(honest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(end: socket.socket) -> int:
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(calls, "peer_pidfd", none)
    with started(made(f"old kernel-{OWN}")) as pipe:
        if not honest:
            with connected(pipe) as end:
                channel = Channel(end)
                channel.send(messages.Hello(1), 1)  # as one that has another's pid by now
                received = channel.receive()
                assert received is not None
                assert isinstance(received.message, messages.Answer)
                assert is_hung_up(end)
            return
        board = Board()

        def hold() -> None:
            frame = pipert_shm.attach(f"old kernel-{OWN}").tap("camera").read(timeout=10)
            board[READY] = frame.size
            time.sleep(60)

        pid = process(hold)
        board.wait(READY)
        kill(pid)
        at_rest(pipe)


# ---- deaths --------------------------------------------------------------------------------------


def keeps(board: Board, name: str = YARD) -> None:
    """Attaches, keeps what frames it can, one of them for ever, and goes on reading."""
    its = pipert_shm.attach(name)
    first = its.tap("camera")
    for_ever = first.read(timeout=10)
    taps = [first, *(its.tap(routine) for routine in ("camera", "detect"))]
    board.add(READY)
    kept: list[np.ndarray] = []
    while True:
        kept = [*kept[-6:], *(tap.read(timeout=10) for tap in taps)]
        one_value(for_ever)
        board.add(COUNT)


def test_one_that_is_killed_gives_back_all_that_it_held(yard: Pipe) -> None:
    for _ in range(4):
        board = Board()
        pid = process(lambda board=board: keeps(board))  # type: ignore[misc]
        board.wait(COUNT, 5)
        await_motion(yard)
        kill(pid)
    assert_attached(yard, 0)
    at_rest(yard)


def test_one_that_is_stopped_holds_up_nothing(yard: Pipe) -> None:
    boards = [Board() for _ in range(3)]
    pids = [process(lambda board=board: keeps(board)) for board in boards]  # type: ignore[misc]
    try:
        for board, pid in zip(boards, pids, strict=True):
            board.wait(COUNT, 3)
            stop(pid)
        await_motion(yard, messages=300)
        os.kill(pids[0], signal.SIGCONT)
        before = boards[0][COUNT]
        boards[0].wait(COUNT, before + 5)
    finally:
        for pid in pids:
            kill(pid)
    at_rest(yard)


def test_one_that_is_killed_while_it_waits_for_a_frame_or_a_tap(yard: Pipe) -> None:
    board = Board()
    drain(yard, "camera")

    def waits() -> None:
        tap = pipert_shm.attach(YARD).tap("detect")
        board[READY] = 1
        tap.read()

    pid = process(waits)
    board.wait(READY)
    kill(pid)
    stop(pid_of(yard, "camera"))  # so that a tap of it is asked for, and not made
    pid = process(lambda: pipert_shm.attach(YARD).tap("camera"))
    assert_attached(yard, 1)
    time.sleep(0.05)
    kill(pid)
    assert_attached(yard, 0)
    os.kill(pid_of(yard, "camera"), signal.SIGCONT)
    yard.notify_event(START_EVENT_NAME)
    await_motion(yard)
    at_rest(yard)


def test_a_child_that_keeps_the_socket_does_not_keep_a_dead_process_attached(yard: Pipe) -> None:
    board = Board()

    def hold() -> None:
        its = pipert_shm.attach(YARD)
        frame = its.tap("camera").read(timeout=10)
        os.dup(its._line._channel.fileno())  # one that no fork closes
        if os.fork() == 0:
            board[GO] = os.getpid()
            time.sleep(60)
        board[READY] = int(one_value(frame)) + 1
        time.sleep(60)

    pid = process(hold)
    board.wait(READY)
    board.wait(GO)
    kill(pid)
    try:
        assert_attached(yard, 0)
        at_rest(yard)
    finally:
        os.kill(board[GO], signal.SIGKILL)
        yard.join(to_kill=True)
        reap_orphans(set())


def test_children_that_send_for_a_dead_process_are_not_heard_for_ever(yard: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    (packet,) = packets_of(messages.EndTap(10**6))

    def flood() -> None:
        end = pipert_shm.attach(YARD)._line._channel
        descriptor = os.dup(end.fileno())  # one that no fork closes
        for _ in range(3):
            if os.fork() == 0:
                board.add(GO)
                with suppress(OSError), socket.socket(fileno=descriptor) as its:
                    while its.send(packet):
                        board.add(COUNT)
                os._exit(0)
        time.sleep(60)

    pid = process(flood)
    board.wait(GO, 3)
    board.wait(COUNT, 1000)
    kill(pid)
    try:
        assert_attached(yard, 0)
        yard.notify_event("zoom", specific_routine="camera", factor=3)
        eventually(lambda: "zoom 3" in caplog.text, "an answer of the launcher")
        at_rest(yard)
    finally:
        yard.join(to_kill=True)
        reap_orphans(set())


def test_a_tap_that_its_owner_never_got_is_given_back(yard: Pipe) -> None:
    """It hangs up while the routine's flow stands still: the tap is made for nobody, and nobody drains it."""

    def in_use() -> int:
        return sum(i["state"] in IN_USE for i in snapshot_of(yard).incarnations)

    camera, wires = pid_of(yard, "camera"), in_use()
    os.kill(camera, signal.SIGSTOP)
    try:
        its = pipert_shm.attach(YARD)
        its.begin_tap("camera")
        eventually(lambda: in_use() == wires + 1, "a bit for the tap")
        its.close()
    finally:
        os.kill(camera, signal.SIGCONT)
    eventually(lambda: in_use() == wires, "an end of the tap")
    at_rest(yard)


def test_a_forked_child_is_not_attached(yard: Pipe) -> None:
    with pipert_shm.attach(YARD) as its, its.tap("camera") as tap:
        refused: list[Callable[[], object]] = [its.structure, its.statistics, its.close, tap.read, tap.close]
        refused += [lambda: its.tap("camera"), lambda: its.notify_event("stop")]

        def child() -> None:
            for call in refused:
                with pytest.raises(PipeStateError, match="forked"):
                    call()
            with pipert_shm.attach(YARD) as own, own.tap("camera") as another:
                another.read(timeout=10)

        ended_well(process(child))
        tap.read(timeout=10)


def test_frames_that_are_kept_by_many_leave_the_pipe_its_memory(yard: Pipe) -> None:
    with ExitStack() as leaving:
        taps = [leaving.enter_context(leaving.enter_context(pipert_shm.attach(YARD)).tap("camera")) for _ in range(20)]
        kept: list[np.ndarray] = []
        last = -1
        for tap in taps:
            kept.append(tap.read(timeout=10))
            while tap.meta is None or tap.meta.sequence <= last:  # each keeps another frame
                del kept[-1]
                kept.append(tap.read(timeout=10))
            last = tap.meta.sequence
        await_motion(yard, messages=100)
        assert len({one_value(frame) for frame in kept}) == len(kept)
    kept.clear()
    at_rest(yard)


def test_the_bits_that_a_restart_needs_are_left() -> None:
    """Although nobody gives back what bits there are: neither the attached processes, nor the receiver, which keeps a frame."""
    board = Board()
    pipe = Pipe(name=f"keeper-{OWN}", policy="block", grace_period=2)
    camera, keeper = Ticks("camera"), Keeper("keeper")
    for routine in (camera, keeper):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(camera, keeper))

    def takes_all() -> None:
        its = pipert_shm.attach(f"keeper-{OWN}")
        taps: list[Tap] = []
        try:
            while len(taps) < 8:
                taps.append(its.tap("camera"))
        except PipeStateError as error:
            board[GO] = "routine 'camera' has no holder bit left for one more receiver" in str(error)
        board[READY] = 1
        time.sleep(60)

    pids: list[int] = []
    with started(pipe):
        try:
            while not board[GO]:
                board[READY] = 0
                pids.append(process(takes_all))
                board.wait(READY)
            for pid in pids:
                stop(pid)
            await_motion(pipe)  # so the keeper has a frame
            victim = pid_of(pipe, "camera")
            os.kill(victim, signal.SIGKILL)
            await_successor(pipe, "camera", victim)
            await_motion(pipe)
            assert len(pids) > 2
        finally:
            for pid in pids:
                kill(pid)


def test_a_process_has_only_so_many_taps(yard: Pipe) -> None:
    with pipert_shm.attach(YARD) as its:
        taps = [its.tap("camera") for _ in range(8)]
        with pytest.raises(PipeStateError, match="this process has 8 taps already"):
            its.tap("detect")
        for tap in taps:
            assert tap.read(timeout=10).shape == (48, 64, 3)
            tap.close()
        eventually(lambda: not len(its._taps), "an end of all taps")
        assert its.tap("camera").read(timeout=10).shape == (48, 64, 3)


@pytest.mark.parametrize("victim", ["camera", "detect"])
def test_the_tapped_flow_is_restarted(yard: Pipe, victim: str) -> None:
    with pipert_shm.attach(YARD) as its:
        tap = its.tap(victim)
        kept = tap.read(timeout=10)
        value = one_value(kept)
        pid = pid_of(yard, victim)
        os.kill(pid, signal.SIGKILL)
        for _ in tap:
            continue
        await_successor(yard, victim, pid)

        def again() -> bool:
            with suppress(PipeStateError), its.tap(victim) as another:
                return bool(another.read(timeout=10).shape)
            return False

        eventually(again, "a tap of the next process")
        assert one_value(kept) == value
    del kept, tap
    at_rest(yard)


def test_who_hears_late_that_a_tap_has_ended_leaves_its_place_to_others(yard: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pipert_shm.attach(YARD) as late, pipert_shm.attach(YARD) as other:
        told, end = threading.Event(), late._taps.end

        def end_late(edge: int) -> None:
            assert told.wait(20)
            end(edge)

        monkeypatch.setattr(late._taps, "end", end_late)
        first = late.tap("camera")
        first.read(timeout=10)
        os.kill(pid_of(yard, "camera"), signal.SIGKILL)
        reader = threading.Thread(target=lambda: list(first))
        reader.start()

        def same_place() -> Tap | None:
            with suppress(PipeStateError):
                tap = other.tap("camera")
                if tap.edge.number == first.edge.number:
                    return tap
                tap.close()
            return None

        while (second := same_place()) is None:  # the first one's reader drains it first
            time.sleep(0.01)
        told.set()
        eventually(lambda: not len(late._taps), "the end of the first tap")
        for _ in range(3):
            second.read(timeout=10)
        reader.join()


def test_the_pipe_ends() -> None:
    with started(made(f"ends-{OWN}")) as pipe:
        its = pipert_shm.attach(f"ends-{OWN}")
        tap = its.tap("camera")
        frame = tap.read(timeout=10)
        value = one_value(frame)
        assert its.statistics().wires["camera", "detect"].sent
    assert its.await_end(10)
    list(tap)
    with pytest.raises(PipeStateError, match="the pipe has ended"):
        its.notify_event("stop")
    with pytest.raises(PipeStateError, match="the pipe has ended"):
        its.structure()
    assert its.statistics().flows["camera"].state == "ended"
    assert one_value(frame) == value
    assert repr(its).endswith("ended)")
    its.close()
    assert pipe.statistics().wires["camera", "detect"].sent


def test_the_launcher_is_killed() -> None:
    pipe = made(f"killed-{OWN}")
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    its = pipert_shm.attach(f"killed-{OWN}")
    tap = its.tap("camera")
    tap.read(timeout=10)
    os.kill(launcher_of(pipe), signal.SIGKILL)
    assert its.await_end(10)
    list(tap)
    with pytest.raises(PipeFailed):
        pipe.join()
    its.close()
    assert not (sockets.directory() / its.pipe_id).exists()
    reap_orphans(set())


# ---- a source of another pipe --------------------------------------------------------------------


class Compare(DestinationRoutine):
    """Compares each frame with what its number says, and counts."""

    def __init__(self, board: Board) -> None:
        super().__init__("compare")
        self.board = board

    def main_logic(self, frame: np.ndarray) -> None:
        assert (frame == self.meta.sequence % 251).all()
        assert self.meta.format == "rgb"
        assert 0 < time.monotonic_ns() - self.meta.captured_ns < 60e9
        assert self.meta.origin == "far camera"
        self.board.add(COUNT)


class Coloured(Ticks):
    def main_logic(self) -> np.ndarray:
        self.meta.describe("rgb", 0)
        return super().main_logic()


@pytest.mark.parametrize("flows", [1, 2])
def test_what_another_pipe_sends_comes_bit_for_bit(flows: int) -> None:
    board = Board()
    near = Pipe(name=f"near-{OWN}", policy="block")
    source, compare = AttachedSource(f"far-{OWN}", "camera", "far camera"), Compare(board)
    if flows == 1:
        near.create_flow("both", True, source, compare)
    else:
        near.create_flow("source", False, source)
        near.create_flow("compare", False, compare)
        near.link(Wire(source, compare))
    with started(near):
        far = Pipe(name=f"far-{OWN}", policy="block")
        far.create_flow("camera", True, Coloured("camera"), Sink("screen"), **FAST)
        with started(far):
            board.wait(COUNT, 100)
            pid = pid_of(far, "camera")
            os.kill(pid, signal.SIGKILL)
            await_successor(far, "camera", pid)
            before = board[COUNT]
            board.wait(COUNT, before + 50)
        await_states(near, compare="ended")
        numbers = near.statistics()
        assert numbers.routines["compare"].errors == 0
        assert numbers.routines["far camera"].copied_bytes == 48 * 64 * 3 * numbers.routines["far camera"].sent
        near.join()


def test_a_source_goes_on_with_the_next_pipe(caplog: pytest.LogCaptureFixture) -> None:
    """And logs each change once."""
    caplog.set_level(logging.INFO)
    board = Board()
    near = Pipe(name=f"near-{OWN}", grace_period=2)
    near.create_flow("both", True, AttachedSource(f"far-{OWN}", "camera", reconnect=True), Sink("screen", board, COUNT))
    with started(near):
        for _ in range(2):
            with started(made(f"far-{OWN}")):
                before = board[COUNT]
                board.wait(COUNT, before + 20)
        assert near.statistics().routines["screen"].state == "running"
    far = f"far-{OWN}"
    records = [one for one in caplog.records if one.levelno < logging.ERROR and far in one.getMessage()]
    told = [re.sub(r"\([0-9a-f]{12}\)", "(id)", one.getMessage()) for one in records]
    told = [text for text in told if "just ended" not in text]  # as it began, perhaps
    waits = f"waits for pipe {far!r}, which is not there"
    of_one = [f"is attached to pipe {far!r} (id), and waits for 'camera'", f"gets what 'camera' of pipe {far!r} sends"]
    of_one += [f"gets no more of 'camera' of pipe {far!r}: that has ended, for now"]
    assert [text for text in told if text != waits] == of_one * 2
    assert 1 <= told.count(waits) <= 3


def test_a_source_that_waits_for_its_pipe_stops_and_fails_in_time() -> None:
    pipe = Pipe(name=f"waits-{OWN}", grace_period=2)
    pipe.create_flow("both", True, AttachedSource(f"nowhere-{OWN}", "camera", "source"), Sink("screen"))
    with started(pipe):
        await_states(pipe, source="running")
        pipe.notify_event(STOP_EVENT_NAME)
        await_states(pipe, source="stopped")
    fails = Pipe(name=f"fails-{OWN}", grace_period=2)
    fails.create_flow("both", True, AttachedSource(f"nowhere-{OWN}", "camera", timeout=0.1), Sink("screen"))
    fails.build()
    fails.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match=f"there is no pipe 'nowhere-{OWN}'"):
        fails.join()


def test_a_source_of_no_routine_fails_at_once(yard: Pipe) -> None:
    pipe = Pipe(name=f"near-{OWN}", grace_period=2)
    pipe.create_flow("both", True, AttachedSource(YARD, "camra"), Sink("screen"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match=r"there is no routine 'camra'; there are: camera, .*did you mean 'camera'"):
        pipe.join()


class Tried(AttachedSource):
    """Counts its calls."""

    def __init__(self, board: Board, *names: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.board = board

    def main_logic(self) -> Any:
        self.board.add(COUNT)
        return super().main_logic()


@pytest.mark.parametrize("what", ["a routine that never was", "two pipes"])
def test_a_source_that_can_not_have_what_it_wants_rests_between_its_tries(
    yard: Pipe, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    rest = time.sleep

    def sleep(seconds: float) -> None:
        board.add(READY)
        rest(seconds)

    monkeypatch.setattr("pipert_shm.attached_source.time.sleep", sleep)
    source = Tried(board, f"far-{OWN}", "camra", "source")
    pipe = Pipe(name=f"near-{OWN}", grace_period=2)
    pipe.create_flow("both", True, source, Sink("screen"))
    with ExitStack() as running:
        running.enter_context(started(pipe))
        board.wait(COUNT)  # so its setup found no pipe
        for _ in range(1 + (what == "two pipes")):
            running.enter_context(started(made(f"far-{OWN}")))
        eventually(lambda: pipe.statistics().routines["source"].errors >= 3, "errors")
        assert board[READY] >= pipe.statistics().routines["source"].errors - 1


@pytest.mark.parametrize("reconnect", [False, True])
def test_the_routine_of_a_source_is_removed(yard: Pipe, reconnect: bool) -> None:
    board = Board()
    near = Pipe(name=f"near-{OWN}", grace_period=2)
    near.create_flow("both", True, Tried(board, YARD, "extra", "source", reconnect=reconnect), Sink("end", board, GOT))
    extra = Forward("extra")
    yard.create_flow("extra", False, extra)
    yard.link(Wire(next(iter(yard.flows["camera"].routines.values())), extra))
    end = Sink("extra end")
    yard.create_flow("extra end", False, end)
    yard.link(Wire(extra, end))
    yard.build()
    yard.notify_event(START_EVENT_NAME)
    with started(near):
        board.wait(GOT, 5)
        yard.remove_flow("extra", receivers_wait=True)
        if reconnect:
            before = board[COUNT]
            board.wait(COUNT, before + 5)
        else:
            await_states(near, source="ended")
        numbers = near.statistics().routines["source"]
        assert (numbers.errors, numbers.state) == (0, "running" if reconnect else "ended")


class Slow(SourceRoutine):
    """Is in one long call."""

    def __init__(self, board: Board) -> None:
        super().__init__("camera")
        self.board = board

    def main_logic(self) -> int:
        self.board[READY] = 1
        while not self.board[GO]:
            time.sleep(0.01)
        return 7


def test_a_source_stops_while_the_other_routine_is_in_a_long_call() -> None:
    board = Board()
    far = Pipe(name=f"far-{OWN}", grace_period=2)
    far.create_flow("camera", True, Slow(board), Sink("screen"), **FAST)
    near = Pipe(name=f"near-{OWN}", grace_period=2)
    source = Tried(board, f"far-{OWN}", "camera", "source")
    near.create_flow("both", True, source, Sink("end", board, GOT))
    with started(far):
        board.wait(READY)
        with started(near):
            board.wait(COUNT, 2)  # one of its calls has ended without a tap
            near.notify_event(STOP_EVENT_NAME)
            await_states(near, source="stopped")
            assert not board[GO]
            board[GO] = 1
            near.notify_event(START_EVENT_NAME)
            board.wait(GOT, 2)
            assert near.statistics().routines["source"].errors == 0


def test_a_pipelines_file_with_a_name_and_a_source_of_another_pipe(yard: Pipe, tmp_path: Path) -> None:
    file = tmp_path / "near.yaml"
    file.write_text(
        f"""
pipe: {{name: near-{OWN}}}
routines:
  camera: {{class: pipert_shm.AttachedSource, parameters: {{pipe: {YARD}, routine: detect, timeout: 10}}}}
  screen: {{class: pipert_shm.MotionDetector}}
  end: {{class: pipert_shm.JsonLinesWriter, parameters: {{path: {tmp_path / "out.jsonl"}}}}}
flows:
  both: {{routines: [camera, screen, end], auto_wire: true}}
"""
    )
    with started(pipert_shm.PipelineFile(file).make_pipe()), pipert_shm.attach(f"near-{OWN}") as near:
        assert near.name == f"near-{OWN}"
        eventually(lambda: near.statistics().wires["screen", "end"].received > 5, "frames of the other pipe")


def test_an_attached_process_gives_a_source(yard: Pipe) -> None:
    with pipert_shm.attach(YARD) as its:
        source = its.source("camera", "again")
    assert isinstance(its, Attached)
    assert (source.name, isinstance(source, AttachedSource)) == ("again", True)


def test_frames_of_a_routine_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(name=f"short-{OWN}", policy="block")
    pipe.create_flow("both", True, Frames("source", 5), Sink("sink"))
    caplog.set_level(logging.WARNING)
    pipe.build()
    with pipert_shm.attach(f"short-{OWN}") as its:
        tap = its.tap("source")
        its.notify_event(START_EVENT_NAME)
        assert [one_value(frame) for frame in tap][-1] == 4
        pipe.join(to_kill=True)
    assert "attached process" not in caplog.text
