"""The process that holds the routines of a later `build()`, and forks their flows when the launcher says so.

Only a fresh fork of the parent has the new routine objects, but only the launcher gives out holder bits and orders recoveries.
So the nursery decides nothing: it forks, and tells how its children ended. It ends when the launcher's end of its channel is
closed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.errors import describe
from pipert_shm.events import Audience
from pipert_shm.flow import exit_process, run_flow, take_own_signals
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan
from pipert_shm.runner import Attachment

PATIENCE = 10.0  # seconds without an answer after which a nursery counts as dead


@dataclass(frozen=True, slots=True)
class Order:
    """What a flow's process has to know that the nursery does not: the present wires, by routine number.

    Attributes:
        later: the routines that were added after those of the nursery.
    """

    flow: str
    later: list[RoutinePlan]
    ins: dict[int, list[EdgePlan]]
    outs: dict[int, list[EdgePlan]]
    reach: dict[int, frozenset[int]]
    slots: dict[int, int]
    attachment: Attachment
    audience: Audience


class Nursery:
    """The launcher's end.

    :param known: how many routines of the pipe its process knows.

    Attributes:
        dead: it does not answer any more.
    """

    def __init__(self, end: int, pid: int, known: int) -> None:
        self.known = known
        self._channel = Channel(socket.socket(fileno=end)).keep()
        self._channel.set_patience(PATIENCE)
        self._pidfd = os.pidfd_open(pid)
        native.guard(self._pidfd)
        self.dead = False

    def fileno(self) -> int:
        """Readable when the nursery is dead."""
        return self._pidfd

    def fork(self, order: Order, fds: list[int]) -> tuple[int, str]:
        """The new process; else 0, and why there is none.

        :param fds: the flow's ends of its control channel, of the pipe for its stacks, and of the log channel.
        """
        pid, why = self._ask("fork", order, fds) or (0, "the process that holds its routines is dead")
        return int(pid), str(why)

    def reap(self, pid: int) -> int | None:
        """The exit code of one that has ended; None when the nursery is dead."""
        answer = self._ask("reap", pid)
        return None if answer is None else int(answer[0])

    def _ask(self, what: str, detail: Any, fds: list[int] | None = None) -> tuple[Any, ...] | None:
        if self.dead:
            return None
        try:
            self._channel.send(what, detail, fds=fds or [])
            answer = self._channel.receive()
        except (BrokenPipeError, ConnectionError):
            answer = None
        except TimeoutError:
            answer = None
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)  # else it may still do it when nobody counts on it
        self.dead = answer is None
        return answer

    def close(self) -> None:
        """Makes the nursery end. Its flows do when the channels to them are closed."""
        self._channel.close()
        native.unguard(self._pidfd)
        os.close(self._pidfd)


def run_nursery(plan: Plan, segment: ControlSegment, logger_name: str, grace: float, orders: Channel) -> NoReturn:
    """The whole life of a nursery's process, just forked.

    :param plan: with the routines that are new, and all others.
    """
    status = 1
    try:
        take_own_signals()
        segment.unmap()  # it keeps the memory of rings that are long gone
        orders.keep()
        gc.freeze()
        while True:
            message, fds = orders.receive_with_fds()
            if message is None:
                break
            what, detail = message
            if what == "reap":
                _, ended = os.waitpid(detail, 0)
                orders.send(os.waitstatus_to_exitcode(ended))
                continue
            try:
                pid, why = os.fork(), ""
            except OSError as error:
                pid, why = -1, describe(error)
            if pid == 0:
                _be_flow(plan, segment.pipe_id, logger_name, grace, detail, fds)
            for fd in fds:
                os.close(fd)
            orders.send(max(pid, 0), why)
        status = 0
    except (BrokenPipeError, ConnectionError):
        status = 0  # the launcher is gone
    finally:
        exit_process(status)
    raise AssertionError("a forked process ends above")


def _be_flow(plan: Plan, pipe_id: str, logger_name: str, grace: float, order: Order, fds: list[int]) -> NoReturn:
    status = 1
    try:
        control, stacks, logs = fds
        plan.routines += order.later
        for item in plan.flows[order.flow]:
            item.ins = [plan.restore_transmitter(edge) for edge in order.ins[item.number]]
            item.outs = [plan.restore_transmitter(edge) for edge in order.outs[item.number]]
            item.reach, item.slots = order.reach[item.number], order.slots[item.number]
        leaving = [plan.restore_transmitter(edge) for edge in order.attachment.leaving]
        status = run_flow(
            order.flow,
            plan,
            pipe_id,
            Channel(socket.socket(fileno=control)),
            Channel(socket.socket(fileno=logs)),
            stacks,
            logger_name,
            order.audience,
            replace(order.attachment, leaving=leaving),
            grace,
        )
    finally:
        exit_process(status)
    raise AssertionError("a forked process ends above")
