"""The process of a fork server: forks flows when the launcher orders it, and tells how they ended.

It holds the routines of a later `build()`, has one thread, and decides nothing. It ends when the launcher's end of its channel
is closed.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
from typing import NoReturn

from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.logs import ForwardingHandler, forwarding_logger, shield_records
from pipert_shm.control.messages import Forked, ForkFlow, Reap, Reaped
from pipert_shm.errors import describe
from pipert_shm.flow.birth import FlowBirth
from pipert_shm.flow.process import run_flow
from pipert_shm.graph.model import Plan
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.system import calls, forked
from pipert_shm.system.descriptors import advised


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
        segment.unmap()  # else it would keep the memory of rings that are long gone
        orders.keep()
        gc.freeze()
        ForkServerProcess(plan, segment.pipe_id, logger, grace, orders, logs).serve()
        status = 0
    except ConnectionError:
        status = 0  # the launcher is gone
    finally:
        forked.exit_process(status)


class ForkServerProcess:
    """Answers the launcher's orders.

    :param logger: the pipe's, whose records go to the parent.
    """

    def __init__(self, plan: Plan, pipe_id: str, logger: logging.Logger, grace: float, orders: Channel, logs: Channel) -> None:
        self._plan = plan
        self._pipe_id = pipe_id
        self._logger = logger
        self._grace = grace
        self._orders = orders
        self._logs = logs
        self._last = 0  # number of the last order to fork; the launcher counts them up

    def serve(self) -> None:
        """Takes orders until the launcher closes the channel."""
        dispatch = Dispatch(
            "a fork server",
            self._logger,
            lambda received, error: self._orders.send(Forked(0, describe(error)), received.question),
        )
        dispatch.on_received(ForkFlow, self._fork)
        dispatch.on_received(Reap, self._reap)
        while (
            received := self._orders.receive_patiently(lambda error: self._logger.error("orders can't be heard now: %s", error))
        ) is not None:
            dispatch.deliver(received)

    def _fork(self, order: ForkFlow, received: Received) -> None:
        if received.question <= self._last:
            self._logger.error("an order to fork flow %r came twice; it is dropped", order.flow)
            return
        self._last = received.question
        fds = received.fds
        if received.trouble:
            self._orders.send(Forked(0, received.trouble), received.question)
            return
        try:
            pid, why = forked.fork(lambda: self._be_flow(order, fds)), ""
        except OSError as error:
            pid, why = 0, advised(error)
        self._orders.send(Forked(pid, why), received.question)

    def _reap(self, message: Reap, received: Received) -> None:
        if message.pid <= 0:
            raise ValueError(f"{message.pid} is no child's pid")
        try:
            exit_code = calls.wait_for_exit(message.pid)
        except OSError:
            exit_code = -signal.SIGKILL  # it can't be known
        self._orders.send(Reaped(exit_code), received.question)

    def _be_flow(self, order: ForkFlow, fds: list[int]) -> NoReturn:
        status, plan = 1, self._plan
        try:
            control, stacks = fds
            plan.past = order.past
            for number in order.gone:
                if number in plan.routines:
                    del plan.routines[number]
            for item in order.later:
                plan.routines[item.number] = item
            for item in plan.flows[order.flow]:
                item.ins = [plan.restore_transmitter(edge) for edge in order.ins[item.number]]
                item.outs = [plan.restore_transmitter(edge) for edge in order.outs[item.number]]
                item.reach, item.slots = order.reach[item.number], order.slots[item.number]
                item.lanes, item.restores = order.lanes[item.number], order.restores[item.number]
            leaving = [plan.restore_transmitter(edge) for edge in order.attachment.leaving]
            birth = FlowBirth(
                name=order.flow,
                plan=plan,
                pipe_id=self._pipe_id,
                logger_name=self._logger.name,
                grace=self._grace,
                audience=order.audience,
                attachment=order.attachment.replaced(leaving=leaving),
                control=Channel(socket.socket(fileno=control)),
                logs=self._logs,
                stacks=stacks,
            )
            status = run_flow(birth)
        finally:
            forked.exit_process(status)
