"""What fails costs itself: requests that can't be, at the moment at which they can't be, and what is left of them."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from killing import FAST, await_motion, await_successor, flows_of, kill_flows, pid_of, running
from pipert_shm import (
    LINK_EVENT_NAME,
    LOG_DATA,
    START_EVENT_NAME,
    Pipe,
    PipeFailed,
    PipeStateError,
    SourceRoutine,
    Wire,
    WiresValidation,
)
from pipert_shm.control import messages
from pipert_shm.parent import session
from routines import Frames, Sink, chain
from tampering import tampering
from waiting import Board, eventually


def test_ctrl_c_while_a_pipe_is_built() -> None:
    """It is told when the flows are there; then they are the pipe's."""
    pipe = Pipe(grace_period=1)
    camera = Frames("camera", None)
    chain(pipe, camera, Sink("screen"))
    launch = session.Session.launch

    def interrupted(it: session.Session) -> None:
        launch(it)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Session, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipe.build()
    with running_already(pipe):
        grow = session.Session.grow

        def also_interrupted(it: session.Session, *new: Any) -> None:
            grow(it, *new)
            signal.raise_signal(signal.SIGINT)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session.Session, "grow", also_interrupted)
            add(pipe, camera, "late")
            with pytest.raises(KeyboardInterrupt):
                pipe.build()
        with pytest.raises(PipeStateError, match="nothing was added"):
            pipe.build()
        add(pipe, camera, "later")
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)
        assert set(pipe.statistics().flows) == {"camera", "screen", "late", "later"}


@contextmanager
def running_already(pipe: Pipe) -> Iterator[None]:
    """As `killing.running`, of a pipe that is built."""
    pipe.notify_event(START_EVENT_NAME)
    try:
        yield
    finally:
        pipe.join(to_kill=True)


def add(pipe: Pipe, camera: SourceRoutine, name: str, **wire: Any) -> None:
    pipe.create_flow(name, False, sink := Sink(name), **FAST)
    pipe.link(Wire(camera, sink, **wire))


THREE: Any = np.int64(3)


class Odd:
    """What can't be shown."""

    def __repr__(self) -> str:
        raise SystemExit("no repr")


class Odds(SourceRoutine):
    def main_logic(self) -> Odd:
        return Odd()


def test_payloads_that_can_not_be_logged() -> None:
    pipe = Pipe(grace_period=1)
    pipe.create_flow("both", True, Odds("odds"), Sink("sink"))
    with running(pipe):
        await_motion(pipe)
        pipe.notify_event(LOG_DATA)
        await_motion(pipe, messages=100)
        assert {routine.state for routine in pipe.statistics().routines.values()} == {"running"}


def test_numbers_of_numpy_in_a_later_build() -> None:
    pipe = Pipe(grace_period=1, timeout=np.float64(1), capacity=int(np.int64(2)))
    camera = Frames("camera", None)
    chain(pipe, camera, Sink("screen"), restart_window=np.float64(60), max_restarts=THREE)
    with running(pipe):
        pipe.create_flow("late", False, late := Sink("late"), restart_window=np.float64(1), max_restarts=THREE)
        pipe.link(Wire(camera, late, max_age=np.float64(1), timeout=np.float64(1), policy="block"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)


def test_a_link_of_several_senders_is_made_whole_or_not_at_all() -> None:
    pipe = Pipe(grace_period=1)
    flows_of(pipe, Frames("a", None), Frames("b", None), Sink("c"), Sink("d"), wires={"a": "c", "b": "d"})
    with running(pipe):
        with pytest.raises(WiresValidation, match="wired to 'd' already"):
            pipe.notify_event(LINK_EVENT_NAME, {"a": ["a"], "b": ["b"]}, link_routine_name="d")
        linked = {ends for ends, wire in pipe.statistics().wires.items() if wire.linked}
        assert linked == {("a", "c"), ("b", "d")}
        await_motion(pipe, ("a", "d"))


def test_a_pipe_that_is_to_stop_at_a_failure_ends_at_once_where_a_flow_can_not_be_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that come after it are not forked any more."""
    fork, failed = os.fork, Board()

    def no_first_flow() -> int:
        if os.getpid() != PARENT and not failed[0]:  # in the launcher
            failed[0] = 1
            raise OSError(errno.EAGAIN, "on purpose")
        return fork()

    monkeypatch.setattr("pipert_shm.system.calls.fork", no_first_flow)
    pipe = Pipe(on_failure="stop", grace_period=5)
    chain(pipe, Frames("a", None), Sink("b"))
    with pytest.raises(PipeFailed, match=r"flow 'a' can't be started: .*ulimit -u") as failure:
        pipe.build()
    assert failure.value.exit_codes == {}


PARENT = os.getpid()


def test_what_the_statistics_say_of_flows_that_were_down_at_the_end() -> None:
    pipe = Pipe(grace_period=1)
    chain(pipe, Frames("camera", None), Sink("screen"), restart_window=60, max_restarts=100)
    with running(pipe):
        await_motion(pipe)
        for _ in range(5):
            kill_flows(pipe, "screen")
        os.kill(pid_of(pipe, "screen"), signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["screen"].state == "restarting", "a back-off")
    now = pipe.statistics()
    assert {flow.state for flow in now.flows.values()} == {"ended"}
    assert {routine.state for routine in now.routines.values()} == {"stopped"}


def test_taps_whose_making_could_not_be_read_are_taken_back() -> None:
    """More often than there are places for taps."""
    with tampering() as orders:
        pipe = Pipe(grace_period=1, logger=logging.getLogger("taps"))
        pipe.logger.setLevel(logging.CRITICAL)
        chain(pipe, Frames("camera", None), Sink("screen"))
        with running(pipe):
            for _ in range(10):
                orders.change(messages.TapMade, "flipped", by_launcher=True)
                with pytest.raises(PipeStateError, match="could not be read"):
                    pipe.tap("camera")
            with pipe.tap("camera") as tap:
                tap.read(10)


def test_a_start_that_is_refused_does_not_count() -> None:
    pipe = Pipe(grace_period=1)
    chain(pipe, Frames("camera", 10), Sink("screen"), **FAST)
    pipe.build()
    numbers: list[int] = []
    ask = pipe._built()._ask

    def refused(message: Any, **options: Any) -> Any:
        numbers.append(message.starts)
        if len(numbers) == 2:
            raise PipeStateError("on purpose")
        return ask(message, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe._built(), "_ask", refused)
        pipe.notify_event(START_EVENT_NAME)
        eventually(pipe._built().outcome.over.is_set, "the end")
        with pytest.raises(PipeStateError, match="on purpose"):
            pipe.notify_event(START_EVENT_NAME)
        assert pipe._built().outcome.over.is_set()
        pipe.notify_event(START_EVENT_NAME)
    assert numbers == [1, 2, 3]
    pipe.join()


def test_a_log_handler_may_tap() -> None:
    outputs: list[Any] = []
    logger = logging.getLogger("of test_failures")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with pipe.tap("camera") as tap:
                outputs.append(tap.read(10))

    pipe = Pipe(grace_period=1, logger=logger)
    chain(pipe, Frames("camera", None), Sink("screen"), **FAST)
    with running(pipe):
        logger.addHandler(handler := Handler())
        screen = pid_of(pipe, "screen")
        os.kill(screen, signal.SIGKILL)
        await_successor(pipe, "screen", screen)
        eventually(lambda: bool(outputs), "an output")
        logger.removeHandler(handler)
    outputs.clear()
