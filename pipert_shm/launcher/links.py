"""The wires that are linked and unlinked while the pipe runs: what is allowed, and which places they take.

The launcher only. The lists of `Plan` say what is linked now; the edge records of wires that were unlinked stay, with their
counts, until another wire needs the place.
"""

from __future__ import annotations

from itertools import takewhile

from pipert_shm import native
from pipert_shm.batches import Flood
from pipert_shm.errors import WiresValidation
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.limits import Policy, check_queue
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan, assign_slots
from pipert_shm.routine import Role
from pipert_shm.states import State


class Links:
    """What is linked, and changes to it.

    :param places: how many edge records there are for wires.
    """

    def __init__(self, segment: ControlSegment, plan: Plan, incarnations: Incarnations, places: int) -> None:
        self._segment = segment
        self._plan = plan
        self._incarnations = incarnations
        self._places = places
        self._expected: set[int] = set()  # edges that their receiver's process counts as open

    # ---- what is there ---------------------------------------------------------------------------

    def outs(self, item: RoutinePlan) -> list[EdgePlan]:
        """The wires from a routine, and those that were unlinked and are not drained yet."""
        return [edge for edge in self._plan.edges if edge.sender == item.number and self._is_there(edge)]

    def ins(self, item: RoutinePlan) -> list[EdgePlan]:
        """The wires to a routine, likewise."""
        return [edge for edge in self._plan.edges if edge.receiver == item.number and self._is_there(edge)]

    def _is_there(self, edge: EdgePlan) -> bool:
        return edge.linked or bool(self._incarnations.of(edge))

    def fit(self, edge: EdgePlan) -> list[int]:
        """The incarnations that the edge's receiver may attach to, oldest first: none past one that is being recovered."""
        return list(takewhile(self._incarnations.is_fit, self._incarnations.of(edge)))

    # ---- what the receiver's process knows -------------------------------------------------------

    def note_birth(self, item: RoutinePlan) -> None:
        """A process of the receiver is made, which knows of all that `ins` gives."""
        self._expected.difference_update(edge.number for edge in self._plan.edges if edge.receiver == item.number)
        self._expected.update(edge.number for edge in self.ins(item))

    def must_expect(self, edge: EdgePlan) -> bool:
        """Whether the receiver's process has to be told that the edge is linked; it counts as told."""
        told = edge.number in self._expected
        self._expected.add(edge.number)
        return not told

    def must_forget(self, edge: EdgePlan) -> bool:
        """Whether the receiver's process can be told now that the edge is unlinked; it counts as told."""
        if edge.linked or edge.number not in self._expected or self.fit(edge) != self._incarnations.of(edge):
            return False
        self._expected.remove(edge.number)
        return True

    # ---- changes ---------------------------------------------------------------------------------

    def unlink(self, sender: RoutinePlan, receiver: str) -> EdgePlan | None:
        """Takes a wire out of the plan; None when there is no such one."""
        edge = next((edge for edge in sender.outs if self._plan.names[edge.receiver] == receiver), None)
        if edge is None:
            return None
        edge.linked = False
        sender.outs.remove(edge)
        self._plan.routines[edge.receiver].ins.remove(edge)
        native.EdgeRecord(self._segment.process, edge.number).removed = True
        assign_slots(self._plan)
        return edge

    def link(
        self,
        sender: RoutinePlan,
        receiver: RoutinePlan,
        policy: Policy | None,
        capacity: int | None,
        timeout: float | None,
        *,
        live: bool,
        max_age: float | None = None,
        own_transmitter: bool = False,
        joins: bool = False,
    ) -> EdgePlan:
        """Puts a wire into the plan.

        What is not given is as it was when the two were wired before, else as the pipe's.

        :param live: make an incarnation of it at once.
        :param own_transmitter: it has one that both of its ends know of.
        :param joins: the receiver does not run yet, and so may join it with others.
        :raises ValueError: when one of the settings is out of range.
        :raises WiresValidation: when the wire can't be, or there is no place for it; nothing has changed then.
        """
        check_queue(policy, capacity, timeout)
        self._check(sender, receiver, joins=joins)
        earlier = next((e for e in self._plan.edges if (e.sender, e.receiver) == (sender.number, receiver.number)), None)
        base = earlier or self._plan.defaults
        edge = EdgePlan(
            number=earlier.number if earlier else self._place(),
            sender=sender.number,
            receiver=receiver.number,
            policy=policy or base.policy,
            capacity=capacity or base.capacity,
            timeout=timeout if timeout is not None or policy is not None else base.timeout,
            transmitter=base.transmitter,
            local=sender.flow == receiver.flow,
            max_age=max_age,
            own_capacity=capacity is not None or earlier is not None,
            own_transmitter=own_transmitter or (earlier is not None and earlier.own_transmitter),
        )
        if earlier is not None:
            edge.max_age, edge.spread = max_age or earlier.max_age, earlier.spread
            edge.ticketed, edge.ordered = earlier.ticketed, earlier.ordered
        cells = self._segment.process.control.cells
        if not edge.own_capacity:
            Flood(self._plan.routines, [*(other for other in self._plan.edges if other.linked), edge]).widen(edge)
            edge.capacity = min(edge.capacity, cells)
        if edge.capacity > cells:
            raise WiresValidation(
                f"a wire that is linked to a running pipe can hold {cells} messages at the most, not {edge.capacity}: give a "
                f"smaller capacity, or policy='block', which also is enough for batches"
            )
        if live and not self._incarnations.can_open(edge, sender):
            raise WiresValidation(
                f"{sender.routine.name!r} has no holder bit or queue left for one more receiver, as long as its frames are kept"
            )
        if earlier is not None and self._incarnations.of(edge):
            # A receiver that is restarted attaches to what it has not read yet by the same record.
            edge.capacity = max(edge.capacity, earlier.capacity)
        self._put(edge, sender, receiver, is_new=earlier is None)
        if live:
            self._incarnations.open(edge, sender)
        return edge

    def _put(self, edge: EdgePlan, sender: RoutinePlan, receiver: RoutinePlan, *, is_new: bool) -> None:
        if edge.number < len(self._plan.edges):
            self._plan.edges[edge.number] = edge
        else:
            self._plan.edges.append(edge)
        sender.outs.append(edge)
        receiver.ins.append(edge)
        assign_slots(self._plan)
        record = native.EdgeRecord(self._segment.process, edge.number)
        if is_new:
            record.clear()
        edge.format(record, sender.reach)
        state = State(native.RoutineRecord(self._segment.process, receiver.number).state)
        record.receiver_ended = state.over

    def _place(self) -> int:
        """The number for a wire between two that were never wired before."""
        if len(self._plan.edges) < self._places:
            return len(self._plan.edges)
        unused = next((edge for edge in self._plan.edges if not self._is_there(edge)), None)
        if unused is None:
            raise WiresValidation(f"the pipe has no place for one more wire: all {self._places} are in use")
        return unused.number

    def take_back(self, edge: EdgePlan, before: EdgePlan | None) -> None:
        """Undoes a `link` that nobody knows of yet; the last one first.

        :param before: what had its place.
        """
        live = self._incarnations.live(edge)
        self.unlink(self._plan.routines[edge.sender], self._plan.names[edge.receiver])
        if live is not None:
            self._incarnations.withdraw(edge, live)
        record = native.EdgeRecord(self._segment.process, edge.number)
        if before is None:
            record.clear()
            self._plan.edges.pop()
            return
        self._plan.edges[edge.number] = before
        before.format(record, self._plan.routines[before.sender].reach)
        record.removed = True

    # ---- checks ----------------------------------------------------------------------------------

    def _check(self, sender: RoutinePlan, receiver: RoutinePlan, *, joins: bool) -> None:
        source, destination = sender.routine.name, receiver.routine.name
        if any(edge.receiver == receiver.number for edge in sender.outs):
            raise WiresValidation(f"{source!r} is wired to {destination!r} already")
        if receiver.role is Role.SOURCE:
            raise WiresValidation(f"{destination!r} is a source: it takes no messages, and can't be linked to")
        if sender.routine.role is Role.DESTINATION:
            raise WiresValidation(f"{source!r} is a DestinationRoutine: it sends nothing, and can't be linked from")
        if receiver.routine.join is not None and not joins and not self._was_joined(sender, receiver):
            raise WiresValidation(f"{destination!r} joins what it was wired to when the pipe was built, and nothing else")
        path = self._path(receiver, sender)
        if path:
            raise WiresValidation(f"the wires would make a cycle: {' -> '.join(map(repr, [source, *path]))}")
        for item, edges, limit, what in (
            (sender, self.outs(sender), native.OUTS, "receivers"),
            (receiver, self.ins(receiver), native.INS, "senders"),
        ):
            if len(edges) >= limit:
                raise WiresValidation(
                    f"routine {item.routine.name!r} has {len(edges)} {what}, which is as many as there can be"
                )

    def _was_joined(self, sender: RoutinePlan, receiver: RoutinePlan) -> bool:
        return any((edge.sender, edge.receiver) == (sender.number, receiver.number) for edge in self._plan.edges)

    def _path(self, start: RoutinePlan, end: RoutinePlan) -> list[str]:
        """The names along the wires from one routine to another, both included; empty when there is no way."""
        come_from: dict[int, RoutinePlan | None] = {start.number: None}
        following = [start]
        while following:
            item = following.pop()
            if item is end:
                path: list[str] = []
                step: RoutinePlan | None = item
                while step is not None:
                    path.insert(0, step.routine.name)
                    step = come_from[step.number]
                return path
            for edge in item.outs:
                if edge.receiver not in come_from:
                    come_from[edge.receiver] = item
                    following.append(self._plan.routines[edge.receiver])
        return []
