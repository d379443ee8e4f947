"""The end of streams and routines whose wires are linked and unlinked meanwhile."""

from __future__ import annotations

from pathlib import Path

from audit import audit
from killing import assert_sound, await_motion, await_states, drain, running, snapshot_of
from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, Routine, SourceRoutine, Wire
from relinking import APART, GATE, TAKEN, Camera, across_and_within, drained, link, moves, two_cameras, unlink, wire
from routines import Gated, Sink
from waiting import Board, eventually


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
        drain(pipe, "camera", "clock")  # the clock rests, with a message that it could not send, perhaps
        message_rings = [ring for ring in snapshot_of(pipe).rings.values() if ring.owner == 0 and ring.slot_bytes == 4096]
        assert message_rings
        assert not any(ring.holders(n) for ring in message_rings for n in range(len(ring.words)))
