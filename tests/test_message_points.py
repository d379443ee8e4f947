"""Message points: every kind of message between a pipe's processes is damaged, lost, doubled or senseless, at its receiver.

What fails then is that message, and perhaps what it was about, which a restart of the flow at hand mends; nobody waits for
ever, all others go on, and the pipe ends clean.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pytest

from killing import FAST, await_states, await_successor, pid_of, snapshot_of
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    Pipe,
    PipeFailed,
    PipertError,
    Routine,
    SourceRoutine,
    Wire,
    events,
    session,
)
from pipert_shm.control import messages
from pipert_shm.control.channel import packets_of
from pipert_shm.control.messages import KINDS, Message
from pipert_shm.events import Event
from pipert_shm.launcher import fork_server
from processes import descendants, reap_orphans, stop
from tampering import DAMAGES, EDGE, IN_PLACE, NOBODYS_QUESTION, SAMPLES, Tampering, named_in_log, tampering
from waiting import Board, eventually

PINGS: dict[str, int] = {"left": 0, "right": 1, "source": 2, "sink": 3, "other": 4, "extra": 5, "extra source": 6}
_LOST = re.compile(r"(?P<who>.+): a message came to nothing \((?P<kind>[^)]+)\)")
GATE = 14
SOON = 3.0  # seconds in which a pipe has to answer


class Pinged(Routine):
    """Answers the event `ping` on the board, logs at `say`, and notifies what it is told to."""

    board: Board

    @events("ping")
    def ping(self, number: int) -> None:
        self.board[PINGS[self.name]] = number

    @events("say")
    def say(self) -> None:
        self._logger.error("said")

    @events("relay")
    def relay(self, what: str, to: str, parameters: dict[str, Any]) -> None:
        self.notify_event(what, specific_routine=to, **parameters)

    @events("fail")
    def fail(self) -> None:
        self.fails = True


class Source(Pinged, SourceRoutine):
    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board
        self.set_const_fps(300)

    def main_logic(self) -> int:
        return self.meta.sequence


class Sink(Pinged, DestinationRoutine):
    fails = False

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def setup(self) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("on purpose")

    def main_logic(self, data: int) -> None: ...


class Heard(logging.Handler):
    """Counts the messages that came to nothing, by receiver and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: Counter[tuple[str, str]] = Counter()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text)
        match = _LOST.match(re.sub("of flow '.*?'", "of a flow", text))
        if match:
            self.lost[match["who"], match["kind"]] += 1

    def kinds(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for (_, kind), times in list(self.lost.items()):
            kinds[kind] += times
        return kinds


class Bench:
    """A pipe to tamper with: `source` to `sink` and `other`; `extra`, which a fork server forks; and a pair beside them."""

    def __init__(self, orders: Tampering) -> None:
        self.orders = orders
        self.board = Board()
        self.heard = Heard()
        self.logger = logging.getLogger("bench")
        self.logger.handlers, self.logger.propagate = [self.heard], False
        self.pings = 0
        self.added = 0
        self.pipe = Pipe(policy="drop_oldest", logger=self.logger, grace_period=2.0)
        routines: list[Routine] = [Source("left", self.board), Sink("right", self.board), Source("source", self.board)]
        routines += [Sink("sink", self.board), Sink("other", self.board), Source("extra source", self.board)]
        for routine in routines:
            self.pipe.create_flow(routine.name, False, routine, **FAST)
        left, right, self.source, sink, other, self.extra_source = routines
        self.pipe.link(Wire(left, right), Wire(self.source, [sink, other]), Wire(self.extra_source, other))

    def build(self) -> None:
        self.pipe.build()
        self.pipe.notify_event(START_EVENT_NAME)

    def grow(self) -> None:
        """Adds `extra`."""
        extra = Sink("extra", self.board)
        self.pipe.create_flow("extra", False, extra, **FAST)
        self.pipe.link(Wire(self.extra_source, extra))
        self.pipe.build()
        self.pipe.notify_event(START_EVENT_NAME)

    def grow_in_vain(self) -> None:
        """Adds a flow that nobody needs."""
        self.added += 1
        PINGS[f"more{self.added}"] = 15
        more = Sink(f"more{self.added}", self.board)
        self.pipe.create_flow(more.name, False, more, **FAST)
        self.pipe.link(Wire(self.extra_source, more))
        self.pipe.build()

    def ping(self, *names: str) -> None:
        self.pings += 1
        for name in names:
            self.pipe.notify_event("ping", specific_routine=name, number=self.pings)

    def answered(self, *names: str) -> bool:
        return all(self.board[PINGS[name]] == self.pings for name in names)

    def received(self, *wire: str) -> int:
        sender, receiver = wire
        return self.pipe.statistics().wires[sender, receiver].received

    def await_count(self, key: tuple[str, str], least: int, what: object) -> None:
        """Until so many messages of a kind came to nothing at a receiver."""
        eventually(lambda: self.heard.lost[key] >= least, f"{what} to be counted by {key[0]}", SOON)

    def await_log(self, kind: type[Message], more_than: int) -> None:
        eventually(lambda: self.heard.kinds()[kind.__name__] > more_than, f"{kind.__name__} in the log", SOON)

    def await_moves(self, *wires: tuple[str, str], timeout: float = SOON) -> None:
        before = {wire: self.received(*wire) for wire in wires}
        eventually(lambda: all(self.received(*wire) > count + 1 for wire, count in before.items()), f"{wires} to move", timeout)

    def state(self, name: str) -> str:
        return self.pipe.statistics().routines[name].state

    def is_linked(self) -> bool:
        return self.pipe.statistics().wires["source", "other"].linked

    def others_go_on(self) -> None:
        """Those beside move, and hear what they are told."""
        self.await_moves(("left", "right"))
        self.ping("left", "right")
        eventually(lambda: self.answered("left", "right"), "an answer of those beside", SOON)

    def all_go_on(self) -> None:
        names = ("source", "sink", "other", "extra source")
        self.ping(*names)
        eventually(lambda: self.answered(*names), "an answer of all", SOON)
        self.await_moves(("source", "sink"))

    def mend(self) -> None:
        """What an operator would do: stops and starts, and restarts of the flows at hand, until all are well."""
        pipe, flows = self.pipe, ("source", "sink", "other")
        for name in flows:
            pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
        for flow in flows:
            pid = pid_of(pipe, flow)
            pipe.restart_flow(flow)
            await_successor(pipe, flow, pid)
        pipe.notify_event(START_EVENT_NAME)
        if not self.is_linked():
            with suppress(PipertError):
                pipe.notify_event("link", specific_routine="source", link_routine_name="other")


@contextmanager
def bench() -> Iterator[Bench]:
    """The pipe, which has to end in time, and with nothing that failed for good."""
    with tampering() as orders, pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "PATIENCE", 0.5)
        patch.setattr(session, "LONG_PATIENCE", 0.5)
        patch.setattr(fork_server, "PATIENCE", 0.5)
        before = set(descendants())
        it = Bench(orders)
        it.build()
        try:
            yield it
        finally:
            orders.forget()
            _end(it.pipe)
            reap_orphans(before)  # of fork servers that were killed


