"""The process that holds the routines of a later `build()`, and forks their flows when the launcher says so.

Only a fresh fork of the parent has the new routine objects, but only the launcher gives out holder bits and orders recoveries.
So a fork server decides nothing: it forks, and tells how its children ended. It ends when the launcher's end of its channel is
closed. The launcher never waits for it: one that does not answer in time counts as dead, and is made so.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import NoReturn

from pipert_shm import forked, native, system
from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import Forked, ForkFlow, Reap, Reaped
from pipert_shm.descriptors import advised
from pipert_shm.errors import describe
from pipert_shm.flow.process import run_flow
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.watch import Watch
from pipert_shm.logs import ForwardingHandler, forwarding_logger, shield_records
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import Plan

PATIENCE = 10.0  # seconds without an answer after which a fork server counts as dead
IS_DEAD = "the process that holds its routines is dead"


class ForkServer:
    """The launcher's end. None of its methods waits.

    :param end: the descriptor of the channel; it is this object's from now on, also when this raises.
    :param known: how many routines of the pipe its process knows.
    :param on_lost: called once, when it is dead.
    :raises OSError: when the system has no descriptors left.

    Attributes:
        dead: it does not answer any more.
    """

    def __init__(
        self, end: int, pid: int, known: int, watch: Watch, logger: logging.Logger, on_lost: Callable[[], object]
    ) -> None:
        self.known = known
        self.dead = False
        self._watch = watch
        self._on_lost = on_lost
        self._asked = 0
        self._forks: dict[int, Callable[[int, str], object]] = {}
        self._reaps: dict[int, Callable[[int], object]] = {}
        self._due: dict[int, float] = {}
        with ExitStack() as undo:
            channel = Channel(socket.socket(fileno=end))
            undo.callback(channel.close)
            channel.keep()
            self._pidfd = system.pidfd_open(pid)
            undo.callback(os.close, self._pidfd)
            native.guard(self._pidfd)
            undo.pop_all()
        dispatch = Dispatch("the launcher, of a fork server", logger, self._make_good)
        dispatch.on_received(Forked, self._note_forked)
        dispatch.on_received(Reaped, self._note_reaped)
        self._peer = Peer("a fork server", channel, watch, logger, dispatch.deliver, self._lose, self._kill)
        watch.add(self._pidfd, self._lose)

    def fork(self, order: ForkFlow, fds: list[int], then: Callable[[int, str], object]) -> None:
        """Has a flow forked.

        :param fds: the flow's ends of its control channel, and of the pipe for its stacks; closed here.
        :param then: gets the new pid, which stays the child's until it is reaped; else 0, and why there is none.
        """
        question = self._number()
        self._peer.send(order, question, fds)
        self._forks[question] = then
        self._due[question] = time.monotonic() + PATIENCE
        if self.dead:
            self._give_up()

    def reap(self, pid: int, then: Callable[[int], object]) -> None:
        """:param then: gets the exit code of a child that has ended."""
        question = self._number()
        self._peer.send(Reap(pid), question)
        self._reaps[question] = then
        self._due[question] = time.monotonic() + PATIENCE
        if self.dead:
            self._give_up()

    def _note_forked(self, message: Forked, received: Received) -> None:
        self._due.pop(received.question, None)
        if received.question in self._reaps:  # it could not read the question
            self._reaps.pop(received.question)(-signal.SIGKILL)
        else:
            self._forks.pop(received.question)(message.pid, message.why)

    def _note_reaped(self, message: Reaped, received: Received) -> None:
        self._due.pop(received.question, None)
        self._reaps.pop(received.question)(message.exit_code)

    def _make_good(self, received: Received, error: Exception) -> None:
        """An answer can't be read. How a child ended need not be known; one that nobody knows of has to end."""
        if received.question in self._reaps:
            self._note_reaped(Reaped(-signal.SIGKILL), received)
        elif received.question in self._forks:
            self._kill()

    def _number(self) -> int:
        self._asked += 1
        return self._asked

    @property
    def due(self) -> float | None:
        """When `check` should be called, as of time.monotonic()."""
        return min(self._due.values(), default=None)

    def check(self, now: float) -> None:
        """Ends it where it has not answered for too long: else it may still do what nobody counts on."""
        due = self.due
        if due is not None and now >= due:
            self._due.clear()
            self._kill()

    def _kill(self) -> None:
        system.send_signal(self._pidfd, signal.SIGKILL)

    def _lose(self) -> None:
        if self.dead:
            return
        self.close()
        self._give_up()
        self._on_lost()

    def _give_up(self) -> None:
        """Answers what it will not answer."""
        forks, self._forks = self._forks, {}
        reaps, self._reaps = self._reaps, {}
        self._due.clear()
        for forked_as in forks.values():
            forked_as(0, IS_DEAD)
        for reaped_as in reaps.values():
            reaped_as(-signal.SIGKILL)

    def close(self) -> None:
        """Makes its process end, which is dead from here on. Its flows end when the channels to them are closed."""
        self.dead = True
        self._peer.close()
        if self._pidfd >= 0:
            self._watch.drop(self._pidfd)
            native.unguard(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def run_fork_server(
    plan: Plan, segment: ControlSegment, logger_name: str, grace: float, orders: Channel, logs: Channel
) -> NoReturn:
    """The whole life of a fork server's process, just forked.

    :param plan: with the routines that are new, and all others.
    """
    status = 1
    logs.set_blocking(False)
    shield_records()
    logger = forwarding_logger(logger_name, ForwardingHandler(logs, "fork server", "fork server"))
    try:
        forked.begin(None)
        segment.unmap()  # it keeps the memory of rings that are long gone
        orders.keep()
        gc.freeze()
        dispatch = Dispatch(
            "a fork server", logger, lambda received, error: orders.send(Forked(0, describe(error)), received.question)
        )
        last = 0  # question that a child was forked for; the launcher counts them up

        def fork(order: ForkFlow, received: Received) -> None:
            nonlocal last
            if received.question <= last:
                logger.error("an order to fork flow %r came twice; it is dropped", order.flow)
                return
            last = received.question
            fds = received.fds
            if received.trouble:
                orders.send(Forked(0, received.trouble), received.question)
                return
            try:
                pid, why = forked.fork(lambda: _be_flow(plan, segment.pipe_id, logger_name, grace, order, fds, logs)), ""
            except OSError as error:
                pid, why = 0, advised(error)
            orders.send(Forked(pid, why), received.question)

        def reap(message: Reap, received: Received) -> None:
            if message.pid <= 0:
                raise ValueError(f"{message.pid} is no child's pid")
            try:
                exit_code = os.waitstatus_to_exitcode(system.waitpid(message.pid, 0)[1])
            except OSError:
                exit_code = -signal.SIGKILL  # nobody knows
            orders.send(Reaped(exit_code), received.question)

        dispatch.on_received(ForkFlow, fork)
        dispatch.on_received(Reap, reap)
        while (
            received := orders.receive_patiently(lambda error: logger.error("orders can't be heard now: %s", error))
        ) is not None:
            dispatch.deliver(received)
        status = 0
    except ConnectionError:
        status = 0  # the launcher is gone
    finally:
        forked.exit_process(status)


def _be_flow(
    plan: Plan, pipe_id: str, logger_name: str, grace: float, order: ForkFlow, fds: list[int], logs: Channel
) -> NoReturn:
    status = 1
    try:
        control, stacks = fds
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
            logs,
            stacks,
            logger_name,
            order.audience,
            replace(order.attachment, leaving=leaving),
            grace,
        )
    finally:
        forked.exit_process(status)
