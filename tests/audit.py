"""An auditor of a running pipe's shared memory.

It reads the segments as files, by the layouts that csrc/control.h, csrc/ring.h and csrc/port.h declare, with no code of the
package in between: what it finds is what a process that maps them would find.
"""

from __future__ import annotations

import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHM = Path("/dev/shm")
OPEN = 2**64 - 1
RINGS = 4096
ROUTINES = 4096
REASONS = 10
BUCKETS = 608
LIVE, SENDER_DEAD, SWEEPING = 1, 2, 4
IN_USE = LIVE, SENDER_DEAD, SWEEPING  # states of an incarnation whose bit a slot may have
PRODUCER = 1
MESSAGE_SLOT_BYTES = 4096
MOST_SLOTS = 32
COUNTERS = 16
STEPS = 2
LINE = 64


def _record(size: int, **fields: tuple[int, Any]) -> np.dtype[Any]:
    """A structure of `size` bytes, each of its fields given as (offset, format)."""
    offsets, formats = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "offsets": list(offsets), "formats": list(formats), "itemsize": size})


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


_ENTRY = _record(24, serial=(0, "u8"), bytes=(8, "u8"), ready=(16, "u4"))
_HEAD = _record(
    64 + RINGS * _ENTRY.itemsize,
    flows=(8, "u4"),
    routines=(12, "u4"),
    edges=(16, "u4"),
    incarnations=(20, "u4"),
    cells=(24, "u4"),
    edges_used=(28, "u4"),
    budget=(48, "u8"),
    incarnations_used=(56, "u4"),
    rings=(64, (_ENTRY, RINGS)),
)
_FLOW = _record(32, state=(0, "u4"))
_ROUTINE = _record(
    _round_up(208 + 8 * (COUNTERS + BUCKETS + STEPS), LINE),
    state=(64, "u4"),
    received=(72, "u8"),
    sent=(80, "u8"),
    errors=(88, "u8"),
    handled=(136, "u8"),
    sequence=(144, "u8"),
    lost_in_crash=(160, "u8"),
)
_SENT = 64 + ROUTINES // 8  # behind the reach, a bit for each routine
_EDGE = _record(
    _round_up(_SENT + 160 + 8 * BUCKETS, LINE),
    sender=(0, "u4"),
    receiver=(4, "u4"),
    local=(8, "u4"),
    policy=(12, "u4"),
    capacity=(16, "u4"),
    receiver_ended=(32, "u4"),
    removed=(36, "u4"),
    sent=(_SENT, "u8"),
    dropped=(_SENT + 8, ("u8", REASONS)),
    received=(_SENT + 128, "u8"),
    private_bytes=(_SENT + 136, "u8"),
    protocol_errors=(_SENT + 144, "u8"),
)
_RING = _record(32, slots=(4, "u4"), owner=(8, "u4"), place=(12, "u4"), slot_bytes=(16, "u8"), payload_offset=(24, "u8"))
_RING_WORDS_AT = _round_up(_RING.itemsize, LINE)


def _incarnation(cells: int) -> np.dtype[Any]:
    return _record(
        _round_up(256 + 8 * cells, LINE),
        state=(0, "u4"),
        edge=(4, "u4"),
        bit=(8, "u4"),
        offered=(16, "u8"),
        settled=(24, "u8"),
        evicted=(32, "u8"),
        taken=(64, "u8"),
        tail=(128, "u8"),
        closed_at=(136, "u8"),
        head=(192, "u8"),
        cell=(256, ("u8", cells)),
    )


