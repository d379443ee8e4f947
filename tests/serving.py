"""A pipe that counts, its HTTP server in a thread of the test, and a client of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipert_shm import APIWrapper, DestinationRoutine, MiddleRoutine, Pipe, SourceRoutine, Wire, events
from waiting import PATIENCE, Board, eventually

HELD, LET_GO = 0, 1  # cells of a board


class Numbers(SourceRoutine):
    """Sends its process's id and its factor, 200 times a second."""

    def __init__(self) -> None:
        super().__init__("numbers")
        self.factor = 1
        self.set_const_fps(200)

    @events("scale")
    def scale(self, factor: int, note: str = "") -> None:
        self.factor = factor

    def main_logic(self) -> tuple[int, int]:
        return os.getpid(), self.factor


class Times(MiddleRoutine):
    """Multiplies by its factor."""

    def __init__(self) -> None:
        super().__init__("times")
        self.factor = 1

    @events("scale")
    def scale(self, factor: int) -> None:
        self.factor = factor

    @events("negate")
    def negate(self) -> None:
        self.factor = -self.factor

    def main_logic(self, data: tuple[int, int]) -> tuple[int, int]:
        return os.getpid(), data[1] * self.factor


class End(DestinationRoutine):
    """After the event `hold`, it holds on to a message until it is let go."""

    def __init__(self, board: Board) -> None:
        super().__init__("end")
        self.board = board
        self.holding = False

    @events("hold")
    def hold(self) -> None:
        self.holding = True

    def main_logic(self, data: tuple[int, int]) -> None:
        if self.holding:
            self.board[HELD] = 1
            self.board.wait(LET_GO)


def make_pipe(board: Board) -> Pipe:
    pipe = Pipe(grace_period=PATIENCE)
    numbers, times, end = Numbers(), Times(), End(board)
    pipe.create_flow("first", False, numbers, restart="never")
    pipe.create_flow("second", True, times, end)
    pipe.link(Wire(numbers, times))
    return pipe


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def greeting(port: int, dashboard: bool = False) -> str:
    """What a control says on standard error when no logging is set up."""
    url = f"http://127.0.0.1:{port}"
    pages = f"docs: {url}/docs" + (f", dashboard: {url}/" if dashboard else "")
    return f"the control listens on 127.0.0.1, port {port}: {url} ({pages})\n"


class Served:
    """A pipe, its `APIWrapper` running in a thread of this process, and a client of it.

    :param make: makes the pipe.
    :param options: of the `APIWrapper`.
    """

    def __init__(self, host: str = "127.0.0.1", make: Callable[[Board], Pipe] = make_pipe, **options: Any) -> None:
        self.board = Board()
        self.pipe = make(self.board)
        self.pipe.build()
        self.session = self.pipe._built()
        self.port = free_port(host)
        self.failure: Exception | None = None
        self.wrapper = APIWrapper(host=host, port=self.port, pipe=self.pipe, **options)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        reached = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        self.client = httpx.Client(base_url=f"http://{reached}:{self.port}", timeout=PATIENCE)
        eventually(self.answers, "a server that answers")

    def _serve(self) -> None:
        try:
            self.wrapper.serve()
        except Exception as error:
            self.failure = error

    def answers(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def do(self, path: str, method: str = "POST", **request: Any) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        response = self.client.request(method, path, **request)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def states(self) -> set[str]:
        return {routine.state for routine in self.pipe.statistics().routines.values()}

    def received(self) -> int:
        return self.pipe.statistics().routines["end"].received

    def move(self) -> None:
        """Sees messages come through the whole pipe."""
        before = self.received()
        eventually(lambda: self.received() > before, "messages at the end of the pipe")

    def see(self, routine: str, value: int) -> None:
        """Sees the routine put this out."""
        with self.pipe.tap(routine) as tap:
            eventually(lambda: bool(tap.read(PATIENCE)[1] == value), f"{value} from {routine}")

    def segments(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"pipert-{self.session.segment.pipe_id}-*"))

    def expect_end(self) -> None:
        """Sees that server and pipe are gone."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.session.gone.is_set()
        assert self.segments() == []
        with pytest.raises(httpx.ConnectError):
            self.client.get("/pipe/structure")

    def close(self) -> None:
        self.board[LET_GO] = 1
        self.session.kill()
        self.thread.join()
        self.client.close()


@contextmanager
def serving(host: str = "127.0.0.1", **options: Any) -> Iterator[Served]:
    """Serves, and ends it all; a failure of the pipe that was not looked at is raised."""
    served = Served(host, **options)
    try:
        yield served
    finally:
        served.close()
    if served.failure is not None:
        raise served.failure
