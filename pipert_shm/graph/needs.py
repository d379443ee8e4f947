"""Which rings a plan's routines have, and how large they are, as far as that is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from pipert_shm.display.formats import Format
from pipert_shm.errors import PipertError, text_of
from pipert_shm.graph.checks import sorted_by_wires
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.graph.sizing import least_slots
from pipert_shm.shm.needs import MESSAGE_SLOT_BYTES, Needs, Ring, Sure
from pipert_shm.shm.rings import page_up

FULL_HD = 1920 * 1080 * 3  # bytes of a frame that is assumed where nothing is known


class OwnFrames(NamedTuple):
    """The frames that a routine makes.

    Attributes:
        size: bytes of one; 0 when it makes none, and sends on what it gets.
        why: how that is known.
        sure: whether it makes them in each run, or perhaps, or whether the size is assumed.
    """

    size: int
    why: str = ""
    sure: Sure = "yes"


@runtime_checkable
class KnowsFrames(Protocol):
    """A routine that knows without `declare_output` how large the frames are that it makes."""

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        """The frames that it makes; None when they are not known.

        :param received: bytes of the largest frames that it gets; 0 when they are not known, or it gets none.
        :param look: whether it may open files and streams to know it.
        :raises PipertError, OSError, ImportError: when what it opens can't be read.
        """


@runtime_checkable
class SaysFormat(Protocol):
    """A routine that knows in which format the frames are that it sends. Others send on the format that they get."""

    def _sent_format(self, received: Format | None) -> Format | None:
        """The format; None where it is not known.

        :param received: that of the frames that it gets; None where it is not known, or it gets none.
        """


@runtime_checkable
class KnowsFormats(Protocol):
    """A routine that makes larger or smaller frames of some formats."""

    def _own_frames_of(self, received: int, format: Format) -> OwnFrames | None:
        """The frames that it makes of frames in this format; None where `_own_frames` has it.

        :param received: bytes of the largest frames that it gets.
        """


def needs_of(plan: Plan, control: int, *, look: bool = False) -> Needs:
    """What a pipe needs of /dev/shm.

    :param control: bytes of its control segment.
    :param look: whether to open files and streams to know how large their frames are, and to assume a size where it can't be
        known. Else such rings have slots of 0 bytes.
    """
    own = _frames_of(plan, look)
    rings = [ring for item in plan.routines for ring in _rings_of(item, own[item.number])]
    return Needs(tuple(rings), control, plan.memory_budget)


def frame_ring(item: RoutinePlan, frames: OwnFrames) -> Ring:
    """The ring for the frames that a routine makes."""
    slots, _ = least_slots(item.slots, item.message_slots)
    sure = frames.sure if item.leaves_flow or frames.sure != "yes" else "perhaps"  # see `Slots.reserve_now`
    return Ring(item.number, item.name, item.flow, "frames", slots, page_up(frames.size), frames.why, sure)


def _rings_of(item: RoutinePlan, frames: OwnFrames | None) -> Iterator[Ring]:
    """:param frames: those that it makes; None when they are not known."""
    if item.leaves_flow:
        _, slots = least_slots(item.slots, item.message_slots)
        yield Ring(item.number, item.name, item.flow, "messages", slots, MESSAGE_SLOT_BYTES)
    if item.outs and (frames is None or frames.size):
        yield frame_ring(item, frames or OwnFrames(0))


def _frames_of(plan: Plan, look: bool) -> dict[int, OwnFrames | None]:
    """The frames that each routine makes, by its number; None when they are not known."""
    items = {id(item.routine): item for item in plan.routines}
    pairs = [(plan.routines[edge.sender].routine, item.routine) for item in plan.routines for edge in item.ins]
    own: dict[int, OwnFrames | None] = {}
    sent: dict[int, int] = {}  # bytes of the largest frames that it sends, its own or those that it gets
    formats: dict[int, Format | None] = {}  # of the frames that it sends
    for routine in sorted_by_wires([item.routine for item in plan.routines], pairs):
        item = items[id(routine)]
        received = max((sent[edge.sender] for edge in item.ins), default=0)
        told = {formats[edge.sender] for edge in item.ins}
        format = told.pop() if len(told) == 1 else None
        formats[item.number] = routine._sent_format(format) if isinstance(routine, SaysFormat) else format
        frames = _frames_made_by(item, received, format, look) if item.outs else OwnFrames(0)
        if frames == OwnFrames(0) and received:
            frames = _copies_sent_by(item, received, plan)
        own[item.number] = frames
        sent[item.number] = frames.size if frames and frames.size else received
    return own


def _copies_sent_by(item: RoutinePlan, received: int, plan: Plan) -> OwnFrames:
    """The copies that a routine sends of what it gets, where it can't send references."""
    remote = [edge for edge in item.outs if not edge.local]
    if any(edge.transmitter.in_band for edge in remote):
        return OwnFrames(received + MESSAGE_SLOT_BYTES, "copies of what it gets: a wire's transmitter pickles them")
    if remote and any(plan.routines[edge.sender].reach - item.reach for edge in item.ins):  # see `assign_bits`
        return OwnFrames(received, "copies of what it gets: too many routines get these frames")
    return OwnFrames(0)


def _frames_made_by(item: RoutinePlan, received: int, format: Format | None, look: bool) -> OwnFrames | None:
    routine, trouble = item.routine, ""
    if routine._output_bytes is not None:
        return OwnFrames(routine._output_bytes, "declared" if routine._output_bytes else "")
    try:
        known = None
        if received and format is not None and isinstance(routine, KnowsFormats):
            known = routine._own_frames_of(received, format)
        if known is None and isinstance(routine, KnowsFrames):
            known = routine._own_frames(received, look=look)
    except (PipertError, OSError, ImportError) as error:
        known, trouble = None, f": {text_of(error)}"
    if known is not None or not look:
        return known
    if received:
        return OwnFrames(received, "assumed: as large as those that it gets", "assumed")
    return OwnFrames(FULL_HD, f"assumed: 1920x1080, BGR{trouble}", "assumed")