@dataclass(frozen=True)
class Ring:
    """A published ring: its geometry, and the word of each of its slots."""

    place: int
    owner: int
    slot_bytes: int
    payload_offset: int
    path: Path
    words: list[int]

    @property
    def bytes(self) -> int:
        return self.payload_offset + len(self.words) * self.slot_bytes

    def holders(self, slot: int) -> int:
        return self.words[slot] & 0xFFFFFFFF

    def generation(self, slot: int) -> int:
        return self.words[slot] >> 32

    def payload_of(self, slot: int) -> list[int]:
        """The descriptors that the message in this slot names."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.payload_offset + slot * self.slot_bytes)
            head = file.read(40 + 8 * MOST_SLOTS)
        slots = min(int.from_bytes(head[32:34], "little"), MOST_SLOTS)
        return [int.from_bytes(head[40 + 8 * n : 48 + 8 * n], "little") for n in range(slots)]


@dataclass(frozen=True)
class Snapshot:
    """A pipe's control words, as they are at one moment. Sound only while nothing moves."""

    pipe_id: str
    routines: np.ndarray
    edges: np.ndarray
    incarnations: np.ndarray
    budget: int
    memory_left: int
    rings: dict[int, Ring]

    def unswept(self, edge: int) -> list[Any]:
        """The incarnations of an edge that are live or being drained."""
        return [i for i in self.incarnations if i["edge"] == edge and i["state"] in IN_USE]

    def waiting(self, edge: int) -> int:
        return sum(int(i["tail"]) - int(i["head"]) for i in self.unswept(edge))

    def uncounted(self, edge: int) -> int:
        """Messages that are pushed, and that no receiver has counted: one may have been popped a moment ago."""
        return sum(int(i["tail"]) - int(i["evicted"]) - int(i["taken"]) for i in self.unswept(edge))

    def pending(self, edge: int) -> int:
        """Messages that the sender has begun to send and not pushed."""
        return sum(int(i["offered"]) - int(i["settled"]) for i in self.unswept(edge))

    def in_hand(self, routine: int) -> int:
        """Messages that a routine has received and is not done with."""
        return int(self.routines[routine]["received"]) - int(self.routines[routine]["handled"])

    @property
    def budget_is_whole(self) -> bool:
        """Whether the rings that there are account for all of the memory budget that is not left."""
        return self.memory_left + self.ring_bytes == self.budget

    @property
    def ring_bytes(self) -> int:
        return sum(ring.bytes for ring in self.rings.values())


def take_snapshot(pipe_id: str) -> Snapshot:
    """Reads all of a pipe's control words that are in use: most of the segment has no memory."""
    with (SHM / f"pipert-{pipe_id}-c").open("rb", buffering=0) as file:
        return _snapshot(pipe_id, file)


def _snapshot(pipe_id: str, file: io.FileIO) -> Snapshot:
    def part(kind: np.dtype[Any], count: int, at: int) -> np.ndarray:
        file.seek(at)
        return np.frombuffer(file.read(count * kind.itemsize), kind, count)

    head = part(_HEAD, 1, 0)[0]
    routines_at = _round_up(_round_up(_HEAD.itemsize, LINE) + int(head["flows"]) * _FLOW.itemsize, LINE)
    edges_at = routines_at + int(head["routines"]) * _ROUTINE.itemsize
    incarnations_at = edges_at + int(head["edges"]) * _EDGE.itemsize
    incarnation = _incarnation(int(head["cells"]))
    end = incarnations_at + int(head["incarnations"]) * incarnation.itemsize
    size = file.seek(0, os.SEEK_END)
    assert end <= size, f"the layout of the control segment is another one: {end} bytes expected, there are {size}"
    file.seek(end)
    names = json.loads(file.read().rstrip(b"\0"))["routines"]
    incarnations = part(incarnation, int(head["incarnations_used"]), incarnations_at)
    # Those of taps come last, and are known by their incarnations.
    edges = max([int(head["edges_used"]), *(int(i["edge"]) + 1 for i in incarnations if i["state"])])
    rings = {}
    for place, entry in enumerate(head["rings"]):
        if entry["serial"] and entry["ready"] and (ring := _read_ring(pipe_id, place, int(entry["serial"]))) is not None:
            rings[place] = ring
    return Snapshot(
        pipe_id,
        routines=part(_ROUTINE, len(names), routines_at),
        edges=part(_EDGE, edges, edges_at),
        incarnations=incarnations,
        budget=int(head["budget"]),
        memory_left=int(head["budget"]) - int(head["rings"]["bytes"].sum()),
        rings=rings,
    )


