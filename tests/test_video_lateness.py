"""Which frames of a live stream are late: made sequences of stamps and arrivals, and a reader as the real one works."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from pipert_shm.video.lateness import OPENING, STARVED, Lateness, Verdict, data_wait

GAP = 1 / 30


@dataclass
class Frame:
    """A frame that was judged.

    Attributes:
        number: in the stream.
        seen: when the camera saw it, by the machine's clock, seconds.
        came: when the reader got its data.
        ready: when it was decoded.
        verdict: what was said of it.
    """

    number: int
    seen: float
    came: float
    ready: float
    verdict: Verdict

    @property
    def age(self) -> float:
        return self.ready - self.seen

    @property
    def captured(self) -> float:
        return self.came - self.verdict.lag


def read(
    frames: Iterable[tuple[float | None, float, float]],
    *,
    decode: float | Callable[[float], float] = 0.005,
    stalls: Iterable[tuple[float, float]] = (),
    starts: float = 0.0,
    lateness: Lateness | None = None,
) -> Iterator[Frame]:
    """Reads frames, given as their stamp, when they were seen, and when they reach this machine.

    :param decode: seconds that a frame takes to decode; or a function of the time.
    :param stalls: when the process stands still, from and to.
    :param starts: when it begins to read.
    """
    lateness = lateness or Lateness()

    def after_stall(moment: float) -> float:
        return next((end for begin, end in stalls if begin <= moment < end), moment)

    now = starts
    for number, (pts, seen, reaches) in enumerate(frames):
        came = after_stall(max(now, reaches))
        waited = came - now
        ready = after_stall(came + (decode(came) if callable(decode) else decode))
        yield Frame(number, seen, came, ready, lateness.judge(pts, came, waited, ready - came))
        now = ready


def camera(
    seconds: float, fps: float = 30, *, delay: Callable[[float], float] = lambda seen: 0.01, stamped: float = 1.0
) -> Iterator[tuple[float, float, float]]:
    """A camera's frames, which come in order.

    :param delay: of the network, for a frame seen at that time.
    :param stamped: seconds by the camera's stamps in a real second.
    """
    last = 0.0
    for number in range(round(seconds * fps)):
        seen = number / fps
        last = max(last, seen + delay(seen))
        yield 100 + seen * stamped, seen, last


def taken(frames: Iterable[Frame]) -> list[Frame]:
    return [frame for frame in frames if not frame.verdict.is_late]


def longest_pause(frames: Iterable[Frame]) -> float:
    return max(b.ready - a.ready for a, b in pairwise(taken(frames)))


def test_of_a_steady_stream_all_frames_are_taken_from_the_second_on() -> None:
    frames = list(read(camera(10)))
    assert [frame.number for frame in taken(frames)] == list(range(1, 300))
    assert all(frame.verdict.lag == pytest.approx(0, abs=1e-6) for frame in frames)


@pytest.mark.parametrize("fps", [0.4, 10, 30, 60])
@pytest.mark.parametrize("length", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("begins", [5.0, 5.002, 5.015])
def test_after_a_stall_no_old_frame_is_taken(fps: float, length: float, begins: float) -> None:
    begins += 16 if fps < 1 else 0
    frames = list(read(camera(begins + length + 8, fps), stalls=[(begins, begins + length)], decode=0.004))
    after = [frame for frame in taken(frames) if frame.ready > begins]
    assert max(frame.age for frame in after) < 2 / fps + 0.01, "two gaps and the usual way"
    assert after[0].ready < begins + 1.4 * length + 2 / fps, "it does not take longer than to decode what came meanwhile"
    assert all(frame.captured == pytest.approx(frame.seen + 0.01, abs=0.01) for frame in frames)
    newest = after[0].number
    assert taken(frames)[-1].number - newest == len(after) - 1, "from then on all are taken"


def test_a_stall_while_a_frame_is_decoded_makes_it_late() -> None:
    frames = list(read(camera(8), decode=0.01, stalls=[(5.012, 6.0)]))
    frame = next(frame for frame in frames if frame.ready >= 6.0)
    assert frame.came < 5.012
    assert frame.verdict.is_late


@pytest.mark.parametrize("piled", [0.5, 1.9])
def test_what_had_piled_up_before_is_passed_over(piled: float) -> None:
    frames = list(read(camera(8), starts=piled))
    assert max(frame.age for frame in taken(frames)) < 2 * GAP
    assert taken(frames)[0].ready < piled * 1.3 + 3 * GAP
    assert all(frame.captured == pytest.approx(frame.seen + 0.01, abs=0.001) for frame in taken(frames))


def test_a_first_frame_that_was_waited_for_may_be_old() -> None:
    """As a server gives that keeps the frames since the last key frame: it takes a moment to answer, and all come at once."""
    frames = list(read(camera(6, delay=lambda seen: max(0.01, 1.0 - seen)), starts=0.9))
    assert max(frame.age for frame in taken(frames)) < 2 * GAP


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_an_unsteady_network_costs_few_frames(fps: float) -> None:
    chance = random.Random(5)
    frames = list(read(camera(30, fps, delay=lambda seen: 0.01 + chance.uniform(0, 0.06))))
    assert len(taken(frames)) > 0.97 * len(frames)
    assert longest_pause(frames) < 0.2
    late_after = list(read(camera(30, fps, delay=lambda seen: 0.01 + chance.uniform(0, 0.06)), stalls=[(20, 21)]))
    assert max(frame.age for frame in taken(late_after)) < 0.01 + 0.06 + max(2 / fps, 0.1)


def test_a_network_that_gets_slower_for_good_costs_a_frame_and_is_forgotten() -> None:
    frames = list(read(camera(20, delay=lambda seen: 0.01 if seen < 8 else 0.11)))
    assert longest_pause(frames) < 0.3
    assert len(taken(frames)) > len(frames) - 5
    slower = [frame for frame in frames if 8.1 < frame.seen < 9.9]
    assert all(frame.verdict.lag == pytest.approx(0.1, abs=0.01) for frame in slower)
    assert all(frame.verdict.lag == pytest.approx(0, abs=0.01) for frame in frames if frame.seen > 10.1)


@pytest.mark.parametrize("drift", [-0.0002, 0.0002])
@pytest.mark.parametrize("decode", [0.005, 0.032], ids=["idle", "hardly ever waiting"])
def test_clocks_may_run_apart(drift: float, decode: float) -> None:
    lateness = Lateness()
    frames = list(read(camera(1800, stamped=1 + drift), decode=decode, lateness=lateness))
    assert len(taken(frames)) > len(frames) - OPENING * 30 - 5
    assert max(frame.verdict.lag for frame in frames) < 0.01
    assert not lateness.is_hopeless


def test_a_reader_that_is_too_slow_for_the_stream_gets_frames_and_is_told_how_old_they_are() -> None:
    lateness = Lateness()
    frames = list(read(camera(60), decode=lambda now: 0.005 if now < 5 else 0.05, lateness=lateness))
    assert lateness.is_hopeless
    assert longest_pause(frames) < STARVED + 0.2
    assert frames[-1].age > 20
    assert all(frame.captured == pytest.approx(frame.seen + 0.01, abs=0.05) for frame in frames)
    assert len([frame for frame in taken(frames) if frame.ready > 10]) > 500, "one after the other"


def test_a_reader_that_was_too_slow_for_a_while_catches_up() -> None:
    lateness = Lateness()
    frames = list(read(camera(60), decode=lambda now: 0.05 if 5 < now < 20 else 0.005, lateness=lateness))
    assert not lateness.is_hopeless
    assert max(frame.age for frame in taken(frames) if frame.ready > 30) < 2 * GAP


@pytest.mark.parametrize(
    ("decode", "length", "most"), [(0.0325, 1, 4), (0.026, 10, 21)], ids=["hardly faster than the stream", "somewhat faster"]
)
def test_a_slow_catch_is_given_up_after_a_while(decode: float, length: float, most: float) -> None:
    """Or there would be nothing for minutes."""
    frames = list(read(camera(80), decode=decode, stalls=[(5, 5 + length)]))
    assert longest_pause(frames) < most


@pytest.mark.parametrize("real", [5, 10, 15, 20, 30])
def test_stamps_that_are_counted_are_found_out(real: float) -> None:
    """MJPEG over HTTP at other rates than the 25 that FFmpeg assumes."""
    frames = list(read(camera(20, real, stamped=real / 25)))
    assert len(taken(frames)) > len(frames) - 8
    assert longest_pause(frames) < 1
    assert all(frame.verdict.lag == 0 for frame in frames if frame.seen > 4)


def test_stamps_that_stand_still_are_found_out() -> None:
    """As some cameras send them after a fault of their clock."""
    frames = list(read((7.0, seen, reaches) for _, seen, reaches in camera(20)))
    assert longest_pause(frames) < 1
    assert all(frame.verdict.lag == 0 for frame in frames if frame.seen > 4)


@pytest.mark.parametrize("real", [10, 30])
def test_after_a_stall_counted_frames_that_piled_up_are_passed_over(real: float) -> None:
    frames = list(read(camera(20, real, stamped=real / 25), stalls=[(10.001, 12.0)]))
    after = [frame for frame in taken(frames) if 10 < frame.came < 13]
    assert max(frame.age for frame in after) < 2 / real


def test_stamps_that_jump_hold_nothing_up() -> None:
    def jumping(frames: Iterable[tuple[float, float, float]]) -> Iterator[tuple[float | None, float, float]]:
        for pts, seen, reaches in frames:
            jump = -100 if seen > 12 else 5000 if seen > 8 else -50 if seen > 4 else 0
            yield None if 14 < seen < 15 else pts + jump, seen, reaches

    frames = list(read(jumping(camera(20))))
    assert len(taken(frames)) > len(frames) - 8
    assert all(frame.verdict.lag < 0.01 for frame in frames)
    frames = list(read(jumping(camera(20)), stalls=[(16, 17)]))
    assert max(frame.age for frame in taken(frames)) < 2 * GAP


def test_a_stream_that_begins_anew_during_a_stall_is_as_late_as_before() -> None:
    def anew(frames: Iterable[tuple[float, float, float]]) -> Iterator[tuple[float, float, float]]:
        for pts, seen, reaches in frames:
            yield (pts - 105.5 if seen > 5.5 else pts), seen, reaches

    frames = list(read(anew(camera(10)), stalls=[(5, 6)]))
    assert max(frame.age for frame in taken(frames)) < 2 * GAP


def test_without_stamps_all_frames_are_taken_once_the_stream_is_open() -> None:
    frames = list(read((None, seen, reaches) for _, seen, reaches in camera(10)))
    assert [frame.number for frame in taken(frames)] == list(range(1, 300))


def test_what_comes_as_fast_as_it_can_is_taken_after_a_while() -> None:
    """A file that is read as a live stream."""
    frames = list(read((number / 30, 0.0, 0.0) for number in range(3000)))
    assert taken(frames)[0].came == pytest.approx(OPENING, abs=0.1)
    assert len(taken(frames)) > 2500


@pytest.mark.parametrize("fps", [25, 30])
def test_frames_that_are_decoded_in_another_order_are_as_young_as_others(fps: float) -> None:
    """With two B-frames: a frame is there when the packet two after it has come, in the order of decoding."""
    shown = list(camera(10, fps))
    frames = list(read((pts, seen, shown[min(number + 2, len(shown) - 1)][2]) for number, (pts, seen, _) in enumerate(shown)))
    assert [frame.number for frame in taken(frames)] == list(range(1, len(frames)))


def test_the_processor_is_not_taken_for_the_network() -> None:
    assert data_wait(0.04, 0.04, 0) == 0


def test_an_idle_camera_is_waited_for_on_a_busy_machine() -> None:
    """Each of fifty packets waited for a processor, and only one wait is told."""
    assert data_wait(0.04, 0.5, 49) == pytest.approx(0.03)
