"""A routine's thread: its states, its runs, and the commands that it obeys.

The table in shm/states.py says what a command does in which state. The thread waits for everything by its port, for commands
too: the port's notice ends each wait. While a run is to stop the notice stays up, so that nothing waits any more.
"""

from __future__ import annotations

import threading
from collections import deque

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.messages import SetUp, StateChanged
from pipert_shm.flow.commands import Call, Command, Shutdown, Start
from pipert_shm.flow.context import Host, open_context
from pipert_shm.flow.failures import Failures
from pipert_shm.flow.loans import Loans
from pipert_shm.flow.main_logic import MainLogic
from pipert_shm.flow.payload_log import PayloadLog
from pipert_shm.flow.wiring import Wiring
from pipert_shm.graph.model import RoutinePlan
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.types import LocalMessages
from pipert_shm.routine import run_as
from pipert_shm.shm import tracing
from pipert_shm.shm.counters import Counters
from pipert_shm.shm.slots import RETRY_NS, Stopping
from pipert_shm.shm.states import REACTIONS, Reaction, State


class Runner:
    """Runs one routine on a thread of its own. Public methods are for the control thread.

    Attributes:
        number: the routine's.
        state: the routine's.
        commands: those that the routine's thread has not obeyed yet.
        wiring: changes its wires.
        payload_log: logs its payloads.
        make_inbox, make_failures, make_logic, make_loans: others where the routine waits for nothing and its errors are raised:
            see testing/running.py.
    """

    make_inbox: type[Inbox] = Inbox
    make_failures: type[Failures] = Failures
    make_logic: type[MainLogic] = MainLogic
    make_loans: type[Loans] = Loans

    def __init__(self, host: Host, plan: RoutinePlan, local: dict[int, LocalMessages], attachment: Attachment) -> None:
        self.routine = plan.routine
        self._context = context = open_context(host, plan, local, attachment, self.make_inbox, self.make_failures)
        self.number = plan.number
        self.failures = context.failures
        self.record = context.record
        self._port = context.port
        self._inbox = context.inbox
        self._outbox = context.outbox
        self.commands: deque[Command] = deque()
        self._lock = threading.RLock()  # of the state, and of what is added to the commands
        self.state = self._state_at_birth()
        self._left = False
        self._run_number = 0
        self.wiring = Wiring(context, lambda action: self.command(Call(action)))
        self.payload_log = PayloadLog(context)
        self._logic = self.make_logic(context, self, self.payload_log)
        self._thread = threading.Thread(target=self._serve, name=plan.routine.name, daemon=True)
        self._loans = self.make_loans(context, self._thread, self.obey)
        if plan.routine.counter_names:
            plan.routine.counters = Counters(plan.routine.counter_names, self.record.own_counters())
        plan.routine._runtime = self._loans

    def start_thread(self) -> None:
        """Starts the routine's thread, which waits for commands."""
        self._thread.start()
        self.wiring.drain_the_dead()  # an earlier process may have died with something in its queues

    def command(self, command: Command) -> None:
        """Tells the routine. One that runs is `stopping` at once, whatever its thread is doing."""
        with self._lock:
            self._receive(command)
        self._port.notify()

    def wake(self) -> None:
        """Makes the routine look at its settings again."""
        self.command(Call(lambda: None))

    def join(self, timeout: float) -> None:
        """Waits for the thread to end, so many seconds at most."""
        self._thread.join(timeout)

    # ---- the routine's thread --------------------------------------------------------------------

    def _state_at_birth(self) -> State:
        """At rest. If an earlier process died in a run, its record stays as it is: the launcher decides what comes of that."""
        state = State(self.record.state)
        if state is State.STOPPING:
            self.record.state = State.STOPPED  # it was told to
        return State.STOPPED if state.active else state

    def _serve(self) -> None:
        run_as(self._loans)
        while not self._left:
            try:
                self._rest()
            except BaseException as error:
                # Not user code, whose exceptions are handled where it is called: a bug of ours must not hang the pipe.
                self._set_state(State.FAILED, self._context.report_failure("the runner", error))
                self._port.close_outs()
                self._port.end_ins()

    def _rest(self) -> None:
        """Waits for a command, between runs, and does what it says."""
        self._port.noticed()  # before the look
        if self.commands:
            command = self.commands.popleft()
            self._do(REACTIONS[self.state][command.order], command)
        elif self._inbox.starved and self._context.has_ended:
            self._port.rest(RETRY_NS)
            self._inbox.end()
        else:
            self._port.rest(binding.FOREVER)

    def _receive(self, command: Command) -> None:
        """Takes a command, with the lock held. A running routine is `stopping` from now on; the rest is done in its turn."""
        if self.state is not State.RUNNING:
            self.commands.append(command)
            return
        reaction = REACTIONS[self.state][command.order]
        if reaction in (Reaction.STOP, Reaction.STOP_AND_LEAVE):
            self._set_state(State.STOPPING)
        if reaction in (Reaction.CALL, Reaction.STOP_AND_LEAVE):
            self.commands.append(command)

    def _do(self, reaction: Reaction, command: Command) -> None:
        """Does what a command comes to, whose turn it is. A trace shows when: of a run, when it begins."""
        began_ns = binding.now_ns()
        if reaction is not Reaction.RUN:
            self._carry_out(reaction, command)
        if tracing.on:
            tracing.note(trace.COMMAND, self.number, other=tracing.name_index(command.order.name.lower()), began_ns=began_ns)
        if reaction is Reaction.RUN:
            self._carry_out(reaction, command)

    def _carry_out(self, reaction: Reaction, command: Command) -> None:
        if reaction is Reaction.RUN and isinstance(command, Start):
            self._begin(command.run)
            self._run()
        elif reaction in (Reaction.CALL, Reaction.CALL_NOW) and isinstance(command, Call):
            try:
                command.action()
            except Exception as error:  # what was asked for can't be; the routine goes on
                self.record.count_error()
                self.failures.tell("an order could not be carried out", error)
        elif reaction is Reaction.MARK:
            self._set_state(State.STOPPED)
        elif reaction is Reaction.LEAVE:
            if isinstance(command, Shutdown) and command.patience:
                self._logic.finish(command.patience)
            self._logic.let_go()
            self._left = True

    def obey(self) -> bool:
        """Obeys the commands that came during a run; says whether it is to end. Then the notice stays up, and nothing waits."""
        self._port.noticed()  # before the look
        while self.commands and (reaction := REACTIONS[self.state][self.commands[0].order]) is not Reaction.WAIT:
            self._do(reaction, self.commands.popleft())
        if self.state is State.STOPPING:
            self._port.notify()
        return self.state is State.STOPPING

    def _set_state(self, state: State, cause: str = "") -> None:
        with self._lock:
            self.state = state
            self.record.state = state
            self._context.host.report(StateChanged(self._context.plan.number, self._run_number, int(state), cause))

    def _begin(self, run: int) -> None:
        """A run begins. Commands that came meanwhile are for this run."""
        self._inbox.begin()
        self._outbox.begin()
        with self._lock:
            self._run_number = run
            self._set_state(State.RUNNING)
            told, self.commands = self.commands, deque()
            for command in told:
                self._receive(command)
            if self.commands or self.state is State.STOPPING:
                self._port.notify()

    def _run(self) -> None:
        """One run: `setup()`, the calls of `main_logic`, `cleanup()`."""
        try:
            self._logic.call_user(self.routine.setup)
        except Stopping:  # out of its loan(): it is called again by the next run
            state, cause = State.STOPPED, ""
        except BaseException as error:
            state, cause = State.FAILED, self._context.report_failure("setup", error)
        else:
            self._context.host.report(SetUp(self._context.plan.number, self._run_number))
            state, cause = self._logic.run()
            try:
                self._logic.call_user(self.routine.cleanup)
            except BaseException as error:
                state, cause = State.FAILED, self._context.report_failure("cleanup", error)
        self._end_run(state, cause)

    def _end_run(self, state: State, cause: str) -> None:
        """Ends the run. Where the routine has ended, its streams end, and it takes nothing more."""
        if state.over:
            self._logic.let_go()
            self._port.close_outs()
            self._inbox.end()
        self.failures.end()
        self._set_state(state, cause)
