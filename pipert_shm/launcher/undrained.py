"""What receivers leave unread of senders that are gone, such as one that is stopped: dropped where bits or memory are short.

Each new process of a sender, and each wire that is linked again, takes a holder bit, and rings. Those of the process before are
free when the receiver has drained what it sent. A receiver that drains nothing must not use them up.
"""

from __future__ import annotations

import logging

from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.shm.segments import ControlSegment

SHARE = 3  # old frames that are dropped here may take 1/3 of what memory is left beside them


class Undrained:
    """Drops it, the oldest first. Only the launcher; csrc/recover.h says why a receiver may live, and go on, meanwhile."""

    def __init__(self, segment: ControlSegment, plan: Plan, incarnations: Incarnations, logger: logging.Logger) -> None:
        self._plan = plan
        self._incarnations = incarnations
        self._logger = logger
        self._told: set[int] = set()  # receivers that the log has told of
        self._process = segment.process

    def make_room(self, sender: RoutinePlan, bits: int = 1) -> bool:
        """Tries to have so many holder bits free for a routine, and not too much memory in old frames.

        :returns: whether so many bits are free.
        :raises OSError: when a ring can't be opened.
        """
        if self._is_short_of_memory():
            self._incarnations.remove_retired()
        if not self._is_short(sender, bits):
            return True
        undrained = self._incarnations.undrained()
        self._told.intersection_update(map(self._receiver_of, undrained))
        holding = (number for number in undrained if self._edge_of(number).linked and self._incarnations[number].waiting())
        last = {self._edge_of(number).number: number for number in holding}.values()
        for number in undrained:
            of_bits = self._incarnations.free_bits(sender) < bits and self._incarnations.reaches(number, sender)
            # a receiver gets what the last process that sent something has left, unless there is no bit
            if of_bits or (number not in last and self._is_short_of_memory()):
                self._take_back(number)
        return self._incarnations.free_bits(sender) >= bits

    def can_have(self, sender: RoutinePlan, bits: int) -> bool:
        """Whether a routine can give up some of its wires for so many new ones, and has the bits for these before it does.

        Where it has too many wires for that in any case, it can: it waits for the bits of those that it gives up.

        :raises OSError: when a ring can't be opened.
        """
        return self.make_room(sender, bits) or self._incarnations.free_bits(sender, alone=True) < bits

    def _is_short(self, sender: RoutinePlan, bits: int) -> bool:
        return self._incarnations.free_bits(sender) < bits or self._is_short_of_memory()

    def _is_short_of_memory(self) -> bool:
        return self._incarnations.retired_bytes * SHARE > self._process.memory_left()

    def drop_from(self, senders: set[int]) -> None:
        """Drops all that is left of routines that were removed, by their numbers.

        :raises OSError: when a ring can't be opened.
        """
        for number in self._incarnations.undrained():
            if self._edge_of(number).sender in senders:
                self._take_back(number)

    def _take_back(self, number: int) -> None:
        receiver, waiting = self._receiver_of(number), self._incarnations[number].waiting()
        self._incarnations.take_back(number)
        self._incarnations.remove_retired()
        if waiting and receiver not in self._told:
            self._told.add(receiver)
            self._logger.warning(
                "%r does not read what senders that are gone have left for it: the oldest messages are dropped, since holder "
                "bits or memory are short; dropped['crash'] of its wires counts them",
                self._plan.name_of(receiver),
            )

    def _receiver_of(self, number: int) -> int:
        return self._edge_of(number).receiver

    def _edge_of(self, number: int) -> EdgePlan:
        return self._plan.edges[self._incarnations[number].edge]
