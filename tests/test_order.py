"""The order after replicas: with several senders, flows and batches, deaths, and unlinked wires; and whose turn it is."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from killing import FAST, kill_flows, pid_of, running, snapshot_of
from pipert_shm import KILL_EVENT_NAME, LINK_EVENT_NAME, UNLINK_EVENT_NAME, BatchRoutine, DestinationRoutine, Pipe, Wire
from pipert_shm.graph.sizing import HELD_BACK
from pipert_shm.statistics import WireStatistics
from routines import Burst, Forward, Frames
from waiting import Board, eventually

GATE, HELD = 0, 1
HELD_EACH = 2  # the first of a gate per replica


class Share(DestinationRoutine):
    """Counts on the board, by the number of its replica."""

    def __init__(self, name: str, board: Board, first: int) -> None:
        super().__init__(name)
        self.board = board
        self.first = first

    def main_logic(self, data: np.ndarray) -> None:
        self.board.add(self.first + int(self.name.rpartition("#")[2]))


def test_idle_replicas_take_turns_beside_those_of_another_routine() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, some, others = Burst("source", board, 0), Share("some", board, 1), Share("others", board, 4)
    pipe.create_flow("source", False, source)
    pipe.create_flow("some", False, some, replicas=3)
    pipe.create_flow("others", False, others, replicas=2)
    pipe.link(Wire(source, (some, others)))
    with running(pipe):
        for sent in range(1, 13):
            board[0] = sent

            def all_done(sent: int = sent) -> bool:
                shot = snapshot_of(pipe)
                return sum(board[cell] for cell in range(1, 6)) == 2 * sent and all(
                    r["received"] == r["handled"] for r in shot.routines[:6]
                )

            eventually(all_done, "an end of the message")
        assert [board[cell] for cell in range(1, 6)] == [4, 4, 4, 6, 6]
        pipe.notify_event(KILL_EVENT_NAME)
        board[0] = 1 << 60


class BySource(DestinationRoutine):
    """Counts on the board, by the number in the origin's name, what comes, and what comes out of order by its way."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        way = ord(self.meta.hops[0].routine[0]) - ord("a") if len(self.meta.hops) > 1 else 0
        cell = 100 + 20 * int(self.meta.origin[-1]) + 2 * way
        if self.meta.sequence < self.board[cell]:
            self.board.add(11)
        self.board[cell] = self.meta.sequence
        self.board.add(cell + 1)
        self.board.add(10)


def sent_one_by_one(pipe: Pipe, board: Board, cell: int, count: int, busy: str) -> None:
    """Lets a source send up to so many messages, the next one when the workers, all but one, have dealt with the last one."""
    names = list(pipe.statistics().routines)
    others = [names.index(name) for name in names if "#" in name and name != busy]

    def idle() -> bool:
        now, shot = pipe.statistics(), snapshot_of(pipe)
        sent = sum(wire.sent for ends, wire in now.wires.items() if ends[0].startswith("source"))
        taken = sum(routine.received for name, routine in now.routines.items() if "#" in name)
        rest = all(shot.routines[number]["received"] == shot.routines[number]["handled"] for number in others)
        return sent == taken == board[8] + board[9] and rest

    while board[cell] < count:
        board.add(cell)
        eventually(idle, "an end of the message")


