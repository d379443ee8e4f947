"""The steps of a change of a running pipe, as its parent asks the launcher for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from pipert_shm.control.channel import Channel
from pipert_shm.control.messages import AwaitRuns, Changing, Replace, SetParameters
from pipert_shm.events import LARGEST_PARAMETERS
from pipert_shm.graph.model import Plan
from pipert_shm.graph.replacement import Replacement
from pipert_shm.opaque import pack
from pipert_shm.parent.fork_servers import ForkServers
from pipert_shm.parent.line import LONG_PATIENCE, PATIENCE, Unanswered


class Changes:
    """Asks for the steps. Any thread.

    :param ask: asks the launcher, and gives its answer.
    :param growing: the lock that is held while flows come and go.
    """

    def __init__(self, ask: Callable[..., Any], fork_servers: ForkServers, growing: threading.Lock) -> None:
        self._ask = ask
        self._fork_servers = fork_servers
        self._growing = growing

    def begin(self, held: tuple[str, ...], replaced: tuple[str, ...], linked: Mapping[str, int]) -> None:
        """Begins a change in several steps. Until it ends, nothing that fails ends the pipe, nor is it over.

        :param held: routines that lose wires. They wait for others, and don't end meanwhile.
        :param replaced: flows that get another process.
        :param linked: routines that stay, and to how many receivers each of them is to be linked.
        :raises PipeStateError: when the pipe has ended.
        :raises WiresValidation: when there are not enough holder bits for that. No change has begun then.
        """
        self._ask(Changing(True, held, replaced, tuple(linked.items())), patience=PATIENCE)

    def end(self) -> None:
        """Ends it.

        :raises PipeStateError: when the pipe has ended.
        """
        self._ask(Changing(False, ()), patience=PATIENCE)

    def replace(self, plan: Plan, replacement: Replacement) -> None:
        """Puts other routines into flows. Returns when that is on its way. If it raises, nothing has changed.

        :param plan: that of the whole pipe with these routines.
        :raises PipeStateError: when the pipe has ended, or a flow has failed for good.
        :raises OSError: when the system has no process or no file descriptor left for it.
        """
        with self._growing, ExitStack() as undo:
            ends: list[Channel] = []
            server = 0
            if replacement.flows:
                ours, server = self._fork_servers.fork(plan, undo)
                ends.append(ours)
            try:
                self._ask(Replace(replacement, server), handing_over=ends, patience=LONG_PATIENCE)
            except Unanswered:
                undo.pop_all()  # the fork server is at work, perhaps: it ends with the launcher
                raise
            undo.pop_all()

    def await_runs(self, flows: tuple[str, ...], patience: float) -> None:
        """Waits until flows are up, and `setup()` has returned in each of their routines that is to run.

        :param patience: seconds that it may take, besides a second for each flow.
        :raises RoutineError: when it has raised.
        :raises FlowDied: when a flow's process died before.
        :raises Unanswered: when it takes longer.
        """
        self._ask(AwaitRuns(flows, True), patience=patience + len(flows), whom="setup() of a new routine")

    def await_up(self, flows: tuple[str, ...], patience: float) -> None:
        """Waits until flows have the processes that they are to have.

        :param patience: seconds that it may take, besides a second for each flow.
        :raises FlowDied: when one has failed for good.
        :raises Unanswered: when it takes longer.
        """
        self._ask(AwaitRuns(flows, False), patience=patience + len(flows), whom="the new process of a flow")

    def set_parameters(self, routine: str, values: dict[str, Any]) -> None:
        """Sets parameters of a routine that runs.

        :raises RoutineError: when the routine's method raises.
        """
        packed = pack(f"parameters of {routine!r}", values, LARGEST_PARAMETERS)
        self._ask(SetParameters(routine, packed), patience=PATIENCE, whom=f"routine {routine!r}")