def _read_ring(pipe_id: str, place: int, serial: int) -> Ring | None:
    path = SHM / f"pipert-{pipe_id}-{serial}"
    try:
        with path.open("rb", buffering=0) as file:
            head = np.frombuffer(file.read(_RING.itemsize), _RING, 1)[0]
            file.seek(_RING_WORDS_AT)
            lines = np.frombuffer(file.read(int(head["slots"]) * LINE), "u8")
    except FileNotFoundError:
        return None  # it went meanwhile
    words = [int(word) for word in lines[:: LINE // 8]]
    return Ring(place, int(head["owner"]), int(head["slot_bytes"]), int(head["payload_offset"]), path, words)


# ---- what has to hold ----------------------------------------------------------------------------


def audit(
    shot: Snapshot,
    names: tuple[str, ...],
    in_hand: Mapping[int, int] | None = None,
    *,
    draining: bool = False,
    slack: Mapping[int, int] | None = None,
) -> list[str]:
    """What is wrong in a pipe that rests, all of its flows alive; one line each.

    :param names: of the routines, by number.
    :param in_hand: per routine number, how many payload slots the routine itself may hold.
    :param draining: whether receivers were stopped before they had read all that dead senders left.
    :param slack: by edge, how far its count may be off: a count is two stores, and a death may fall between them, as
        docs/reliability.md says.
    """
    problems = []
    for number, edge in enumerate(shot.edges):
        if edge["capacity"] and shot.unswept(number):
            name = f"wire {_name(names, edge['sender'])} -> {_name(names, edge['receiver'])}"
            kept = (in_hand or {}).get(int(edge["receiver"]), 0) > 0  # then of a dead sender's queue too, perhaps
            problems += [
                f"{name}: {problem}" for problem in _audit_edge(shot, number, draining or kept, (slack or {}).get(number, 0))
            ]
    problems += _audit_slots(shot, names, in_hand or {}, draining)
    return problems


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else f"tap {number - len(names)}"


def _audit_edge(shot: Snapshot, number: int, draining: bool, slack: int) -> Iterator[str]:
    edge = shot.edges[number]
    sent, received, dropped = int(edge["sent"]), int(edge["received"]), int(edge["dropped"].sum())
    waiting, pending = shot.waiting(number), shot.pending(number)
    # What a dead sender was just evicting is counted when the last of its messages is read.
    evicting = sum(
        int(i["head"]) - int(i["taken"]) - int(i["evicted"]) for i in shot.unswept(number) if i["state"] == SENDER_DEAD
    )
    if abs(received + dropped + waiting + pending + evicting - sent) > slack:
        yield f"sent {sent} is not received {received} + dropped {dropped} + waiting {waiting} + being sent {pending}"
    if edge["protocol_errors"]:
        yield f"{edge['protocol_errors']} protocol errors"
    states = [int(i["state"]) for i in shot.unswept(number)]
    if states.count(LIVE) != (not edge["removed"]) or (len(states) > states.count(LIVE) and not draining):
        yield f"incarnations in states {states} of a wire that is {'un' if edge['removed'] else ''}linked"
    for i in shot.unswept(number):
        head, tail = int(i["head"]), int(i["tail"])
        if not 0 <= tail - head <= edge["capacity"]:
            yield f"head {head} and tail {tail} of a queue of {edge['capacity']}"
        if head != int(i["taken"]) + int(i["evicted"]) and i["state"] == LIVE:
            yield f"head {head} is not taken {i['taken']} + evicted {i['evicted']}"
        if i["closed_at"] not in (OPEN, tail):
            yield f"closed at {i['closed_at']}, tail {tail}"
        if not 0 <= int(i["offered"]) - int(i["settled"]) <= 1:
            yield f"offered {i['offered']}, settled {i['settled']}"


def _audit_slots(shot: Snapshot, names: tuple[str, ...], in_hand: Mapping[int, int], draining: bool) -> Iterator[str]:
    """Every bit of every slot has to be explained: by an unread message, one being sent, or what a routine holds."""
    explained: dict[tuple[int, int], int] = defaultdict(int)
    receiver_of: dict[tuple[int, int], set[int]] = defaultdict(set)
    for i in shot.incarnations:
        if i["state"] not in IN_USE:
            continue
        if not i["bit"]:  # within a flow: the message waits for room there, and its slot with it
            if i["offered"] != i["settled"]:
                _keep_message(shot, int(shot.edges[int(i["edge"])]["sender"]), explained)
            continue
        bit = 1 << int(i["bit"])
        for place in shot.rings:
            receiver_of[place, bit].add(int(shot.edges[int(i["edge"])]["receiver"]))
        cells = len(i["cell"])
        for n in range(int(i["head"]), int(i["tail"])):
            yield from _explain(shot, int(i["cell"][n % cells]), bit, explained)
        if i["offered"] != i["settled"]:
            for ring, slot in _being_sent(shot, int(shot.edges[int(i["edge"])]["sender"]), bit, explained):
                explained[ring.place, slot] |= PRODUCER
                yield from _explain(shot, _descriptor(ring, slot), bit, explained)
    # What a sender that died had set bits for and not pushed: its receiver clears them when it has read the rest.
    left = {1 << int(i["bit"]) for i in shot.incarnations if draining and i["state"] in (SENDER_DEAD, SWEEPING)}
    kept: dict[int, int] = defaultdict(int)
    for ring in shot.rings.values():
        for slot in range(len(ring.words)):
            rest = ring.holders(slot) & ~explained[ring.place, slot]
            while rest:
                bit, rest = rest & -rest, rest & (rest - 1)
                if bit in left:
                    continue
                owners = {ring.owner} if bit == PRODUCER else receiver_of[ring.place, bit]
                holder = next((owner for owner in owners if in_hand.get(owner, 0) > kept[owner]), None)
                if holder is not None:
                    kept[holder] += 1
                    continue
                whose = " or ".join(_name(names, owner) for owner in owners) or "nobody"
                yield (
                    f"ring {ring.place} of {_name(names, ring.owner)} ({len(ring.words)} slots of {ring.slot_bytes} bytes): "
                    f"slot {slot}, generation {ring.generation(slot)}, is held with bit {bit.bit_length() - 1} ({whose})"
                )


def _descriptor(ring: Ring, slot: int) -> int:
    return ring.place << 48 | slot << 32 | ring.generation(slot)


def _being_sent(shot: Snapshot, sender: int, bit: int, explained: Mapping[tuple[int, int], int]) -> Iterator[tuple[Ring, int]]:
    """The message slots of a sender that it has filled, but not pushed to this edge."""
    for ring in shot.rings.values():
        if ring.owner == sender and ring.slot_bytes == MESSAGE_SLOT_BYTES:
            for slot in range(len(ring.words)):
                if (
                    ring.holders(slot) & PRODUCER
                    and ring.holders(slot) & bit
                    and not explained.get((ring.place, slot), 0) & bit
                ):
                    yield ring, slot


def _keep_message(shot: Snapshot, sender: int, explained: dict[tuple[int, int], int]) -> None:
    """The message that a sender is about to send: in one slot at the most, which it alone holds once all others are served."""
    for ring in shot.rings.values():
        if ring.owner == sender and ring.slot_bytes == MESSAGE_SLOT_BYTES:
            slots = (n for n in range(len(ring.words)) if ring.holders(n) == PRODUCER and not explained[ring.place, n])
            for slot in slots:
                explained[ring.place, slot] |= PRODUCER
                return


def _explain(shot: Snapshot, cell: int, bit: int, explained: dict[tuple[int, int], int]) -> Iterator[str]:
    """The slots of one message: each has to carry the edge's bit, in the generation that the message names."""
    message = shot.rings.get(cell >> 48)
    named = [cell]
    if message is not None and (cell >> 32 & 0xFFFF) < len(message.words):
        named += message.payload_of(cell >> 32 & 0xFFFF)
    for descriptor in named:
        place, slot, generation = descriptor >> 48, descriptor >> 32 & 0xFFFF, descriptor & 0xFFFFFFFF
        ring = shot.rings.get(place)
        if ring is None or slot >= len(ring.words):
            yield f"a message names slot {slot} of ring {place}, which does not exist"
        elif ring.generation(slot) != generation:
            yield f"a message names generation {generation} of slot {slot} of ring {place}, which has {ring.generation(slot)}"
        elif not ring.holders(slot) & bit:
            yield f"a message names slot {slot} of ring {place}, which lacks its bit {bit.bit_length() - 1}"
        else:
            explained[place, slot] |= bit
