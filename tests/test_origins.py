"""State for each camera its own: what is found in one does not depend on who else is wired to the routine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    Annotator,
    BatchRoutine,
    DetectedFrame,
    Detections,
    Join,
    Meta,
    MiddleRoutine,
    MotionDetector,
    PerOrigin,
    Pipe,
    Routine,
    RoutineError,
    Tracker,
    Wire,
)
from pipert_shm.video import Recorder, VideoWriter
from routines import Forward, Items, Record, Sink, received

if TYPE_CHECKING:
    import supervision as sv

# ---- the helper ----------------------------------------------------------------------------------


def test_each_origin_has_its_own_which_is_made_once() -> None:
    state: PerOrigin[list[int]] = Routine("one").per_origin(list)
    state["a"].append(1)
    state["b"].append(2)
    state["a"].append(3)
    assert {origin: state[origin] for origin in state} == {"a": [1, 3], "b": [2]}
    assert len(state) == 2
    assert "b" in state
    assert "c" not in state, "a look makes nothing"


def with_default(origin: str = "nobody") -> str:
    return origin


@pytest.mark.parametrize(
    ("make", "made"),
    [
        (lambda: "same", "same"),
        (lambda origin: f"of {origin}", "of a"),
        (with_default, "nobody"),
        (dict, {}),
        (list, []),
        (str.upper, "A"),
    ],
    ids=["plain", "by name", "with a default", "dict", "list", "of C, by name"],
)
def test_the_name_is_given_where_it_is_needed(make: Callable[..., Any], made: Any) -> None:
    assert Routine("one").per_origin(make)["a"] == made


def test_the_one_used_least_recently_makes_room_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[list[str]] = []
    state = Routine("one").per_origin(lambda origin: [origin], limit=2, close=closed.append)
    state["a"], state["b"], state["a"]
    assert state.dropped == 0
    state["c"]
    assert (list(state), closed, state.dropped) == (["a", "c"], [["b"]], 1)
    assert caplog.messages == [
        "it keeps the state of 2 origins at the most: what it knew of 'b', which was used least recently, is dropped "
        "(1 so far); give per_origin() a larger limit"
    ]
    assert caplog.records[0].name == "one"
    for origin in "bacbacbacbacbac":
        assert state[origin] == [origin]
    assert state.dropped == 1 + 15
    assert len(caplog.messages) == 5, "at 1, 2, 4, 8 and 16"


def test_one_that_cannot_be_closed_costs_the_next_one_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def close(number: int) -> None:
        raise OSError(f"{number} is stuck")

    state = Routine("one").per_origin(int, limit=1, close=close)
    state["a"]
    assert state["b"] == 0
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["what it knew of 'a' can't be closed: OSError: 0 is stuck"]


def test_clear_closes_all_even_after_a_failure_and_each_starts_afresh() -> None:
    closed = []

    def close(name: str) -> None:
        closed.append(name)
        if name == "b":
            raise OSError("b is stuck")

    state = Routine("one").per_origin(lambda origin: origin, close=close)
    for origin in "abc":
        state[origin]
    with pytest.raises(OSError, match="b is stuck"):
        state.clear()
    assert sorted(closed) == ["a", "b", "c"]
    assert len(state) == state.dropped == 0


def test_what_fails_to_be_made_is_tried_again() -> None:
    tries: list[int] = []

    def make() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")
        return len(tries)

    state = Routine("one").per_origin(make)
    with pytest.raises(OSError, match="not yet"):
        state["a"]
    assert state["a"] == 2


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"make": {}}, TypeError, r"make must be a function, not .*: self\.per_origin\(Counter\)"),
        ({"make": None}, TypeError, "make must be a function"),
        ({"make": list, "close": "close"}, TypeError, "close must be a function, not 'close'"),
        ({"make": list, "limit": 0}, ValueError, "limit must be a whole number of at least 1, not 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Routine("one").per_origin(**arguments)


class Numbered(MiddleRoutine):
    """Numbers the messages of each origin, whichever way they come."""

    counts: PerOrigin[list[int]]

    def setup(self) -> None:
        self.counts = self.per_origin(list)

    def main_logic(self, data: Any) -> Any:
        return numbers(self.counts, self.metas)


class NumberedBatch(BatchRoutine):
    def setup(self) -> None:
        self.counts: PerOrigin[list[int]] = self.per_origin(list)

    def main_logic(self, batch: list[Any]) -> list[Any]:
        return numbers(self.counts, self.metas)


def numbers(counts: PerOrigin[list[int]], metas: list[Meta]) -> list[tuple[str, int]]:
    for meta in metas:
        counts[meta.origin].append(meta.sequence)
    return [(meta.origin, counts[meta.origin].index(meta.sequence)) for meta in metas]


@pytest.mark.parametrize("kind", ["one by one", "joined", "batch"])
def test_in_a_pipe_the_metas_of_the_messages_in_hand_say_whose_they_are(tmp_path: Path, kind: str) -> None:
    sources = [Items("a", range(6)), Items("b", range(6))]
    routine: Routine = NumberedBatch("n", batch_size=4) if kind == "batch" else Numbered("n")
    if kind == "joined":
        routine.join = Join(by="seq")
    record = Record("record", tmp_path / "got")
    with Pipe(policy="block", capacity=8) as pipe:
        pipe.create_flow("sources", False, *sources)
        pipe.create_flow("steps", True, routine, record)
        pipe.link(*(Wire(source, routine) for source in sources))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    values = [message.value for message in received(tmp_path / "got")]
    if kind == "joined":
        assert values == [[("a", number), ("b", number)] for number in range(6)]
    else:
        flat = values if kind == "batch" else [value for (value,) in values]
        assert sorted(flat) == [(name, number) for name in "ab" for number in range(6)]


# ---- what is kept for each camera ----------------------------------------------------------------

NAMES = ("a", "b", "c")


def fed(routine: MiddleRoutine, *streams: list[Any]) -> list[list[Any]]:
    """What a routine makes of several cameras' messages, which come in turn; of each camera, in order."""
    results: list[list[Any]] = [[] for _ in streams]
    for sequence in range(max(map(len, streams))):
        for camera, stream in enumerate(streams):
            if sequence < len(stream):
                routine.meta = Meta(NAMES, camera, sequence)
                routine.metas = [routine.meta]
                results[camera].append(routine.main_logic(stream[sequence]))
    return results


