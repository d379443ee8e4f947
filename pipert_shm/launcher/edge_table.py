"""The edges of the running pipe: which are linked, which are still being drained, and what their receivers know of that.

Only the launcher has this table. The lists of `Plan` say what is linked now. The edge record of an unlinked wire stays, with
its counters, until another wire needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from pipert_shm import binding
from pipert_shm.control.attachment import Attachment
from pipert_shm.errors import WiresValidation
from pipert_shm.graph.batches import Flood
from pipert_shm.graph.extension import NewWire
from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan
from pipert_shm.graph.sizing import assign_slots
from pipert_shm.launcher.footprint import LIVES
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.link_checks import check_ends, check_room
from pipert_shm.launcher.undrained import Undrained
from pipert_shm.limits import check_queue
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.states import State
from pipert_shm.wire import queue_settings


class EdgeTable:
    """Links and unlinks edges, and keeps track of what each receiver's process knows.

    :param places: how many edge records there are for wires.
    """

    def __init__(
        self, segment: ControlSegment, plan: Plan, incarnations: Incarnations, undrained: Undrained, places: int
    ) -> None:
        self._segment = segment
        self._undrained = undrained
        self._plan = plan
        self._incarnations = incarnations
        self._places = places
        self._expected: set[int] = set()  # edges that their receiver's process counts as open

    # ---- the edges now ---------------------------------------------------------------------------

    def outs(self, item: RoutinePlan) -> list[EdgePlan]:
        """The edges from a routine that are linked, and those that were unlinked and are not drained yet."""
        return [edge for edge in self._plan.edges if edge.sender == item.number and self.is_there(edge)]

    def ins(self, item: RoutinePlan) -> list[EdgePlan]:
        """The same of the edges to a routine."""
        return [edge for edge in self._plan.edges if edge.receiver == item.number and self.is_there(edge)]

    def is_there(self, edge: EdgePlan) -> bool:
        """Whether an edge is linked, not drained yet, or held for its receiver."""
        return edge.linked or edge.held or bool(self._incarnations.of(edge))

    def may_bring(self, edge: EdgePlan) -> bool:
        """Whether anything may still come of an edge: on it, or of what a replica got on it and has not passed on."""
        return self.is_there(edge) or self._is_owed(edge)

    def _is_owed(self, edge: EdgePlan) -> bool:
        """Whether a replica of an ordered flow has yet to answer a message of the edge, and lives to do it."""
        receiver = self._plan.routines.get(edge.receiver)
        if not edge.ticketed or receiver is None:
            return False
        process = self._segment.process
        announced, done = binding.EdgeRecord(process, edge.number).tickets()
        return done < announced and not State(binding.RoutineRecord(process, receiver.number).state).over

    def attachable(self, edge: EdgePlan) -> list[int]:
        """The incarnations that the receiver may attach to, oldest first, up to the first one that is being recovered."""
        return list(takewhile(self._incarnations.is_attachable, self._incarnations.of(edge)))

    # ---- what the receiver's process knows -------------------------------------------------------

    def attachment(self, routines: list[RoutinePlan], rings: dict[int, tuple[int, int]]) -> Attachment:
        """What a new process of these routines starts with. From now on the table takes it as known to that process."""
        outs: dict[int, int] = {}
        ins: dict[int, list[int]] = {}
        leaving: list[EdgePlan] = []
        for item in routines:
            for edge in item.outs:
                live = self._incarnations.live(edge)
                if live is not None:
                    outs[edge.number] = live
            for edge in self.ins(item):
                ins[edge.number] = [self._incarnations[number].name for number in self.attachable(edge)]
            self._note_birth(item)
            leaving += [edge for edge in self.ins(item) if not edge.linked]
        return Attachment(outs, ins, rings, leaving)

    def _note_birth(self, item: RoutinePlan) -> None:
        """A process of the receiver starts, which knows of all that `ins` gives."""
        self._expected.difference_update(edge.number for edge in self._plan.edges if edge.receiver == item.number)
        self._expected.update(edge.number for edge in self.ins(item))

    def must_expect(self, edge: EdgePlan) -> bool:
        """Whether the receiver's process has to be told that the edge is linked. The caller tells it if so."""
        told = edge.number in self._expected
        self._expected.add(edge.number)
        return not told

    def must_forget(self, edge: EdgePlan) -> bool:
        """Whether the receiver's process can be told now that the edge is unlinked. The caller tells it if so."""
        if (
            edge.linked
            or edge.held
            or edge.number not in self._expected
            or self.attachable(edge) != self._incarnations.of(edge)
        ):
            return False
        self._expected.remove(edge.number)
        return True

    # ---- changes ---------------------------------------------------------------------------------

    def unlink(self, sender: RoutinePlan, receiver: str) -> EdgePlan | None:
        """Takes the edge between the two out of the plan. None when they are not linked."""
        edge = next((edge for edge in sender.outs if self._plan.routines[edge.receiver].name == receiver), None)
        if edge is None:
            return None
        self.cut([edge])
        return edge

    def cut(self, edges: Iterable[EdgePlan]) -> None:
        """Takes edges out of the plan that are linked."""
        for edge in edges:
            self._take_out(edge)
        assign_slots(self._plan)

    def _take_out(self, edge: EdgePlan) -> None:
        edge.linked = False
        self._plan.routines[edge.sender].outs.remove(edge)
        self._plan.routines[edge.receiver].ins.remove(edge)
        binding.EdgeRecord(self._segment.process, edge.number).removed = True

    def let_go(self, receiver: int) -> list[EdgePlan]:
        """Holds no edge for a receiver any more, since it has another wire; those that were held."""
        held = [edge for edge in self._plan.edges if edge.held and edge.receiver == receiver]
        for edge in held:
            edge.held = False
        return held

    def forget_routine(self, item: RoutinePlan) -> bool:
        """Forgets all edges of a routine that was removed; False, with nothing done, when one of them is still there."""
        edges = [edge for edge in self._plan.edges if item.number in (edge.sender, edge.receiver)]
        if any(map(self.may_bring, edges)):
            return False
        for edge in edges:
            binding.EdgeRecord(self._segment.process, edge.number).clear()
            del self._plan.edges[edge.number]
            self._expected.discard(edge.number)
            self._incarnations.forget(edge.number)
        for edge in self._plan.edges:
            if self._incarnations.forget_reach(edge.number, item.number):
                binding.EdgeRecord(self._segment.process, edge.number).forget_reach(item.number)
        return True

    def link(self, wire: NewWire, *, live: bool, joins: bool = False) -> EdgePlan:
        """Puts a wire into the plan; its edge. When all wires of a change are there, `settle` follows.

        :param live: whether to open an incarnation at once.
        :param joins: whether the receiver does not run yet, so that it may join this input with others.
        :raises ValueError: when one of the settings is out of range.
        :raises WiresValidation: when the two can't be linked, or there is no place for the wire. Nothing has changed then.
        :raises SharedMemoryFull: when there is no memory for it. Nothing has changed then, either.
        """
        check_queue(wire.policy, wire.capacity, wire.timeout)
        sender, receiver = self._plan.get(wire.sender), self._plan.get(wire.receiver)
        earlier = self._between(sender, receiver)
        check_ends(self._plan, sender, receiver, joins=joins or earlier is not None)
        check_room(sender, len(self.outs(sender)), receiver, len(self.ins(receiver)))
        edge = self._planned(wire, sender, receiver, earlier)
        self._segment.take("edge", edge.number)
        self._incarnations.provide(LIVES * (len(self._plan.edges) + 1))
        if live:
            self._undrained.make_room(sender)
        if live and not self._incarnations.can_open(edge, sender):
            raise WiresValidation(
                f"{sender.routine.name!r} has no holder bit or queue left for one more receiver, as long as its frames are kept"
            )
        if earlier is not None and self._incarnations.of(edge):
            # A restarted receiver attaches to the earlier incarnations, too, and finds the capacity in the one record.
            edge.capacity = max(edge.capacity, earlier.capacity)
        self._put(edge, is_new=earlier is None)
        if live:
            self._incarnations.open(edge, sender)
        return edge

    def _between(self, sender: RoutinePlan, receiver: RoutinePlan) -> EdgePlan | None:
        """The edge between the two, which may be unlinked."""
        ends = sender.number, receiver.number
        return next((edge for edge in self._plan.edges if (edge.sender, edge.receiver) == ends), None)

    def _planned(self, wire: NewWire, sender: RoutinePlan, receiver: RoutinePlan, earlier: EdgePlan | None) -> EdgePlan:
        """The edge of a new wire.

        :raises WiresValidation: when the running pipe has no queue that is long enough, or no edge record left.
        """
        base = earlier or self._plan.defaults
        settings = queue_settings(wire.policy, wire.capacity, wire.timeout, base.queue)
        edge = EdgePlan(
            number=earlier.number if earlier else self._place(),
            sender=sender.number,
            receiver=receiver.number,
            policy=settings.policy,
            capacity=settings.capacity,
            timeout=settings.timeout,
            transmitter=self._plan.defaults.transmitter,
            local=sender.flow == receiver.flow,
            max_age=wire.max_age,
            spread=wire.spread,
            ticketed=wire.ticketed,
            ordered=wire.ordered,
            own_capacity=wire.capacity is not None or earlier is not None,
            own_transmitter=wire.own_transmitter,
        )
        if earlier is not None and not wire.is_whole:
            edge.max_age, edge.own_transmitter = wire.max_age or earlier.max_age, earlier.own_transmitter
            edge.spread, edge.ticketed, edge.ordered = earlier.spread, earlier.ticketed, earlier.ordered
        edge = self._plan.restore_transmitter(edge)
        cells = self._segment.process.room.cells
        if not edge.own_capacity:
            Flood(self._plan.routines, [*(other for other in self._plan.edges if other.linked), edge]).widen(edge)
            edge.capacity = min(edge.capacity, cells)
        if edge.capacity > cells:
            raise WiresValidation(
                f"a wire that is linked to a running pipe can hold {cells} messages at the most, not {edge.capacity}: give a "
                f"smaller capacity, or policy='block', which also is enough for batches"
            )
        return edge

    def _put(self, edge: EdgePlan, *, is_new: bool) -> None:
        self._plan.edges[edge.number] = edge
        self._plan.routines[edge.sender].outs.append(edge)
        self._plan.routines[edge.receiver].ins.append(edge)
        process = self._segment.process
        if is_new:
            binding.EdgeRecord(process, edge.number).clear()
        if edge.number >= process.edges_used:
            process.note_used(edge.number + 1, process.incarnations_used)

    def settle(self, edges: Iterable[EdgePlan]) -> None:
        """Sizes the rings for all edges, and writes the records of those that were put into the plan just now."""
        assign_slots(self._plan)
        process = self._segment.process
        for edge in edges:
            record = binding.EdgeRecord(process, edge.number)
            edge.format(record, self._plan.routines[edge.sender].reach)
            record.receiver_ended = State(binding.RoutineRecord(process, edge.receiver).state).over

    def _place(self) -> int:
        """The edge number for two routines that were never wired before."""
        if len(self._plan.edges) < self._places:
            return self._plan.edges.free()
        unused = next((edge for edge in self._plan.edges if not self.is_there(edge)), None)
        if unused is None:
            raise WiresValidation(f"the pipe has no place for one more wire: all {self._places} are in use")
        return unused.number

    def take_back(self, edge: EdgePlan, before: EdgePlan | None) -> None:
        """Undoes a `link` before any flow hears of it. Of several, the last one first. `settle` follows.

        :param before: the unlinked edge whose record it took.
        """
        live = self._incarnations.live(edge)
        self._take_out(edge)
        if live is not None:
            self._incarnations.withdraw(edge, live)
        record = binding.EdgeRecord(self._segment.process, edge.number)
        if before is None:
            record.clear()
            del self._plan.edges[edge.number]
            return
        self._plan.edges[edge.number] = before
        before.format(record, self._plan.routines[before.sender].reach)
        record.removed = True