def test_the_results_for_one_sender_do_not_wait_behind_those_for_another() -> None:
    """Nor do they come out of order: what one sender's results wait for says nothing of the other's."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    sources = [Burst("source0", board, 8), Burst("source1", board, 9)]
    worker, last = Held("a", board, slow=1), BySource("last", board)
    for routine in (*sources, last):
        pipe.create_flow(routine.name, False, routine)
    pipe.create_flow("workers", False, worker, replicas=3, ordered=True)
    pipe.link(*(Wire(source, worker) for source in sources), Wire(worker, last))
    with running(pipe):
        sent_one_by_one(pipe, board, 8, 9, "a#1")  # 0 -> a#0, 1 -> a#1, then a#2 and a#0 in turn
        assert board[101] == 1
        assert pipe.statistics().wires["source0", "a#2"].sent == HELD_BACK
        sent_one_by_one(pipe, board, 9, 3, "a#1")  # a#0, a#2, a#0
        assert pipe.statistics().wires["source1", "a#2"].sent == 1
        eventually(lambda: board[121] == 3, "the results for the second sender")
        board[GATE] = 1
        eventually(lambda: board[101] == 9, "the results for the first sender")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = board[9] = 1 << 60


def test_the_order_of_batches_when_a_sender_dies() -> None:
    """What is in a batch that is not full counts as still to come."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source, last = Burst("source0", board, 8), BySource("last", board)
    worker = Batches("a", batch_size=3, max_wait=1000)
    pipe.create_flow("source0", False, source, **FAST)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, worker), Wire(worker, last))
    with running(pipe):
        for sent in range(1, 9):
            board[8] = sent
            eventually(lambda sent=sent: _rest_with(pipe, sent, batch_size=3), "the message in a batch")  # type: ignore[misc]
            if sent == 2:
                kill_flows(pipe, "source0")
        assert _taken(pipe) == [5, 3]  # 0 2 4, 5 6 and 1 3 7
        eventually(lambda: board[101] == 5, "all results before those of a batch that is not full")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = 1 << 60


def test_a_batch_is_sent_before_the_tombstone_behind_it() -> None:
    """A routine before it in the flow has no result for a message, while a batch is not full."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source, last = Burst("source0", board, 8), BySource("last", board)
    third, worker = NotTheThird("a"), Batches("b", batch_size=2, max_wait=1000)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("workers", True, third, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, third), Wire(worker, last))
    with running(pipe):
        for sent in range(1, 6):
            board[8] = sent
            eventually(lambda sent=sent: sum(r.received for n, r in pipe.statistics().routines.items() if n[0] == "b") == sent)  # type: ignore[misc]
        eventually(lambda: board[101] == 3, "the results of 0, 1 and 3")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = 1 << 60


class NotTheThird(Forward):
    """Has no result for number 2."""

    def main_logic(self, data: Any) -> Any:
        return None if self.meta.sequence == 2 else data


def _taken(pipe: Pipe) -> list[int]:
    return [pipe.statistics().routines[f"a#{number}"].received for number in range(2)]


def _rest_with(pipe: Pipe, sent: int, batch_size: int) -> bool:
    """Whether the workers have taken so many, and are done with their full batches: the next message's way depends on it."""
    names, shot = list(pipe.statistics().routines), snapshot_of(pipe)
    workers = [names.index(f"a#{number}") for number in range(2)]
    taken = [int(shot.routines[worker]["received"]) for worker in workers]
    return sum(taken) == sent and all(
        shot.in_hand(worker) == count % batch_size for worker, count in zip(workers, taken, strict=True)
    )


class Batches(BatchRoutine):
    """Sends on what it gets."""

    def main_logic(self, batch: list[Any]) -> list[Any]:
        return batch


