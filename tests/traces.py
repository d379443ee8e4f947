"""Reads a trace back, as Perfetto would."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Shown:
    """A slice or an instant.

    Attributes:
        row: the name of its track.
        within: the names of the slices that contain it, from the outermost.
    """

    row: str
    name: str
    begin: int
    end: int = 0
    arrows: list[int] = field(default_factory=list)
    notes: list[tuple[str, Any]] = field(default_factory=list)
    within: tuple[str, ...] = ()

    @property
    def frames(self) -> list[str]:
        return [value for name, value in self.notes if name == "frame"]


class ReadTrace:
    """A trace. Reading it checks that its slices nest, and that each arrow leads from somewhere to somewhere, on in time.

    Attributes:
        shown: all slices and instants, in the order of the file.
        rows: by the name of each track, that of its parent.
    """

    def __init__(self, content: bytes) -> None:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

        self.shown: list[Shown] = []
        self.rows: dict[str, str] = {}
        names: dict[int, str] = {}
        stacks: dict[int, list[Shown]] = defaultdict(list)
        last: dict[int, int] = defaultdict(int)
        for packet in Trace.FromString(content).packet:
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                names[track.uuid] = track.name
                self.rows[track.name] = names.get(track.parent_uuid, "")
                continue
            event = packet.track_event
            stack = stacks[event.track_uuid]
            assert packet.timestamp >= last[event.track_uuid], "a row goes back in time"
            last[event.track_uuid] = packet.timestamp
            if event.type == TrackEvent.TYPE_SLICE_END:
                stack.pop().end = packet.timestamp
                continue
            notes = [(note.name, note.string_value or note.int_value) for note in event.debug_annotations]
            within = tuple(outer.name for outer in stack)
            row = names[event.track_uuid]
            one = Shown(row, event.name, packet.timestamp, packet.timestamp, list(event.flow_ids), notes, within)
            self.shown.append(one)
            if event.type == TrackEvent.TYPE_SLICE_BEGIN:
                stack.append(one)
        assert not any(stacks.values()), "a slice has no end"
        self._check_arrows()

    def _check_arrows(self) -> None:
        ends: dict[int, list[Shown]] = defaultdict(list)
        for one in sorted(self.shown, key=lambda one: one.begin):
            for arrow in one.arrows:
                ends[arrow].append(one)
        for arrow, its in ends.items():
            names = [one.name for one in its]
            assert len(its) > 1 or names == ["queue"] or "dropped" in names[0], f"arrow {arrow} leads nowhere: {its}"
            if "queue" in names and names[-1] != "queue":
                assert its[-1].begin >= its[names.index("queue")].end, f"arrow {arrow} leads back in time: {its}"
                assert names.index("queue") == len(names) - 2, f"arrow {arrow} leads past its receiver: {its}"

    @classmethod
    def of(cls, path: Path) -> ReadTrace:
        return cls(path.read_bytes())

    def on(self, row: str, name: str = "") -> list[Shown]:
        """What a row shows, of this name."""
        return [one for one in self.shown if one.row == row and one.name.startswith(name)]

    def of_frame(self, frame: str, row: str = "") -> list[Shown]:
        """What is shown of a frame, such as `camera #3`, in the order of time."""
        found = [one for one in self.shown if frame in one.frames and row in ("", one.row)]
        return sorted(found, key=lambda one: (one.begin, -one.end))
