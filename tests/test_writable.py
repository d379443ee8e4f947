"""writable(): in place where nobody else can see it, a private copy everywhere else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    BasicTransmitter,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    SourceRoutine,
    Wire,
    writable,
)
from pipert_shm.shm.rings import open_every_ring
from routines import Apply, Frames, Record, Sink, chain, one_value, received
from waiting import Board, eventually

SHAPE = (120, 160, 3)
COUNT = 20


def run(pipe: Pipe) -> None:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def draw(frame: np.ndarray) -> dict[str, Any]:
    """Draws on a frame; what it was drawn on, and whether that was the frame itself."""
    before = one_value(frame)
    drawing = writable(frame)
    drawing += 1
    return {"frame": drawing, "in_place": one_value(frame) == before + 1, "before": before}


def digest(data: dict[str, Any]) -> tuple[int, bool, int]:
    return one_value(data["frame"]), data["in_place"], data["before"]


@pytest.mark.parametrize("loan", [True, False])
def test_a_frame_that_nobody_else_holds_is_drawn_on_where_it_lies(tmp_path: Path, loan: bool) -> None:
    pipe = Pipe(policy="block")
    drawers = [Apply("one", draw), Apply("two", lambda data: draw(data["frame"]))]
    chain(pipe, Frames("source", COUNT, SHAPE, loan=loan), *drawers, Record("record", tmp_path / "r", digest))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [(n + 2, True, n + 1) for n in range(COUNT)]
    assert [pipe.statistics().routines[name].copied_bytes for name in ("one", "two")] == [0, 0]


@pytest.mark.parametrize(
    "view",
    [lambda f: f[10:90, 20:140], lambda f: f[::-1, ::-2], lambda f: f[..., 1], lambda f: f.transpose(1, 0, 2), lambda f: f[:0]],
    ids=["crop", "reversed", "channel", "transposed", "empty"],
)
def test_a_part_of_a_frame(tmp_path: Path, view: Any) -> None:
    def paint(frame: np.ndarray) -> tuple[bool, bool]:
        expected = np.array(frame)
        view(expected)[...] = 255
        part = view(frame)
        drawing = writable(part)
        drawing[...] = 255
        same = drawing.shape == part.shape and drawing.dtype == part.dtype and bool((drawing == 255).all())
        return same, not part.size or np.array_equal(frame, expected)

    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 3, SHAPE), Apply("painter", paint), Record("record", tmp_path / "r"))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [(True, True)] * 3


def test_elements_that_share_memory_are_copied_apart(tmp_path: Path) -> None:
    def paint(frame: np.ndarray) -> list[int]:
        drawing = writable(np.broadcast_to(frame[:1], frame.shape))
        drawing[0] = 255
        return [one_value(drawing[0]), one_value(drawing[1:]), one_value(frame)]

    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 3, SHAPE), Apply("painter", paint), Record("record", tmp_path / "r"))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [[255, n, n] for n in range(3)]


class Watching(DestinationRoutine):
    """Compares a frame's bytes before and after its sibling drew on the same one."""

    def __init__(self, name: str, board: Board, path: Path) -> None:
        super().__init__(name)
        self.board = board
        self.path = path

    def main_logic(self, data: np.ndarray) -> None:
        before = data.tobytes()
        self.board[0] = self.meta.sequence + 1
        self.board.wait(1, self.meta.sequence + 1)
        assert data.tobytes() == before == bytes([self.meta.sequence % 251]) * data.nbytes
        with self.path.open("a") as file:
            file.write(f"{self.meta.sequence}\n")


class Drawing(MiddleRoutine):
    """Draws on a frame while its sibling looks at the same one."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: np.ndarray) -> Any:
        self.board.wait(0, self.meta.sequence + 1)
        result = draw(data)
        self.board[1] = self.meta.sequence + 1
        return result


@pytest.mark.parametrize("apart", [True, False], ids=["in flows of their own", "in one flow"])
def test_a_sibling_never_sees_the_drawing(tmp_path: Path, apart: bool) -> None:
    board = Board()
    source, drawing, watching = (
        Frames("source", COUNT, SHAPE, loan=True),
        Drawing("d", board),
        Watching("w", board, tmp_path / "w"),
    )
    record = Record("record", tmp_path / "r", digest)
    pipe = Pipe(policy="block")
    pipe.create_flow("source", False, source)
    if apart:
        pipe.create_flow("d", False, drawing)
        pipe.create_flow("w", False, watching)
    else:
        pipe.create_flow("both", False, drawing, watching)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, [drawing, watching]), Wire(drawing, record))
    run(pipe)
    assert (tmp_path / "w").read_text().split() == [str(n) for n in range(COUNT)]
    assert [message.value for message in received(tmp_path / "r")] == [(n + 1, False, n) for n in range(COUNT)]


class Keeping(MiddleRoutine):
    """Forwards each frame; draws on it after its receiver has taken it, and again after that has let go of it."""

    def __init__(self, name: str, board: Board, path: Path) -> None:
        super().__init__(name)
        self.board = board
        self.path = path
        self.kept: np.ndarray | None = None

    def main_logic(self, data: np.ndarray) -> Any:
        self.look()
        self.kept = data
        return data

    def look(self) -> None:
        if self.kept is None:
            return
        self.board.wait(0, self.meta.sequence)
        drawn = draw(self.kept)
        self.board[1] = self.meta.sequence
        self.board.wait(2, self.meta.sequence)
        later = draw(self.kept)
        with self.path.open("a") as file:
            file.write(f"{drawn['in_place']} {later['in_place']}\n")


class Holding(DestinationRoutine):
    """Says that it has a frame; checks it after it was drawn on; says that it has let go of it."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: np.ndarray) -> None:
        self.board[2] = self.meta.sequence  # the one before is gone
        self.board[0] = self.meta.sequence + 1
        if self.meta.sequence < COUNT - 1:
            self.board.wait(1, self.meta.sequence + 1)
        assert one_value(data) == self.meta.sequence % 251


