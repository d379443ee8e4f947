"""Messages that are needed are lost, doubled or damaged on their way: a restart of the flow at hand mends it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from applying import Yard, branches, notes, yard
from killing import await_states, await_successor, pid_of, pipe_id_of
from message_bench import GATE, SOON, Bench, Sink, Source, _end, bench
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, EndOfStream, Pipe, PipertError, SourceRoutine, Wire, attach
from pipert_shm.control import messages
from pipert_shm.control.messages import KINDS, Message
from pipert_shm.parent import changes, session
from pipert_shm.parent.relays import STRUCTURE
from processes import stop
from tampering import IN_PLACE, tampering
from waiting import Board, eventually

pytestmark = pytest.mark.machine  # half a second without an answer is a failure here


@contextmanager
def _tapped(it: Bench) -> Iterator[Any]:
    with suppress(PipertError):
        tap = it.pipe.tap("source")
        try:
            yield tap
        finally:
            tap.close()
        return
    yield None


def _tap(it: Bench) -> None:
    with _tapped(it):
        pass


def _restart(flow: str) -> Callable[[Bench], None]:
    def restart(it: Bench) -> None:
        pid = pid_of(it.pipe, flow)
        it.pipe.restart_flow(flow)
        with suppress(AssertionError):  # where that is the message that is lost
            eventually(lambda: it.pipe.statistics().flows[flow].pid not in (0, pid), "a restart", 0.5)

    return restart


def _cycle(it: Bench) -> None:
    it.pipe.notify_event(STOP_EVENT_NAME, specific_routine="sink")
    it.pipe.notify_event(START_EVENT_NAME, specific_routine="sink")


def _relink(it: Bench) -> None:
    it.pipe.notify_event("unlink", specific_routine="source", unlink_routine_name="other")
    it.pipe.notify_event("link", specific_routine="source", link_routine_name="other")


def _fail(it: Bench) -> None:
    it.pipe.notify_event(STOP_EVENT_NAME, specific_routine="other")
    it.pipe.notify_event("fail", specific_routine="other")
    it.pipe.notify_event(START_EVENT_NAME, specific_routine="other")


def _ask_for_what_cannot_be(it: Bench) -> None:
    """By a routine, which is told so."""
    parameters = {"link_routine_name": "left"}
    it.pipe.notify_event("relay", specific_routine="source", what="link", to="source", parameters=parameters)


def _relay(it: Bench) -> None:
    it.pipe.notify_event("relay", specific_routine="source", what="ping", to="sink", parameters={"number": 0})


def _attach(it: Bench) -> None:
    with attach(pipe_id_of(it.pipe)):
        pass


def _relay_question(it: Bench) -> None:
    with attach(pipe_id_of(it.pipe)) as yard:
        yard.relay(STRUCTURE, timeout=0.5)


def _trace(it: Bench) -> None:
    assert it.pipe._session is not None
    it.pipe._session.tracing.begin(64)
    it.pipe._session.tracing.end()


BY_FLOW = True
Trigger = Callable[[Bench], object]
NEEDED: dict[tuple[type[Message], bool], Trigger] = {
    (messages.Notify, False): lambda it: it.ping("source"),
    (messages.Answer, False): lambda it: it.ping("source"),
    (messages.MakeTap, False): _tap,
    (messages.AddTap, False): _tap,
    (messages.TapMade, BY_FLOW): _tap,
    (messages.TapMade, False): _tap,
    (messages.EndTap, False): _tap,
    (messages.RemoveTap, False): _tap,
    (messages.TapEnded, BY_FLOW): _tap,
    (messages.TapEnded, False): _tap,
    (messages.RestartFlow, False): _restart("source"),
    (messages.Ready, BY_FLOW): _restart("sink"),
    (messages.StartRoutines, False): _cycle,
    (messages.StateChanged, BY_FLOW): _cycle,
    (messages.Started, False): _cycle,
    (messages.Failed, BY_FLOW): _restart("sink"),  # none is sent by a flow that comes up: see the table below
    (messages.Failed, False): _fail,
    (messages.HandleEvent, False): lambda it: it.ping("sink"),
    (messages.Handled, BY_FLOW): lambda it: it.ping("sink"),
    (messages.Notified, BY_FLOW): _relay,
    (messages.Refused, False): _ask_for_what_cannot_be,
    (messages.LinkOut, False): _relink,
    (messages.UnlinkOut, False): _relink,
    (messages.AddIn, False): _relink,
    (messages.ExpectIn, False): _relink,
    (messages.RemoveIn, False): _relink,
    (messages.WantSlots, False): _relink,
    (messages.Unlinked, BY_FLOW): _relink,
    (messages.ReceiverDied, False): _restart("sink"),
    (messages.Recovered, BY_FLOW): _restart("sink"),
    (messages.SenderDied, False): _restart("source"),
    (messages.Record, BY_FLOW): lambda it: it.pipe.notify_event("say", specific_routine="source"),
    (messages.ForkFlow, False): _restart("extra"),
    (messages.Forked, False): _restart("extra"),
    (messages.Reap, False): _restart("extra"),
    (messages.Reaped, False): _restart("extra"),
    (messages.Extend, False): Bench.grow_in_vain,
    (messages.Extended, False): Bench.grow_in_vain,
    (messages.AskNumbers, False): Bench.grow_in_vain,
    (messages.Numbers, False): Bench.grow_in_vain,
    (messages.RemoveFlows, False): Bench.shrink,
    (messages.Removed, False): Bench.shrink,
    (messages.Hello, False): _attach,
    (messages.Welcome, False): _attach,
    (messages.Relay, False): _relay_question,
    (messages.Relayed, False): _relay_question,
    (messages.Trace, False): _trace,
    (messages.TraceInto, False): _trace,
}
"""What makes each kind of message be sent, while a pipe runs."""
NEED_A_START = {
    "missing": {messages.Ready, messages.StartRoutines, messages.ReceiverDied, messages.Recovered},
    "flipped": {messages.StartRoutines, messages.ReceiverDied, messages.Recovered},
    "doubled": set(),
}
"""Those without which the flows at hand wait for a fresh start. So the test does not wait to see that."""
CHANGES: dict[type[Message], bool] = {
    messages.Changing: False, messages.Replace: False, messages.AwaitRuns: False, messages.SetParameters: False,
    messages.SetUp: BY_FLOW, messages.ParametersSet: BY_FLOW, messages.LetEnd: False, messages.ServerEnded: False,
}  # fmt: skip
"""Of changes of a running pipe, and whether a flow sends it; tested further down."""
UNTESTED = {messages.InOrder}
"""Needed where an ordered flow comes or goes, which no pipe has here."""
ELSEWHERE = {messages.Kill, messages.Ended, messages.Died, messages.ReceiverFailed, messages.TapRefused, *CHANGES, *UNTESTED}
"""Sent at the end of something, or in a change; tested further down."""


def test_every_kind_is_needed_somewhere() -> None:
    assert {kind for kind, _ in NEEDED} | ELSEWHERE == set(KINDS)


GROWS = {
    messages.Extend, messages.Extended, messages.AskNumbers, messages.Numbers, messages.RemoveFlows, messages.Removed,
}  # fmt: skip
FORKS = {messages.ForkFlow, messages.Forked, messages.Reap, messages.Reaped}


def _groups(way: str) -> Iterator[list[tuple[tuple[type[Message], bool], Trigger]]]:
    """Those that one pipe can take after each other: a fork server that does not answer ends, and its flows with it."""
    last = GROWS if way == "doubled" else GROWS | FORKS
    yield [item for item in NEEDED.items() if item[0][0] not in last]
    for kind in last:
        yield [item for item in NEEDED.items() if item[0][0] is kind]


@pytest.mark.parametrize("way", IN_PLACE)
def test_a_message_that_is_needed_fails(way: str) -> None:
    """Its own cause may wait for a restart of the flows that it was between. Nobody else notices."""
    unmended = []
    for group in _groups(way):
        with bench() as it:
            it.grow()
            for (kind, by_flow), trigger in group:
                before = it.heard.kinds()[kind.__name__]
                it.orders.change(kind, way, by_flow=by_flow)
                caller = threading.Thread(target=_try, args=(trigger, it))
                caller.start()
                caller.join(SOON)
                assert not caller.is_alive(), f"{kind.__name__}: the caller waits for ever"
                is_sent = (kind, by_flow) != (messages.Failed, BY_FLOW)
                if is_sent:
                    eventually(lambda: it.orders.is_done, f"a {kind.__name__}", SOON)
                it.orders.forget()
                if way == "flipped" and is_sent:
                    it.await_log(kind, before)
                it.others_go_on()
                try:
                    if kind is messages.Failed or trigger is _relink or kind in NEED_A_START[way]:
                        raise AssertionError("a fresh start is wanted anyway")
                    it.all_go_on()
                except AssertionError as error:
                    unmended.append(f"{kind.__name__}: {error}")
                    it.mend()
                    it.all_go_on()
                    it.await_moves(("source", "other"))
                    it.others_go_on()
    print(way, "needed a restart:", unmended)


def test_a_start_that_was_lost_can_be_repeated() -> None:
    with bench() as it:
        # Else a start would also be sent to a routine that has not begun, and be the one that is lost.
        names = ("left", "right", "source", "sink", "other", "extra source")
        await_states(it.pipe, **dict.fromkeys(names, "running"))
        for way in ("missing", "flipped"):
            it.pipe.notify_event(STOP_EVENT_NAME, specific_routine="sink")
            await_states(it.pipe, sink="stopped")
            it.orders.change(messages.StartRoutines, way)
            it.pipe.notify_event(START_EVENT_NAME)
            eventually(lambda: it.orders.is_done, "a start", SOON)
            it.ping("sink")
            eventually(lambda: it.answered("sink"), "an answer", SOON)
            assert it.state("sink") == "stopped"
            it.pipe.notify_event(START_EVENT_NAME)
            it.all_go_on()


def test_messages_whose_receiver_dies_before_it_reads_them() -> None:
    """They are about a process that is gone: the next one is told what it has to know, and nobody waits."""
    with bench() as it:
        for name in ("source", "sink", "other"):
            pid = pid_of(it.pipe, name)
            stop(pid)
            triggers: list[Trigger] = [lambda it: it.ping("source", "sink", "other"), _relink, _cycle, _tap]
            callers = [threading.Thread(target=_try, args=(trigger, it)) for trigger in triggers]
            for caller in callers:
                caller.start()
            it.others_go_on()
            os.kill(pid, signal.SIGKILL)
            for caller in callers:
                caller.join(SOON)
                assert not caller.is_alive(), f"{name}: a caller waits for ever"
            await_successor(it.pipe, name, pid)
            it.others_go_on()
            it.mend()
            it.all_go_on()


@pytest.mark.parametrize("way", IN_PLACE)
def test_a_change_whose_messages_are_lost_is_put_back_or_made(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is, the next one is made, and the branch that nobody touches goes on."""
    for module in (changes, session):
        monkeypatch.setattr(module, "PATIENCE", 0.5)
        monkeypatch.setattr(module, "LONG_PATIENCE", 0.5)
    outcomes = {}
    with tampering() as orders, yard(tmp_path, branches(tmp_path)) as it:
        it.moves("step", "sink")
        for number, (kind, by_flow) in enumerate(CHANGES.items(), 1):
            parameters = it.data["routines"]["step"]["parameters"]
            before = dict(parameters)
            parameters["size"] = parameters["level"] = number + 100
            if kind in (messages.SetParameters, messages.ParametersSet):
                parameters["size"] = before["size"]
            orders.change(kind, way, by_flow=by_flow)
            outcomes[kind.__name__] = _applied(it, patience=1.0)
            eventually(lambda: orders.is_done, f"a {kind.__name__}", SOON)
            orders.forget()
            it.moves("numbers", "writer")
            parameters["size"] = number + 200
            assert _applied(it, patience=30.0) == "made", f"{kind.__name__}: the next change"
            assert f"setup {number + 100} {number + 200}" in notes(tmp_path / "step"), kind.__name__
            it.moves("step", "sink")
    print(way, outcomes)


