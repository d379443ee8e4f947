"""Which wires still lack the message that the death of a routine's process interrupted."""

from __future__ import annotations

from pipert_shm import binding
from pipert_shm.message.outgoing import Group, Outgoing
from pipert_shm.shm.segments import ControlSegment


class Resumption:
    """One message that comes again, and that some wires may have got from the process before: see csrc/handing.h.

    Attributes:
        is_due: whether such a message is to come, or to be sent.
    """

    def __init__(self, segment: ControlSegment, outgoing: Outgoing) -> None:
        self._segment = segment
        self._outgoing = outgoing
        self._sequence = 0
        self.is_due = False

    def begin(self, sequence: int) -> bool:
        """Looks which wires have got the message of this number. Whether all have; taps don't count."""
        lacking, self._sequence = 0, sequence
        for group in self._outgoing.groups:
            lacking |= self.lacking(group, sequence)
        self.is_due = lacking != self._outgoing.outs
        return not lacking & self._outgoing.wires

    def lacking(self, group: Group, sequence: int) -> int:
        """The wires of a group that a message goes to."""
        return self._outgoing.lacking(group, self._handed, sequence) if sequence == self._sequence else group.outs

    def ends(self, sequence: int) -> bool:
        """Whether it has just ended: it was due, and the routine has come to a later message."""
        ended = self.is_due and sequence > self._sequence
        self.is_due = self.is_due and not ended
        return ended

    def _handed(self, edge: int) -> int:
        return binding.EdgeRecord(self._segment.process, edge).handed()
