"""Ends of a wire between hosts that kill their own process at a chosen line of their code.

The routine's thread and the thread of its line are traced: the n-th line that either of them comes to, once it is told to, is
the last. What C does between two lines is killed by csrc/tests/crash_points.c.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from pipert_shm import Pipe
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from waiting import Board, eventually

RECEIVER_AT, SENDER_AT = 14, 15
"""Cells of the board: how many lines the process has left, 0 for no limit."""
WATCHED = ("pipert_shm/hosts/", "pipert_shm/flow/main_logic", "pipert_shm/message/")


class Steps:
    """Counts the lines of this process, and kills it at the last one."""

    def __init__(self, board: Board, cell: int) -> None:
        self.board, self.cell = board, cell

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in WATCHED):
            return None
        left = self.board[self.cell]
        if left == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if left:
            self.board[self.cell] = left - 1
        return self

    def begin(self) -> None:
        """Traces the calling thread, and those that it starts."""
        threading.settrace(self)
        sys.settrace(self)


class SteppedReceiver(RemoteReceiver):
    board: Board

    def setup(self) -> None:
        Steps(self.board, RECEIVER_AT).begin()
        super().setup()


class SteppedSender(RemoteSender):
    board: Board

    def setup(self) -> None:
        Steps(self.board, SENDER_AT).begin()
        super().setup()


def kill_at(pipe: Pipe, board: Board, cell: int, step: int) -> None:
    """Has the flow of an end die at the n-th line from now on, and waits until it is there again."""
    flow = "of receiver" if cell == RECEIVER_AT else "of sender"
    before = pipe.statistics().flows[flow].pid
    board[cell] = step
    eventually(lambda: pipe.statistics().flows[flow].pid not in (before, None, 0), f"the flow again, killed at step {step}")
    board[cell] = 0
