"""What is in /dev/shm, for people: `pipert-shm ls`.

Segments are read like files, never mapped or locked: whatever the pipe does meanwhile, and whatever is in a segment that a
dead one left, it is neither disturbed nor can it do harm. Names are given without control characters, and no more is read
than a pipe can have. What is shown is as good as a look without a lock can be.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

from pipert_shm import native
from pipert_shm.memory import CONTROL, PAGE, PREFIX, SEGMENT, SHM, is_stale, open_file
from pipert_shm.tables import printable

TAPS = 8  # places of a pipe for taps: the last of its routine numbers
LONGEST_ABOUT = 4 << 20  # bytes of names
UNWRITTEN = 16 << 20  # bytes that a segment may claim without having the memory

State = Literal["alive", "stale", "not ours"]


class Member(NamedTuple):
    """A routine: its name, the number of its flow, and the names of its own counters."""

    name: str
    flow: int
    counters: tuple[str, ...] = ()


def about(flows: Sequence[str], routines: Sequence[Member], name: str = "") -> bytes:
    """What a pipe says of itself behind the records of its control segment: its parent, this process, and names.

    :param flows: their names, by number.
    :param routines: by number.
    :param name: the pipe's, for people.
    """
    return json.dumps({"name": name, "parent": os.getpid(), "flows": flows, "routines": routines}).encode()


@dataclass(slots=True)
class Segment:
    """One segment.

    Attributes:
        size: bytes.
        what: `control`, or whose ring it is, or why that can't be told.
        owner: whose process makes the frames in it: flow and pid; empty where that is unknown.
        slots: (how many, bytes of each) of a ring.
        held: how many of them each holder keeps, by routine; a slot may have several holders.
        free: how many of them nobody holds.
    """

    name: str
    size: int
    what: str
    owner: str = ""
    slots: tuple[int, int] | None = None
    held: dict[str, int] = field(default_factory=dict)
    free: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """One pipe.

    Attributes:
        parent: the pid of the process that built it, None where that is unknown.
        name: what it is called; empty where that is unknown.
    """

    pipe_id: str
    state: State
    parent: int | None
    segments: list[Segment]
    name: str = ""


def list_pipe(pipe_id: str) -> Listing | None:
    """A look at the segments of a pipe; None when they are all gone."""
    found: list[tuple[str, str, int]] = []
    for name in os.listdir(SHM):
        match = SEGMENT.fullmatch(name)
        if match is None or match[1] != pipe_id:
            continue
        try:
            found.append((name, match[2], (SHM / name).lstat().st_size))
        except FileNotFoundError:
            continue  # it went meanwhile
    if not found:
        return None
    found.sort(key=lambda entry: (entry[1] != CONTROL, len(entry[1]), entry[1]))
    stale = is_stale(pipe_id)
    try:
        control = Control(pipe_id, stale)
    except FileNotFoundError:
        return Listing(pipe_id, "stale", None, [Segment(name, size, "without a control segment") for name, _, size in found])
    except OSError as error:
        return Listing(pipe_id, "not ours", None, [Segment(name, size, error.strerror or "") for name, _, size in found])
    except ValueError as error:
        segments = [Segment(name, size, f"unreadable: {error}" if part == CONTROL else "") for name, part, size in found]
        return Listing(pipe_id, "stale" if stale else "alive", None, segments)
    with control:
        segments = [control.describe(name, part, size) for name, part, size in found]
        return Listing(pipe_id, "stale" if stale else "alive", control.parent, segments, control.name)


class Control:
    """A copy of a pipe's control segment, made by reading it. A context manager, which lets go of it.

    :raises OSError: when it can't be read.
    :raises ValueError: when it is not one.

    Attributes:
        name: the pipe's name; empty where it is damaged.
        parent: the pid of the process that built the pipe; None when that is gone, or unknown.
        process: its records, for `pipert_shm.statistics.read_statistics`.
        flows: their names, by number; none where they are damaged.
        routines: by number; likewise.
    """

    def __init__(self, pipe_id: str, stale: bool) -> None:
        with open(open_file(f"{PREFIX}{pipe_id}-{CONTROL}"), "rb") as file:
            data = _read_control(file)
        self._copy = native.Copy(data)
        self.process = native.Process(self._copy.address, len(data))
        self._stale = stale
        self.name, self.parent, self.flows, self.routines = _read_about(data[self.process.records_bytes() :])
        if stale:
            self.parent = None  # by now it may be anybody's number
        self._places = {self.process.serial(place): place for place in range(native.RINGS)}

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.close()

    def describe(self, name: str, part: str, size: int) -> Segment:
        """One of the pipe's segments."""
        if part == CONTROL:
            return Segment(name, size, "control")
        serial = int(part)
        owner = serial & 0xFFFF  # see csrc/control.h
        segment = Segment(name, size, f"ring of {self._name(owner)}", self._owner(owner))
        place = self._places.get(serial)
        if place is None:
            segment.what += ", just made or given up"
            return segment
        try:
            with open(open_file(name), "rb", buffering=0) as file:
                ring = native.read_ring(file.fileno(), place)
        except FileNotFoundError:
            segment.what += ", gone by now"
        except (OSError, ValueError) as error:
            segment.what += f", unreadable: {error}"
        else:
            self._count(segment, ring)
        return segment

    def _count(self, segment: Segment, ring: native.RingHead) -> None:
        segment.slots = len(ring.holders), ring.slot_bytes
        segment.free = ring.holders.count(0)
        receivers = self.process.receivers_by_bit(ring.owner)
        held: Counter[str] = Counter()
        for bits in ring.holders:
            for bit in _bits_of(bits):
                number = ring.owner if bit == 0 else receivers.get(bit)
                held[f"bit {bit}" if number is None else self._name(number)] += 1
        segment.held = dict(held.most_common())

    def _name(self, routine: int) -> str:
        """Of a routine, or of one of the places for taps, whose numbers come after all routines."""
        if routine < len(self.routines):
            return self.routines[routine][0]
        tap = routine - (self.process.control.routines - TAPS)
        return f"tap {tap}" if self.routines and tap >= 0 else f"routine {routine}"

    def _owner(self, routine: int) -> str:
        if routine >= len(self.routines):
            return ""
        flow = self.routines[routine][1]
        known = not self._stale and flow < self.process.control.flows
        pid = native.FlowRecord(self.process, flow).read()[1] if known else 0
        return f"flow {self.flows[flow]}" + (f", pid {pid}" if pid else "")


