"""Rare meetings of deaths: nothing of what the dead held is kept for ever, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    drain,
    flows_of,
    kill_flows,
    pid_of,
    running,
    snapshot_of,
)
from pipert_shm import UNLINK_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, Wire
from routines import Forward, Frames, Sink
from waiting import Board, eventually

TAKEN, GATE = 0, 1
SMALL = (8, 8, 3)


class Holds(DestinationRoutine):
    """Takes a message, and stays with it until the gate opens."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        self.board.add(TAKEN)
        self.board.wait(GATE, timeout=60)


class Once(DestinationRoutine):
    """Has had enough with the first message."""

    def main_logic(self, data: Any) -> None:
        raise EndOfStream


def paced(name: str, fps: float, shape: tuple[int, ...] = (64, 64, 3)) -> Frames:
    source = Frames(name, None, shape)
    source.set_const_fps(fps)
    return source


def lives(pipe: Pipe) -> int:
    """Incarnations that are not swept."""
    return sum(1 for one in snapshot_of(pipe).incarnations if one["state"] in (1, 2))


def test_a_receiver_that_fails_for_good_after_its_sender_was_restarted() -> None:
    """What the sender's earlier process had sent, and nobody has read, is given up with the rest."""
    board = Board()
    pipe = Pipe()
    source, middle, last = paced("source", 200), Forward("middle"), Holds("last", board)
    pipe.create_flow("source", False, source, **FAST)
    pipe.create_flow("middle", False, middle, **FAST)
    pipe.create_flow("last", False, last, restart="never")
    pipe.link(Wire(source, middle), Wire(middle, last))
    with running(pipe):
        board.wait(TAKEN)
        eventually(lambda: pipe.statistics().wires["middle", "last"].waiting == 2)
        kill_flows(pipe, "middle")
        eventually(lambda: lives(pipe) == 3)
        os.kill(pid_of(pipe, "last"), signal.SIGKILL)
        await_states(pipe, last="failed")
        await_motion(pipe, ("middle", "last"))
        eventually(lambda: lives(pipe) == 2)
        drain(pipe, "source")
        assert_sound(pipe)


@pytest.mark.parametrize("restart", ["always", "never"])
def test_the_receiver_of_a_wire_that_was_unlinked_dies(restart: Any) -> None:
    board = Board()
    pipe = Pipe()
    source, one, other = paced("source", 200), Holds("one", board), Holds("other", board)
    pipe.create_flow("source", False, source, **FAST)
    pipe.create_flow("one", False, one, **{**FAST, "restart": restart})
    pipe.create_flow("other", False, other, **FAST)
    pipe.link(Wire(source, [one, other]))
    with running(pipe):
        eventually(lambda: all(pipe.statistics().routines[name].received for name in ("one", "other")))
        eventually(lambda: pipe.statistics().wires["source", "one"].waiting == 2)
        pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="source", unlink_routine_name="one")
        eventually(lambda: not pipe.statistics().wires["source", "one"].linked)
        if restart == "always":
            board[GATE] = 1
            kill_flows(pipe, "one")
        else:
            os.kill(pid_of(pipe, "one"), signal.SIGKILL)
            await_states(pipe, one="failed")
            board[GATE] = 1
        drain(pipe, "source")
        assert_sound(pipe)


def test_two_deaths_with_no_bit_to_spare_do_not_wait_for_each_other() -> None:
    pipe = flows_of(
        Pipe(),
        paced("source", 20, SMALL),
        Forward("middle"),
        *(Sink(f"sink{n}") for n in range(30)),
        wires={"source": "middle", "middle": " ".join(f"sink{n}" for n in range(30))},
    )
    with running(pipe):
        await_motion(pipe)
        kill_flows(pipe, "source", "middle")
        await_motion(pipe)


def test_a_routine_that_has_ended_keeps_nothing_of_dead_senders() -> None:
    """However often both of them die, bits and slots are given back."""
    pipe = flows_of(Pipe(), paced("source", 50, SMALL), Once("once"), wires={"source": "once"})
    with running(pipe):
        await_states(pipe, once="ended")
        for victims in (("source",), ("source", "once"), ("source", "once"), ("once",), ("source",)):
            kill_flows(pipe, *victims)
            eventually(lambda: lives(pipe) == 1)
        drain(pipe, "source")
        assert_sound(pipe)