def test_the_order_when_the_next_receiver_can_not_read_one_of_the_queues_yet() -> None:
    """A replica that is stopped can't tidy up after a dead receiver: until it has, its results wait where nobody may look."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source, worker, last = Burst("source0", board, 8), Forward("a"), Late("last", board)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last, **FAST)
    pipe.link(Wire(source, worker), Wire(worker, last))
    with running(pipe):
        for sent in range(1, 5):
            board[8] = sent
            eventually(lambda sent=sent: sum(w.sent for w in _results(pipe)) == sent, "its result")  # type: ignore[misc]
        board.wait(HELD)
        assert [wire.waiting for wire in _results(pipe)] == [1, 2]
        stopped = pid_of(pipe, "workers#0")
        os.kill(stopped, signal.SIGSTOP)
        try:
            board[GATE] = 1
            kill_flows(pipe, "last")
            eventually(lambda: _results(pipe)[1].waiting == 0, "a look at the other queue")
        finally:
            os.kill(stopped, signal.SIGCONT)
        eventually(lambda: board[101] == 3, "the others")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = 1 << 60


def _results(pipe: Pipe) -> list[WireStatistics]:
    return [wire for ends, wire in pipe.statistics().wires.items() if ends[1] == "last"]


class Late(BySource):
    """Its first life takes the first message, or the one of this number, and does not come back."""

    def __init__(self, name: str, board: Board, number: int = 0) -> None:
        super().__init__(name, board)
        self.number = number

    def main_logic(self, data: Any) -> None:
        if not self.board[GATE] and self.meta.sequence >= self.number:
            self.board[HELD] = 1
            signal.pause()
        super().main_logic(data)


def test_a_new_message_to_an_idle_replica_says_nothing_of_what_waits_where_nobody_may_look() -> None:
    """The idle one has been done with less than others: with the new ticket it looks as if it had an earlier one in hand."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source, worker, last = Burst("source0", board, 8), HoldsTheSixth("a", board), Late("last", board, 3)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("workers", False, worker, replicas=3, ordered=True)
    pipe.create_flow("last", False, last, **FAST)
    pipe.link(Wire(source, worker), Wire(worker, last))
    with running(pipe):
        for sent in range(1, 7):
            board[8] = sent
            eventually(lambda sent=sent: sum(w.sent for w in _results(pipe)) == sent, "its result")  # type: ignore[misc]
        board.wait(HELD)
        assert [wire.waiting for wire in _results(pipe)] == [0, 1, 1]  # of 4 and 5
        stopped = pid_of(pipe, "workers#1")
        os.kill(stopped, signal.SIGSTOP)
        try:
            board[GATE] = 1
            kill_flows(pipe, "last")
            eventually(lambda: _results(pipe)[2].waiting == 0, "a look at the third queue")
            board[8] = 7
            board.wait(HELD_EACH)  # number 6 is in the hands of the first one, which is done with 3
            assert pipe.statistics().wires["source0", "a#0"].sent == 3
            naps = _naps(pid_of(pipe, "last")) + 20  # it looks again and again while it holds something back
            eventually(lambda: board[101] > 3 or _naps(pid_of(pipe, "last")) >= naps, "some looks")
            assert board[101] == 3, "number 5 came before number 4"
            assert _results(pipe)[1].waiting == 1
        finally:
            os.kill(stopped, signal.SIGCONT)
        board[HELD_EACH + 1] = 1
        eventually(lambda: board[101] == 6, "the others")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = 1 << 60


class HoldsTheSixth(Forward):
    """Holds number 6 until a gate opens."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> Any:
        if self.meta.sequence == 6:
            self.board[HELD_EACH] = 1
            self.board.wait(HELD_EACH + 1, timeout=60)
        return data


def _naps(pid: int) -> int:
    """How often a process has gone to sleep."""
    tasks = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(int(re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", task.read_text(), re.MULTILINE)[0]) for task in tasks)


def test_the_orders_after_two_flows_that_get_the_same_messages() -> None:
    """A late result of the one holds back what the one has, and nothing of the other."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source = Burst("source0", board, 8)
    one, other, last = Held("a", board, slow=0), Forward("b"), BySource("last", board)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("one", False, one, replicas=2, ordered=True)
    pipe.create_flow("other", False, other, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, (one, other)), Wire(one, last), Wire(other, last))
    with running(pipe):
        board[8] = 4
        eventually(lambda: board[103] == 4, "all results of the other")
        eventually(lambda: pipe.statistics().wires["a#1", "last"].received >= 2, "some results of the one")
        assert board[101] == 0
        board[GATE] = 1
        eventually(lambda: board[101] == 4, "all results of the one")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = 1 << 60


def test_results_are_not_held_back_for_ever_beside_a_wire_that_always_has_something() -> None:
    """Where messages are dropped on the way to the replicas, gaps are nothing special."""
    board = Board(200)
    pipe = Pipe(policy="drop_oldest", capacity=2)
    source, worker, last = Frames("source0", None), Forward("b"), Slow("last", board)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, (worker, last)), Wire(worker, last))
    with running(pipe):
        eventually(lambda: board[103] >= 50, "results of the workers")
        assert board[101] > 0
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)


