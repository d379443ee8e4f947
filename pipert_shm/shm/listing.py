"""Lists the segments of pipes for people: `pipert-shm ls`.

Segments are read like files, never mapped or locked. So the listing disturbs no pipe, and a damaged segment can do it no harm.
Names are shown without control characters, and no more is read than a pipe can have. Without a lock, the listing may show
changes that happen meanwhile in part.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

from pipert_shm import binding
from pipert_shm.display.tables import printable
from pipert_shm.shm.segments import CONTROL, PAGE, PREFIX, SEGMENT, SHM, TRACE, is_stale, open_file

TAPS = 8  # places of a pipe for the taps of its parent
ATTACHED = 64  # and behind them, as the last of its routine numbers, for those of attached processes
LONGEST_ABOUT = 4 << 20  # bytes of names
UNWRITTEN = 256 << 20  # bytes that a segment may claim to have beyond the memory that it has

State = Literal["alive", "stale", "not ours"]


class Member(NamedTuple):
    """A routine: its name, the number of its flow, and the names of its own counters."""

    name: str
    flow: int
    counters: tuple[str, ...] = ()


class Meeting(NamedTuple):
    """Where others may attach to a pipe.

    Attributes:
        directory: that the launcher's socket is in; empty where nobody may attach.
        protocol: what messages are understood there.
    """

    directory: str = ""
    protocol: int = 0


def about(
    flows: Sequence[str],
    routines: Sequence[Member | None],
    name: str = "",
    meeting: Meeting = Meeting(),  # noqa: B008 - it is immutable
    file: str = "",
) -> bytes:
    """The text behind the records of a pipe's control segment: names, and this process as the pipe's parent.

    :param flows: their names, by number; empty where no flow has the number.
    :param routines: by number; None where no routine has the number.
    :param name: the pipe's.
    :param meeting: where others may attach to it.
    :param file: the pipeline's file that it was made from, as a real path; empty if it was made by code.
    """
    said = {"name": name, "file": file, "parent": os.getpid(), "meeting": meeting, "flows": flows, "routines": routines}
    return json.dumps(said).encode()


@dataclass(slots=True)
class Segment:
    """One segment.

    Attributes:
        size: bytes.
        what: `control`, or whose ring it is, or why that is unknown; `trace` for what a process notes for a trace.
        owner: flow and pid of the process that makes the frames in it; empty if that is unknown.
        slots: number and size of a ring's slots; None if it is not a ring, or can't be read.
        held: how many slots each holder keeps, by routine. A slot may have several holders.
        free: how many slots nobody holds.
    """

    name: str
    size: int
    what: str
    owner: str = ""
    slots: binding.Geometry | None = None
    held: dict[str, int] = field(default_factory=dict)
    free: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """One pipe.

    Attributes:
        parent: the pid of the process that built it, None if that is unknown.
        name: its name; empty if that is unknown.
        file: the pipeline's file that it was made from; empty if there is none, or that is unknown.
    """

    pipe_id: str
    state: State
    parent: int | None
    segments: list[Segment]
    name: str = ""
    file: str = ""


def list_pipe(pipe_id: str) -> Listing | None:
    """The segments of a pipe as they are now; None when all of them are gone."""
    found: list[tuple[str, str, int]] = []
    for name in os.listdir(SHM):
        match = SEGMENT.fullmatch(name)
        if match is None or match[1] != pipe_id:
            continue
        try:
            status = (SHM / name).lstat()
            found.append((name, match[2], min(status.st_size, status.st_blocks * 512)))
        except FileNotFoundError:
            continue  # it was removed meanwhile
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
        return Listing(pipe_id, "stale" if stale else "alive", control.parent, segments, control.name, control.file)


class Control:
    """A copy of a pipe's control segment, made by reading it. It is a context manager, which frees the copy.

    :raises OSError: when it can't be read.
    :raises ValueError: when it is not a control segment.

    Attributes:
        name: the pipe's name; empty if the text with the names is damaged. So is `file`: the pipeline's file that it is from.
        parent: the pid of the process that built the pipe; None when that is gone, or unknown.
        process: its records, for `pipert_shm.statistics.read_statistics`.
        flows: their names, by number, empty where no flow has the number; none if the text is damaged.
        routines: by number, None where no routine has the number; none if the text is damaged.
        meeting: where others may attach to the pipe.
        user: whose the segment is.
    """

    def __init__(self, pipe_id: str, stale: bool) -> None:
        with open(open_file(f"{PREFIX}{pipe_id}-{CONTROL}"), "rb") as file:
            self.user = os.fstat(file.fileno()).st_uid
            self._copy = _read_control(file)
        size = len(self._copy.memory)
        self.process = binding.Process(self._copy.address, size)
        self._stale = stale
        about = self._copy.memory[self.process.records_bytes() :]
        self.name, self.file, self.parent, self.flows, self.routines, self.meeting = _read_about(about)
        if stale:
            self.parent = None  # another process may have this pid by now
        self._receivers = self.process.receivers()
        self._places = {self.process.serial(place): place for place in self.process.rings()}

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.close()

    def describe(self, name: str, part: str, size: int) -> Segment:
        """What one of the pipe's segments is.

        :param name: of its file.
        :param part: the last part of the name: CONTROL, a serial, or TRACE and a number.
        :param size: bytes.
        """
        if part == CONTROL:
            return Segment(name, size, "control")
        if part.startswith(TRACE):
            return Segment(name, size, "trace")
        serial = int(part)
        owner = binding.serial_owner(serial)
        segment = Segment(name, size, f"ring of {self._name(owner)}", self._owner(owner))
        place = self._places.get(serial)
        if place is None:
            segment.what += ", just made or given up"
            return segment
        try:
            with open(open_file(name), "rb", buffering=0) as file:
                ring = binding.read_ring(file.fileno(), place)
        except FileNotFoundError:
            segment.what += ", gone by now"
        except (OSError, ValueError) as error:
            segment.what += f", unreadable: {error}"
        else:
            self._count(segment, ring)
        return segment

    def _count(self, segment: Segment, ring: binding.RingHead) -> None:
        slots, in_use, by_bit = ring.holders
        segment.slots = binding.Geometry(slots, ring.slot_bytes)
        segment.free = slots - in_use
        receivers = self._receivers.get(ring.owner, {})
        held: Counter[str] = Counter()
        for bit, count in by_bit.items():
            number = ring.owner if bit == 0 else receivers.get(bit)
            held[f"bit {bit}" if number is None else self._name(number)] += count
        segment.held = dict(held.most_common())

    def _name(self, routine: int) -> str:
        """The name of a routine, or of a tap of the parent's or of an attached process: taps have the last routine numbers."""
        member = self.routines[routine] if routine < len(self.routines) else None
        if member is not None:
            return member.name
        tap = routine - (self.process.room.routines - ATTACHED - TAPS)
        if not self.routines or tap < 0:
            return f"routine {routine}"
        return f"tap {tap}" if tap < TAPS else f"attached {tap - TAPS}"

    def _owner(self, routine: int) -> str:
        member = self.routines[routine] if routine < len(self.routines) else None
        if member is None:
            return ""
        flow = member.flow
        known = not self._stale and flow < self.process.room.flows
        pid = binding.FlowRecord(self.process, flow).read().pid if known else 0
        return f"flow {self.flows[flow]}" + (f", pid {pid}" if pid else "")