def _end(pipe: Pipe, *, to_kill: bool = True) -> None:
    """By a thread of its own, since it may wait for ever."""
    how: list[object] = []

    def end() -> None:
        try:
            pipe.join(to_kill=to_kill)
            how.append(None)
        except BaseException as error:
            how.append(error)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(10)
    assert how, f"join(to_kill={to_kill}) waits for ever"
    assert how[0] is None or isinstance(how[0], PipeFailed), how


# ---- every kind, damaged in every way, at every receiver --------------------------------------------

RECEIVERS: dict[str, tuple[type[Message], Callable[[Bench], object]]] = {
    "the launcher, of the parent": (messages.Notify, lambda it: it.ping("left")),
    "the pipe's parent": (messages.Answer, lambda it: it.ping("left")),
    "the flow": (messages.HandleEvent, lambda it: it.ping("source")),
    "the launcher, of a flow": (messages.Handled, lambda it: it.ping("source")),
    "a fork server": (messages.Reap, lambda it: os.kill(pid_of(it.pipe, "extra"), signal.SIGKILL)),
    "the launcher, of a fork server": (messages.Reaped, lambda it: os.kill(pid_of(it.pipe, "extra"), signal.SIGKILL)),
    "the relay of log records": (messages.Record, lambda it: it.pipe.notify_event("say", specific_routine="source")),
}
"""How packets come to each receiver: before a message of which kind, and what makes somebody send one."""


