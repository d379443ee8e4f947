"""A flow's process: a thread per routine, and the main thread for control.

Forked by the launcher; never returns to its caller.
"""

from __future__ import annotations

import faulthandler
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.descriptors import RESERVED, Reserve
from pipert_shm.errors import SharedMemoryFull, describe
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LOG_DATA,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UPDATE_FPS_NAME,
    Audience,
    Event,
    accepted,
    handlers_of,
)
from pipert_shm.logs import ForwardingHandler, forwarding_logger
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import Plan
from pipert_shm.ports import LocalMessages
from pipert_shm.runner import Attachment, Runner, Shutdown, Start, Stop

EXIT_GAVE_UP = 70
STACKS_SIGNAL = signal.SIGRTMIN + 7  # makes a flow write the stacks of its threads
OVERTIME = 1.0  # seconds past the grace period after which a flow ends in the midst of a call
SWITCH_INTERVAL = 0.0005  # with Python's default a busy sibling thread adds 5 ms to each hop


class FlowProcess:
    """The process of one flow: its runners, and the control channel.

    :param attachment: which incarnations of its edges, and which rings, it starts with.
    :param grace: seconds that its routines have to return in when it ends.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        pipe_id: str,
        control: Channel,
        logs: Channel,
        logger: logging.Logger,
        audience: Audience,
        attachment: Attachment,
        grace: float,
    ) -> None:
        self.reserve = Reserve(RESERVED)  # first, so that their numbers are low
        self.plan = plan
        self._grace = grace
        self._logger = logger
        self.segment = ControlSegment.open(pipe_id)
        self.edge_names = {edge.bit: plan.names[edge.receiver] for edge in plan.edges if edge.bit}  # at build time
        self._control = control
        self._audience = audience
        self.exit_status = 0
        self._sending = threading.Lock()
        local: dict[int, LocalMessages] = {}
        self.runners: dict[str, Runner] = {}
        for item in plan.flows[name]:
            routine = item.routine
            record = native.RoutineRecord(self.segment.process, item.number)
            handler = ForwardingHandler(logs, name, routine.name, record.count_lost_log)
            routine._logger = forwarding_logger(f"{logger.name}.{routine.name}", handler)
            routine._notifier = partial(self._notify, routine.name)
            self.runners[routine.name] = Runner(self, item, local, attachment)

    def report(self, *message: Any) -> None:
        """Tells the launcher. Any thread."""
        with self._sending:
            try:
                self._control.send(*message)
            except (BrokenPipeError, ConnectionError):
                self._logger.debug("the launcher is gone; the control thread sees it too, and ends this flow")

    def ring(self, routine: int) -> None:
        """Makes a receiver look at its queues. Any thread."""
        native.RoutineRecord(self.segment.process, routine).ring()

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
        self.report("event", self._audience.address(event_name, flow_routines, specific_routine, params), notifying)

    def serve(self) -> None:
        """Starts the routines' threads and obeys the launcher until it says kill, or is gone."""
        for runner in self.runners.values():
            runner.start_thread()
        self.report("ready")
        while True:
            message = self._control.receive()
            if message is None or message[0] == KILL_EVENT_NAME:
                self._handle(Event(KILL_EVENT_NAME, tuple(self.runners)))
                break
            self._obey(*message)
        for runner in self.runners.values():
            runner.command(Shutdown())
        # The launcher kills us first, if it is still there and knows that we are to end.
        deadline = time.monotonic() + self._grace + OVERTIME
        for runner in self.runners.values():
            runner.join(max(0.0, deadline - time.monotonic()))

    def _obey(self, what: str, *details: Any) -> None:
        if what == "start":
            for name, run in details[0]:
                self.runners[name].command(Start(run))
                self._handle(Event(START_EVENT_NAME, (name,)))
        elif what == "event":
            event: Event = details[0]
            if event.name == STOP_EVENT_NAME:
                for name in event.routines:
                    self.runners[name].command(Stop())
            self._handle(event)
        elif what == "add_tap":
            name, edge, incarnation = details
            self.runners[name].add_out(
                edge,
                incarnation,
                lambda refusal: (
                    self.report("untappable", edge.number, refusal) if refusal else self.report("tapped", edge, incarnation)
                ),
            )
        elif what == "remove_out":
            name, number = details
            self.runners[name].remove_out(number, lambda: self.report("untapped", number))
        elif what == "link_out":
            name, edge, incarnation = details
            self.runners[name].link_out(self.plan.restore_transmitter(edge), incarnation)
        elif what == "unlink_out":
            name, number, incarnation = details
            self.runners[name].remove_out(number, lambda: self.report("unlinked", incarnation))
        elif what == "add_in":
            name, edge, incarnation = details
            self.runners[name].add_in(self.plan.restore_transmitter(edge), incarnation)
        elif what == "expect_in":
            name, number = details
            self.runners[name].expect_in(number)
        elif what == "remove_in":
            name, number = details
            self.runners[name].remove_in(number)
        elif what == "want_slots":
            name, slots, message_slots = details
            self.runners[name].want_slots(slots, message_slots)
        elif what == "grown":
            names, self._audience = details
            for runner in self.runners.values():
                runner.know(names)
        elif what == "refused":
            name, why = details
            self.runners[name].refuse(why)
        elif what == "receiver_died":
            name, incarnation = details
            self.runners[name].recover_receiver(incarnation)
            self.report("recovered", incarnation)
        elif what == "receiver_failed":
            name, incarnation = details
            self.runners[name].give_up_receiver(incarnation)
        elif what == "sender_died":
            self.runners[details[0]].drain_the_dead()

    def give_up(self, cause: str) -> None:
        """Ends this process as failed, its routines cleaned up: the launcher restarts it by its policy. Any thread."""
        self.exit_status = EXIT_GAVE_UP
        self._logger.error("%s; the flow is given up", cause)
        self._control.stop_receiving()

    def _handle(self, event: Event) -> None:
        """Calls the handlers of the event; built-in ones first."""
        for name in event.routines:
            runner = self.runners[name]
            try:
                if event.name == LOG_DATA:
                    runner.log_data = not runner.log_data
                elif event.name == UPDATE_FPS_NAME:
                    runner.routine.set_const_fps(**event.params)
                    runner.wake()
                for method in handlers_of(type(runner.routine)).get(event.name, ()):
                    self._call(runner, getattr(runner.routine, method), event)
            except Exception as error:
                runner.record.count_error()
                runner.routine._logger.error("event %r failed: %s", event.name, describe(error), exc_info=error)

    def _call(self, runner: Runner, handler: Callable[..., Any], event: Event) -> None:
        params = accepted(inspect.signature(handler), event.params)
        ignored = sorted(set(event.params) - set(params))
        if ignored:
            runner.routine._logger.warning("event %r: its handler takes no %s", event.name, ", ".join(ignored))
        handler(**params)


def run_flow(
    name: str,
    plan: Plan,
    pipe_id: str,
    control: Channel,
    logs: Channel,
    stacks: int,
    logger_name: str,
    audience: Audience,
    attachment: Attachment,
    grace: float,
) -> int:
    """The whole life of a flow's process, just forked; its exit status."""
    take_own_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)
    control.keep()
    logs.keep().set_blocking(False)
    logger = forwarding_logger(f"{logger_name}.{name}", ForwardingHandler(logs, name, name, lambda: None))
    try:
        process = FlowProcess(name, plan, pipe_id, control, logs, logger, audience, attachment, grace)
        process.serve()
    except Exception as error:
        logger.error("flow %r failed: %s", name, describe(error), exc_info=not isinstance(error, SharedMemoryFull))
        control.send("failed", name, f"flow {name!r} failed: {describe(error)}")
        return 1
    return process.exit_status


def take_own_signals() -> None:
    """In a forked process: Ctrl-C is for the parent, and the parent's own handlers are not for us."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked for the time of the fork
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def exit_process(status: int) -> None:
    """Ends a forked process without the parent's exit handlers, but with its output written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            os.write(2, f"output lost at exit: {error}\n".encode())
    os._exit(status)