def _read_control(file: BinaryIO) -> binding.Copy:
    """A copy of a control segment: its records, and the text behind them.

    :raises ValueError: when it is not a control segment, or larger than its own head says.
    """
    status = os.fstat(file.fileno())
    head = binding.Copy(os.pread(file.fileno(), PAGE, 0), PAGE)
    process = binding.Process(head.address, status.st_size)
    records = process.records_bytes()
    process.close()
    if status.st_size > records + LONGEST_ABOUT or records > status.st_blocks * 512 + UNWRITTEN:
        raise ValueError(f"with {status.st_size:,} bytes it is larger than a pipe's control segment that has such a head")
    return binding.Copy.of_file(file.fileno(), status.st_size)


def _read_about(text: bytes) -> tuple[str, str, int | None, list[str], list[Member | None], Meeting]:
    """Reads the text that `about` made: name, file, parent, flows, routines, meeting. If it is damaged, all are empty."""
    try:
        said: dict[str, Any] = json.loads(text.rstrip(b"\0"))  # there may be room for more names
        flows = [printable(str(name)) for name in said["flows"]]
        routines = [None if entry is None else _read_member(*entry, flows=flows) for entry in said["routines"]]
        directory, protocol = said.get("meeting", Meeting())
        meeting = Meeting(str(directory), int(protocol))
        name, file = (printable(str(said.get(what, ""))) for what in ("name", "file"))
        return name, file, int(said["parent"]), flows, routines, meeting
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return "", "", None, [], [], Meeting()


def _read_member(name: object, flow: int, counters: Sequence[object], *, flows: list[str]) -> Member:
    return Member(printable(str(name)), range(len(flows))[flow], tuple(printable(str(counter)) for counter in counters))


def text_of(pipe: Listing) -> list[str]:
    """Lines for a terminal: one for the pipe, then one for each segment."""
    size = sum(segment.size for segment in pipe.segments)
    head = [pipe.pipe_id, pipe.state, *([pipe.name] if pipe.name else []), f"{len(pipe.segments)} segments", f"{size:,} bytes"]
    if pipe.parent is not None:
        head.insert(-2, f"parent {pipe.parent}")
    if pipe.file:
        head.append(pipe.file)
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