def _in_groups(size: int) -> Iterator[tuple[Message, ...]]:
    for start in range(0, len(SAMPLES), size):
        yield SAMPLES[start : start + size]


def test_every_kind_has_a_sample() -> None:
    assert tuple(type(sample) for sample in SAMPLES) == KINDS


def test_every_kind_damaged_in_every_way_at_every_receiver(record_property: Any) -> None:
    points = 0
    with bench() as it:
        it.grow()
        for receiver, (carrier, trigger) in RECEIVERS.items():
            for group in _in_groups(4):
                expected = Counter({key: count for key, count in it.heard.lost.items() if key[0] == receiver})
                packets = []
                for sample in group:
                    (packet,) = packets_of(sample, NOBODYS_QUESTION)
                    for name, damage in DAMAGES.items():
                        packets += damage(packet)
                        expected[receiver, named_in_log(name, type(sample))] += 1
                points += len(packets)
                dead = pid_of(it.pipe, "extra")
                it.orders.insert(packets, carrier)
                trigger(it)
                eventually(lambda: it.orders.is_done, f"a {carrier.__name__}", SOON)

                def is_counted(receiver: str = receiver, expected: Counter[tuple[str, str]] = expected) -> bool:
                    return Counter({key: n for key, n in it.heard.lost.items() if key[0] == receiver}) == expected

                try:
                    eventually(is_counted, f"all to be counted by {receiver}", SOON)
                except AssertionError:
                    counted = Counter({key: n for key, n in it.heard.lost.items() if key[0] == receiver})
                    raise AssertionError(f"{receiver}: {expected - counted} missing, {counted - expected} too many") from None
                if carrier in (messages.Reap, messages.Reaped):
                    await_successor(it.pipe, "extra", dead)
            it.others_go_on()
            it.all_go_on()
            it.await_moves(("extra source", "extra"))
    record_property("points", points)
    assert points == len(KINDS) * len(DAMAGES) * len(RECEIVERS)
    assert not [text for text in it.heard.texts if "waiting for what comes" in text or "an order of the launcher's" in text]


# ---- sound messages that make no sense -------------------------------------------------------------

COUNTED, QUIET = True, False