def _read_control(file: BinaryIO) -> bytes:
    """What a control segment holds: its records, and the names behind them.

    :raises ValueError: when it is none, or is larger than one that says what it says.
    """
    status = os.fstat(file.fileno())
    head = native.Copy(os.pread(file.fileno(), PAGE, 0), PAGE)
    process = native.Process(head.address, status.st_size)
    records = process.records_bytes()
    process.close()
    if status.st_size > records + LONGEST_ABOUT or records > status.st_blocks * 512 + UNWRITTEN:
        raise ValueError(f"with {status.st_size:,} bytes it is larger than a pipe's control segment that has such a head")
    return file.read(status.st_size)


def _bits_of(word: int) -> Iterator[int]:
    while word:
        yield (word & -word).bit_length() - 1
        word &= word - 1


def _read_about(text: bytes) -> tuple[str, int | None, list[str], list[Member]]:
    """What `about` wrote; nothing where it is damaged, then numbers have to do."""
    try:
        said: dict[str, Any] = json.loads(text.rstrip(b"\0"))  # room that was made for more names
        flows = [printable(str(name)) for name in said["flows"]]
        routines = [
            Member(printable(str(name)), range(len(flows))[flow], tuple(printable(str(counter)) for counter in counters))
            for name, flow, counters in said["routines"]
        ]
        return printable(str(said.get("name", ""))), int(said["parent"]), flows, routines
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return "", None, [], []


def text_of(pipe: Listing) -> list[str]:
    """Lines for a terminal: the pipe, then a line per segment."""
    size = sum(segment.size for segment in pipe.segments)
    head = [pipe.pipe_id, pipe.state, *([pipe.name] if pipe.name else []), f"{len(pipe.segments)} segments", f"{size:,} bytes"]
    if pipe.parent is not None:
        head.insert(-2, f"parent {pipe.parent}")
    rows = [_row(segment) for segment in pipe.segments]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(head)]
    for name, what, owner, count, rest in rows:
        cells = name.ljust(widths[0]), what.ljust(widths[1]), owner.ljust(widths[2]), count.rjust(widths[3]), rest
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _row(segment: Segment) -> tuple[str, str, str, str, str]:
    rest = ""
    if segment.slots is not None:
        count, size = segment.slots
        rest = f"{count} slots of {size:,}, {segment.free} free"
        if segment.held:
            rest += "; held: " + ", ".join(f"{name} {slots}" for name, slots in segment.held.items())
    return segment.name, segment.what, segment.owner, f"{segment.size:,} bytes", rest
