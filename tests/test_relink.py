"""Wires that are linked and unlinked while the pipe runs: in order, with their settings, by scripts and by routines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from killing import await_motion, await_states, running, snapshot_of
from pipert_shm import (
    LINK,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    DestinationRoutine,
    FPSRoutine,
    MiddleRoutine,
    Pipe,
    PipeStateError,
    SourceRoutine,
    UnknownEvent,
    UnknownTarget,
    Wire,
    WiresValidation,
    events,
)
from relinking import APART, SEEN, Camera, across_and_within, drained, link, moves, two_cameras, unlink, wire
from routines import Forward, Items, Record, Sink, one_value, received
from waiting import Board, eventually

# ---- order, and nothing lost ---------------------------------------------------------------------


@across_and_within
def test_all_that_is_sent_between_link_and_unlink_arrives_in_order(flows: tuple[str, ...], tmp_path: Path) -> None:
    cycles = 40
    with two_cameras(*flows, screen=Record("screen", tmp_path / "r", one_value), fps=0) as pipe:
        for _ in range(cycles):
            link(pipe, "camera", "screen")
            moves(pipe, messages=5)
            unlink(pipe, "camera", "screen")
        drained(pipe)
        now = wire(pipe)
        assert now.sent == now.received + now.dropped["ended"]
        assert now.dropped["ended"] == now.lost <= cycles  # one at most was waiting for room when the wire was unlinked
        assert not now.linked
        before = now.sent
        moves(pipe, "camera", "preview", 20)
        assert wire(pipe).sent == before
        pipe.join(to_kill=True)
    frames = [message for message in received(tmp_path / "r") if message.origin == "camera"]
    numbers = [frame.sequence for frame in frames]
    assert [frame.value for frame in frames] == [number % 251 for number in numbers]
    assert len(numbers) == now.received
    gaps = [b - a for a, b in pairwise(numbers) if b != a + 1]
    assert all(gap > 1 for gap in gaps)
    assert len(gaps) < cycles


@across_and_within
def test_one_link_after_the_other_without_a_pause(flows: tuple[str, ...], tmp_path: Path) -> None:
    """The next life of the wire begins before the last one is drained."""
    with two_cameras(*flows, screen=Record("screen", tmp_path / "r"), fps=0) as pipe:
        for _ in range(20):
            for _ in range(5):
                link(pipe, "camera", "screen", capacity=4)
                unlink(pipe, "camera", "screen")
            link(pipe, "camera", "screen", capacity=2)
            moves(pipe, messages=2)
            unlink(pipe, "camera", "screen")
        drained(pipe)
        now = wire(pipe)
        assert now.sent == now.received + now.dropped["ended"]
        pipe.join(to_kill=True)
    numbers = [message.sequence for message in received(tmp_path / "r") if message.origin == "camera"]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == now.received


def test_events_and_wires_keep_their_order() -> None:
    """A link between a stop and a start of the sender: the first message of the new run is the first on the wire."""
    seen = Board()

    class First(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            if self.meta.origin == "camera" and not seen[SEEN]:
                seen[SEEN] = self.meta.sequence + 1

    with two_cameras(*APART, screen=First("screen")) as pipe:
        await_motion(pipe)
        pipe.notify_event("stop", specific_routine="camera")
        link(pipe, "camera", "screen")
        await_states(pipe, camera="stopped")
        sent = pipe.statistics().routines["camera"].sent
        pipe.notify_event(START_EVENT_NAME)
        seen.wait(SEEN)
        assert seen[SEEN] - 1 == sent


def test_a_stream_that_ends_ends_over_a_linked_wire_too(tmp_path: Path) -> None:
    pipe = Pipe(policy="block", capacity=2)
    source, first, clock, screen = (
        Items("source", range(300)),
        Sink("first"),
        Items("clock", []),
        Record("screen", tmp_path / "r"),
    )
    for routine in (source, first, clock, screen):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, first), Wire(clock, screen))
    pipe.build()
    link(pipe, "source", "screen")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(300))


def test_a_link_that_is_notified_before_the_pipe_is_built(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    pipe.create_flow("a", True, Items("source", range(5)), Sink("first"))
    pipe.create_flow("b", True, Items("clock", []), Record("screen", tmp_path / "r"))
    link(pipe, "source", "screen")
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert len(received(tmp_path / "r")) == 5


def test_a_link_before_the_pipe_is_built_that_can_not_be() -> None:
    pipe = Pipe()
    pipe.create_flow("a", True, Items("source", range(5)), Sink("first"))
    link(pipe, "source", "first")
    with pytest.raises(WiresValidation, match="already"):
        pipe.build()
    with pytest.raises(PipeStateError):
        pipe.statistics()


# ---- settings, structure -------------------------------------------------------------------------


def test_settings_of_a_linked_wire() -> None:
    with two_cameras(*APART) as pipe:
        link(pipe, "camera", "screen", policy="drop_newest", capacity=9)
        assert (wire(pipe).policy, wire(pipe).capacity) == ("drop_newest", 9)
        moves(pipe)
        unlink(pipe, "camera", "screen")
        drained(pipe)
        link(pipe, "camera", "screen")
        assert (wire(pipe).policy, wire(pipe).capacity) == ("drop_newest", 9)
        unlink(pipe, "camera", "screen")
        drained(pipe)
        link(pipe, "camera", "screen", capacity=3)
        assert (wire(pipe).policy, wire(pipe).capacity) == ("drop_newest", 3)
        link(pipe, "clock", "preview")
        assert (wire(pipe, "clock", "preview").policy, wire(pipe, "clock", "preview").capacity) == ("block", 2)
        unlink(pipe, "camera", "preview")
        drained(pipe, "camera", "preview")
        link(pipe, "camera", "preview", capacity=1)
        moves(pipe, "camera", "preview")


class Doubles(MiddleRoutine):
    def main_logic(self, data: Any) -> Any:
        return 2 * data


class Both(FPSRoutine):
    """Takes and sends, or only takes, as it is wired."""

    def main_logic(self, data: Any = None) -> Any:
        return data


@pytest.mark.parametrize(
    ("sender", "receiver", "settings", "error", "text"),
    [
        ("camera", "clock", {}, WiresValidation, "'clock' is a source"),
        ("screen", "preview", {}, WiresValidation, "'screen' is a DestinationRoutine"),
        ("camera", "middle", {}, WiresValidation, "'camera' is wired to 'middle' already"),
        ("middle", "middle", {}, WiresValidation, "cycle: 'middle' -> 'middle'"),
        ("both", "middle", {}, WiresValidation, "cycle: 'both' -> 'middle' -> 'both'"),
        ("camera", "nobody", {}, UnknownTarget, "no routine 'nobody'"),
        ("nobody", "screen", {}, UnknownTarget, "no routine 'nobody'"),
        ("camera", "screen", {"policy": "drop"}, ValueError, "unknown policy 'drop'"),
        ("camera", "screen", {"capacity": 0}, ValueError, "capacity must be"),
        ("camera", "screen", {"timeout": -1}, ValueError, "timeout must be"),
        ("camera", "screen", {"capacity": 17}, WiresValidation, "16 messages at the most, not 17"),
    ],
)
def test_links_that_can_not_be(sender: str, receiver: str, settings: dict[str, Any], error: type[Exception], text: str) -> None:
    pipe = Pipe(policy="block", grace_period=2)
    pipe.create_flow("a", True, Camera("camera", 500), Forward("middle"))
    pipe.create_flow("b", False, both := Both("both"), Sink("preview"))
    pipe.create_flow("c", True, Camera("clock", 500), Sink("screen"))
    pipe.link(Wire(pipe.flows["a"].routines["middle"], (both, pipe.flows["b"].routines["preview"])))
    with running(pipe):
        before = snapshot_of(pipe)
        with pytest.raises(error, match=text):
            link(pipe, sender, receiver, **settings)
        after = snapshot_of(pipe)
        for field in ("sender", "receiver", "capacity"):
            assert (after.edges[field] == before.edges[field]).all()
        assert (after.incarnations["state"] == before.incarnations["state"]).all()
        await_motion(pipe)
        link(pipe, "both", "screen")  # a routine whose role is inferred may send as well
        moves(pipe, "both", "screen")


def test_a_link_needs_to_be_told_what_to_link_to() -> None:
    with two_cameras(*APART) as pipe, pytest.raises(UnknownEvent, match="link_routine_name"):
        pipe.notify_event(LINK, specific_routine="camera")


def test_a_link_after_the_end() -> None:
    with two_cameras(*APART) as pipe:
        pipe.join(to_kill=True)
        with pytest.raises(PipeStateError):
            link(pipe, "camera", "screen")


def test_one_event_links_several() -> None:
    with two_cameras(*APART) as pipe:
        pipe.notify_event(LINK_EVENT_NAME, {"camera": ["camera"]}, link_routine_name="screen")
        moves(pipe)


# ---- from routines -------------------------------------------------------------------------------


def test_a_routine_links_and_unlinks(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()

    class Switch(SourceRoutine):
        """Links the camera to the screen, asks for what can't be, and notes the events of its own."""

        def main_logic(self) -> int:
            if self.meta.sequence == 3:
                self.notify_event(LINK, specific_routine="switch", link_routine_name="preview")
            if self.meta.sequence == 6:
                self.notify_event(LINK, specific_routine="camera", link_routine_name="preview")
            return self.meta.sequence

        @events(LINK_EVENT_NAME)
        def note(self, link_routine_name: str) -> None:
            board[SEEN] = len(link_routine_name)

    pipe = Pipe(policy="block", grace_period=2)
    pipe.create_flow("a", True, Camera("camera", 500), Sink("preview"))
    pipe.create_flow("b", True, switch := Switch("switch"), Sink("screen"))
    switch.set_const_fps(500)
    with running(pipe):
        eventually(lambda: ("switch", "preview") in pipe.statistics().wires, "a wire")
        moves(pipe, "switch", "preview")
        board.wait(SEEN)
        assert board[SEEN] == len("preview")
        eventually(lambda: pipe.statistics().routines["switch"].errors == 1, "an error")
        told = "routine 'switch' of flow 'b': 'camera' is wired to 'preview' already"
        eventually(lambda: told in caplog.messages, "a log record")
        await_motion(pipe)
        assert pipe.statistics().routines["camera"].errors == 0
    (record,) = [record for record in caplog.records if "already" in record.getMessage()]
    assert (record.name, record.levelname) == ("Pipe.b.switch", "ERROR")