class Slow(BySource):
    """There is always more for it than it can take."""

    def main_logic(self, data: Any) -> None:
        super().main_logic(data)
        time.sleep(0.002)


class Held(Forward):
    """The first message that number `slow` gets it holds until the gate opens."""

    def __init__(self, name: str, board: Board, slow: int) -> None:
        super().__init__(name)
        self.board = board
        self.slow = slow

    def main_logic(self, data: Any) -> Any:
        if self.name.endswith(f"#{self.slow}"):
            self.board.add(HELD)
            self.board.wait(GATE, timeout=60)
        return data


def test_what_is_held_back_comes_when_the_wires_were_unlinked() -> None:
    """The result that others wait for goes nowhere; they don't wait for ever."""
    board = Board(200)
    pipe = Pipe(policy="block", capacity=4)
    source, clock = Burst("source0", board, 8), Burst("clock", board, 9)
    worker, last = HeldEach("a", board), BySource("last", board)
    pipe.create_flow("source0", False, source)
    pipe.create_flow("clock", False, clock)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, worker), Wire(worker, last), Wire(clock, last))
    with running(pipe):
        for sent in range(1, 3):
            board[8] = sent
            eventually(lambda sent=sent: sum(_taken(pipe)) == sent, "the message in a worker's hands")  # type: ignore[misc]
        board[8] = 4  # 0 and 2 are for the one, 1 and 3 for the other
        eventually(lambda: sum(pipe.statistics().wires["source0", f"a#{number}"].sent for number in range(2)) == 4)
        board[HELD_EACH + 1] = 1
        eventually(lambda: pipe.statistics().wires["a#1", "last"].received == 2, "results that are held back")
        pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="a", unlink_routine_name="last")
        eventually(lambda: not any(w.linked for ends, w in pipe.statistics().wires.items() if ends[0].startswith("a")))
        board[HELD_EACH] = 1  # as a rule its first result is sent before it hears of the unlinking, and the second one is not
        eventually(lambda: board[100] == 3, "what was held back")
        assert board[11] == 0, "out of order"
        pipe.notify_event(KILL_EVENT_NAME)
        board[8] = board[9] = 1 << 60


class HeldEach(Forward):
    """Holds what it gets until the gate of this replica opens."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> Any:
        self.board.wait(HELD_EACH + int(self.name[-1]), timeout=60)
        return data


class OnlyOdd(Forward):
    def main_logic(self, data: Any) -> Any:
        return data if self.meta.sequence % 2 else None


class Typed(DestinationRoutine):
    """Counts on the board the payloads of messages that came by way of each flow, and what is no array."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        self.board.add(0 if isinstance(data, np.ndarray) else 1)
        if self.meta.hops[0].routine.startswith("odd"):
            self.board.add(2)


def test_tombstones_on_a_wire_that_was_linked_do_not_reach_a_routine_that_puts_other_results_in_order() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, odd, all_of_them, screen, other = (
        Frames("source", None), OnlyOdd("odd"), Forward("all"), Typed("screen", board), Typed("other", Board()),
    )  # fmt: skip
    source.set_const_fps(200)
    pipe.create_flow("source", False, source)
    pipe.create_flow("odd", False, odd, replicas=2, ordered=True)
    pipe.create_flow("all", False, all_of_them, replicas=2, ordered=True)
    pipe.create_flow("screen", False, screen)
    pipe.create_flow("other", False, other)
    pipe.link(Wire(source, (odd, all_of_them)), Wire(odd, other), Wire(all_of_them, screen))
    with running(pipe):
        for replica in ("odd#0", "odd#1"):
            pipe.notify_event(LINK_EVENT_NAME, specific_routine=replica, link_routine_name="screen")
        board.wait(2, 20)
        pipe.notify_event(KILL_EVENT_NAME)
    assert not board[1]
