"""The credit protocol of wires between hosts, on a link that loses, doubles and reorders, with ends that are started anew."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipert_shm.hosts.clocks import ClockOffset
from pipert_shm.hosts.messages import UNKNOWN_NS, VERSION, Ack, Bye, Hello, Message, Offset, Said, pack, unpack
from pipert_shm.hosts.place import Place
from pipert_shm.hosts.protocol import LONGEST_PATIENCE, Receiver, Sender
from pipert_shm.hosts.window import AutoWindow

STEPS = ("offer", "offer", "offer", "say", "carry", "carry", "carry", "take", "take", "wait")
TROUBLE = ("window", "lose", "double", "swap", "sender dies", "receiver dies", "receiver dies in hand", "cut")


class World:
    """Both ends and what is under way between them.

    Attributes:
        taken: numbers in the order in which the receiving pipe got them.
        lost: numbers that a sender had when it died.
    """

    def __init__(self, window: int, *, is_lossless: bool) -> None:
        self.window, self.is_lossless = window, is_lossless
        self.now = 1.0
        self.ends = 0
        self.epoch = self.next = 0
        self.taken: list[int] = []
        self.lost: set[int] = set()
        self.there: list[Hello | Message] = []
        self.back: list[Ack] = []
        self.place = 0, 0
        self.hand: int | None = None
        self.receiver = Receiver(0)
        self.start_sender()

    def start_sender(self) -> None:
        self.epoch += 1
        self.sender = Sender(7, self.epoch, self.next, is_lossless=self.is_lossless)
        self.sender.window = self.window
        self.sender.appear(self.now)

    def start_receiver(self) -> None:
        self.ends += 1
        self.receiver = Receiver(self.ends, *self.place, room=64)
        self.sender.vanish()
        self.sender.appear(self.now)

    def step(self, what: str, at: int) -> None:
        self.now += 0.01
        match what:
            case "offer" if self.sender.has_room:
                self.next = self.sender.offer(0, "body", self.now) + 1
            case "say":
                self.say()
            case "carry":
                self.say()
                if self.there:
                    self.receiver.hear(self.there.pop(0), 1)
                self.say()
                if self.back:
                    self.sender.hear(self.back.pop(0), self.now)
            case "take":
                self.take()
            case "wait":
                self.now += LONGEST_PATIENCE
                self.sender.wake(self.now)
            case "window":
                self.sender.window = 1 + at % self.window
            case "lose":
                for line in (self.there, self.back):
                    del line[at % (len(line) + 1) :]
            case "double":
                self.there += self.there[: at % 4]
                self.back += self.back[: at % 4]
            case "swap":
                self.there.reverse()
                self.back.reverse()
            case "sender dies":
                self.lost |= {held.number for held in self.sender.held}
                self.start_sender()
            case "receiver dies" | "receiver dies in hand":
                if what == "receiver dies in hand" and self.receiver.waiting:
                    waiting = self.receiver.take()  # and is not handed over: the turn comes again
                    self.place = waiting.stream, waiting.number
                self.start_receiver()
            case "cut":
                self.there.clear()
                self.back.clear()
                self.sender.vanish()
                self.sender.appear(self.now)
        self.check()

    def say(self) -> None:
        self.there += self.sender.say(int(self.now * 1e9))
        self.back += self.receiver.say(1)

    def take(self) -> None:
        self.receiver.done()
        if self.receiver.waiting:
            waiting = self.receiver.take()
            self.taken.append(waiting.number)
            self.place = waiting.stream, waiting.number + 1

    def check(self) -> None:
        assert self.taken == sorted(set(self.taken)), "in order, none twice"
        assert len(self.sender.held) <= self.window
        assert len(self.receiver.waiting) <= self.window

    def settle(self) -> None:
        """The link is good again; all comes to rest."""
        for _ in range(400):
            for what in ("carry", "carry", "take"):
                self.step(what, 0)
            if self.sender.has_room and not (self.there or self.back or self.sender.held or self.receiver.waiting):
                break
            if not (self.there or self.back):
                self.step("wait", 0)
        assert not self.sender.held, "the credit is back"
        assert self.sender.has_room


@settings(max_examples=150)
@given(
    window=st.integers(1, 4),
    is_lossless=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(STEPS + STEPS + TROUBLE), st.integers(0, 6)), max_size=120),
)
def test_every_message_comes_once_and_in_order_and_the_credit_comes_back(
    window: int, is_lossless: bool, steps: list[tuple[str, int]]
) -> None:
    world = World(window, is_lossless=is_lossless)
    for what, at in steps:
        world.step(what, at)
    world.settle()
    before = world.next
    for _ in range(3):
        world.step("offer", 0)
        world.settle()
    assert world.next == before + 3
    assert world.taken[-3:] == [before, before + 1, before + 2], "it goes on"
    if is_lossless:
        assert set(range(world.next)) - set(world.taken) <= world.lost, "only what a sender had when it died is lost"


def test_the_same_in_long_lives_with_little_trouble() -> None:
    """Random walks, in which the ends are mostly connected: these find what the examples above are too short for."""
    choices = (*STEPS * 3, *("offer",) * 9, *("say",) * 4, *TROUBLE)
    for seed in range(200):
        rng = random.Random(seed)
        world = World(rng.randint(2, 5), is_lossless=rng.random() < 0.5)
        for _ in range(400):
            world.step(rng.choice(choices), rng.randint(0, 6))
        world.settle()
        if world.is_lossless:
            assert set(range(world.next)) - set(world.taken) <= world.lost, f"seed {seed}"


def test_what_a_dead_sender_had_is_counted_as_missed() -> None:
    world = World(3, is_lossless=True)
    world.settle()
    for _ in range(3):
        world.step("offer", 0)
    world.step("sender dies", 0)
    world.settle()
    world.step("offer", 0)
    world.settle()
    assert world.taken == [3]
    assert world.receiver.missed == 3


def test_a_pipe_that_is_started_anew_begins_with_what_is_not_acknowledged() -> None:
    world = World(3, is_lossless=True)
    world.settle()
    for _ in range(5):
        world.step("offer", 0)
        world.settle()
    for _ in range(3):
        world.step("offer", 0)
    world.step("carry", 0)
    world.step("take", 0)
    had, world.taken, world.place = world.taken, [], (0, 0)
    world.start_receiver()  # it knows nothing of the one before
    world.settle()
    assert set(had + world.taken) == set(range(8)), "none is lost"
    assert len(had) + len(world.taken) - 8 <= 3, "a window at the most comes again"
    assert world.receiver.missed == 0


def test_a_window_that_shrinks_costs_no_message() -> None:
    world = World(4, is_lossless=True)
    world.settle()
    for _ in range(4):
        world.step("offer", 0)
    world.step("say", 0)
    world.sender.window = 1
    world.step("cut", 0)
    world.settle()
    assert world.taken == [0, 1, 2, 3]


SAID = (
    Hello(1, 2, 3, 4, True, 5),
    Message(1, 2, 3, 4, 5, False, -6, 7, Offset(-8, 9), b"body"),
    Message(1, 2, 3, 4, 5, True, 6, 7, None, b"body"),
    Ack(1, 2, 3, 4, 5, True, False, 6, 7, 8, 9),
    Bye(1),
)


@pytest.mark.parametrize("one", SAID, ids=lambda one: type(one).__name__)
def test_what_is_said_survives_its_way(one: Said) -> None:
    assert unpack(pack(one), b"body") == one


@given(st.binary(max_size=90))
def test_damaged_bytes_are_no_more_than_a_value_error(data: bytes) -> None:
    for damaged in (data, bytes([VERSION]) + data):
        with suppress(ValueError):  # and nothing else
            unpack(damaged)


NUMBERS = (0, 1, 2, 3, 7, 1 << 37, (1 << 37) + 1, (1 << 38) - 1, (1 << 63) - 1, (1 << 64) - 1)
STAMPS = (0, 5, 1, -1, 1 << 62, (1 << 62) + 1, -(1 << 63), (1 << 63) - 1)


def strange(rng: random.Random) -> Said:
    """What an end that is broken, or of ill will, may say."""
    few = rng.choice((0, 1, 2, 255))
    epoch, is_it, is_that = rng.randint(1, 3), rng.random() < 0.5, rng.random() < 0.5
    first, second = rng.choices(NUMBERS, k=2)
    one, two, three = rng.choices(STAMPS, k=3)
    offset = Offset(three, rng.choice(NUMBERS)) if is_that else None
    said: tuple[Said, ...] = (
        Hello(1, epoch, first, few, is_it, one),
        Message(1, epoch, first, second, few, is_it, one, two, offset, ()),
        Ack(9, 1, epoch, first, second, is_it, is_that, few, one, two, three),
    )
    return rng.choice(said)


@pytest.mark.parametrize("is_lossless", [True, False])
def test_whatever_numbers_come_both_ends_go_on(is_lossless: bool) -> None:
    rng = random.Random(20)
    for _ in range(1500):
        bear([strange(rng) for _ in range(12)], is_lossless=is_lossless)


def bear(strange: list[Said], *, is_lossless: bool) -> None:
    sender, receiver, clocks = Sender(1, 1, 0, is_lossless=is_lossless), Receiver(9, room=4), ClockOffset()
    sender.appear(0.0)
    for now, one in enumerate(strange):
        try:
            said = unpack(pack(one), ())
        except ValueError:
            continue
        if isinstance(said, Ack):
            clocks.note(sent=said.echo_ns, arrived=said.arrived_ns, answered=said.sent_ns, back=5)
            sender.hear(said, now)
        elif isinstance(said, Hello | Message):
            receiver.hear(said, 5)
        if sender.has_room:
            sender.offer(0, (), now, UNKNOWN_NS)
        sender.wake(now)
        if receiver.waiting:
            assert Place(0).move(receiver.take().number).take(is_odd=True).word < 1 << 64, "it fits into its counter"
        for out in (*sender.say(5, clocks.offset(5)), *receiver.say(5)):
            pack(out)


@given(
    offset=st.integers(-(10**15), 10**15),
    trips=st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**8)), min_size=1, max_size=80),
)
def test_the_offset_is_right_within_its_uncertainty(offset: int, trips: list[tuple[int, int]]) -> None:
    clocks, now = ClockOffset(), 10**12
    for there, back in trips:
        arrived = now + there
        answered = arrived + 1000
        clocks.note(sent=now, arrived=arrived + offset, answered=answered + offset, back=answered + back)
        now = answered + back
    told = clocks.offset(now)
    assert told is not None
    assert abs(told.ns - offset) <= told.uncertainty_ns + 1


def window_of(rate: float, trips: Any) -> int:
    window = AutoWindow()
    for frame in range(200):
        window.note_sent(frame / rate)
        window.note_round_trip(trips[frame % len(trips)])
    return window.size


@pytest.mark.parametrize(
    ("rate", "trips", "least", "most"),
    [
        (30, [0.001], 2, 2),
        (30, [0.04], 3, 3),
        (30, [0.04] * 9 + [0.3], 8, 9),  # with loss, now and then one takes long
        (30, [0.3], 10, 16),
        (4, [2.0], 9, 17),
        (1000, [0.5], 64, 64),
    ],
)
def test_the_automatic_window_covers_rate_times_round_trip(rate: float, trips: list[float], least: int, most: int) -> None:
    assert least <= window_of(rate, trips) <= most
