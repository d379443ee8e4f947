"""Removes flows from the running pipe: their processes end, and then all that they had is given back.

A removed routine's number stays its own until no wire of it has a message left, and no view of its frames is alive. Until then
the routine is *leaving*. Nothing waits for that: it is looked at when numbers are wanted for new routines.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from pipert_shm.control.messages import Extended, Kill, UnlinkOut
from pipert_shm.errors import PipeStateError, WiresValidation
from pipert_shm.events import Audience
from pipert_shm.graph.model import Plan
from pipert_shm.graph.names import Names
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.servers import Servers
from pipert_shm.launcher.undrained import Undrained

FOR_GOOD = 1 << 63  # a hold that nobody lets go of
GENERATIONS = 0xFFFF  # lives of a number, after which its messages are labelled as those of the first one were


class Removal:
    """Removes flows, some at a time, and knows which numbers are free.

    :param most_routines: how many routines the control segment has records for.
    :param grace: seconds that a flow has to end in, before SIGKILL.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        undrained: Undrained,
        edges: EdgeTable,
        rewiring: Rewiring,
        recovery: Recovery,
        lifecycle: Lifecycle,
        servers: Servers,
        most_routines: int,
        grace: float,
    ) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._undrained = undrained
        self._edges = edges
        self._rewiring = rewiring
        self._recovery = recovery
        self._lifecycle = lifecycle
        self._servers = servers
        self._most_routines = most_routines
        self._grace = grace
        self._flows: list[Flow] = []
        self._alive: set[Flow] = set()
        self._then: Callable[[tuple[int, ...]], object] = lambda servers: None
        self._generations: Counter[int] = Counter()  # by number: that of the last routine which had it

    # ---- the end of the processes ----------------------------------------------------------------

    def begin(self, names: Sequence[str], receivers_wait: bool, then: Callable[[tuple[int, ...]], object]) -> None:
        """Takes the wires of these flows away, and ends their processes.

        :param receivers_wait: whether routines that are left without an incoming wire wait for another one, and do not end.
        :param then: called when all is given back, with the pids of the fork servers that have no flow any more.
        :raises WiresValidation, PipeStateError: when one can't be removed. Nothing has changed then.
        """
        self._lifecycle.require_life("no flow can be removed")
        if self._flows:
            raise PipeStateError("flows are being removed already")
        flows = [self._flow(name) for name in names]
        check_removal(self._roster.plan, flows)
        self._flows, self._alive, self._then = flows, set(flows), then
        for flow in flows:
            for item in flow.routines:
                # without its wires it would end like one whose streams have ended, and so would those who receive from it
                self._roster.records[item.number].hold(FOR_GOOD)
        self._cut(flows, receivers_wait)
        for flow in flows:
            flow.leaves = True
        for flow in flows:
            self._end(flow)

    def _flow(self, name: str) -> Flow:
        flow = self._roster.flows.get(name)
        if flow is None:
            raise WiresValidation(f"there is no flow {name!r}")
        return flow

    def _cut(self, flows: Collection[Flow], receivers_wait: bool) -> None:
        """Unlinks all wires of the flows, and tells those who send to them."""
        plan = self._roster.plan
        items = [item for flow in flows for item in flow.routines]
        edges = {edge.number: edge for item in items for edge in (*item.ins, *item.outs)}.values()
        going = {item.number for item in items}
        self._edges.cut(edges)
        for edge in edges:
            edge.held = receivers_wait and edge.receiver not in going and not plan.routines[edge.receiver].ins
            live = self._incarnations.live(edge)
            if edge.sender not in going and live is not None:
                sender = self._roster.flow_at(edge.sender)
                self._roster.send(sender, UnlinkOut(plan.routines[edge.sender].name, edge.number, live))
        self._rewiring.resize()

    def _end(self, flow: Flow) -> None:
        if flow.up:
            flow.kill_at = time.monotonic() + self._grace
            self._roster.send(flow, Kill())
        elif flow.recover_at is None:
            flow.restart_at = None
            self.note_dead(flow)

    def note_dead(self, flow: Flow) -> None:
        """The process of a flow that is removed is dead, and its rings are retired."""
        flow.failed = True
        self._recovery.part(flow)
        self._alive.discard(flow)
        if self._flows and not self._alive:
            self._finish()

    # ---- what is given back ----------------------------------------------------------------------

    def _finish(self) -> None:
        """All processes are dead: nobody knows the flows any more from here on."""
        flows, self._flows = self._flows, []
        roster, lifecycle = self._roster, self._lifecycle
        for flow in flows:
            lifecycle.dismiss(flow)
            roster.dismiss(flow)
        roster.plan.dismiss([flow.name for flow in flows])
        self._rewiring.reorder()
        lifecycle.audience = lifecycle.audience.without({flow.name for flow in flows})
        gone = tuple(item.origin for flow in flows for item in flow.routines)
        news = Extended(Names(), Audience({}, {}, {}), tuple(flow.name for flow in flows), gone)
        for flow in roster.flows.values():
            roster.send(flow, news)
        self._rewiring.resize()
        self._then(self._servers.end_idle())
        lifecycle.tell_if_ended()

    # ---- numbers ---------------------------------------------------------------------------------

    def numbers(self, count: int) -> tuple[tuple[int, int], ...]:
        """Free numbers for so many routines, each with the generation of the routine that gets it.

        :raises WiresValidation: when there are not so many.
        """
        self.reclaim()
        plan = self._roster.plan
        free = self._free()
        if len(free) < count:
            self._undrained.drop_from({item.number for item in plan.leaving})
            self.reclaim()
            free = self._free()
        if len(free) < count:
            there, most = self._most_routines - len(free), self._most_routines
            leaving = f" ({len(plan.leaving)} were removed, and are still read)" if plan.leaving else ""
            raise WiresValidation(
                f"the running pipe has {there} routines{leaving} and room for {most}; {count} more are too many"
            )
        return tuple((number, 1 + self._generations[number] % GENERATIONS) for number in free[:count])

    def _free(self) -> list[int]:
        plan = self._roster.plan
        return [n for n in range(self._most_routines) if n not in plan.routines and n not in plan.leaving]

    def reclaim(self) -> None:
        """Takes back the numbers of removed routines of which no message, no ring and no view is left."""
        self._recovery.remove_retired()
        plan, owners = self._roster.plan, self._incarnations.ring_owners()
        for item in list(plan.leaving):
            if item.number in owners or not self._edges.forget_routine(item):
                continue
            self._generations[item.number] = item.generation
            self._roster.release(item.number)
            plan.release(item)


def check_removal(plan: Plan, flows: Collection[Flow]) -> None:
    """Checks that no flow that stays needs one of these.

    :raises WiresValidation: when one does.
    """
    going = {item.number: flow.name for flow in flows for item in flow.routines}
    for item in plan.routines:
        if item.number in going:
            continue
        needed = [going[number] for number in item.joined if number in going]
        if needed:
            raise WiresValidation(
                f"flow {needed[0]!r} can't be removed alone, since {item.name!r} joins what comes from it: remove flow "
                f"{item.flow!r}, too"
            )
