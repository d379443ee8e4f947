"""Wires that are linked and unlinked while the pipe runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import LIVE, SENDER_DEAD, audit
from killing import FAST, assert_sound, await_motion, await_states, drain, kill_flows, launcher_of, pid_of, running, snapshot_of
from pipert_shm import (
    LINK,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    FPSRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipeStateError,
    Routine,
    SourceRoutine,
    UnknownEvent,
    UnknownTarget,
    Wire,
    WiresValidation,
    events,
)
from pipert_shm.footprint import LINKS
from routines import Forward, Gated, Items, Record, Sink, one_value, received
from waiting import Board, eventually

GATE, TAKEN, SEEN = 0, 1, 2


class Camera(SourceRoutine):
    """Sends frames for ever, loaned, the pixels of each being its number % 251."""

    def __init__(self, name: str, fps: float = 0) -> None:
        super().__init__(name)
        self.set_const_fps(fps)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((40, 50, 3))
        frame[...] = self.meta.sequence % 251
        return frame


def link(pipe: Pipe, sender: str, receiver: str, **settings: Any) -> None:
    pipe.notify_event(LINK_EVENT_NAME, specific_routine=sender, link_routine_name=receiver, **settings)


def unlink(pipe: Pipe, sender: str, receiver: str) -> None:
    pipe.notify_event(UNLINK_EVENT_NAME, specific_routine=sender, unlink_routine_name=receiver)


@contextmanager
def two_cameras(*flows: str, screen: Routine | None = None, fps: float = 500, **options: Any) -> Iterator[Pipe]:
    """camera -> preview, and clock -> screen: in the flows that are named, one for each of these four."""
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    routines = [Camera("camera", fps), Sink("preview"), Camera("clock", fps), screen or Sink("screen")]
    for flow in dict.fromkeys(flows):
        members = [routine for routine, name in zip(routines, flows, strict=True) if name == flow]
        pipe.create_flow(flow, False, *members, **{**FAST, **options})
    pipe.link(Wire(routines[0], routines[1]), Wire(routines[2], routines[3]))
    with running(pipe):
        yield pipe


APART = ("camera", "preview", "clock", "screen")
TOGETHER = ("one",) * 4
across_and_within = pytest.mark.parametrize("flows", [APART, TOGETHER], ids=["across", "within"])


def moves(pipe: Pipe, sender: str = "camera", receiver: str = "screen", messages: int = 1) -> None:
    """Until a wire has carried so many messages from now on."""
    before = wire(pipe, sender, receiver).received
    eventually(lambda: wire(pipe, sender, receiver).received >= before + messages, f"motion from {sender} to {receiver}")


def wire(pipe: Pipe, sender: str = "camera", receiver: str = "screen") -> Any:
    return pipe.statistics().wires[sender, receiver]


def drained(pipe: Pipe, sender: str = "camera", receiver: str = "screen") -> None:
    """Until nothing is left of a wire that was unlinked."""
    names = list(pipe.statistics().routines)
    ends = names.index(sender), names.index(receiver)

    def gone() -> bool:
        shot = snapshot_of(pipe)
        return not any((e["sender"], e["receiver"]) == ends and shot.unswept(n) for n, e in enumerate(shot.edges))

    eventually(gone, f"the end of the wire from {sender} to {receiver}")


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


# ---- nothing leaks -------------------------------------------------------------------------------


def test_two_hundred_links_take_no_more_than_one() -> None:
    def possessions(pipe: Pipe) -> tuple[Any, ...]:
        shot = snapshot_of(pipe)
        pids = [launcher_of(pipe), *(flow.pid for flow in pipe.statistics().flows.values())]
        return (
            sum(i["state"] in (LIVE, SENDER_DEAD) for i in shot.incarnations),
            sum(edge["capacity"] != 0 for edge in shot.edges),
            shot.memory_left,
            sorted((ring.owner, ring.slot_bytes, len(ring.words)) for ring in shot.rings.values()),
            [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids],
        )

    with two_cameras(*APART, fps=2000) as pipe:
        seen = []
        for cycle in range(201):
            link(pipe, "camera", "screen", capacity=1 + cycle % 2)
            link(pipe, "clock", "preview")
            moves(pipe)
            moves(pipe, "clock", "preview")
            unlink(pipe, "camera", "screen")
            unlink(pipe, "clock", "preview")
            drained(pipe)
            drained(pipe, "clock", "preview")
            if cycle in (2, 200):
                eventually(lambda: len(snapshot_of(pipe).rings) == 4, "an end of the smaller rings")
                seen.append(possessions(pipe))
        assert seen[0] == seen[1]
        drain(pipe, "camera", "clock")
        assert_sound(pipe)
        assert all(i["bit"] < 4 for i in snapshot_of(pipe).incarnations)
        assert wire(pipe).sent >= 201


def test_the_sender_gets_the_slots_that_one_more_wire_needs() -> None:
    """A queue of 16 that nobody reads costs the others nothing: with the slots of build() they would find none."""
    board = Board()
    with two_cameras(*APART, screen=Gated("screen", board, GATE, TAKEN)) as pipe:
        link(pipe, "camera", "screen", policy="drop_newest", capacity=16)
        eventually(lambda: wire(pipe).dropped["newest"] > 20, "a full queue")
        now = pipe.statistics()
        assert now.wires["camera", "screen"].waiting == 16
        assert [counters.dropped["no_slot"] for counters in now.wires.values()] == [0, 0, 0]
        moves(pipe, "camera", "preview", 20)
        board[GATE] = 10**9


def test_as_many_wires_as_there_are_places_for() -> None:
    pipe = Pipe(policy="drop_oldest")
    sources, sinks = [Camera(f"c{n}", 200) for n in range(7)], [Sink(f"s{n}") for n in range(7)]
    for n in range(7):
        pipe.create_flow(f"f{n}", True, sources[n], sinks[n])
    pairs = [(f"c{n}", f"s{m}") for n in range(7) for m in range(7) if n != m]
    with running(pipe):
        for pair in pairs[:LINKS]:
            link(pipe, *pair)
        with pytest.raises(WiresValidation, match="no place"):
            link(pipe, *pairs[LINKS])
        await_motion(pipe)
        unlink(pipe, *pairs[3])
        drained(pipe, *pairs[3])
        sender = pairs[LINKS][0]
        pipe.notify_event("stop", specific_routine=sender)
        await_states(pipe, **{sender: "stopped"})
        link(pipe, *pairs[LINKS])
        fresh = wire(pipe, *pairs[LINKS])
        assert (fresh.sent, fresh.received, fresh.lost, fresh.hop.count) == (0, 0, 0, 0)  # nothing of the wire before it
        pipe.notify_event(START_EVENT_NAME, specific_routine=sender)
        moves(pipe, *pairs[LINKS])
        assert pairs[3] not in pipe.statistics().wires
        assert set(pipe.statistics().wires) == {*pairs[:3], *pairs[4 : LINKS + 1], *((f"c{n}", f"s{n}") for n in range(7))}
        await_motion(pipe)
        drain(pipe, *(source.name for source in sources))
        assert_sound(pipe)
        # The receiver of the wire whose place went to another pair ends when its own inputs do.
        for name in (f"c{n}" for n in range(7)):
            for other in (f"s{n}" for n in range(7)):
                if (name, other) in pipe.statistics().wires:
                    unlink(pipe, name, other)
        pipe.notify_event(START_EVENT_NAME, specific_routine="c0")
        await_states(pipe, **{sink.name: "ended" for sink in sinks})


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
    pipe.link(Wire(pipe._flows["a"][1], (both, pipe._flows["b"][1])))
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


# ---- ends ----------------------------------------------------------------------------------------


@across_and_within
def test_a_routine_ends_with_its_last_wire_and_goes_on_when_started(flows: tuple[str, ...]) -> None:
    with two_cameras(*flows) as pipe:
        await_motion(pipe)
        unlink(pipe, "clock", "screen")
        await_states(pipe, screen="ended", clock="running")
        link(pipe, "camera", "screen")
        eventually(lambda: wire(pipe).dropped["ended"] > 3, "messages that nobody takes")
        assert wire(pipe).received == 0
        pipe.notify_event(START_EVENT_NAME, specific_routine="screen")
        moves(pipe, messages=5)
        link(pipe, "clock", "screen")
        moves(pipe, "clock", "screen")
        unlink(pipe, "camera", "screen")
        moves(pipe, "clock", "screen", 5)
        drain(pipe, "clock", "camera")
        assert_sound(pipe)


@across_and_within
def test_a_wire_from_a_routine_that_has_ended(flows: tuple[str, ...]) -> None:
    """It ends, like all others of that routine, and is there in its next run."""
    board = Board()

    class Ending(SourceRoutine):
        def main_logic(self) -> int:
            if board[GATE] and not self.meta.sequence % 7:
                return 7
            board.wait(GATE, timeout=60)
            raise EndOfStream

    pipe = Pipe(policy="block", grace_period=2)
    routines: list[Routine] = [Ending("ending"), Sink("first"), Camera("clock", 500), Sink("screen")]
    for flow in dict.fromkeys(flows):
        pipe.create_flow(flow, False, *(r for r, name in zip(routines, flows, strict=True) if name == flow))
    pipe.link(Wire(routines[0], routines[1]), Wire(routines[2], routines[3]))
    with running(pipe):
        board[GATE] = 1
        await_states(pipe, ending="ended", first="ended")
        link(pipe, "ending", "screen")
        before = wire(pipe, "ending", "screen").received
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe, ("ending", "first"), ("ending", "screen"))
        assert before == 0
        await_states(pipe, ending="ended", first="ended", screen="running")
        unlink(pipe, "clock", "screen")
        await_states(pipe, screen="ended")


def test_the_backlog_of_an_unlinked_wire_arrives_at_a_routine_that_is_slow(tmp_path: Path) -> None:
    board = Board()
    with two_cameras(*APART, screen=Gated("screen", board, GATE, TAKEN)) as pipe:
        link(pipe, "camera", "screen", capacity=8)
        unlink(pipe, "clock", "screen")
        eventually(lambda: wire(pipe).waiting == 8, "a full queue")
        unlink(pipe, "camera", "screen")
        moves(pipe, "camera", "preview", 10)
        assert wire(pipe).waiting == 8
        assert pipe.statistics().routines["screen"].state == "running"
        board[GATE] = 10**9
        await_states(pipe, screen="ended")
        now = wire(pipe)
        assert (now.waiting, now.sent) == (0, now.received + now.dropped["ended"])
        assert now.received >= 8


def test_a_message_that_waits_within_the_flow_while_its_other_wire_is_unlinked() -> None:
    """Its slot is the sender's as long as it waits, also while that is stopped, and free when it is through."""
    board = Board()
    pipe = Pipe(policy="block", capacity=1, grace_period=2)
    camera, near, far = Camera("camera"), Gated("near", board, GATE, TAKEN), Sink("far")
    clock = Camera("clock", 500)
    pipe.create_flow("one", False, camera, near)
    for routine in (far, clock):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(camera, (near, far)), Wire(clock, far))
    with running(pipe):
        eventually(lambda: snapshot_of(pipe).pending(0) == 1 and wire(pipe, "camera", "far").waiting == 0, "a wait for room")
        unlink(pipe, "camera", "far")
        drained(pipe, "camera", "far")
        for source in ("camera", "clock"):
            pipe.notify_event("stop", specific_routine=source)
        await_states(pipe, camera="stopped", clock="stopped")
        held = {0: 3}  # frames within the flow: one in hand, one that waits, one that waits for room
        names = tuple(pipe.statistics().routines)
        eventually(lambda: not audit(snapshot_of(pipe), names, held), "a sound state")
        board[GATE] = 10**9
        pipe.notify_event(START_EVENT_NAME, specific_routine="camera")
        moves(pipe, "camera", "near", 5)
        drain(pipe, "camera")
        message_rings = [ring for ring in snapshot_of(pipe).rings.values() if ring.owner == 0 and ring.slot_bytes == 4096]
        assert message_rings
        assert not any(ring.holders(n) for ring in message_rings for n in range(len(ring.words)))


