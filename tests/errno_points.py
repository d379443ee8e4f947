"""Errno points: each system call that holds a pipe together is made to fail, once, with each error number it may return.

`python tests/errno_points.py [--part N/M] [--only TEXT] [--one-each]`. The calls are those of `pipert_shm.system.calls`; a
point is one of them in one process (the parent, the launcher, a flow, a fork server), at one place of the code, and one error
number. A run without faults finds the places. Then there is a run for each point: build, start, link, tap, attach, a trace, a
later build, a larger ring, a death, unlink, stop, start, end. After each step the pipe goes on, or the call in question says
why not; flows that have nothing to do with it keep moving; and when the pipe has ended nothing is left: no process, thread,
descriptor or segment. It prints how many points there are, and fails where one did not hold.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import io
import logging
import os
import select
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import pipert_shm.launcher.fork_server_process
import pipert_shm.launcher.loop
import pipert_shm.parent.fork_servers
import pipert_shm.parent.session
import pipert_shm.shm.segments
import processes
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipertError,
    SourceRoutine,
    Wire,
    events,
)
from pipert_shm.errors import describe
from pipert_shm.system import calls
from waiting import eventually

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ERRNOS: dict[str, tuple[int, ...]] = {
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "wait_for_exit": (errno.ECHILD,),
    "pidfd_open": SHORT,
    "send_signal": (errno.ESRCH, errno.EPERM),
    "pipe": (errno.EMFILE, errno.ENFILE),
    "read": (errno.EIO,),
    "open_file": (*SHORT, errno.EACCES),
    "allocate": (errno.ENOSPC, errno.ENOMEM),
    "truncate": (errno.ENOMEM, errno.EIO),
    "write_at": (errno.ENOSPC, errno.EIO),
    "lock": (errno.ENOLCK, errno.EAGAIN),
    "space": (errno.ENOMEM,),
    "listing": SHORT,
    "map_memory": (errno.ENOMEM,),
    "cpus_of": (errno.ESRCH,),
    "set_cpus": (errno.EINVAL, errno.EPERM),
    "set_niceness": (errno.EACCES,),
    "process_file": (*SHORT, errno.ESRCH, errno.EACCES),
    "open_shared": (*SHORT, errno.EACCES),
    "unlink_shared": (errno.EACCES,),
    "channel_ends": (*SHORT, errno.ENOBUFS),
    "listen_at": (errno.EMFILE, errno.EACCES, errno.EADDRINUSE),
    "accept": (*SHORT, errno.ECONNABORTED),
    "connect": (errno.EMFILE, errno.ECONNREFUSED, errno.EAGAIN),
    "peer_pidfd": (errno.EMFILE, errno.ESRCH),
    "make_directory": (errno.EACCES, errno.ENOSPC),
    "duplicate": (errno.EMFILE,),
    "send": (errno.ENOBUFS, errno.ENOMEM),
    "receive": (errno.ENOMEM,),
    "start_thread": (errno.EAGAIN,),
    "wait": (errno.ENOMEM,),
    "exists": (errno.ENOMEM,),
}
VICTIM = "detect"  # the flow whose calls fail
LIMITS: dict[str, Any] = {"max_rss": 1 << 40, "cpus": os.sched_getaffinity(0), "nice": os.getpriority(os.PRIO_PROCESS, 0)}
DEPTH = 5  # frames of this package that tell places apart
PATIENCE = 8.0  # seconds in which what is to happen happens
HANGS = 60.0
TRIES = 5


@dataclass(frozen=True)
class Point:
    """A call, in a process, at a place of the code, and how it fails."""

    role: str
    call: str
    place: str
    errno: int

    def __str__(self) -> str:
        return f"{self.role}: {self.call} -> {errno.errorcode[self.errno]} at {self.place}"


class Faults:
    """Wraps the calls of `pipert_shm.system.calls`, in this process and those that are forked from it.

    :param seen: a file that each place is written to.
    :param fired: a file that is there as soon as the point was met.
    """

    def __init__(self, seen: Path, point: Point | None, fired: Path) -> None:
        self.role = "parent"
        self._seen = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._point = point
        self._fired = fired
        for call in ERRNOS:
            setattr(calls, call, self._wrapped(call, getattr(calls, call)))
        self._becomes(pipert_shm.parent.session, "launch", "launcher")
        self._becomes(pipert_shm.parent.fork_servers, "run_fork_server", "fork server")
        for module in (pipert_shm.launcher.loop, pipert_shm.launcher.fork_server_process):
            self._becomes(module, "run_flow", None)

    def _becomes(self, module: Any, name: str, role: str | None) -> None:
        """Notes, in a forked process, what it is."""
        original = getattr(module, name)

        def become(*arguments: Any) -> Any:
            self.role = role or ("flow" if arguments[0].name == VICTIM else "another flow")
            return original(*arguments)

        setattr(module, name, become)

    def _wrapped(self, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            point, place = self._point, _place(sys._getframe(1))
            if point is None:
                os.write(self._seen, f"{self.role}\t{call}\t{place}\n".encode())
            elif (self.role, call, place) == (point.role, point.call, point.place) and self._fire():
                raise OSError(point.errno, os.strerror(point.errno))
            return original(*arguments, **options)

        return made

    def _fire(self) -> bool:
        """Once, whichever process comes first."""
        try:
            os.close(os.open(self._fired, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def _place(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None and len(names) < DEPTH:
        code = frame.f_code
        if "pipert_shm" in code.co_filename:
            names.append(code.co_qualname if hasattr(code, "co_qualname") else code.co_name)
        frame = frame.f_back
    return " < ".join(names)


# ---- the pipe that all of it happens to ----------------------------------------------------------


class Ticks(SourceRoutine):
    """Sends frames, larger ones when it is told to."""

    size = 32

    def setup(self) -> None:
        self.set_const_fps(200)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((self.size, 100))
        frame[...] = self.meta.sequence % 251
        return frame

    @events("GROW")
    def grow(self) -> None:
        self.size = 320


class Forward(MiddleRoutine):
    """Sends on what it gets."""

    def main_logic(self, frame: np.ndarray) -> np.ndarray:
        return frame


class Screen(DestinationRoutine):
    """Looks at each frame."""

    def main_logic(self, frame: np.ndarray) -> None:
        assert (frame == frame[0, 0]).all()


class Trial:
    """One run, in a process of its own.

    :param strict: whether the pipe may not end, nor the flows beside the victim stand still.
    """

    def __init__(self, point: Point | None) -> None:
        self.pipe = Pipe(grace_period=2)
        self.camera, self.late = Ticks("camera"), Screen("late")
        detect, screen, other, wall = Forward(VICTIM), Screen("screen"), Ticks("other"), Screen("wall")
        for routine in (self.camera, detect, screen, other, wall):
            self.pipe.create_flow(routine.name, False, routine, **(LIMITS if routine is detect else {}))
        self.pipe.link(Wire(self.camera, detect), Wire(detect, screen), Wire(other, wall))
        self.point = point
        self.told: list[str] = []

    def run(self) -> None:
        """:raises AssertionError: when the pipe does not do what it should."""
        if not self._try("build", self.pipe.build):
            return
        steps: list[tuple[str, Callable[[], object]]] = [
            ("start", self._start),
            ("link", lambda: self._event(LINK_EVENT_NAME, "camera", link_routine_name="wall")),
            ("tap", self._tap),
            ("attach", self._attach),
            ("trace", self._trace),
            ("later build", self._extend),
            ("larger ring", lambda: self._event("GROW", "camera")),
            ("restart", self._kill),
            ("unlink", lambda: self._event(UNLINK_EVENT_NAME, "camera", unlink_routine_name="wall")),
            ("stop", lambda: self.pipe.notify_event(STOP_EVENT_NAME)),
            ("start again", self._start),
        ]
        for name, step in steps:
            self._try(name, step)
            if name != "stop":
                self._others_move(name)
        self._try("restart after all", self._kill)
        with suppress(PipeFailed):
            self.pipe.join(to_kill=True)

    def _try(self, name: str, step: Callable[[], object]) -> bool:
        """Does a step, which works or says clearly why not."""
        try:
            step()
        except (PipertError, OSError) as error:
            self.told.append(f"{name}: {describe(error)}")
            assert self.point is not None, self.told[-1]
            return False
        return True

    def _start(self) -> None:
        self.pipe.notify_event(START_EVENT_NAME)

    def _event(self, name: str, routine: str, **parameters: Any) -> None:
        self.pipe.notify_event(name, specific_routine=routine, **parameters)

    def _tap(self) -> None:
        with self.pipe.tap("other") as tap:
            tap.read(PATIENCE)

    def _attach(self) -> None:
        """This process is at once one that attaches."""
        with pipert_shm.attach(self.pipe._built().segment.pipe_id) as attached:
            assert attached.structure()["Routines"]
            with attached.tap("other") as tap:
                tap.read(PATIENCE)
                self._event("GROW", "other")
                assert attached.statistics().flows

    def _trace(self) -> None:
        """A trace begins and ends. One that could not be whole is not in the way of the next one."""
        tracing = self.pipe._built().tracing
        for _ in range(2):
            tracing.begin(1 << 10)
            assert tracing.end()

    def _extend(self) -> None:
        self.pipe.create_flow("late", False, self.late)
        self.pipe.link(Wire(self.camera, self.late))
        self.pipe.build()
        self._start()
        self._moves("other", "wall")

    def _kill(self) -> None:
        """Kills the victim, and waits until it works again, unless it has failed for good."""
        statistics = self.pipe.statistics().flows
        for victim in {VICTIM, "late"} & statistics.keys():
            if statistics[victim].pid:
                os.kill(statistics[victim].pid, signal.SIGKILL)
        before = self.pipe.statistics().routines["screen"].received

        def settled() -> bool:
            now = self.pipe.statistics()
            return now.flows[VICTIM].state == "failed" or now.routines["screen"].received > before + 5

        eventually(settled, "a restart", PATIENCE)

    def _others_move(self, after: str) -> None:
        self._moves("other", "wall", f"other -> wall after {after!r} (told: {self.told})")

    def _moves(self, sender: str, receiver: str, what: str = "") -> None:
        before = self.pipe.statistics().wires[sender, receiver].received
        eventually(lambda: self.pipe.statistics().wires[sender, receiver].received > before + 3, what, PATIENCE)


def trial(seen: Path, point: Point | None, fired: Path) -> str:
    """Runs one trial here; what is wrong, or nothing."""
    processes.adopt_orphans()
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    ids: list[str] = []
    make_id = pipert_shm.shm.segments.new_pipe_id
    pipert_shm.shm.segments.new_pipe_id = lambda: ids.append(make_id()) or ids[-1]  # type: ignore[func-returns-value]
    records = io.StringIO()
    logging.basicConfig(stream=records, level=logging.INFO, force=True)
    Faults(seen, point, fired)
    try:
        one = Trial(point)
        one.run()
        del one
    except BaseException:
        return f"{traceback.format_exc(limit=-3)}\n{records.getvalue()[-3000:]}"
    left: list[str] = []

    def clean() -> bool:
        for pid in filter(processes.is_zombie, processes.descendants()):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        left[:] = [
            *map(processes.describe, processes.descendants()),
            *(repr(thread) for thread in set(threading.enumerate()) - threads),
            *(path.name for path in Path("/dev/shm").glob("pipert-*") if path.name.split("-")[1] in ids),
        ]
        if len(os.listdir("/proc/self/fd")) > files + 1:  # one is `seen`
            left.append(f"descriptors: {[os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')[files:-1]]}")
        return not left

    try:
        eventually(clean, "an end without leftovers", PATIENCE)
    except AssertionError:
        return f"left: {left}\n{records.getvalue()[-3000:]}"
    return ""


# ---- all of them ---------------------------------------------------------------------------------


@dataclass
class Running:
    """A trial that runs in a process forked from this one: what it needs is imported already."""

    point: Point | None
    number: int
    pid: int
    pidfd: int
    out: Path
    fired: Path
    deadline: float
    tries: int


def start(point: Point | None, folder: Path, number: int, others: Iterable[Running] = (), tries: int = 1) -> Running:
    """Forks a process that runs the trial, writes what is wrong with it to a file, and ends as any program does."""
    out, fired = folder / f"out{number}", folder / f"fired{number}"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        sockets = folder / f"sockets{number}"  # of its own: where other pipes leave some, more places are come by
        sockets.mkdir(mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(sockets)
        for other in others:
            os.close(other.pidfd)
        with out.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        faulthandler.enable()  # which SIGABRT makes tell the stacks
        trouble = trial(folder / "seen", point, fired)
        print(trouble)
        sys.exit(bool(trouble))
    return Running(point, number, pid, os.pidfd_open(pid), out, fired, time.monotonic() + HANGS, tries)


def ended(running: list[Running]) -> Running:
    """Waits for one of them to end, or to hang for too long, and takes it out."""
    with selectors.DefaultSelector() as selector:
        for one in running:
            selector.register(one.pidfd, selectors.EVENT_READ, one)
        found = selector.select(max(0.0, min(one.deadline for one in running) - time.monotonic()))
    first: Running = found[0][0].data if found else min(running, key=lambda one: one.deadline)
    running.remove(first)
    return first


def outcome(one: Running) -> tuple[str, bool]:
    """What was wrong, and whether the point was met."""
    hangs = not select.select([one.pidfd], [], [], 0)[0]
    if hangs:
        os.killpg(one.pid, signal.SIGABRT)  # faulthandler tells where it stands
        select.select([one.pidfd], [], [], 0.5)
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
    _, status = os.waitpid(one.pid, 0)
    os.close(one.pidfd)
    met, out = one.fired.exists(), one.out.read_text()
    one.fired.unlink(missing_ok=True)
    return ("it hangs\n" * hangs + (out or f"it ended with {status}") if status or hangs else ""), met


def find_points(folder: Path, *, one_each: bool) -> list[Point]:
    """Every place that a run without faults comes by, and every error number that the call may return there.

    :param one_each: one number for each place, another one from place to place.
    """
    (folder / "seen").touch()
    trouble, _ = outcome(ended([start(None, folder, 0)]))
    assert not trouble, f"without a fault: {trouble}"
    places = sorted({tuple(line.split("\t")) for line in (folder / "seen").read_text().splitlines()})
    points = []
    for turn, (role, call, place) in enumerate(place for place in places if place[0] != "another flow"):
        numbers = ERRNOS[call]
        points += [Point(role, call, place, number) for number in ((numbers[turn % len(numbers)],) if one_each else numbers)]
    return points


def check_all(points: list[Point], folder: Path, jobs: int) -> int:
    """Runs the points, several at a time; how many did not hold. A place that only some runs come by gets a few tries."""
    failed = 0
    waiting = list(enumerate(points, 1))
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            number, point = waiting.pop(0)
            running.append(start(point, folder, number, running))
        one = ended(running)
        trouble, met = outcome(one)
        if not trouble and not met:
            if one.tries < TRIES:
                running.append(start(one.point, folder, one.number, running, one.tries + 1))
                continue
            trouble = "no run came by that place again"
        if trouble:
            failed += 1
            print(f"FAILED {one.point}\n{trouble}", flush=True)
    print(f"errno points: {len(points) - failed} of {len(points)} hold, in {len({point.place for point in points})} places")
    return failed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="1/1", help="only this share of the points, such as 2/5")
    parser.add_argument("--only", default="", help="only points that have this text in them")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--one-each", action="store_true", help="one error number for each place, and not each of them")
    parser.add_argument("--list", action="store_true", help="only tell them")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    home, folder = os.getpid(), Path(tempfile.mkdtemp())
    try:
        points = [point for point in find_points(folder, one_each=arguments.one_each) if arguments.only in str(point)]
        if arguments.list:
            print(*points, len(points), sep="\n")
            return 0
        return bool(check_all(points[part - 1 :: parts], folder, arguments.jobs))
    finally:
        if os.getpid() == home:  # a trial passes by here, too, when it ends
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
