"""How much the queues around a routine that takes batches have to hold, so that none drops messages when every step keeps up.

While the routine handles a batch, its wires bring as many messages as a batch has. When it is done, all of its results go out
at once. A step after it may be faster than the one after that, so such a burst may reach even the last step, and messages from
other senders wait meanwhile. A queue whose sender waits for room (`block`) needs no more room for that. The capacity of a wire
that gives its own is never changed: it is refused where it is too small.

No camera of several is assumed to send more than twice its share: else each one's frames would need the memory of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pipert_shm.errors import WiresValidation
from pipert_shm.limits import LARGEST_CAPACITY, Policy


class Step(Protocol):
    """A routine in a plan.

    Attributes:
        batch: the most messages that it takes in one call; 0 when it takes them one by one.
        depth: messages of one wire that may wait for partners from others; 0 when it has no join.
    """

    batch: int
    depth: int

    @property
    def name(self) -> str:
        """The routine's name."""


class Queue(Protocol):
    """An edge in a plan.

    Attributes:
        own_capacity: whether its wire gives the capacity.
        ordered: whether it leads from a replica to the routine that restores the order.
        per_source: messages of one source that memory is set aside for; 0: as many as the queue holds.
    """

    sender: int
    receiver: int
    policy: Policy
    capacity: int
    own_capacity: bool
    ordered: bool
    per_source: int


class Steps(Protocol):
    """The routines of a plan, by number."""

    def __getitem__(self, number: int, /) -> Step:
        """The routine that has a number."""


class Flood:
    """Follows the bursts of messages that batches make through a graph without cycles.

    :param edges: those that are linked.
    """

    def __init__(self, steps: Steps, edges: Iterable[Queue]) -> None:
        self._steps = steps
        self._ins: dict[int, list[Queue]] = {}
        for edge in edges:
            self._ins.setdefault(edge.receiver, []).append(edge)
        self._at_once: dict[int, int] = {}
        self._late: dict[int, tuple[int, bool]] = {}
        self._sources: dict[int, frozenset[int]] = {}

    def widen(self, edge: Queue) -> None:
        """Adds room to the queue for the messages that may come at once.

        :raises WiresValidation: when the capacity that its wire gives is too small, or the queue would be too large.
        """
        if edge.policy == "block":
            return
        sender, receiver = self._steps[edge.sender], self._steps[edge.receiver]
        share = -(-receiver.batch // len(self._ins[edge.receiver]))
        if edge.own_capacity:
            self._require(edge, "from", sender, sender.batch)
            self._require(edge, "to", receiver, share)
            return
        meanwhile = min(receiver.batch, 2 * share)
        needed = max(meanwhile, *map(self._at_once_on, self._ins[edge.receiver]))
        if needed < 2:
            return
        share = -(-needed // len(self._sources_of(edge.sender)))
        edge.per_source = edge.capacity + min(needed, 2 * share)
        edge.capacity += needed
        if edge.capacity > LARGEST_CAPACITY:
            raise WiresValidation(
                f"the queue from {sender.name!r} to {receiver.name!r} would have to hold batches of {needed} messages, and "
                f"can't hold more than {LARGEST_CAPACITY}: make batch_size smaller, or say policy='block'"
            )

    def deepen(self, number: int) -> None:
        """Lets a join keep as many messages as a batch on one of its paths may delay."""
        step = self._steps[number]
        if step.depth:
            step.depth = max(step.depth, *(late for late, batched in map(self._late_on, self._ins[number]) if batched), 0)

    def _require(self, edge: Queue, way: str, step: Step, least: int) -> None:
        if step.batch > 1 and edge.capacity < least:
            names = self._steps[edge.sender].name, self._steps[edge.receiver].name
            raise WiresValidation(
                f"the queue from {names[0]!r} to {names[1]!r} holds {edge.capacity} messages, and batches of {step.batch} come "
                f"{way} {step.name!r}: messages would be dropped although nobody is slow. Say capacity={least} or more, or "
                f"none (build() finds it), or policy='block', or a smaller batch_size"
            )

    def _sources_of(self, number: int) -> frozenset[int]:
        if number not in self._sources:
            ins = [self._sources_of(edge.sender) for edge in self._ins.get(number, ())]
            self._sources[number] = frozenset[int]().union(*ins) if ins else frozenset({number})
        return self._sources[number]

    def _at_once_on(self, edge: Queue) -> int:
        return self._at_once_from(edge.sender) * (2 if edge.ordered else 1)  # a replica may be a batch ahead of the others

    def _at_once_from(self, number: int) -> int:
        """The most messages that a routine may send at once; 0 when it sends them one by one."""
        if number not in self._at_once:
            step = self._steps[number]
            ins = [self._at_once_from(edge.sender) for edge in self._ins.get(number, ())]
            come = max(ins, default=0) if step.depth else sum(ins)
            self._at_once[number] = min(LARGEST_CAPACITY, max(come, step.batch if step.batch > 1 else 0))
        return self._at_once[number]

    def _late_on(self, edge: Queue) -> tuple[int, bool]:
        """How many messages a result may be behind the source's newest one here, and whether a batch may be the reason.

        These are the messages in hand in the steps before, and in the queues, which have to be widened first.
        """
        if edge.sender not in self._late:
            before, batch = [self._late_on(each) for each in self._ins.get(edge.sender, ())], self._steps[edge.sender].batch
            late = max((late for late, _ in before), default=0) + max(1, batch)
            self._late[edge.sender] = late, batch > 1 or any(batched for _, batched in before)
        late, batched = self._late[edge.sender]
        return late + edge.capacity, batched