# ---- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [("screen",), ("camera",), ("camera", "screen"), APART], ids="+".join)
def test_a_linked_wire_lives_through_crashes(victims: tuple[str, ...]) -> None:
    with two_cameras(*APART) as pipe:
        link(pipe, "camera", "screen")
        moves(pipe)
        for _ in range(5):
            kill_flows(pipe, *victims)
            moves(pipe, messages=3)
        unlink(pipe, "camera", "screen")
        drained(pipe)
        kill_flows(pipe, *victims)
        await_motion(pipe, ("camera", "screen"))
        link(pipe, "camera", "screen")
        moves(pipe, messages=3)
        drain(pipe, "camera", "clock")
        assert_sound(pipe)


def test_a_linked_wire_within_a_flow_lives_through_crashes() -> None:
    with two_cameras("a", "b", "a", "a") as pipe:
        link(pipe, "camera", "screen")
        for _ in range(3):
            moves(pipe, messages=3)
            kill_flows(pipe, "a")
        unlink(pipe, "camera", "screen")
        kill_flows(pipe, "a")
        drained(pipe)
        await_motion(pipe, ("camera", "screen"))
        drain(pipe, "camera", "clock")
        assert_sound(pipe)


SLOW: dict[str, Any] = {"max_restarts": 10, "restart_window": 60.0}  # the fifth restart comes after a third of a second


