"""Whatever one event carries, over HTTP or not, ends nothing but the call; and odd exceptions end nothing at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pipert_shm import DestinationRoutine, PayloadError, Pipe, PipeFailed, SourceRoutine, events
from pipert_shm.errors import LONGEST_TEXT
from pipert_shm.events import LARGEST_PARAMETERS
from routines import Items, Sink, chain
from serving import Served, serving
from waiting import Board, eventually

HEARD = 0  # a cell of a board


class Listens(Sink):
    """Notes how long the value was that it was told."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.told = board

    @events("tell")
    def tell(self, value: Any) -> None:
        self.told[HEARD] = len(value)


class Camera(SourceRoutine):
    def main_logic(self) -> int:
        return self.meta.sequence


def make(board: Board) -> Pipe:
    camera = Camera("camera")
    camera.set_const_fps(200)
    pipe = Pipe(grace_period=1)
    chain(pipe, camera, Listens("listens", board))
    return pipe


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=make) as one:
        one.do("/start")
        yield one


def expect_to_go_on(pipe: Pipe, board: Board) -> None:
    """Sees messages come, and events."""
    pipe.notify_event("tell", value="x" * 7)
    eventually(lambda: board[HEARD] == 7, "an event that is heard")
    board[HEARD] = 0
    before = pipe.statistics().routines["listens"].received
    eventually(lambda: pipe.statistics().routines["listens"].received > before, "messages")


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("event", "arguments", "status"),
    [
        ("tell", {"value": "x" * 3_500_000}, 413),
        ("tell", {"value": "x" * (LARGEST_PARAMETERS + 10)}, 413),
        ("tell", {"value": nested(101)}, 413),
        ("tell", {"value": nested(900)}, 413),
        ("tell", {"value": 3}, 200),  # the handler fails, which is its own affair
        ("tell", {}, 422),
        ("link", {"link_routine_name": "listens", "timeout": "1s"}, 422),
        ("link", {"link_routine_name": "listens", "timeout": []}, 422),
        ("link", {"link_routine_name": "listens", "policy": []}, 422),
        ("link", {"link_routine_name": ["listens"]}, 422),
        ("link", {"link_routine_name": None}, 422),
        ("unlink", {"unlink_routine_name": ["listens"]}, 422),
        ("unlink", {"unlink_routine_name": {}}, 422),
        ("unlink", {"unlink_routine_name": "nobody"}, 200),
        ("update_fps", {"fps": 1e-300}, 422),
        ("update_fps", {"fps": {}}, 422),
    ],
)
def test_requests(served: Served, event: str, arguments: dict[str, Any], status: int) -> None:
    response = served.client.post(
        f"/routines/{'camera' if event != 'tell' else 'listens'}/events/{event}/execute", json={"extra_args": arguments}
    )
    assert response.status_code == status, response.text
    assert len(response.json().get("detail", "")) < 500
    expect_to_go_on(served.pipe, served.board)


def test_the_answer_says_how_much_too_large_it_is(served: Served) -> None:
    response = served.client.post("/routines/events/tell/execute", json={"extra_args": {"value": "x" * 2_000_000}})
    detail = response.json()["detail"]
    assert detail.startswith("the event 'tell' can't be sent to another process: 2,000,0")
    assert "1,048,576 is the limit" in detail


def test_before_build_it_is_told_at_the_call() -> None:
    pipe = Pipe()
    chain(pipe, Items("items", []), Listens("listens", Board()))
    with pytest.raises(PayloadError):
        pipe.notify_event("tell", value=bytes(LARGEST_PARAMETERS))
    pipe.build()  # it was not kept
    pipe.join(to_kill=True)


class Odd(Exception):
    def __init__(self, failure: BaseException | None) -> None:
        super().__init__()
        self.failure = failure

    def __str__(self) -> str:
        if self.failure is not None:
            raise self.failure
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("failure", [RuntimeError("no"), SystemExit(3), None], ids=["raises", "exits", "is None"])
def test_exceptions_whose_text_fails(failure: BaseException | None, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Sink):
        def main_logic(self, data: Any) -> None:
            if data == 2:
                raise Odd(failure)
            super().main_logic(data)

        @events("fail")
        def fail(self) -> None:
            raise Odd(failure)

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Items("items", range(5)), Fails("fails", board))
    pipe.build()
    pipe.notify_event("fail")
    with caplog.at_level(logging.CRITICAL + 1, "Pipe"):
        pipe.notify_event("start")
        pipe.join()
    routine = pipe.statistics().routines["fails"]
    assert (board[0], routine.received, routine.errors, routine.state) == (4, 5, 2, "ended")


@pytest.mark.parametrize("where", ["setup", "cleanup"])
def test_a_long_text_does_not_hide_what_failed(where: str) -> None:
    def fail(self: Any) -> None:
        raise ValueError("the model does not fit: " + "x" * 5_000_000 + " at layer 7")

    kind = type("Fails", (DestinationRoutine,), {where: fail, "main_logic": lambda self, data: None})
    pipe = Pipe()
    pipe.logger = logging.getLogger("silent")
    pipe.logger.setLevel(logging.CRITICAL + 1)
    chain(pipe, Items("items", range(3)), kind("fails"))
    pipe.build()
    pipe.notify_event("start")
    with pytest.raises(PipeFailed) as caught:
        pipe.join()
    told = str(caught.value)
    assert told.startswith(f"{where} of routine 'fails' failed: ValueError: the model does not fit: xxx")
    assert told.endswith("xxx at layer 7")
    assert len(told) < LONGEST_TEXT + 200
