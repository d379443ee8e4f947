"""Which frames of two streams make a pair, without streams: made times of capture and arrival."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipert_shm.shm.counters import Counters
from pipert_shm.video.live import Live
from pipert_shm.video.pairing import MAIN, MOST_PAIRS, SUB, Pair, Pairs, Rhythm, Stamp

SHAPES = (4, 6, 3), (2, 3, 3)
SECOND = 10**9


def stamp(seconds: float, wall_clock: float | None = None) -> Stamp:
    return Stamp(round(seconds * SECOND), wall_clock)


@dataclass
class Feed:
    """A stream's frames.

    Attributes:
        gap: seconds between two of them.
        delay: seconds after which they come.
        clock: what is added to the time to get the camera's; None if it does not tell.
        off: seconds by which it captures them later than the other.
        jitter: seconds by which the time of capture that is made of the arrival is off, in turns.
    """

    gap: float
    delay: float = 0.0
    clock: float | None = None
    off: float = 0.0
    jitter: tuple[float, ...] = (0.0,)
    lost: frozenset[int] = frozenset()


@dataclass
class Run:
    """What became of the frames of two feeds, by a routine that takes each pair at once."""

    tolerance: float | None = None
    sent: list[tuple[float, float]] = field(default_factory=list)
    claimed: int = 0
    came: int = 0

    def __post_init__(self) -> None:
        self.counts = Counters(("unpaired", "skipped"))
        self.pairs = Pairs(self.counts, self.tolerance)

    def begin(self) -> None:
        for side in (MAIN, SUB):
            self.pairs.expect(side, SHAPES[side])
        self.pairs.await_pair()

    def feed(self, main: Feed, sub: Feed, seconds: float) -> Run:
        self.begin()
        events = []
        for side, feed in ((MAIN, main), (SUB, sub)):
            for number in range(int(seconds / feed.gap)):
                if number not in feed.lost:
                    captured = 10 + number * feed.gap + feed.off
                    known = captured + (feed.delay if feed.clock is None else 0.0) + feed.jitter[number % len(feed.jitter)]
                    wall_clock = None if feed.clock is None else captured + feed.clock
                    events.append((captured + feed.delay, side, captured, stamp(known, wall_clock)))
        for _, side, captured, told in sorted(events):
            self.come(side, told, captured)
        return self

    def come(self, side: int, told: Stamp, captured: float) -> None:
        while self.pairs.lack_room:
            self.pairs.add(Pair(np.empty(SHAPES[MAIN]), np.empty(SHAPES[SUB])))
        self.came += 1
        array = self.pairs.claim(side, told, SHAPES[side])
        if array is not None:
            self.claimed += 1
            self.pairs.settle(side, array, Live(array, told.captured_ns, captured, told.wall_clock))
        while (found := self.pairs.take()) is not None:
            main, sub = found
            assert main.frame.shape, sub.frame.shape == SHAPES
            assert main.pts is not None
            assert sub.pts is not None
            self.sent.append((main.pts, sub.pts))

    def adds_up(self) -> None:
        self.pairs.clear()
        assert self.came == 2 * len(self.sent) + self.counts["unpaired"] + self.counts["skipped"]
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(self.sent)), "in order, and none twice"


RATES = st.sampled_from([1 / 30, 1 / 25, 1 / 15, 1 / 10, 1 / 6])
DELAYS = st.floats(0, 0.12)


@given(RATES, RATES, DELAYS, DELAYS, st.floats(0, 1), st.sampled_from([0.0, 7e8]))
def test_with_the_cameras_clock_pairs_are_of_the_same_moment_however_late_a_stream_is(
    main_gap: float, sub_gap: float, main_delay: float, sub_delay: float, phase: float, clock: float
) -> None:
    gaps = main_gap, sub_gap
    run = Run().feed(Feed(main_gap, main_delay, clock), Feed(sub_gap, sub_delay, clock, off=phase * min(gaps)), 4)
    run.adds_up()
    assert all(abs(main - sub) <= min(gaps) / 2 + 1e-6 for main, sub in run.sent)
    early = abs(main_delay - sub_delay) / min(gaps)  # frames by which one stream is before the other
    if early <= MOST_PAIRS - 2:
        assert len(run.sent) >= 4 / max(gaps) * 0.8 - 8
    assert len(run.sent) >= 5, "at a lower rate at least"


@given(RATES, RATES, st.lists(st.floats(-0.003, 0.003), min_size=1, max_size=9), st.floats(-0.3, 0.3))
def test_without_a_clock_the_time_of_arrival_counts(main_gap: float, sub_gap: float, jitter: list[float], phase: float) -> None:
    """The two differ by less than a third of a gap: so the right ones are the nearest."""
    gap = min(main_gap, sub_gap)
    run = Run().feed(Feed(main_gap, 0.01, jitter=tuple(jitter)), Feed(sub_gap, 0.01, off=phase * gap), 4)
    run.adds_up()
    assert all(abs(main - sub) <= gap / 2 + 0.007 for main, sub in run.sent)
    if main_gap == sub_gap:
        assert len(run.sent) >= 4 / gap - 8, "each has its partner"


def test_frames_that_have_no_partner_are_not_decoded() -> None:
    run = Run().feed(Feed(1 / 30, clock=0.0), Feed(1 / 15, clock=0.0), 20)
    run.adds_up()
    assert len(run.sent) == 300 - 3, "the rates are known after three frames of each"
    assert run.claimed - 2 * len(run.sent) < 20, "until it is known that the small stream comes evenly"


@given(st.sets(st.integers(0, 90)), st.sets(st.integers(0, 90)), st.floats(0, 0.1))
def test_frames_that_get_lost_cost_their_pair_only(main: set[int], sub: set[int], delay: float) -> None:
    feeds = Feed(0.04, delay, 0.0, lost=frozenset(main)), Feed(0.04, 0.0, 0.0, lost=frozenset(sub))
    run = Run(0.02).feed(*feeds, 100 * 0.04)
    run.adds_up()
    assert all(main == sub for main, sub in run.sent)
    both = set(range(100)) - main - sub
    assert len(run.sent) >= len(both) - 2 * MOST_PAIRS


def test_one_that_comes_late_gets_its_partner_and_not_the_newest() -> None:
    run = Run(0.01)
    run.begin()
    run.come(MAIN, stamp(0.9), 0.9)
    for at in (1.0, 1.04, 1.08):
        run.come(SUB, stamp(at), at)
    run.come(MAIN, stamp(1.04), 1.04)
    assert run.sent == [(1.04, 1.04)]
    assert run.counts["unpaired"] == 1, "the first of them"


def test_of_two_partners_the_nearest_is_taken_and_an_older_one_given_up() -> None:
    run = Run(0.05)
    run.begin()
    run.come(MAIN, stamp(0.9), 0.9)
    for at in (1.0, 1.01, 1.08):
        run.come(SUB, stamp(at), at)
    run.come(MAIN, stamp(1.011), 1.011)
    run.come(MAIN, stamp(1.02), 1.02)
    run.come(MAIN, stamp(1.07), 1.07)
    assert run.sent == [(1.011, 1.01), (1.07, 1.08)]
    run.adds_up()


def test_while_one_stream_is_lost_nothing_of_the_other_is_decoded() -> None:
    run = Run().feed(Feed(0.04), Feed(0.04), 2)
    sent, claimed = len(run.sent), run.claimed
    run.pairs.lose(MAIN)
    for number in range(10):
        run.come(SUB, stamp(13 + number / 25), 13)
    assert (len(run.sent), run.claimed) == (sent, claimed)
    assert run.pairs.is_needless(SUB, stamp(20))
    run.adds_up()


def test_while_the_routine_is_away_nothing_is_decoded_and_old_pairs_are_not_handed_over() -> None:
    run = Run().feed(Feed(0.04), Feed(0.04), 2)
    at = 12.0
    for side in (MAIN, SUB):
        array = run.pairs.claim(side, stamp(at), SHAPES[side])
        assert array is not None
        run.pairs.settle(side, array, Live(array, 0, at, None))
    assert run.pairs.is_any_complete
    run.pairs.leave(1.0)
    skipped = run.counts["skipped"]
    for number in range(1, 6):
        for side in (MAIN, SUB):
            assert run.pairs.claim(side, stamp(at + number / 25), SHAPES[side]) is None
    assert run.pairs.is_needless(MAIN, stamp(at + 0.24))
    assert run.counts["skipped"] == skipped + 10
    assert run.pairs.take() is None
    assert run.counts["skipped"] == skipped + 12


def test_frames_of_another_size_get_pairs_of_another_size() -> None:
    run = Run().feed(Feed(0.04), Feed(0.04), 2)
    assert run.pairs.claim(MAIN, stamp(12), (8, 12, 3)) is None
    assert run.pairs.lack_room
    run.pairs.add(Pair(np.empty(SHAPES[MAIN]), np.empty(SHAPES[SUB])))
    assert run.pairs.has_none, "one of the old size is not taken"
    run.pairs.add(Pair(np.empty((8, 12, 3)), np.empty(SHAPES[SUB])))
    array = run.pairs.claim(MAIN, stamp(12.04), (8, 12, 3))
    assert array is not None
    assert array.shape == (8, 12, 3)


def test_a_damaged_picture_leaves_room() -> None:
    run = Run().feed(Feed(0.04), Feed(0.04), 2)
    for number in range(20):
        array = run.pairs.claim(MAIN, stamp(12 + number / 25), SHAPES[MAIN])
        assert array is not None
        run.pairs.settle(MAIN, array, None)


def test_a_picture_that_is_ready_after_its_pair_was_given_up_counts() -> None:
    run = Run().feed(Feed(0.04), Feed(0.04), 2)
    array = run.pairs.claim(MAIN, stamp(12), SHAPES[MAIN])
    assert array is not None
    run.pairs.lose(SUB)
    before = run.counts["unpaired"]
    run.pairs.settle(MAIN, array, Live(array, 0, 0.0, None))
    assert run.counts["unpaired"] == before + 1


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        (stamp(5), stamp(4.9), 0.1),
        (stamp(5, 100.0), stamp(4.9, 99.98), 0.02),
        (stamp(5, 100.0), stamp(4.9), 0.1),
        (stamp(5, 100.0), stamp(4.9, 5000.0), 0.1),
    ],
    ids=["without clocks", "the camera's clock", "one that has none", "clocks that can't be right"],
)
def test_how_far_two_frames_are_apart(a: Stamp, b: Stamp, apart: float) -> None:
    assert a.after(b) == pytest.approx(apart)
    assert b.after(a) == pytest.approx(-apart)


def test_a_rhythm_says_when_the_next_frames_come() -> None:
    even, uneven = Rhythm(), Rhythm()
    for number in range(20):
        even.note(stamp(number / 10), 0)
        uneven.note(stamp(number / 10 + 0.05 * (number % 2)), 0)
    assert even.gap == pytest.approx(0.1)
    assert [even.may_have(stamp(1.9 + after), 0.02) for after in (-0.1, 0.0, 0.05, 0.09, 0.1, 0.15, 0.21)] == [
        *(False, False, False, True, True, False, True)
    ]
    assert all(uneven.may_have(stamp(1.9 + after), 0.02) for after in (0.0, 0.05, 0.1))
    for number in range(1, 20):
        even.note(stamp(1.9 + number / 2), 4)
    assert even.gap == pytest.approx(0.1), "frames that were not decoded count"
