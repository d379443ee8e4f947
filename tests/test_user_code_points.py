"""User-code points: every piece of users' code that a pipe runs raises, hangs, exits its process, forks, or returns nonsense.

What fails then is that call: it is counted, or logged, or its flow is restarted; all others go on, and the pipe ends in time.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from killing import FAST, await_states, pid_of
from misbehaving import (
    END,
    FORKING,
    HOOKS,
    MISDEEDS,
    PINGED,
    RAISING,
    STRANGE,
    TWICE,
    WILL,
    Acting,
    Acts,
    Extra,
    Numbers,
    Takes,
)
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, PipeFailed, Wire
from pipert_shm.flow import failures
from pipert_shm.flow.process import STACKS_SIGNAL
from processes import descendants
from waiting import eventually

GRACE = 1.0
SOON = 10.0
HANG = 0.3
OF_RECEIVER = {"payload __setstate__", "receive"}
UNCOUNTED = {
    "message __str__",
    "payload __del__",
    "extra __reduce__",
    "extra __setstate__",
    "log handler",
    "log filter",
    "log formatter",
}
IN_PARENT = {"extra __setstate__", "log handler", "log filter", "log formatter"}
BETWEEN_ROUTINES = ("payload __reduce__", "payload __setstate__", "transmit", "receive")
AT_A_START = {"setup", "cleanup", "start handler", "stop handler"}

pytestmark = [
    pytest.mark.machine,  # a routine that is only slow would be taken for one that hangs
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # forks of a process with threads are what this is about
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Written(logging.Handler):
    """Keeps what it is given, and acts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text == "logged":
            WILL.act("log handler")
            self.format(record)
        self.texts.append(text)


