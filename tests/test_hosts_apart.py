"""Wires between hosts: what a death, a cut and another clock change."""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import hosts_net
from hosts_apart import EDGE, HUB, PORT, facts
from hosts_ends import COUNT, LAST, OPEN, SKIPPED, WRONG, Link, Log, at_rest, kill, receiving, sending
from hosts_steps import RECEIVER_AT, SENDER_AT, SteppedReceiver, SteppedSender, kill_at
from pipert_shm import DestinationRoutine, Join, Pipe, SourceRoutine, Wire
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from pipert_shm.hosts.place import Place
from streams import free_port
from waiting import Board


@pytest.fixture
def board() -> Board:
    board = Board()
    board[OPEN] = 1
    return board


@pytest.mark.parametrize("number", [None, 0, 1, 77, (1 << 38) - 2])
@pytest.mark.parametrize("missed", [0, 5, (1 << 24) - 1, 1 << 24, (1 << 40) + 3])
@pytest.mark.parametrize("hand", [None, False, True])
def test_a_place_is_one_word(number: int | None, missed: int, hand: bool | None) -> None:
    place = Place(number, missed, hand)
    assert place.word < 1 << 64
    for written in (missed, max(missed - 9, 0)):  # the count is written after the word: a death may leave it behind
        assert Place.of(place.word, written) == place


def test_what_a_receiver_passes_over_is_missed_once() -> None:
    place = Place().move(10)
    assert (place.number, place.missed) == (10, 0), "where it begins nothing is missed"
    place = place.take(is_odd=True)
    assert place.give_back() == Place(10, 0), "a death in hand"
    assert place.let_go().move(14).take(is_odd=False) == Place(15, 3, False)


def test_nothing_is_lost_or_doubled_wherever_in_its_code_an_end_dies(board: Board) -> None:
    port, rng = free_port(), random.Random(5)
    sender = SteppedSender("gate", "sender", connect=f"tcp/127.0.0.1:{port}", policy="block")
    receiver = SteppedReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    sender.board = receiver.board = board
    other = Board()
    slower = Log(other, delay=0.02, name="slower")  # most deaths find the message in hand on one of the two wires
    with receiving(board, receiver, 0.0, slower) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        for _ in range(3):
            kill(hub, "receiver")
            board.wait(COUNT, board[COUNT] + 3)
            kill_at(hub, board, RECEIVER_AT, rng.randint(1, 1000))
            board.wait(COUNT, board[COUNT] + 3)
        assert (board[SKIPPED], other[SKIPPED]) == (0, 0), "a receiver that dies loses nothing"
        kill_at(edge, board, SENDER_AT, rng.randint(1, 1000))
        board.wait(COUNT, board[COUNT] + 3)
        skipped, counted = at_rest(board, edge, hub)
        other.wait(LAST, board[LAST])
    assert board[WRONG] == other[WRONG] == 0
    assert skipped == other[SKIPPED] == counted, "what a sender had is counted, once"


def test_a_pipe_ends_in_time_while_its_link_is_cut(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    near, port = free_port(), free_port()
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{near}", policy="block")
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    with Link(near, port) as link, receiving(board, receiver):
        with sending(board, sender, fps=200, shape=(480, 640, 3)):
            board.wait(COUNT, 5)
            link.cut()
        link.join()
    assert board[WRONG] == 0
    assert "did not end within" not in caplog.text


class Dated(SourceRoutine):
    """Sends between which two readings of the wall clock, which all hosts here share, it captured."""

    def main_logic(self) -> Any:
        before = time.time_ns()
        self.meta.captured_ns = time.monotonic_ns()
        return np.array([before, time.time_ns()])


class Joined(DestinationRoutine):
    """Counts frames of both hosts whose capture times are wrong by more than was said."""

    join = Join(by="time", tolerance=0.05)

    def __init__(self, board: Board) -> None:
        super().__init__("joined")
        self.board = board

    def main_logic(self, data: Any) -> None:
        before, now, after = time.time_ns(), time.monotonic_ns(), time.time_ns()
        for name, meta in zip(data, self.metas, strict=True):
            first, last = data[name]
            age = now - meta.captured_ns
            wrong = before - age - meta.uncertainty_ns > last or after - age + meta.uncertainty_ns < first
            self.board.add(WRONG, wrong or (name == "receiver") != (meta.uncertainty_ns > 0))
        far, here = (data[name] for name in ("receiver", "near"))
        apart = max(far[0] - here[1], here[0] - far[1]) / 1e9
        self.board.add(WRONG, apart > 0.05 + max(meta.uncertainty_ns for meta in self.metas) / 1e9)
        self.board[LAST] = max(self.board[LAST], max(meta.uncertainty_ns for meta in self.metas))
        self.board.add(COUNT)


def test_capture_times_max_age_and_joins_hold_over_hosts_whose_clocks_differ(board: Board) -> None:
    if hosts_net.why_not():
        pytest.skip(hosts_net.why_not())

    def serve_edge(ask: Connection) -> None:
        camera = Dated("camera")
        camera.set_const_fps(50)
        sender = RemoteSender("gate", "sender", connect=f"tcp/{HUB}:{PORT}", max_age=1.0)
        serve(ask, Pipe(policy="drop_oldest"), camera, sender, wires=[Wire(camera, sender)])

    def serve_hub(ask: Connection) -> None:
        near = Dated("near")
        near.set_const_fps(50)
        receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/0.0.0.0:{PORT}", max_age=1.0)
        joined = Joined(board)
        serve(ask, Pipe(policy="drop_oldest"), near, receiver, joined, wires=[Wire(near, joined), Wire(receiver, joined)])

    with hosts_net.Host(EDGE, serve_edge) as edge, hosts_net.Host(HUB, serve_hub, clock_offset=5000) as hub:
        if not hub.has_clock:
            pytest.skip("this kernel has no time namespaces")
        with hosts_net.Link(edge, hub, hosts_net.LinkSettings(delay=5, rate=100)):
            board.wait(COUNT, 30)
            assert hub.ask("clock") - edge.ask("clock") > 4000 * 10**9
            counters = hub.ask("facts")["routines"]["receiver"][2]
    assert board[WRONG] == 0
    assert board[LAST] >= 5_000_000, "half of the round trip"
    assert counters["too_old"] < board[COUNT], "a clock that is 5,000 s off makes no frame too old"


def serve(ask: Connection, pipe: Pipe, *routines: Any, wires: list[Wire]) -> None:
    """A pipe with a flow for each routine, which answers about itself."""
    with pipe:
        for routine in routines:
            pipe.create_flow(f"of {routine.name}", False, routine)
        pipe.link(*wires)
        pipe.build()
        pipe.notify_event("start")
        hosts_net.answer(ask, {"facts": lambda: facts(pipe), "clock": time.monotonic_ns})
        pipe.notify_event("kill")
