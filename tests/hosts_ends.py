"""Two pipes with a wire between them as between two hosts, their processes, and a link that can be cut."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, Wire, events
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from pipert_shm.limits import Policy
from waiting import Board, eventually

SHAPE = (48, 64, 3)
LAST, COUNT, SKIPPED, WRONG, OLDEST, DIED, UNREACHABLE, ENDED, TOLD_NS, OPEN, RETURNED = range(11)
"""Cells of the board: the last number and one, how many came, numbers that never came, those twice, out of order or torn, the
largest age in us, how often the event came with each reason, when it came last, whether the camera may send, and how often the
other end has returned."""


class Camera(SourceRoutine):
    """Sends frames that have their number in each pixel."""

    def __init__(self, board: Board, fps: float, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__("camera")
        self.board, self.shape = board, shape
        self.set_const_fps(fps)

    def main_logic(self) -> Any:
        if not self.board[OPEN]:
            return None
        number = self.meta.sequence
        frame = self.loan(self.shape)
        frame[...] = number % 251
        return {"number": number, "frame": frame}


class Log(DestinationRoutine):
    """Checks every byte and the order.

    Attributes:
        tolerance: how far a byte may be off.
    """

    tolerance = 0

    def __init__(self, board: Board, delay: float = 0.0, name: str = "log") -> None:
        super().__init__(name)
        self.board, self.delay = board, delay

    def main_logic(self, data: Any) -> None:
        number, last = data["number"], self.board[LAST]
        self.board.add(COUNT)
        if number < last or (abs(data["frame"].astype(int) - number % 251) > self.tolerance).any():
            self.board.add(WRONG)
        self.board.add(SKIPPED, max(number - last, 0))
        self.board[LAST] = number + 1
        age = self.meta.hops[-1].sent_ns - self.meta.captured_ns - self.meta.uncertainty_ns  # when the receiver handed it over
        self.board[OLDEST] = max(self.board[OLDEST], age // 1000)
        time.sleep(self.delay)

    @events("on_peer_failed")
    def lost(self, flow: str, routines: list[str], reason: str) -> None:
        self.board.add({"died": DIED, "unreachable": UNREACHABLE, "ended": ENDED}[reason])
        self.board[TOLD_NS] = time.monotonic_ns()

    @events("on_peer_returned")
    def found(self, flow: str, routines: list[str]) -> None:
        self.board.add(RETURNED)
        self.board[TOLD_NS] = time.monotonic_ns()


@contextmanager
def sending(board: Board, sender: RemoteSender, fps: float, shape: tuple[int, ...] = SHAPE) -> Iterator[Pipe]:
    """A pipe with a camera and the sender, each in a flow of its own."""
    policy: Policy = "block" if sender._is_lossless else "drop_oldest"
    camera = Camera(board, fps, shape)
    with running(Pipe(policy=policy), camera, sender) as pipe:
        yield pipe


@contextmanager
def receiving(
    board: Board, receiver: RemoteReceiver, delay: float = 0.0, *others: DestinationRoutine, tolerance: int = 0
) -> Iterator[Pipe]:
    """A pipe with the receiver, a log and perhaps others after it, each in a flow of its own."""
    log = Log(board, delay)
    log.tolerance = tolerance
    with running(Pipe(policy="block", capacity=1), receiver, log, *others) as pipe:
        yield pipe


@contextmanager
def running(pipe: Pipe, source: SourceRoutine, *destinations: DestinationRoutine) -> Iterator[Pipe]:
    """The pipe, built and started, until the end of the block."""
    with pipe:
        for routine in (source, *destinations):
            pipe.create_flow(f"of {routine.name}", False, routine, max_restarts=10_000, restart_window=0.3)
        pipe.link(Wire(source, list(destinations)))
        pipe.build()
        pipe.notify_event("start")
        try:
            yield pipe
        finally:
            pipe.notify_event("kill")


def kill(pipe: Pipe, routine: str) -> None:
    """SIGKILL to the flow of a routine, and waits until it is there again."""
    flow = f"of {routine}"
    before = pipe.statistics().flows[flow].pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pipe.statistics().flows[flow].pid not in (before, None, 0), "the flow again")


class Link:
    """A TCP link between two ports of the loopback interface that can be cut: then nothing comes through, and nobody is told.

    :param port: where the end of the link listens.
    :param target: the port that it leads to.
    """

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._over = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._start(self._serve)

    def _start(self, run: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self._open.wait()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                self._start(self._carry, near, far)
                self._start(self._carry, far, near)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                if self._over:
                    break
                target.sendall(data)
        self._open.wait()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Nothing comes through any more."""
        self._open.clear()

    def join(self) -> None:
        """It carries again, what waited first."""
        self._open.set()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over = True
        self._open.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


def torment(board: Board, edge: Pipe, hub: Pipe, kills: int, rng: random.Random) -> None:
    """Kills the flows of sender and receiver at random, and waits until messages come again after each."""
    for _ in range(kills):
        pipe, routine = rng.choice(((edge, "sender"), (hub, "receiver")))
        time.sleep(rng.uniform(0, 0.08))
        kill(pipe, routine)
        seen = board[COUNT]
        board.wait(COUNT, seen + 5, timeout=30)


def at_rest(board: Board, edge: Pipe, hub: Pipe) -> tuple[int, int]:
    """Stops the camera, waits until its last frame has come; returns how many never came, and how many are counted as lost."""
    board[OPEN] = 0
    before = edge.statistics().routines["camera"].sent
    eventually(lambda: board[LAST] >= before, "the last frame")
    edge_now, hub_now = edge.statistics(), hub.statistics()
    counted = hub_now.routines["receiver"].counters["missed"] + edge_now.routines["sender"].lost_in_crash
    return board[SKIPPED], counted + edge_now.wires["camera", "sender"].lost + hub_now.wires["receiver", "log"].lost