def _nonsense(it: Bench) -> dict[str, list[tuple[Message, bool]]]:
    """Messages that nobody asked for, by receiver; whether each is counted as one that came to nothing."""
    live = int(next(n for n, i in enumerate(snapshot_of(it.pipe).incarnations) if i["state"] == 1))
    return {
        "the launcher, of the parent": [
            (messages.Notify(Event("ping", ("nobody",)), 0), QUIET),  # it is refused
            (messages.MakeTap("nobody"), QUIET),
            (messages.EndTap(10**6), QUIET),
            (messages.RestartFlow("none"), COUNTED),
            (messages.Answer(), QUIET),
            (messages.Ready(), COUNTED),
        ],
        "the pipe's parent": [
            (messages.Answer(), QUIET),
            (messages.Answer(b"no pickle"), QUIET),
            (messages.TapMade(EDGE, 10**6), QUIET),  # the error is the question's
            (messages.TapEnded(10**6), QUIET),
            (messages.Ended(0), QUIET),
            (messages.Started(), QUIET),
            (messages.Ready(), QUIET),
            (messages.Failed("nobody", ""), QUIET),
            (messages.Kill(), COUNTED),
        ],
        "the flow": [
            *(
                (sample, COUNTED)
                for sample in SAMPLES
                if isinstance(
                    sample,
                    messages.StartRoutines
                    | messages.HandleEvent
                    | messages.AddTap
                    | messages.RemoveTap
                    | messages.LinkOut
                    | messages.UnlinkOut
                    | messages.AddIn
                    | messages.ExpectIn
                    | messages.RemoveIn
                    | messages.WantSlots
                    | messages.Refused
                    | messages.ReceiverDied
                    | messages.ReceiverFailed
                    | messages.SenderDied,
                )
            ),
            (messages.StartRoutines((("source", 1),)), QUIET),  # again
            (messages.SenderDied("source"), QUIET),
            (messages.RemoveTap("source", 10**6), QUIET),
        ],
        "the launcher, of a flow": [
            (messages.StateChanged(10**6, 1, 1, ""), COUNTED),
            (messages.StateChanged(-1, 1, 1, ""), COUNTED),
            (messages.StateChanged(0, 10**6, 77, ""), COUNTED),
            (messages.StateChanged(0, -1, 3, ""), QUIET),  # of a run that is long over
            (messages.Notified(Event("ping", ("nobody",)), "source"), QUIET),  # it is refused
            (messages.Handled(1 << 40), QUIET),
            (messages.Ready(), QUIET),
            (messages.Recovered(10**6), QUIET),
            (messages.Recovered(live), QUIET),
            (messages.Unlinked(10**6), COUNTED),
            (messages.Unlinked(-1), COUNTED),
            (messages.Unlinked(live), COUNTED),
            (messages.TapMade(EDGE, 10**6), QUIET),
            (messages.TapRefused(10**6, "why"), QUIET),
            (messages.TapEnded(10**6), QUIET),
            (messages.Answer(), QUIET),
        ],
        "a fork server": [(messages.Reap(0), COUNTED), (messages.Ready(), COUNTED)],
        "the launcher, of a fork server": [
            (messages.Forked(0, "why"), COUNTED),
            (messages.Forked(1, ""), COUNTED),
            (messages.Reaped(0), COUNTED),
        ],
        "the relay of log records": [
            (messages.Record({}, {}), QUIET),
            (messages.Record({"msg": "x", "name": "bench"}, {"extra": b"no pickle"}), QUIET),
            (messages.Ready(), COUNTED),
        ],
    }


def test_sound_messages_that_make_no_sense() -> None:
    questions = count(NOBODYS_QUESTION)
    with bench() as it:
        it.grow()
        for receiver, (carrier, trigger) in RECEIVERS.items():
            for message, counted in _nonsense(it)[receiver]:
                before, dead = it.heard.lost.copy(), pid_of(it.pipe, "extra")
                it.orders.insert(packets_of(message, next(questions)), carrier)
                trigger(it)
                eventually(lambda: it.orders.is_done, f"a {carrier.__name__}", SOON)
                if carrier in (messages.Reap, messages.Reaped):
                    await_successor(it.pipe, "extra", dead)
                key = receiver, type(message).__name__
                if counted:
                    it.await_count(key, before[key] + 1, message)
                it.others_go_on()
                here = {key: number for key, number in (it.heard.lost - before).items() if key[0] == receiver}
                assert here == ({key: 1} if counted else {}), message
            it.all_go_on()
            it.await_moves(("extra source", "extra"))
        assert it.pipe._session is not None
        assert not it.pipe._session.over.is_set()


# ---- messages that are needed: lost, doubled or damaged on their way -------------------------------


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
}
"""What makes each kind of message be sent, while a pipe runs."""
ELSEWHERE = {messages.Kill, messages.Ended, messages.Died, messages.ReceiverFailed, messages.TapRefused}
"""Sent at the end of something; tested further down."""


def test_every_kind_is_needed_somewhere() -> None:
    assert {kind for kind, _ in NEEDED} | ELSEWHERE == set(KINDS)


GROWS, FORKS = {messages.Extend, messages.Extended}, {messages.ForkFlow, messages.Forked, messages.Reap, messages.Reaped}


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
                    it.all_go_on()
                    if kind is messages.Failed or trigger is _relink:
                        raise AssertionError("a fresh start is wanted anyway")
                except AssertionError as error:
                    unmended.append(f"{kind.__name__}: {error}")
                    it.mend()
                    it.all_go_on()
                    it.await_moves(("source", "other"))
                    it.others_go_on()
    print(way, "needed a restart:", unmended)


def test_a_start_that_was_lost_can_be_repeated() -> None:
    with bench() as it:
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
            pipe.link(Wire(pipe._flows["numbers"][0], pipe._flows["sink"][0]))
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