class Formats(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        WILL.act("log formatter")
        return super().format(record)


def _filter(record: logging.LogRecord) -> bool:
    if record.getMessage() == "logged":
        WILL.act("log filter")
    return True


class Bench:
    """`numbers` to `acts` to `takes`, which misbehave; `sibling` in the flow of `acts`, and `left` to `right` and to that."""

    def __init__(self, hang_timeout: float | None) -> None:
        WILL.forget()
        logger = logging.getLogger("user code")
        self.written = Written()
        self.written.setFormatter(Formats())
        self.written.filters = [_filter]
        logger.handlers, logger.propagate = [self.written], False
        self.pipe = Pipe(policy="block", logger=logger, grace_period=GRACE)
        numbers, acts, takes = Numbers("numbers"), Acts("acts"), Takes("takes")
        left, right, sibling = Numbers("left"), Takes("right"), Takes("sibling")
        acts.hang_timeout = takes.hang_timeout = hang_timeout
        for source in (numbers, left):
            source.set_const_fps(500)
        self.pipe.create_flow("acts", False, acts, sibling, **FAST)
        for routine in (numbers, takes, left, right):
            self.pipe.create_flow(routine.name, False, routine, **FAST)
        self.pipe.link(Wire(numbers, acts), Wire(acts, takes, data_transmitter=Acting()), Wire(left, [right, sibling]))
        self.pings = 0

    def trigger(self, hook: str) -> None:
        """Makes somebody call it, where nobody would anyway."""
        pipe = self.pipe
        if hook in AT_A_START:
            done = WILL.done
            pipe.notify_event(STOP_EVENT_NAME, specific_routine="acts")
            eventually(lambda: WILL.done > done or self.state("acts") == "stopped", "a stop", SOON)
            if hook != "cleanup":
                pipe.notify_event(START_EVENT_NAME, specific_routine="acts")
        elif hook == "custom handler":
            pipe.notify_event("custom", specific_routine="acts", number=0)
        elif hook == "parameter __setstate__":
            pipe.notify_event("custom", specific_routine="acts", number=0, parameter=Extra("parameter"))
        elif hook == "parameter __reduce__":
            pipe.notify_event("tell", specific_routine="acts")
        elif hook.startswith(("extra", "message", "log")):
            pipe.notify_event("say", specific_routine="acts")

    def state(self, name: str) -> str:
        return self.pipe.statistics().routines[name].state

    def errors(self, name: str) -> int:
        return self.pipe.statistics().routines[name].errors

    def restarts(self, name: str) -> int:
        return self.pipe.statistics().flows[name].restarts

    def await_moves(self, *wires: tuple[str, str]) -> None:
        before = {wire: self.pipe.statistics().wires[wire].received for wire in wires}
        eventually(
            lambda: all(self.pipe.statistics().wires[wire].received > number + 1 for wire, number in before.items()),
            f"{wires} to move",
            SOON,
        )

    def await_answer(self) -> None:
        self.pings += 1
        self.pipe.notify_event("custom", specific_routine="acts", number=self.pings)
        eventually(lambda: WILL.board[PINGED] == self.pings, "an answer", SOON)


@contextmanager
def bench(hang_timeout: float | None = HANG, *, started: bool = True) -> Iterator[Bench]:
    it = Bench(hang_timeout)
    with pytest.MonkeyPatch.context() as patch:  # what fails in the same way as something before it is told of soon
        patch.setattr(failures, "PERIOD", GRACE)
        it.pipe.build()
    try:
        if started:
            it.pipe.notify_event(START_EVENT_NAME)
            it.await_moves(("acts", "takes"))
        yield it
    finally:
        _end(it.pipe, GRACE + 3)


def _end(pipe: Pipe, limit: float) -> None:
    """It has to end in time, whoever hangs."""
    how: list[BaseException | None] = []

    def end() -> None:
        try:
            pipe.join(to_kill=True)
            how.append(None)
        except BaseException as error:
            how.append(error)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(limit)
    assert how, f"the pipe does not end within {limit} s"
    assert how[0] is None or isinstance(how[0], PipeFailed), how


# ---- while it runs -----------------------------------------------------------------------------------

RUNNING = [hook for hook in HOOKS if hook not in ("kill handler", "flow filter")]


def _makes_sense(hook: str, misdeed: str) -> bool:
    if misdeed == "nonsense":
        return hook in ("main_logic", "transmit")
    if hook in IN_PARENT and misdeed in ("exits", "hangs"):
        return False  # it is the user's program
    return not (hook in ("setup", "cleanup") and misdeed == "hangs")  # see below


POINTS = [(hook, misdeed) for hook in RUNNING for misdeed in MISDEEDS if _makes_sense(hook, misdeed)]


def _misbehave(it: Bench, hook: str, misdeed: str) -> None:
    who = "takes" if hook in OF_RECEIVER else "acts"
    done, errors, restarts, told = WILL.done, it.errors(who), it.restarts(who), len(it.written.texts)
    twice, processes = WILL.board[TWICE], len(descendants())
    fatal = misdeed in ("exits", "hangs")
    raising = misdeed in RAISING or misdeed == "nonsense"
    WILL.plan(hook, misdeed)
    it.trigger(hook)
    eventually(lambda: WILL.done > done, "the misdeed", SOON)
    counted = int(raising and hook not in UNCOUNTED)
    eventually(lambda: it.restarts(who) == restarts + fatal, "a restart", SOON)
    eventually(lambda: it.errors(who) == errors + counted, f"{counted} errors", SOON)
    if counted or fatal or (raising and hook == "log handler"):
        eventually(lambda: any(text != "logged" for text in it.written.texts[told:]), "a word in the log", SOON)
    if hook in ("setup", "cleanup") and counted:
        await_states(it.pipe, acts="failed", takes="ended")
    if hook in AT_A_START:
        it.pipe.notify_event(START_EVENT_NAME)
    it.await_moves(("acts", "takes"), ("left", "right"), ("left", "sibling"))
    it.await_answer()
    assert (it.errors(who), it.restarts(who)) == (errors + counted, restarts + fatal)
    assert WILL.board[TWICE] == twice, "a message came twice"
    eventually(lambda: len(descendants()) == processes, "an end of forked children", SOON)


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_what_users_wrote_misbehaves_in_a_running_pipe(misdeed: str) -> None:
    with bench() as it:
        for hook, its in POINTS:
            if its == misdeed:
                try:
                    _misbehave(it, hook, misdeed)
                except AssertionError as error:
                    raise AssertionError(f"{hook} {misdeed}: {error}") from None


def test_every_hook_has_its_points() -> None:
    assert {hook for hook, _ in POINTS} == set(RUNNING)
    assert len(POINTS) == len(RUNNING) * (len(MISDEEDS) - 1) + 2 - 2 * len(IN_PARENT) - 2


# ---- in other states ---------------------------------------------------------------------------------

AT_REST = ("custom handler", "parameter __setstate__", "parameter __reduce__", "extra __reduce__", "message __str__")


def _reach(it: Bench, state: str) -> None:
    if state == "built":
        return
    it.pipe.notify_event(START_EVENT_NAME)
    it.await_moves(("acts", "takes"))
    if state == "stopped":
        it.pipe.notify_event(STOP_EVENT_NAME)
    elif state == "ended":
        WILL.board[END] = 1
    await_states(it.pipe, acts=state)


@pytest.mark.parametrize("state", ["built", "stopped", "ended"])
def test_what_users_wrote_misbehaves_at_rest(state: str) -> None:
    """The state stays as it was, also over a restart, and the pipe starts when it is told to."""
    with bench(started=False) as it:
        _reach(it, state)
        for hook in AT_REST:
            for misdeed in (*RAISING, *FORKING, "exits", "hangs"):
                done, restarts, fatal = WILL.done, it.restarts("acts"), misdeed in ("exits", "hangs")
                WILL.plan(hook, misdeed)
                it.trigger(hook)
                eventually(lambda done=done: WILL.done > done, f"{hook} {misdeed}", SOON)  # type: ignore[misc]
                eventually(
                    lambda restarts=restarts, fatal=fatal: it.restarts("acts") == restarts + fatal,  # type: ignore[misc]
                    "a restart",
                    SOON,
                )
                eventually(lambda: it.pipe.statistics().flows["acts"].state == "running", "a process that can be told", SOON)
                it.await_answer()
                assert it.state("acts") == state
        WILL.board[END] = 0
        it.pipe.notify_event(START_EVENT_NAME)
        it.await_moves(("acts", "takes"), ("left", "right"), ("left", "sibling"))


@pytest.mark.parametrize("hook", ["main_logic", "cleanup", "stop handler"])
@pytest.mark.parametrize("misdeed", [*RAISING, *FORKING, "exits"])
def test_what_users_wrote_misbehaves_while_it_stops(hook: str, misdeed: str) -> None:
    with bench() as it:
        done = WILL.done
        WILL.plan(hook, misdeed)
        it.pipe.notify_event(STOP_EVENT_NAME)
        rests = "failed" if hook == "cleanup" and misdeed in RAISING else "stopped"
        await_states(it.pipe, acts=rests, left="stopped", right="stopped", sibling="stopped")
        if hook != "main_logic":  # which may be stopped before it is called; a handler may come after the stop
            eventually(lambda: WILL.done > done, f"{hook} {misdeed}", SOON)
        WILL.forget()
        it.pipe.notify_event(START_EVENT_NAME)
        it.await_moves(("acts", "takes"), ("left", "right"), ("left", "sibling"))


@pytest.mark.parametrize("hook", ["setup", "cleanup"])
def test_a_hang_in_setup_or_cleanup_is_ended_by_a_restart(hook: str) -> None:
    """`hang_timeout` is of calls of main_logic and handlers."""
    with bench() as it:
        done = WILL.done
        WILL.plan(hook, "hangs")
        it.trigger(hook)
        eventually(lambda: WILL.done > done, "the hang", SOON)
        it.await_moves(("left", "right"), ("left", "sibling"))
        it.await_answer()
        it.pipe.restart_flow("acts")
        it.pipe.notify_event(START_EVENT_NAME)
        it.await_moves(("acts", "takes"), ("left", "sibling"))


# ---- at the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("misdeed", [misdeed for misdeed in MISDEEDS if misdeed != "nonsense"])
def test_handlers_of_kill_misbehave(misdeed: str) -> None:
    with bench(None):
        WILL.plan("kill handler", misdeed)
    assert WILL.done == 1


@pytest.mark.parametrize("hook", ["main_logic", "setup", "cleanup", "custom handler", "payload __reduce__", "receive"])
def test_a_pipe_ends_while_something_hangs(hook: str) -> None:
    with bench(None) as it:
        WILL.plan(hook, "hangs")
        it.trigger(hook)
        if hook != "cleanup":
            eventually(lambda: WILL.done == 1, "the hang", SOON)
        it.await_moves(("left", "right"))


# ---- filters of loggers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["user code", "user code.acts.acts", "user code.acts"])
def test_filters_run_in_the_parent_alone(name: str) -> None:
    """One that raises would else break a restart in the launcher, or the thread of a flow's handlers."""
    home = os.getpid()

    def strange(record: logging.LogRecord) -> bool:
        if os.getpid() != home:
            WILL.board.add(STRANGE)
            raise RuntimeError("a filter, in the wrong process")
        return True

    logger: logging.Filterer = logging.getLogger(name)
    logger.addFilter(strange)
    try:
        with bench() as it:
            for hook in ("custom handler", "main_logic"):
                _misbehave(it, hook, "raises")
            restarts = it.restarts("acts")
            os.kill(pid_of(it.pipe, "acts"), signal.SIGKILL)
            eventually(lambda: it.restarts("acts") > restarts, "a restart", SOON)
            it.await_moves(("acts", "takes"), ("left", "sibling"))
    finally:
        logger.removeFilter(strange)
    assert not WILL.board[STRANGE]


# ---- what the points found ---------------------------------------------------------------------------


class DiesWhenAsked(Takes):
    """Hangs, and is dead when it is asked for the stacks of its threads."""

    hang_timeout = 0.2

    def main_logic(self, data: object) -> None:
        if WILL.board[PINGED] == 0:
            WILL.board[PINGED] = 1
            faulthandler.unregister(STACKS_SIGNAL)
            threading.Event().wait(1000)


def test_a_flow_that_dies_while_its_stacks_are_read_is_restarted() -> None:
    """The launcher read the end of its stacks for ever, and the whole pipe hung."""
    WILL.forget()
    numbers, asked = Numbers("numbers"), DiesWhenAsked("asked")
    pipe = Pipe(grace_period=GRACE)
    for routine in (numbers, asked):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(numbers, asked))
    pipe.build()
    try:
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().flows["asked"].restarts == 1, "a restart", SOON)
    finally:
        _end(pipe, GRACE + 3)


