"""Flows that die while their wires are linked and unlinked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from killing import assert_sound, await_motion, await_states, drain, kill_flows, pid_of
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, PipeFailed, WiresValidation
from relinking import APART, GATE, TAKEN, across_and_within, drained, link, moves, two_cameras, unlink, wire
from routines import Gated
from waiting import Board, eventually


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
