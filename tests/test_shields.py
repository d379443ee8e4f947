"""What keeps users' objects and habits from ending more than themselves: signals, streams, odd exceptions, odd log records."""

from __future__ import annotations

import enum
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from conftest import RunScript
from killing import FAST, await_motion, await_states, await_successor, pid_of, running
from pipert_shm import EndOfStream, Pipe, PipeStateError, SourceRoutine, Wire, events
from routines import Frames, Sink, chain
from waiting import Board, eventually

DID, POKES, END, LARGE = range(4)


class Acts(SourceRoutine):
    """Sends numbers; at the fifth it does something."""

    counter_names = ("pokes",)

    def __init__(self, name: str, act: Callable[[], object], board: Board | None = None) -> None:
        super().__init__(name)
        self.act = act
        self.board = board or Board()

    def main_logic(self) -> int:
        if self.meta.sequence == 100 and not self.board[DID]:
            self.board[DID] = 1
            self.act()
        if self.board[END]:
            raise EndOfStream
        return self.meta.sequence

    @events("POKE")
    def poke(self, act: bool = False) -> None:
        self.board.add(POKES)
        if act:
            self.act()

    @events("LARGE")
    def large(self, data: bytes) -> None:
        self.board.add(LARGE)


def raises_what_can_not_be_formatted() -> None:
    text: Any = b"{{ name }"  # of a template that was read as bytes
    raise SyntaxError("bad template", ("page.tmpl", 3, 5, text))


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise LookupError


class NamelessError(Exception, metaclass=Nameless):
    pass


def raises_what_has_no_name() -> None:
    raise NamelessError("text")


@pytest.mark.parametrize("act", [raises_what_can_not_be_formatted, raises_what_has_no_name])
def test_an_exception_that_can_not_be_told_is_one_error(act: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2)
    chain(pipe, routine := Acts("acts", act, board), Sink("sink"))
    with running(pipe):
        await_motion(pipe, messages=200)
        assert pipe.statistics().routines["acts"].errors == 1
        pipe.notify_event("POKE", act=True)
        pipe.notify_event("POKE")
        eventually(lambda: board[POKES] == 2, "a handler after one that failed")
        pipe.notify_event("stop")
        await_states(pipe, acts="stopped", sink="stopped")
        assert pipe.statistics().routines["acts"].errors == 2
    assert sum("failed" in text for text in caplog.messages) == 2
    assert routine.name == "acts"


class Packed:
    """Can't be unpickled, nor can it be told why."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raises_what_can_not_be_formatted, ()


class Sends(Acts):
    def main_logic(self) -> Any:
        return Packed() if self.meta.sequence == 100 else super().main_logic()


def test_a_payload_that_can_not_be_unpacked_nor_told_of_is_one_error() -> None:
    pipe = Pipe(policy="block", grace_period=2)
    chain(pipe, Sends("sends", lambda: None), Sink("sink"))
    with running(pipe):
        await_motion(pipe, messages=200)
        assert pipe.statistics().routines["sink"].errors == 1


class Level(enum.IntEnum):
    NOTICE = 35


class Text(str):
    __slots__ = ()


class Lazy:
    def __str__(self) -> str:
        return Text("lazy text")


class Logs(SourceRoutine):
    def main_logic(self) -> None:
        self._logger.log(Level.NOTICE, "a level of one's own")
        self._logger.error(Lazy())
        self._logger.error("many", extra={f"k{number}": "x" * 1900 for number in range(200)})
        self._logger.error("a stack", stack_info=True, extra={"door": 7})
        raise EndOfStream


def test_log_records_of_all_sorts_arrive(caplog: pytest.LogCaptureFixture) -> None:
    with Pipe() as pipe:
        pipe.create_flow("f", True, Logs("logs"), Sink("sink"))
        pipe.build()
        pipe.notify_event("start")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "a level of one's own"
    assert texts[1] == "lazy text"
    assert texts[2] == "many (without its 200 extra fields, which are too large)"
    assert caplog.records[3].stack_info
    assert vars(caplog.records[3])["door"] == 7
    assert pipe.statistics().routines["logs"].logs_lost == 0


def test_a_factory_of_log_records_that_fails_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    here, made = os.getpid(), logging.getLogRecordFactory()

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        if os.getpid() != here:
            raise RuntimeError("no connection in a forked process")
        return made(*arguments, **options)

    logging.setLogRecordFactory(make)
    try:
        pipe = Pipe(grace_period=2)
        chain(pipe, Acts("acts", raises_what_has_no_name), Sink("sink"), **FAST)
        with running(pipe):
            await_motion(pipe, messages=200)
            sink = pid_of(pipe, "sink")
            os.kill(sink, signal.SIGKILL)
            await_successor(pipe, "sink", sink)
            await_motion(pipe)
    finally:
        logging.setLogRecordFactory(made)


def test_signals_that_are_the_programs_own_matter() -> None:
    """They reach the whole group, as when a terminal is resized."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number)) for number in (signal.SIGWINCH, signal.SIGUSR1)
    }
    try:
        pipe = Pipe(grace_period=1)
        chain(pipe, Frames("camera", None), Sink("screen"))
        with running(pipe):
            pids = pipe._built()._launcher, *(pid_of(pipe, flow) for flow in ("camera", "screen"))  # 0 would be this group
            for number in before:
                for pid in pids:
                    os.kill(pid, number)
            await_motion(pipe, messages=10)
            assert {flow.restarts for flow in pipe.statistics().flows.values()} == {0}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not came


