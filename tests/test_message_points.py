"""Message points: every kind of message between a pipe's processes is damaged, or makes no sense, at its receiver.

What fails then is that message, and perhaps what it was about, which a restart of the flow at hand mends; nobody waits for
ever, all others go on, and the pipe ends clean.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from killing import await_successor, pid_of, snapshot_of
from message_bench import SOON, Bench, bench
from pipert_shm.control import messages
from pipert_shm.control.channel import packets_of
from pipert_shm.control.messages import KINDS, Message
from pipert_shm.events import Event
from tampering import DAMAGES, EDGE, NOBODYS_QUESTION, SAMPLES, named_in_log
from waiting import eventually

pytestmark = pytest.mark.machine  # half a second without an answer is a failure here

# ---- every kind, damaged in every way, at every receiver -----------------------------------------


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


# ---- sound messages that make no sense -----------------------------------------------------------


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
            (messages.Changing(False, ("nobody",)), QUIET),
            (messages.AwaitRuns(("none",), True), COUNTED),
            (messages.SetParameters("nobody", b""), QUIET),  # it is refused
            (messages.Answer(), QUIET),
            (messages.Ready(), COUNTED),
        ],
        "the pipe's parent": [
            (messages.Answer(), QUIET),
            (messages.Answer(b"no pickle"), QUIET),
            (messages.TapMade(EDGE, 10**6), QUIET),  # the error is the question's
            (messages.TapEnded(10**6), QUIET),
            (messages.ServerEnded(10**6), QUIET),
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
                    | messages.LetEnd
                    | messages.SetParameters
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
            (messages.SetUp(10**6, 1), COUNTED),
            (messages.ParametersSet("nobody", "why"), QUIET),
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
        assert not it.pipe._session.outcome.over.is_set()