def alone(make: Callable[[], MiddleRoutine], stream: list[Any]) -> list[Any]:
    routine = make()
    routine.setup()
    return fed(routine, stream)[0]


def together(make: Callable[[], MiddleRoutine], *streams: list[Any]) -> list[list[Any]]:
    routine = make()
    routine.setup()
    return fed(routine, *streams)


def moving(shade: int, step: int, shape: tuple[int, int] = (120, 160)) -> list[np.ndarray]:
    """A light square that moves over a grey ground."""
    frames = [np.full((*shape, 3), shade, np.uint8) for _ in range(40)]
    for number, frame in enumerate(frames):
        frame[30:60, number * step : number * step + 30] = 250
    return frames


OTHERS = {"still": moving(160, 0), "another size": moving(160, 1, (64, 96)), "fewer": moving(90, 3)[:10]}


@pytest.mark.parametrize("other", OTHERS)
def test_motion_in_one_camera_does_not_depend_on_another(other: str) -> None:
    stream = moving(60, 2)
    expected = [found.detections.boxes.tolist() for found in alone(MotionDetector, stream)]
    assert sum(map(len, expected)) > 5
    got, beside = together(MotionDetector, stream, OTHERS[other])
    assert [found.detections.boxes.tolist() for found in got] == expected
    assert len(beside) == len(OTHERS[other])


def walking(*lefts: int, step: int = 2) -> list[DetectedFrame]:
    frame = np.zeros((120, 640, 3), np.uint8)
    return [
        DetectedFrame(frame, Detections([[x + n * step, 20, x + n * step + 40, 100] for x in lefts], [0.9] * len(lefts)))
        for n in range(20)
    ]


def ids(results: list[DetectedFrame]) -> list[list[int]]:
    columns = [result.detections.track_ids for result in results]
    assert all(column is not None and column.dtype == np.int64 for column in columns)
    return [sorted(column.tolist()) for column in columns if column is not None]


def test_tracks_of_one_camera_are_those_that_it_has_alone_and_no_two_cameras_share_an_id() -> None:
    streams = walking(50, 300), walking(52), walking(50, 200, 400)
    results = [ids(results) for results in together(Tracker, *streams)]
    assert results[0] == ids(alone(Tracker, streams[0]))
    sets = [{number for row in rows for number in row} - {-1} for rows in results]
    assert [len(numbers) for numbers in sets] == [2, 1, 3]
    assert len(set.union(*sets)) == 6
    again = [ids(results) for results in together(Tracker, streams[2], streams[1], streams[0])]
    assert [[len(set(row)) for row in rows] for rows in again[::-1]] == [[len(set(row)) for row in rows] for rows in results]


