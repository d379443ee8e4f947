"""A flow's process: a thread per routine, one for handlers of events, and the main thread, which obeys the launcher.

It is forked by the launcher or by a fork server.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from pipert_shm import binding
from pipert_shm.control import messages
from pipert_shm.control.channel import Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.logs import ForwardingHandler, forwarding_logger
from pipert_shm.control.messages import (
    AddIn,
    AddTap,
    Answer,
    ExpectIn,
    Extended,
    Failed,
    Handled,
    HandleEvent,
    InOrder,
    Kill,
    LetEnd,
    LinkOut,
    Message,
    Notified,
    ReceiverDied,
    ReceiverFailed,
    Recovered,
    Refused,
    RemoveIn,
    RemoveTap,
    SenderDied,
    SetParameters,
    StartRoutines,
    TapEnded,
    TapMade,
    TapRefused,
    TraceInto,
    Unlinked,
    UnlinkOut,
    WantSlots,
)
from pipert_shm.errors import PipertError, describe
from pipert_shm.flow.birth import FlowBirth
from pipert_shm.flow.commands import Shutdown
from pipert_shm.flow.handling import Handling, Setting
from pipert_shm.flow.runner import Runner
from pipert_shm.graph.needs import needs_of
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm import tracing
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.system import forked
from pipert_shm.system.descriptors import RESERVED, Reserve
from pipert_shm.system.streams import give_c_another_stderr

EXIT_GAVE_UP = 70
STACKS_SIGNAL = signal.SIGRTMIN + 7  # makes the thread of a flow that gets it write its stack
OVERTIME = 1.0  # seconds past the grace period after which a flow ends in the midst of a call
FOR_KILL_HANDLERS = 1.0  # seconds that handlers of `kill`, and one that is at work, may delay the end of the routines
SWITCH_INTERVAL = 0.0005  # with Python's default a busy sibling thread adds 5 ms to each hop


class FlowProcess:
    """The process of one flow: its runners, and the control channel.

    :param logger: the flow's own.
    """

    def __init__(self, birth: FlowBirth, logger: logging.Logger, reserve: Reserve) -> None:
        self._name = name = birth.name
        self.plan = plan = birth.plan
        self.reserve = reserve
        self._grace = birth.grace
        self._logger = logger
        self.segment = segment = ControlSegment.open(birth.pipe_id)
        control = segment.taken_bytes
        segment.needs = lambda: needs_of(plan, control)
        self.edge_names = {edge.bit: plan.names[edge.receiver] for edge in plan.edges if edge.bit}  # at build time
        self._control = birth.control
        self._audience = birth.audience
        self._names = plan.names
        self.exit_status = 0
        local: dict[int, LocalMessages] = {}
        self.runners: dict[str, Runner] = {}
        for item in plan.flows[name]:
            routine = item.routine
            record = binding.RoutineRecord(self.segment.process, item.number)
            handler = ForwardingHandler(birth.logs, name, routine.name, record.count_lost_log)
            routine._logger = forwarding_logger(f"{logger.name}.{routine.name}", handler)
            routine._notifier = partial(self._notify, routine.name)
            self.runners[routine.name] = Runner(self, item, local, birth.attachment)
        self._handling = Handling(name, self.runners, self.report, logger)
        self._table = self._make_table()

    def report(self, message: Message, question: int = 0) -> None:
        """Tells the launcher. Any thread."""
        try:
            self._control.send(message, question)
        except ConnectionError:
            self._logger.debug("the launcher is gone; the control thread sees it too, and ends this flow")
        except OSError as error:
            self.give_up(f"the launcher can't be told of a {type(message).__name__}: {describe(error)}")

    def ring(self, routine: int) -> None:
        """Makes a receiver look at its queues. Any thread."""
        binding.RoutineRecord(self.segment.process, routine).ring()

    def _notify(
        self,
        notifying: str,
        event_name: str,
        flow_routines: dict[str, Any] | None,
        specific_routine: str | None,
        params: dict[str, Any],
        *,
        only_if_built: bool = False,
    ) -> None:
        event = self._audience.address(event_name, flow_routines, specific_routine, params)
        self.report(Notified(event, notifying))

    # ---- the control thread ----------------------------------------------------------------------

    def serve(self) -> None:
        """Starts the routines' threads and obeys the launcher until it says kill, or is gone."""
        for runner in self.runners.values():
            runner.start_thread()
        self.report(messages.Ready())
        while (received := self._next()) is not None and not isinstance(received.message, Kill):
            self._table.deliver(received)
        is_replaced = received is not None and isinstance(received.message, Kill) and received.message.to_be_replaced
        # The launcher kills this process earlier, if it is still there and wants the end.
        deadline = time.monotonic() + self._grace + OVERTIME
        undone = self._handling.end(min(self._grace / 4, FOR_KILL_HANDLERS))
        if undone:
            self._logger.warning("flow %r ends: %d events that it was sent are not handled", self._name, undone)
        for runner in self.runners.values():
            runner.command(Shutdown(self._grace / 2 if is_replaced else 0))
        for runner in self.runners.values():
            runner.join(max(0.0, deadline - time.monotonic()))
        self._handling.await_end(max(0.0, deadline - time.monotonic()))
        for runner in self.runners.values():
            runner.failures.end()  # also of handlers of `kill`

    def _next(self) -> Received | None:
        text = "flow %r: a control message can't be received now: %s; it is tried again"
        return self._control.receive_patiently(lambda error: self._logger.error(text, self._name, describe(error)))

    def _make_table(self) -> Dispatch:
        """The handlers of the launcher's messages. None of them waits for user code."""
        runners = self.runners

        def make_good(received: Received, error: Exception) -> None:
            if isinstance(received.message, HandleEvent):
                self.report(Handled(received.message.cost))  # else it would count as waiting for good
            if received.question:
                self.report(Answer(), received.question)

        table = Dispatch("the flow", self._logger, make_good)
        table.on(StartRoutines, self._handling.put)
        table.on(HandleEvent, self._handling.put)
        table.on_received(SetParameters, lambda m, received: self._handling.put(Setting(m, received.question)))
        table.on_received(AddTap, self._add_tap)
        table.on(RemoveTap, self._remove_tap)
        table.on(LinkOut, lambda m: runners[m.routine].wiring.link_out(self.plan.restore_transmitter(m.edge), m.incarnation))
        table.on(UnlinkOut, self._unlink_out)
        table.on(AddIn, lambda m: runners[m.routine].wiring.add_in(self.plan.restore_transmitter(m.edge), m.incarnation))
        table.on(ExpectIn, lambda m: runners[m.routine].wiring.expect_in(m.edge))
        table.on(RemoveIn, lambda m: runners[m.routine].wiring.remove_in(m.edge))
        table.on(LetEnd, lambda m: runners[m.routine].wiring.let_end(m.hold))
        table.on(InOrder, lambda m: runners[m.routine].wiring.put_in_order(m.lanes, m.restores))
        table.on(WantSlots, lambda m: runners[m.routine].wiring.want_slots(m.slots, m.message_slots))
        table.on(TraceInto, self._trace)
        table.on(Extended, self._extend)
        table.on(Refused, lambda m: runners[m.routine].wiring.refuse(m.why))
        table.on(ReceiverDied, self._recover_receiver)
        table.on(ReceiverFailed, lambda m: runners[m.routine].wiring.give_up_receiver(m.incarnation))
        table.on(SenderDied, lambda m: runners[m.routine].wiring.drain_the_dead())
        return table

    def _add_tap(self, message: AddTap, received: Received) -> None:
        edge, incarnation, question = message.edge, message.incarnation, received.question

        def tell(refusal: str) -> None:
            self.report(TapRefused(edge.number, refusal) if refusal else TapMade(edge, incarnation), question)

        self.runners[message.routine].wiring.add_out(edge, binding.incarnation_of(incarnation), tell)

    def _remove_tap(self, message: RemoveTap) -> None:
        self.runners[message.routine].wiring.remove_out(message.edge, lambda: self.report(TapEnded(message.edge)))

    def _unlink_out(self, message: UnlinkOut) -> None:
        self.runners[message.routine].wiring.remove_out(message.edge, lambda: self.report(Unlinked(message.incarnation)))

    def _trace(self, message: TraceInto) -> None:
        if not message.ring:
            tracing.end()
            return
        try:
            tracing.begin(self.segment.pipe_id, message.ring, message.events, message.flow, message.serial)
        except (PipertError, OSError) as error:
            self._logger.error("flow %r is missing in the trace: %s", self._name, describe(error))

    def _extend(self, message: Extended) -> None:
        self._audience = self._audience.without(message.flows).extended(message.audience)
        self._names = self._names.changed(message.names, message.gone)
        for runner in self.runners.values():
            runner.wiring.learn_names(self._names)

    def _recover_receiver(self, message: ReceiverDied) -> None:
        self.runners[message.routine].wiring.recover_receiver(message.incarnation)
        self.report(Recovered(message.incarnation))

    def give_up(self, cause: str) -> None:
        """Ends this process as failed, its routines cleaned up: the launcher restarts it by its policy. Any thread."""
        self.exit_status = EXIT_GAVE_UP
        self._logger.error("flow %r is given up: %s", self._name, cause)
        with suppress(OSError):  # user code has closed it: the control thread notices
            self._control.stop_receiving()


def run_flow(birth: FlowBirth) -> int:
    """The whole life of a flow's process, just forked; its exit status."""
    reserve = Reserve(RESERVED)  # first: so it gets low numbers, which are there whatever the limit becomes
    name, control, logs = birth.name, birth.control, birth.logs
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        control.stop_receiving()  # as if the launcher had said kill

    forked.begin(end)
    sys.setswitchinterval(SWITCH_INTERVAL)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):  # it is closed
                stream.reconfigure(line_buffering=True)
    faulthandler.register(STACKS_SIGNAL, file=birth.stacks, all_threads=False)
    give_c_another_stderr(birth.stacks)
    control.keep()
    logs.keep().set_blocking(False)
    logger = forwarding_logger(f"{birth.logger_name}.{name}", ForwardingHandler(logs, name, name))
    try:
        birth.plan.processes[name].apply()
        process = FlowProcess(birth, logger, reserve)
        process.serve()
    except Exception as error:
        logger.error("flow %r failed: %s", name, describe(error), exc_info=not isinstance(error, PipertError))
        control.send(Failed(f"flow {name}", f"flow {name!r} failed: {describe(error)}"))
        return 1
    if came:
        forked.end_by(came[0])
    return process.exit_status