def test_what_was_sent_on_is_copied_while_anybody_has_it(tmp_path: Path) -> None:
    """And drawn on in place afterwards. The receiver gets a frame of the next message only when the drawing is done."""
    board = Board()
    pipe = Pipe(policy="block", capacity=1)
    chain(pipe, Frames("source", COUNT, SHAPE), Keeping("keeping", board, tmp_path / "k"), Holding("holding", board))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(0, 1)
    for number in range(1, COUNT):
        board.wait(1, number)
        board[2] = max(board[2], number - 1)
        # The view goes when main_logic of the receiver has returned: only its slot's word tells.
        _wait_until_free(pipe, number)
        board[2] = number
    pipe.join()
    assert pipe.statistics().routines["holding"].errors == 0
    assert (tmp_path / "k").read_text().split() == ["False", "True"] * (COUNT - 1)


def _wait_until_free(pipe: Pipe, number: int) -> None:
    def let_go() -> bool:
        receiver = pipe.statistics().routines["holding"]
        return receiver.received >= number and _held_by_receiver(pipe) == 0

    eventually(let_go, "the receiver lets go")


def _held_by_receiver(pipe: Pipe) -> int:
    session = pipe._built()
    edge = next(edge for edge in session.plan.edges if session.plan.names[edge.receiver] == "holding")
    process = session.segment.process
    rings = open_every_ring(session.segment)
    return sum(found.by_bit.get(edge.bit, 0) for ring in rings if (found := process.holders(ring)))


def test_within_a_flow_it_is_a_copy(tmp_path: Path) -> None:
    """Others may stand on the same memory."""
    source, drawing, other = Frames("source", COUNT, SHAPE), Apply("d", draw), Record("other", tmp_path / "o", one_value)
    record = Record("record", tmp_path / "r", digest)
    pipe = Pipe(policy="block")
    pipe.create_flow("all", False, source, drawing, other, record)
    pipe.link(Wire(source, [drawing, other]), Wire(drawing, record))
    run(pipe)
    assert [message.value for message in received(tmp_path / "o")] == list(range(COUNT))
    assert [message.value for message in received(tmp_path / "r")] == [(n + 1, False, n) for n in range(COUNT)]
    assert pipe.statistics().routines["d"].copied_bytes == 0  # the copy lies where it can be sent from


class Mixed(SourceRoutine):
    """Says of its own arrays, loaned and plain, whether writable() gives them back as they are."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told = False

    def main_logic(self) -> Any:
        loan, plain, frozen = self.loan(SHAPE), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        frozen.flags.writeable = False
        odd = np.broadcast_to(plain[:1], SHAPE)
        objects = np.array([1, "a"], object)
        answers = []
        for array in (loan, plain, frozen, odd, objects):
            got = writable(array)
            got[...] = 7
            answers.append((got is array, np.shares_memory(got, array)))
        return answers


def test_arrays_of_one_s_own(tmp_path: Path) -> None:
    pipe = Pipe(policy="block", capacity=1)
    source = Mixed("source")
    chain(pipe, source, Record("record", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pipe.tap(source) as tap:
        answers = next(iter(tap))
    pipe.join(to_kill=True)
    assert answers == [(True, True), (True, True), (False, False), (False, False), (False, False)]


def test_what_came_in_band(tmp_path: Path) -> None:
    """A basic transmitter's arrays are the receiver's own already; small ones of the default transmitter are read-only."""
    pipe = Pipe(policy="block")
    source = Frames("source", 3, SHAPE)
    small = Frames("small", 3, (4, 4))
    for sender in (source, small):
        pipe.create_flow(sender.name, False, sender)
    basic = Apply("basic", lambda frame: (writable(frame) is frame, one_value(frame)))
    tiny = Apply("tiny", lambda frame: (writable(frame) is frame, bool(writable(frame).flags.writeable)))
    records = [Record("rb", tmp_path / "b"), Record("rt", tmp_path / "t")]
    for routine in (basic, tiny, *records):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, basic, BasicTransmitter()), Wire(small, tiny), Wire(basic, records[0]), Wire(tiny, records[1]))
    run(pipe)
    assert [message.value for message in received(tmp_path / "b")] == [(True, n) for n in range(3)]
    assert [message.value for message in received(tmp_path / "t")] == [(False, True)] * 3


def test_a_tap_never_sees_the_drawing() -> None:
    board = Board()

    def gated(frame: np.ndarray) -> Any:
        board.wait(0)
        return draw(frame)

    pipe = Pipe(policy="block", capacity=1)
    source = Frames("source", None, SHAPE)
    chain(pipe, source, Apply("drawer", gated), Sink("sink"))
    pipe.build()
    with pipe.tap(source) as tap:
        pipe.notify_event(START_EVENT_NAME)
        frame = next(iter(tap))
        value = one_value(frame)
        board[0] = 1
        for _ in range(10):
            next(iter(tap))
        assert one_value(frame) == value
        del frame
    pipe.join(to_kill=True)


def test_outside_a_routine_it_is_a_copy() -> None:
    array = np.arange(6).reshape(2, 3).T
    copies = [writable(array)]
    thread = threading.Thread(target=lambda: copies.append(writable(array)))
    thread.start()
    thread.join()
    for copy in copies:
        assert not np.shares_memory(copy, array)
        assert copy.flags.f_contiguous
        np.testing.assert_array_equal(copy, array)