class Counting:
    """Gives every find a new id: many of them, and high ones."""

    def __init__(self, first: int) -> None:
        self.next = first

    def update(self, detections: sv.Detections) -> sv.Detections:
        detections.tracker_id = np.arange(self.next, self.next + len(detections))
        detections.tracker_id[:1] = -1
        self.next += len(detections)
        return detections


@pytest.mark.parametrize("first", [(0, 0, 0), (200_000, 100_000, 0), (99_999, 0, 10**9), (1024 * 100_000, 102_399_999, 1)])
def test_ids_stay_apart_after_any_number_of_tracks(first: tuple[int, ...]) -> None:
    stream, firsts = walking(0, 100, 200), iter(first)
    sets = [
        {number for row in ids(results) for number in row}
        for results in together(lambda: Tracker(make=lambda: Counting(next(firsts))), stream, stream, stream)
    ]
    assert [len(numbers) for numbers in sets] == [41, 41, 41]
    assert len(set.union(*sets)) == 3 * 40 + 1
    assert set.intersection(*sets) == {-1}


@pytest.mark.parametrize(
    "make",
    [
        lambda sv: Annotator(sv.TraceAnnotator(color_lookup=sv.ColorLookup.TRACK, thickness=4)),
        lambda sv: Annotator(sv.HeatMapAnnotator()),
        lambda sv: Annotator(
            sv.BoxAnnotator(color_lookup=sv.ColorLookup.INDEX), sv.TraceAnnotator(color_lookup=sv.ColorLookup.INDEX)
        ),
    ],
    ids=["traces", "heat", "both"],
)
def test_what_is_drawn_of_one_camera_does_not_depend_on_another(make: Callable[[Any], MiddleRoutine]) -> None:
    import supervision as sv

    def annotator() -> MiddleRoutine:
        return make(sv)

    streams = [alone(Tracker, walking(*lefts, step=step)) for lefts, step in (((50, 300), 2), ((400,), -8))]
    expected = [[drawn.frame for drawn in alone(annotator, stream)] for stream in streams]
    got = [[drawn.frame for drawn in results] for results in together(annotator, *streams)]
    assert all(np.array_equal(a, b) for one, other in zip(got, expected, strict=True) for a, b in zip(one, other, strict=True))
    assert any(frame.any() for frame in got[0])
    assert not np.array_equal(got[0][-1], got[0][0]), "there is a trace"


def test_each_start_draws_afresh() -> None:
    import supervision as sv

    stream = alone(Tracker, walking(50))
    annotator = Annotator(sv.TraceAnnotator(color_lookup=sv.ColorLookup.TRACK))
    runs = []
    for _ in range(2):
        annotator.setup()
        runs.append([drawn.frame for drawn in fed(annotator, stream)[0]])
        annotator.cleanup()
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_an_annotator_that_cannot_be_copied_is_named() -> None:
    class Locked:
        def __deepcopy__(self, memo: object) -> Any:
            raise TypeError("cannot pickle '_thread.lock' object")

        def annotate(self, scene: np.ndarray, detections: sv.Detections) -> np.ndarray:
            return scene

    with pytest.raises(RoutineError, match=r"each camera needs annotators of its own, and a copy of these \(Locked\)"):
        alone(lambda: Annotator(Locked(), name="annotator"), walking(1))


class Smoothing(Numbered):
    replicable = False


@pytest.mark.parametrize("make", [Tracker, Smoothing], ids=lambda kind: kind.__name__)
def test_replicas_of_what_keeps_state_are_refused(make: Callable[[], MiddleRoutine]) -> None:
    routine, source, after = make(), Items("source", []), Forward("after")
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("steps", False, routine, replicas=3)
    pipe.create_flow("after", False, after)
    pipe.link(Wire(source, routine), Wire(routine, after))
    with pytest.raises(RoutineError, match=rf"there would be 3 of it, .* but a {type(routine).__name__} needs them all"):
        pipe.build()


@pytest.mark.parametrize("kind", [VideoWriter, Recorder])
def test_replicas_of_what_writes_one_file_are_refused(tmp_path: Path, kind: type[VideoWriter | Recorder]) -> None:
    source, writer, pipe = Items("source", []), kind(tmp_path / "out.mp4"), Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("write", False, writer, replicas=2)
    pipe.link(Wire(source, writer))
    with pytest.raises(RoutineError, match="needs them all"):
        pipe.build()


def test_a_state_can_be_replaced() -> None:
    """As `counts[origin] += 1` does; and it counts among those that are kept."""
    counts = Sink("counts").per_origin(int, limit=2)
    for origin in "aabca":
        counts[origin] += 1
    assert (dict(zip(counts, map(counts.__getitem__, counts), strict=True)), counts.dropped) == ({"c": 1, "a": 1}, 2)
