"""Links and unlinks take no memory that they do not give back."""

from __future__ import annotations

import os
from typing import Any

import pytest

from audit import IN_USE
from killing import assert_sound, await_motion, await_states, drain, launcher_of, running, snapshot_of
from pipert_shm import START_EVENT_NAME, Pipe, WiresValidation
from relinking import APART, GATE, TAKEN, Camera, drained, link, moves, two_cameras, unlink, wire
from routines import Gated, Sink
from waiting import Board, eventually

LINKS = 32


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nobody would wait for thousands of flows."""
    monkeypatch.setattr("pipert_shm.launcher.footprint.LINKS", LINKS)


def test_two_hundred_links_take_no_more_than_one() -> None:
    def possessions(pipe: Pipe) -> tuple[Any, ...]:
        shot = snapshot_of(pipe)
        pids = [launcher_of(pipe), *(flow.pid for flow in pipe.statistics().flows.values())]
        return (
            sum(i["state"] in IN_USE for i in shot.incarnations),
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