def _applied(it: Yard, patience: float) -> str:
    try:
        it.apply(patience=patience)
    except (PipertError, ValueError) as error:  # a question that could not be read is answered by what was wrong with it
        return str(error)
    return "made"


class Numbers(SourceRoutine):
    """Sends some, and ends when the gate is open."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self) -> int:
        if self.meta.sequence == 10:
            self.board.wait(GATE)
            raise EndOfStream
        return self.meta.sequence


def _try(trigger: Trigger, it: Bench) -> None:
    with suppress(PipertError, ValueError):
        trigger(it)


@pytest.mark.parametrize("way", IN_PLACE)
def test_an_end_that_is_not_heard_of(way: str) -> None:
    """Every message that tells of an end, in a pipe of its own: whoever waits for the end sees it."""
    for kind, by_flow in (
        (messages.Ended, False), (messages.StateChanged, BY_FLOW), (messages.Kill, False), (messages.Failed, BY_FLOW),
        (messages.Died, False), (messages.ReceiverFailed, False),
    ):  # fmt: skip
        with tampering() as orders:
            board = Board()
            pipe = Pipe(policy="block", grace_period=1.0, logger=logging.getLogger("ends"))
            pipe.logger.propagate = False
            pipe.create_flow(
                "numbers", False, Numbers("numbers", board) if kind is not messages.ReceiverFailed else Source("source", board)
            )
            pipe.create_flow("sink", False, Sink("sink", board), restart="never")
            pipe.link(Wire(next(iter(pipe.flows["numbers"].routines.values())), pipe.flows["sink"].routines["sink"]))
            pipe.build()
            orders.change(kind, way, by_flow=by_flow)
            pipe.notify_event(START_EVENT_NAME)
            await_states(pipe, sink="running")
            if kind in (messages.Died, messages.ReceiverFailed):
                os.kill(pid_of(pipe, "sink"), signal.SIGKILL)
            elif kind is messages.StateChanged:
                orders.change(kind, way, by_flow=by_flow)
            board[GATE] = 1
            # A lost word that it is over is not heard again; but whoever ends the pipe then is heard.
            _end(pipe, to_kill=way == "missing" or kind in (messages.Kill, messages.ReceiverFailed))


@pytest.mark.parametrize("way", IN_PLACE)
def test_a_flow_that_is_not_told_to_end_is_killed(way: str) -> None:
    with tampering() as orders:
        board = Board()
        pipe = Pipe(grace_period=0.5)
        pipe.create_flow("both", True, Source("source", board), Sink("sink", board))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        orders.change(messages.Kill, way, by_launcher=True)
        _end(pipe)
