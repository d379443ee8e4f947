"""The wires that a routine sends on, in groups that one message serves.

A wire has a place in the routine's port. A set of wires is a bit mask of their places, and is called `outs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pipert_shm import binding
from pipert_shm.graph.model import IN_PASSING, EdgePlan
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.slots import Stopping
from pipert_shm.transmitters import BasicTransmitter, DataTransmitter, SharedMemoryTransmitter, changes


@dataclass(slots=True)
class Spread:
    """Wires to the replicas of one routine: each message goes to one of them."""

    outs: int
    wait_ns: int  # how long to wait for room


class Group:
    """Wires that share a transmitter, so that one message serves them all.

    Attributes:
        transform: the transmitter's own function, None where it changes nothing.
        threshold: bytes from which on a buffer goes to a slot.
        outs: all of the group's wires.
        remote: those to other processes.
        local: places of those within the flow.
        spreads: by the name that replicas share.
    """

    __slots__ = ("in_band", "local", "outs", "remote", "spreads", "threshold", "transform")

    def __init__(self, transmitter: DataTransmitter) -> None:
        self.transform = transmitter.transmit() if changes(transmitter) else None
        self.in_band = transmitter.in_band
        self.threshold = transmitter.data_size_threshold
        self.outs = 0
        self.remote = 0
        self.local: list[int] = []
        self.spreads: dict[str, Spread] = {}

    def add(self, edge: EdgePlan, out: int) -> None:
        """Adds a wire at this place."""
        self.outs |= 1 << out
        if edge.spread is not None:
            wait_ns = binding.FOREVER if edge.timeout is None else int(edge.timeout * 1e9)
            spread = self.spreads.setdefault(edge.spread, Spread(0, wait_ns if edge.policy == "block" else 0))
            spread.outs |= 1 << out
        if edge.local:
            self.local.append(out)
        else:
            self.remote |= 1 << out

    def remove(self, out: int) -> None:
        """Takes the wire at this place away, if it is here."""
        self.outs &= ~(1 << out)
        self.remote &= ~(1 << out)
        for spread in self.spreads.values():
            spread.outs &= ~(1 << out)
        self.spreads = {name: spread for name, spread in self.spreads.items() if spread.outs}
        if out in self.local:
            self.local.remove(out)


class _Wire(NamedTuple):
    edge: int
    incarnation: int


class Outgoing:
    """The wires that a routine sends on. The routine's thread only.

    :param waiting: per edge number, the messages that wait within this process.

    Attributes:
        outs: all of them.
        wires: all but taps.
        ticketed: those whose messages get a ticket.
        groups: what a message has to be made for, once each.
    """

    def __init__(self, port: binding.Port, waiting: dict[int, LocalMessages]) -> None:
        self._port = port
        self._waiting = waiting
        self._groups: dict[tuple[type, int], Group] = {}
        self._at: dict[int, _Wire] = {}  # by place
        self._held_elsewhere: dict[int, int] = {}  # slots that the receiver may hold, of each wire out of the flow
        self.outs = self.wires = self.ticketed = 0
        self.groups: tuple[Group, ...] = ()

    def add(self, edge: EdgePlan, incarnation: int) -> None:
        """Adds a wire.

        :raises ValueError: when the port has no place for it.
        """
        out = self._port.add_out(incarnation)
        self._at[out] = _Wire(edge.number, incarnation)
        self.outs |= 1 << out
        self.wires |= (not edge.tap) << out
        self.ticketed |= edge.ticketed << out
        kind = type(edge.transmitter)
        shareable = kind in (SharedMemoryTransmitter, BasicTransmitter)  # then the threshold says all of it
        key = (kind, edge.transmitter.data_size_threshold if shareable else id(edge.transmitter))
        self._groups.setdefault(key, Group(edge.transmitter)).add(edge, out)
        self.groups = tuple(self._groups.values())
        if edge.local:
            self._waiting.setdefault(edge.number, {})
        elif not edge.tap:
            self._held_elsewhere[out] = edge.capacity + edge.borrow_cap + IN_PASSING

    def remove(self, out: int) -> int:
        """Takes the wire at this place away; its incarnation."""
        keep = ~(1 << out)
        self.outs &= keep
        self.wires &= keep
        self.ticketed &= keep
        self._held_elsewhere.pop(out, None)
        for group in self._groups.values():
            group.remove(out)
        self._groups = {key: group for key, group in self._groups.items() if group.outs}
        self.groups = tuple(self._groups.values())
        return self._at.pop(out).incarnation

    def find(self, edge: int) -> int | None:
        """The place of an edge, None when it is not here."""
        return next((out for out, wire in self._at.items() if wire.edge == edge), None)

    @property
    def incarnations(self) -> list[int]:
        """Of all wires."""
        return [wire.incarnation for wire in self._at.values()]

    @property
    def held_elsewhere(self) -> int:
        """How many slots receivers in other processes may hold."""
        return sum(self._held_elsewhere.values())

    @property
    def leaves_flow(self) -> bool:
        """Whether any wire leads to another process; a tap does not count."""
        return any(group.remote & self.wires for group in self._groups.values())

    @property
    def stays_in_flow(self) -> bool:
        """Whether any wire leads to a routine of this process."""
        return any(group.local for group in self._groups.values())

    def waiting(self, out: int) -> LocalMessages:
        """The messages that wait on the wire at this place, which leads to a routine of this process."""
        return self._waiting[self._at[out].edge]

    def choose(self, group: Group) -> int:
        """The wires that a message goes to: of those to the replicas of a routine, the one that has the least to do."""
        outs = group.outs
        for spread in group.spreads.values():
            outs = outs & ~spread.outs | 1 << self._port.choose(spread.outs)
        return outs

    def await_room(self, group: Group) -> int:
        """The same, once the replicas that are to be waited for have room.

        :raises Stopping: when it is interrupted.
        """
        for spread in group.spreads.values():
            if spread.wait_ns and self._port.await_room(spread.outs, spread.wait_ns) == binding.NOTICE:
                raise Stopping
        return self.choose(group)

    def lacking(self, group: Group, handed: Callable[[int], int], sequence: int) -> int:
        """The wires of a group that have not got a message yet; of those to replicas all, or none where one of them has it.

        :param handed: gives, by an edge's number, the number after the last message that it has got.
        """
        having = sum(1 << out for out in self._at if group.outs >> out & 1 and handed(self._at[out].edge) > sequence)
        lacking = group.outs & ~having
        for spread in group.spreads.values():
            if spread.outs & having:
                lacking &= ~spread.outs
        return lacking

    def fast_group(self) -> Group | None:
        """The only group, if all of its messages go the same way, unchanged and without tickets; else None."""
        groups = self.groups
        if len(groups) != 1 or self.ticketed:
            return None
        group = groups[0]
        mixed = group.spreads or group.transform is not None or group.in_band or (group.local and group.remote)
        return None if mixed else group