def kill_for_long(pipe: Pipe, flow: str) -> None:
    """Until a flow is down for a while."""
    for _ in range(4):
        kill_flows(pipe, flow)
    os.kill(pid_of(pipe, flow), signal.SIGKILL)
    eventually(lambda: pipe.statistics().flows[flow].state == "restarting", "a death")


@pytest.mark.parametrize("victim", ["camera", "screen"])
@pytest.mark.parametrize("change", ["link", "unlink", "unlink and link", "link and unlink"])
def test_links_of_a_flow_that_is_down(victim: str, change: str) -> None:
    with two_cameras(*APART, **SLOW) as pipe:
        if change.startswith("unlink"):
            link(pipe, "camera", "screen")
            moves(pipe)
        kill_for_long(pipe, victim)
        for what in change.split(" and "):
            (link if what == "link" else unlink)(pipe, "camera", "screen")
        assert pipe.statistics().flows[victim].state == "restarting"
        if change.endswith("unlink"):
            await_motion(pipe, ("camera", "screen"))
            drained(pipe)
            unlink(pipe, "clock", "screen")
            await_states(pipe, screen="ended")  # it does not wait for more
        else:
            moves(pipe, messages=5)
            drain(pipe, "camera", "clock")
            assert_sound(pipe)


def test_a_receiver_waits_for_a_linked_sender_that_is_down() -> None:
    """It does not end with its last other wire."""
    with two_cameras(*APART, **SLOW) as pipe:
        kill_for_long(pipe, "camera")
        link(pipe, "camera", "screen")
        unlink(pipe, "clock", "screen")
        moves(pipe, messages=5)


