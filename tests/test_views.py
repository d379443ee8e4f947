"""A frame is valid as long as any view of it lives, and is given back when the last one dies."""

from __future__ import annotations

import os
import threading
from collections import deque

import numpy as np
import pytest

from loop import Loop
from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe
from placing import place
from routines import Forward, Frames, chain, one_value
from waiting import Board, eventually


def test_a_slot_is_free_as_soon_as_the_last_view_died() -> None:
    with Loop() as loop:
        loan = loop.loan((100, 100))
        loan[...] = 9
        arrived = loop.trip(loan)
        del loan
        assert loop.held_slots() == 1
        views = [arrived[3:5], arrived.T, memoryview(arrived)[:1], np.asarray(arrived).reshape(-1)[::7]]
        del arrived
        while views:
            assert loop.held_slots() == 1
            views.pop()
        assert loop.held_slots() == 0


def test_arrays_of_one_message_share_its_slot_s_life() -> None:
    with Loop() as loop:
        arrived = loop.trip([np.full(5000, n, np.uint8) for n in range(5)])
        assert loop.held_slots() == 1
        last = arrived.pop(2)
        del arrived
        assert loop.held_slots() == 1
        assert one_value(last) == 2
        del last
        assert loop.held_slots() == 0


def test_many_small_new_arrays_take_one_slot() -> None:
    with Loop() as loop:
        crops = [np.full((64, 64, 3), n, np.uint8) for n in range(50)]
        arrived = loop.trip(crops)
        assert loop.held_slots() == 1
        assert loop.copied_bytes == sum(crop.nbytes for crop in crops)
        assert [one_value(crop) for crop in arrived] == list(range(50))
        del arrived


def test_dlpack_and_the_buffer_protocol_stand_on_the_slot() -> None:
    """Any framework's tensor does: it is the memory, and it keeps the slot."""
    with Loop() as loop:
        arrived = loop.trip(np.full((100, 100, 3), 7, np.uint8))
        where = place(arrived)
        buffer = memoryview(arrived)
        assert (buffer.readonly, buffer.shape, buffer.format) == (True, (100, 100, 3), "B")
        tensor = np.from_dlpack(arrived[10:20, ::2])
        assert not tensor.flags.writeable
        assert tensor.shape == (10, 50, 3)
        assert where is not None
        assert place(tensor) == (where[0], where[1] + 3000)
        del arrived, buffer
        assert loop.held_slots() == 1
        assert one_value(tensor) == 7
        del tensor
        assert loop.held_slots() == 0


def test_torch_tensors_stand_on_the_slot() -> None:
    torch = pytest.importorskip("torch")
    with Loop() as loop:
        arrived = loop.trip(np.full((100, 100, 3), 7, np.uint8))
        tensor = torch.from_dlpack(arrived)
        assert tensor.data_ptr() == arrived.__array_interface__["data"][0]
        del arrived
        assert loop.held_slots() == 1
        assert int(tensor.min()) == int(tensor.max()) == 7
        del tensor
        assert loop.held_slots() == 0


def test_the_last_view_may_die_on_any_thread() -> None:
    with Loop(slots=8) as loop:
        for _ in range(50):
            frames = [loop.trip(np.full(5000, n, np.uint8)) for n in range(3)]
            threads = [threading.Thread(target=list.clear, args=([frames.pop()],)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            del threads, thread
            assert loop.held_slots() == 0


def test_a_forked_child_releases_nothing() -> None:
    with Loop(slots=3) as loop:
        arrived = loop.trip(np.full(5000, 7, np.uint8))
        pid = os.fork()
        if pid == 0:
            del arrived
            os._exit(loop.held_slots() != 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loop.held_slots() == 1
        for n in range(10):
            assert one_value(loop.trip(np.full(5000, n, np.uint8))) == n
        assert one_value(arrived) == 7
        del arrived
        assert loop.held_slots() == 0


class Keeper(DestinationRoutine):
    """Keeps views of some frames that it got, checks all of them at each message, and ends after `until` messages."""

    def __init__(self, name: str, keep: int, until: int, board: Board) -> None:
        super().__init__(name)
        self.keep = keep
        self.until = until
        self.board = board

    def setup(self) -> None:
        self.kept: deque[tuple[int, np.ndarray]] = deque(maxlen=self.keep)

    def main_logic(self, data: np.ndarray) -> None:
        number = self.meta.sequence % 251
        self.kept.append((number, data[3:9, ::2]))
        for wanted, view in self.kept:
            if one_value(view) != wanted:
                self.board.add(1)
        self.board.add(0)
        if self.board[0] == self.until:
            raise EndOfStream


@pytest.mark.parametrize("loan", [True, False], ids=["loaned", "copied"])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_kept_views_never_change_while_the_sender_goes_on(keep: int, loan: bool) -> None:
    board = Board()
    pipe = Pipe(grace_period=2)
    chain(pipe, Frames("source", None, (40, 50, 3), loan=loan), Forward("middle"), Keeper("keeper", keep, 400, board))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["keeper"].state == "ended", "400 messages")
    pipe.join(to_kill=True)
    assert (board[0], board[1]) == (400, 0)
    assert pipe.statistics().routines["keeper"].errors == 0