class Hangs(Takes):
    hang_timeout = 0.05

    def main_logic(self, data: object) -> None:
        while True:
            time.sleep(0)  # so the others run


class Busy(Numbers):
    """Calls ever deeper functions, so its frames come and go."""

    def main_logic(self) -> int:
        def deep(level: int) -> int:
            return deep(level - 1) if level else 0

        return deep(100)


def test_a_hang_is_told_of_while_the_other_threads_of_the_flow_run() -> None:
    """One thread walked the frames of all others while these ran: the flow died of SIGSEGV, its stacks untold."""
    WILL.forget()
    logger = logging.getLogger("user code")
    logger.handlers, logger.propagate = [written := Written()], False
    numbers, hangs, busy, takes = Numbers("numbers"), Hangs("hangs"), Busy("busy"), Takes("takes")
    pipe = Pipe(policy="drop_oldest", logger=logger, grace_period=GRACE)
    pipe.create_flow("numbers", False, numbers, **FAST)
    pipe.create_flow("mixed", False, hangs, busy, takes, **FAST)
    pipe.link(Wire(numbers, hangs), Wire(busy, takes))
    pipe.build()
    try:
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().flows["mixed"].restarts >= 20, "20 hangs", 30)
    finally:
        _end(pipe, GRACE + 3)
    told = [text for text in written.texts if "hangs in main_logic" in text]
    assert len(told) >= 20
    assert all(f"in {Hangs.main_logic.__name__}" in text and text.count("Stack (most") == 4 for text in told), told