def test_nobody_waits_for_a_receiver_that_has_ended_and_is_down() -> None:
    with two_cameras(*APART, **SLOW) as pipe:
        unlink(pipe, "clock", "screen")
        await_states(pipe, screen="ended")
        kill_for_long(pipe, "screen")
        link(pipe, "camera", "screen")
        eventually(lambda: wire(pipe).dropped["ended"] > 3, "messages that nobody takes")
        assert pipe.statistics().flows["screen"].state == "restarting"


@across_and_within
def test_a_routine_that_ends_before_it_hears_of_a_link(flows: tuple[str, ...]) -> None:
    """Whoever has sent to it meanwhile goes on."""
    board = Board()

    class Ending(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board[TAKEN] = 1
            board.wait(GATE, timeout=60)
            raise EndOfStream

    with two_cameras(*flows, screen=Ending("screen")) as pipe:
        board.wait(TAKEN)
        link(pipe, "camera", "screen")
        eventually(lambda: wire(pipe).waiting == 2, "a full queue")
        board[GATE] = 1
        await_states(pipe, screen="ended")
        moves(pipe, "camera", "preview", 5)
        eventually(lambda: wire(pipe).waiting == 0, "an empty queue")
        now = wire(pipe)
        assert now.received == 0


def test_what_a_dead_receiver_had_not_read_of_an_unlinked_wire_goes_to_the_next(tmp_path: Path) -> None:
    board = Board()
    with two_cameras(*APART, screen=Gated("screen", board, GATE, TAKEN), **SLOW) as pipe:
        link(pipe, "camera", "screen", capacity=8)
        unlink(pipe, "clock", "screen")
        eventually(lambda: wire(pipe).waiting == 8, "a full queue")
        kill_for_long(pipe, "screen")
        unlink(pipe, "camera", "screen")
        assert pipe.statistics().flows["screen"].state == "restarting"
        board[GATE] = 10**9
        await_states(pipe, screen="ended")
        drained(pipe)
        now = wire(pipe)
        assert now.sent == now.received + now.dropped["ended"] + now.dropped["crash"]
        assert board[TAKEN] >= 8
        pipe.notify_event("stop", specific_routine="camera")
        drain(pipe, "camera", "clock")
        assert_sound(pipe)


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.01, 0.03])
@pytest.mark.parametrize("victim", ["camera", "screen"])
def test_kills_in_the_midst_of_links(victim: str, delay: float) -> None:
    with two_cameras(*APART, fps=2000) as pipe:
        for cycle in range(6):
            link(pipe, "camera", "screen")
            if cycle % 2:
                moves(pipe)
            pid = pid_of(pipe, victim)
            unlink(pipe, "camera", "screen")
            time.sleep(delay)  # not a wait: when the kill comes
            os.kill(pid, signal.SIGKILL)
            if cycle % 3:
                link(pipe, "camera", "screen")
                moves(pipe)
                unlink(pipe, "camera", "screen")
            eventually(lambda pid=pid: pipe.statistics().flows[victim].pid not in (0, pid))  # type: ignore[misc]
            await_motion(pipe, ("camera", "screen"))
            drained(pipe)
        drain(pipe, "camera", "clock")
        assert_sound(pipe)


@pytest.mark.parametrize("victim", ["camera", "screen"])
def test_links_of_a_flow_that_has_failed_for_good(victim: str) -> None:
    with two_cameras(*APART, restart="never") as pipe:
        link(pipe, "camera", "screen")
        moves(pipe)
        os.kill(pid_of(pipe, victim), signal.SIGKILL)
        await_states(pipe, **{victim: "failed"})
        unlink(pipe, "camera", "screen")
        drained(pipe)
        with pytest.raises(WiresValidation, match=f"'{victim}' has failed for good"):
            link(pipe, "camera", "screen")
        moves(pipe, *(("clock", "screen") if victim == "camera" else ("camera", "preview")))
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)