def test_a_standard_output_of_the_users_own(run_script: RunScript) -> None:
    """Without flush(): the processes of a pipe end all the same, and none becomes a copy of the program."""
    script = run_script(
        """
        import atexit, os, sys
        from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine
        class Tee:
            def __init__(self, stream): self.stream = stream
            def write(self, text): self.stream.write(text)
        class Camera(SourceRoutine):
            def setup(self): sys.stdout = Tee(sys.stdout)
            def main_logic(self):
                if self.meta.sequence == 5:
                    if os.fork() == 0:
                        raise RuntimeError("the child fails")
                    os.wait()
                if self.meta.sequence == 20: raise EndOfStream
                return self.meta.sequence
        class Screen(DestinationRoutine):
            def main_logic(self, data): pass
        atexit.register(lambda: os.write(1, b"the program ends\\n"))
        with Pipe(policy="block") as pipe:
            pipe.create_flow("f", False, camera := Camera("camera"))
            pipe.create_flow("g", False, screen := Screen("screen"))
            from pipert_shm import Wire
            pipe.link(Wire(camera, screen))
            pipe.build()
            pipe.notify_event("start")
        routines = pipe.statistics().routines
        os.write(1, f"{routines['screen'].received} {routines['camera'].errors}\\n".encode())
        """
    )
    assert script.lines == ["20 0", "the program ends"]


def test_closed_streams(run_script: RunScript) -> None:
    script = run_script(
        """
        import os, sys, time
        from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine
        class Camera(SourceRoutine):
            def main_logic(self):
                if self.meta.sequence == 10: raise EndOfStream
                self._logger.warning("a warning")
                return self.meta.sequence
        class Screen(DestinationRoutine):
            def main_logic(self, data): pass
        sys.stdout.close(); sys.stderr.close()
        pipe = Pipe(policy="block")
        pipe.create_flow("f", True, Camera("camera"), Screen("screen"))
        pipe.build()
        pipe.notify_event("start")
        pipe.join()
        os._exit(7 if pipe.statistics().routines["screen"].received == 10 and time.process_time() < 5 else 1)
        """
    )
    assert script.returncode == 7


def test_a_flow_that_closes_the_channel_to_its_launcher_is_restarted() -> None:
    """As soon as something is said on it."""
    pipe = Pipe(grace_period=1)
    chain(pipe, Acts("acts", lambda: os.closerange(3, 64)), Sink("sink"), **FAST)
    with running(pipe):
        acts = pid_of(pipe, "acts")
        await_motion(pipe, messages=200)
        pipe.notify_event("POKE")
        await_successor(pipe, "acts", acts)
        await_motion(pipe)


class Garbage:
    def __init__(self, routine: SourceRoutine) -> None:
        self.me = self
        self.routine = routine

    def __del__(self) -> None:
        self.routine.notify_event("POKE")


class Collects(Acts):
    def main_logic(self) -> int:
        Garbage(self)
        self.notify_event("POKE")
        return self.meta.sequence


def test_events_that_the_collector_notifies_in_the_midst_of_others() -> None:
    board = Board()
    routine = Collects("collects", lambda: None, board)
    pipe = Pipe(grace_period=2)
    pipe.create_flow("f", True, routine, Sink("sink"))
    thresholds = gc.get_threshold()
    gc.set_threshold(7, 2, 2)
    try:
        with running(pipe):
            eventually(lambda: board[POKES] > 300, "events")
            pipe.notify_event("stop")
            await_states(pipe, collects="stopped")
    finally:
        gc.set_threshold(*thresholds)


def test_events_of_a_signal_handler_in_the_midst_of_a_large_one() -> None:
    board = Board()
    pipe = Pipe(grace_period=2)
    pipe.create_flow("f", True, Acts("acts", lambda: None, board), Sink("sink"))
    with running(pipe):

        def poke(*_: object) -> None:
            pipe.notify_event("POKE")
            signal.setitimer(signal.ITIMER_REAL, 0.003)  # not at intervals: where it is slow, handlers would nest without end

        before = signal.signal(signal.SIGALRM, poke)
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        try:
            for number in range(60):
                pipe.notify_event("LARGE", data=b"x" * 900_000)
                eventually(lambda: board[LARGE] > number - 10, "that they are handled")  # noqa: B023 -- at most 16 MB may wait
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_a_build_in_the_midst_of_a_build() -> None:
    """By a signal's handler."""
    pipe = Pipe(grace_period=1)
    camera = Frames("camera", None)
    chain(pipe, camera, Sink("screen"))
    refused: list[PipeStateError] = []
    with running(pipe):

        def build_again(*_: object) -> None:
            try:
                pipe.build()
            except PipeStateError as error:
                refused.append(error)

        grow = pipe._built().grow

        def grow_and_build(*new: Any) -> None:
            build_again()
            grow(*new)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipe._built(), "grow", grow_and_build)
            pipe.create_flow("late", False, late := Sink("late"))
            pipe.link(Wire(camera, late))
            pipe.build()
        assert "another change is at work already" in str(refused[0])
        pipe.notify_event("start")
        await_motion(pipe)
    assert threading.active_count() == 1
