"""Writes a timeline as a trace for Perfetto (https://ui.perfetto.dev)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipert_shm.extras import to_install
from pipert_shm.trace.timeline import Frame, Slice, Track

SEQUENCE = 1  # of packets: one writer
WIRES, LAUNCHER = Track("wires", 0), Track("flow", 0xFFFF)


def require_perfetto() -> None:
    """Checks that a trace can be written.

    :raises ImportError: when the extra is missing.
    """
    _builder()


def _builder() -> Any:
    try:
        from perfetto.trace_builder.proto_builder import TraceProtoBuilder
    except ImportError as error:
        raise ImportError(f"a trace needs perfetto ({error}): {to_install('trace')}") from error
    return TraceProtoBuilder()


class PerfettoFile:
    """One trace.

    :param flows: their names, by number.
    :param names: of routines, by number, and by the number that messages carry.
    :param flow_of: by the number of a routine, that of its flow.
    :raises ImportError: when the extra `trace` is missing.
    """

    def __init__(self, flows: Mapping[int, str], names: Mapping[int, str], flow_of: Mapping[int, int]) -> None:
        self._flows = flows
        self._names = names
        self._flow_of = flow_of
        self._builder = _builder()
        self._uuids: dict[Track, int] = {}

    def add(self, slices: Sequence[Slice]) -> None:
        """Adds all slices."""
        by_track: dict[Track, list[Slice]] = defaultdict(list)
        for slice in slices:
            by_track[slice.track].append(slice)
        for track in sorted(by_track):
            for moment, slice, begins in _moments(by_track[track]):
                self._write(track, moment, slice, begins)

    def finish(self) -> bytes:
        """The file's content."""
        content: bytes = self._builder.serialize()
        return content

    # ---- names -----------------------------------------------------------------------------------

    def _frame(self, frame: Frame) -> str:
        return f"{self._names[frame[0]]} #{frame[1]}"

    def _name(self, track: Track) -> str:
        match track.kind:
            case "flow" if track.number in self._flows:
                return f"flow {self._flows[track.number]}"
            case "flow":
                return "launcher"
            case "events":
                return f"events of {self._name(Track('flow', track.number))}"
            case "wires":
                return "wires"
            case "wire":
                return f"{self._names[track.number]} -> {self._names[track.other]}"
            case "thread":
                return f"{self._names[track.number]}, thread {track.other}"
        return self._names[track.number]

    def _parent(self, track: Track) -> Track | None:
        match track.kind:
            case "flow" | "wires":
                return None
            case "wire":
                return WIRES
            case "events":
                return Track("flow", track.number)
        return Track("flow", self._flow_of.get(track.number, LAUNCHER.number))

    def _uuid(self, track: Track) -> int:
        """The number of a track, which is described at its first use."""
        uuid = self._uuids.get(track)
        if uuid is None:
            parent = self._parent(track)
            parent_uuid = 0 if parent is None else self._uuid(parent)
            uuid = self._uuids[track] = len(self._uuids) + 1
            descriptor = self._builder.add_packet().track_descriptor
            descriptor.uuid = uuid
            descriptor.name = self._name(track)
            if parent_uuid:
                descriptor.parent_uuid = parent_uuid
        return uuid

    # ---- packets ---------------------------------------------------------------------------------

    def _write(self, track: Track, moment: int, slice: Slice, begins: bool) -> None:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent

        uuid = self._uuid(track)
        packet = self._builder.add_packet()
        packet.timestamp = moment
        packet.trusted_packet_sequence_id = SEQUENCE
        event = packet.track_event
        event.track_uuid = uuid
        if not begins:
            event.type = TrackEvent.TYPE_SLICE_END
            return
        event.type = TrackEvent.TYPE_INSTANT if slice.instant else TrackEvent.TYPE_SLICE_BEGIN
        event.name = slice.name
        event.categories.append(track.kind)
        event.flow_ids.extend(slice.arrows)
        for frame in slice.frames:
            self._note(event, "frame", self._frame(frame))
        for name, value in slice.notes.items():
            self._note(event, name, value)

    @staticmethod
    def _note(event: Any, name: str, value: str | int) -> None:
        note = event.debug_annotations.add()
        note.name = name
        if isinstance(value, int):
            note.int_value = value
        else:
            note.string_value = value


def _moments(slices: Sequence[Slice]) -> Iterator[tuple[int, Slice, bool]]:
    """When the slices of a track begin and end, in order: each ends before those that contain it.

    One that would outlast the slice that it begins in, which only damage brings about, ends with that.
    """
    open_ones: list[tuple[int, Slice]] = []
    for slice in sorted(slices, key=lambda slice: (slice.begin, -slice.end)):
        while open_ones and open_ones[-1][0] <= slice.begin:
            end, done = open_ones.pop()
            yield end, done, False
        yield slice.begin, slice, True
        if not slice.instant:
            open_ones.append((min(slice.end, open_ones[-1][0]) if open_ones else slice.end, slice))
    while open_ones:
        end, done = open_ones.pop()
        yield end, done, False
