"""A pipe's counters, read out of shared memory and /proc at no cost to the flows."""

# Without `from __future__ import annotations`: as texts, all of the measures below would have to be compiled at each import.

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pipert_shm import binding
from pipert_shm.display.tables import HtmlRepr, Table
from pipert_shm.errors import shown
from pipert_shm.flow_statistics import FlowStatistics, read_flow
from pipert_shm.limits import Policy, is_number
from pipert_shm.measures import Measure, counter, documented, measures, state
from pipert_shm.shm.counters import Counters
from pipert_shm.shm.listing import Member
from pipert_shm.shm.states import State


@dataclass(frozen=True)
class Latency(HtmlRepr):
    """A distribution of durations, from a histogram whose buckets are 1/16 of their value wide.

    Attributes:
        counts: how many durations fell into each bucket.

    >>> Latency((0,) * 130 + (3, 1)), Latency(())
    (Latency(count=4, p50=0.002 ms, p99=0.002 ms), Latency(count=0))
    """

    counts: tuple[int, ...]

    @cached_property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    def percentile_us(self, percent: float) -> float:
        """The duration in microseconds that `percent` of all stay below; nan if there are none.

        :param percent: from 0 to 100.
        :raises ValueError: when it is out of range, or no number.
        """
        if not is_number(percent) or not 0 <= percent <= 100:
            raise ValueError(f"percent must be a number from 0 to 100, not {shown(percent)}")
        rank = percent / 100 * self.count
        below = 0
        for bucket, number in enumerate(self.counts):
            below += number
            if number and below >= rank:
                return binding.BUCKET_NS[bucket] / 1000
        return float("nan")

    @property
    def p50_us(self) -> float:
        """The median, microseconds."""
        return self.percentile_us(50)

    @property
    def p99_us(self) -> float:
        """The 99th percentile, microseconds."""
        return self.percentile_us(99)

    def __repr__(self) -> str:
        if not self.count:
            return "Latency(count=0)"
        return f"Latency(count={self.count}, p50={milliseconds(self, 50)}, p99={milliseconds(self, 99)})"


def milliseconds(latency: Latency, percent: float) -> str:
    """A percentile as text: `0.25 ms`, or `-` if nothing was measured."""
    if not latency.count:
        return "-"
    value = latency.percentile_us(percent) / 1000
    return f"{value:.2f} ms" if value >= 0.01 or not value else f"{value:.1g} ms"


@documented
@dataclass(frozen=True)
class WireStatistics(HtmlRepr):
    """One sender to one receiver. `sent` = `received` + `dropped` + `waiting`, except for messages on their way right now.

    A wire that was unlinked stays, with its counts, until another one needs its place.
    """

    sender: str
    receiver: str
    policy: Policy
    capacity: Annotated[int, Measure("gauge", "Messages that the queue holds.", "wire_capacity")]
    linked: Annotated[bool, Measure("gauge", "Whether the sender sends on it; not so after an `unlink` event.", "wire_linked")]
    sent: Annotated[int, counter("Messages that the sender offered to the wire.", "wire_sent", word="sent")]
    received: Annotated[int, counter("Messages that the receiver got.", "wire_received", word="received", rate=True)]
    waiting: Annotated[int, Measure("gauge", "Messages in the queue now.", "wire_waiting")]
    dropped: Annotated[
        dict[str, int],
        Measure(
            "reasons",
            "Messages that were lost, by reason: `oldest` (evicted by a newer one), `newest` (came to a full queue), `timeout` "
            "(a blocked sender's time ran out), `no_slot` (no free slot in the sender's ring), `ended` (the receiver had "
            "ended), `stopped` (the pipe was killed before they were sent), `error` (could not be encoded or decoded), "
            "`crash` (a process died with it half sent or half received), `expired` (older than the wire's `max_age`), `join` "
            "(no partner came to join it with).",
            "wire_dropped",
            example={"oldest": 3},
        ),
    ]
    private_bytes: Annotated[
        int,
        counter(
            "Bytes that were copied on receipt, since the receiver kept more frames than its share.",
            "wire_private_bytes",
            word="private_bytes",
        ),
    ]
    protocol_errors: Annotated[
        int,
        counter(
            "Descriptors that did not fit their slots, which would be a bug.", "wire_protocol_errors", word="protocol_errors"
        ),
    ]
    hop: Annotated[Latency, Measure("histogram", "From publication to receipt.", "hop_seconds")]

    @property
    def lost(self) -> int:
        """Messages that were lost, for any reason."""
        return sum(self.dropped.values())

    def __repr__(self) -> str:
        counts = f"sent={self.sent}, received={self.received}, waiting={self.waiting}, lost={self.lost}"
        unlinked = "" if self.linked else ", unlinked"
        return f"WireStatistics({self.sender!r} -> {self.receiver!r}, {counts}, hop={self.hop!r}{unlinked})"


@documented
@dataclass(frozen=True)
class RoutineStatistics(HtmlRepr):
    """One routine."""

    name: str
    flow: str
    state: Annotated[
        str,
        state(
            "`built`, `running`, `stopping` (with the message in hand, or in `cleanup()`), `stopped`, `ended` or `failed`.",
            "routine_state",
            State,
        ),
    ]
    received: Annotated[int, counter("Messages taken from all of its wires.", "messages_received", word="received", rate=True)]
    sent: Annotated[int, counter("Messages sent (once each, however many receivers).", "messages_sent", word="sent", rate=True)]
    errors: Annotated[
        int,
        counter(
            "Exceptions in `main_logic`, `setup`, `cleanup` and event handlers, and messages that could not be sent or "
            "decoded.",
            "errors",
            word="errors",
        ),
    ]
    logs_lost: Annotated[
        int, counter("Log records that did not reach the parent, which was too slow.", "logs_lost", word="logs_lost")
    ]
    copied_bytes: Annotated[
        int,
        counter(
            "Bytes of buffers that had to be copied into shared memory to be sent; frames that were loaned or forwarded don't "
            "count.",
            "copied_bytes",
            word="copied_bytes",
        ),
    ]
    in_band_bytes: Annotated[int, counter("Bytes that were pickled.", "in_band_bytes", word="in_band_bytes")]
    busy_s: Annotated[float, counter("Seconds spent in `main_logic`.", "busy_seconds", word="busy_ns", per=1_000_000_000)]
    lost_in_crash: Annotated[
        int,
        counter(
            "Messages that its process had received and was not done with when it died.",
            "lost_in_crash",
            word="lost_in_crash",
        ),
    ]
    age: Annotated[Latency, Measure("histogram", "From capture to receipt.", "age_seconds")]
    counters: Annotated[dict[str, int], Measure("own", "What it counts of its own, by name: see `Routine.counters`.")]

    def __repr__(self) -> str:
        counts = f"received={self.received}, sent={self.sent}, errors={self.errors}"
        own = "".join(f", {name}={count}" for name, count in self.counters.items())
        return f"RoutineStatistics({self.name!r} in flow {self.flow!r}, {self.state}, {counts}{own})"


@dataclass(frozen=True)
class PipeStatistics:
    """A pipe at one moment. `print()` shows it as tables, of the wires and of the routines, and so does a notebook.

    Attributes:
        time_s: CLOCK_MONOTONIC, seconds: the rates between two of these are differences over it.
        routines: by name.
        wires: by (sender, receiver).
        flows: by name.
    """

    time_s: float
    routines: dict[str, RoutineStatistics]
    wires: dict[tuple[str, str], WireStatistics]
    flows: dict[str, FlowStatistics]

    def fps(self, routine: str, since: "PipeStatistics") -> float:
        """Messages a second that a routine received, or that it sent if it received none; 0 if it was not there yet.

        :param since: an earlier moment of the same pipe.
        :raises KeyError: when there is no such routine.
        """
        now, before = self.routines[routine], since.routines.get(routine)
        if before is None or self.time_s <= since.time_s:
            return 0.0
        count = (now.received - before.received) or (now.sent - before.sent)
        return count / (self.time_s - since.time_s)

    def __repr__(self) -> str:
        sent, lost = (sum(getattr(wire, name) for wire in self.wires.values()) for name in ("sent", "lost"))
        errors = sum(routine.errors for routine in self.routines.values())
        of = f"{len(self.flows)} flows, {len(self.routines)} routines, {len(self.wires)} wires"
        return f"PipeStatistics({of}, sent={sent}, lost={lost}, errors={errors})"

    def __str__(self) -> str:
        return f"{wires_table(self)}\n\n{routines_table(self)}"

    def _repr_html_(self) -> str:
        return wires_table(self).html() + routines_table(self).html()


def wires_table(statistics: PipeStatistics, seconds: float | None = None) -> Table:
    """The wires as a table.

    :param seconds: how long the pipe ran; if it is given, there is a column of rates.
    """
    rows = []
    for wire in statistics.wires.values():
        sender = statistics.routines.get(wire.sender)
        copied = sender.copied_bytes / max(1, sender.sent) if sender else 0
        rate = [] if seconds is None else [f"{wire.received / seconds:.1f}"]
        rows.append(
            [
                f"{wire.sender} -> {wire.receiver}",
                str(wire.sent),
                str(wire.received),
                losses(wire, over=all(flow.state in ("ended", "failed") for flow in statistics.flows.values())) or "0",
                *rate,
                milliseconds(wire.hop, 50),
                milliseconds(wire.hop, 99),
                f"{copied:,.0f} B",
                f"{wire.private_bytes / max(1, wire.received):,.0f} B",
            ]
        )
    fps = [] if seconds is None else ["fps"]
    return Table(["wire", "sent", "received", "dropped", *fps, "hop p50", "hop p99", "copied/frame", "private/frame"], rows)


def losses(wire: WireStatistics, *, over: bool) -> str:
    """How many messages did not arrive, and why; empty for none. Once the pipe has ended, those in the queue are unread."""
    reasons = {**wire.dropped, "unread": wire.waiting if over else 0}
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)


def routines_table(statistics: PipeStatistics) -> Table:
    """The routines as a table."""
    rows = []
    for routine in statistics.routines.values():
        flow = statistics.flows.get(routine.flow)
        rows.append(
            [
                routine.name,
                routine.flow,
                routine.state,
                str(routine.received),
                str(routine.sent),
                str(routine.errors),
                f"{routine.busy_s:.2f} s",
                milliseconds(routine.age, 50),
                milliseconds(routine.age, 99),
                str(flow.restarts if flow else 0),
            ]
        )
    columns = ["routine", "flow", "state", "received", "sent", "errors", "busy", "age p50", "age p99", "restarts"]
    return Table(columns, rows)


def read_statistics(process: binding.Process, flow_names: Sequence[str], members: Sequence[Member | None]) -> PipeStatistics:
    """Reads the counters of a pipe's control segment, or of a copy of one. Any thread, at any time.

    :param flow_names: the names of its flows, by number; empty where no flow has the number.
    :param members: its routines, by number; None where no routine has the number.
    :raises ValueError, LookupError: when the segment is damaged.
    """
    names = [None if member is None else member.name for member in members]
    return PipeStatistics(
        binding.now_ns() / 1e9,
        routines=_read_routines(process, flow_names, members),
        wires=_read_wires(process, names),
        flows={name: read_flow(process, number, name) for number, name in enumerate(flow_names) if name},
    )


def _read_routines(
    process: binding.Process, flow_names: Sequence[str], members: Sequence[Member | None]
) -> dict[str, RoutineStatistics]:
    routines = {}
    for number, member in enumerate(members):
        if member is None:
            continue
        name, flow, counter_names = member
        record = binding.RoutineRecord(process, number)
        routines[name] = RoutineStatistics(
            name=name,
            flow=flow_names[flow],
            state=State(record.state).name.lower(),
            age=Latency(tuple(record.age_histogram())),
            counters=dict(Counters(counter_names, record.own_counters())),
            **_counts(RoutineStatistics, record.counters()),
        )
    return routines


def _read_wires(process: binding.Process, names: Sequence[str | None]) -> dict[tuple[str, str], WireStatistics]:
    waiting: Counter[int] = Counter()
    for incarnation in process.incarnations():
        if incarnation.state in (binding.LIVE, binding.SENDER_DEAD):
            waiting[incarnation.edge] += incarnation.waiting()
    wires = {}
    for number in range(process.edges_used):
        record = binding.EdgeRecord(process, number)
        sender, receiver = record.ends()
        policy, capacity = record.settings()
        if not capacity or max(sender, receiver) >= len(names):
            continue  # a record that is not in use, a tap, or a wire of routines that are just being added
        source, destination = names[sender], names[receiver]
        if source is None or destination is None:
            continue  # a wire of a routine that was removed
        wires[source, destination] = WireStatistics(
            sender=source,
            receiver=destination,
            policy=policy,
            capacity=capacity,
            linked=not record.removed,
            waiting=waiting[number],
            dropped=record.dropped(),
            hop=Latency(tuple(record.hop_histogram())),
            **_counts(WireStatistics, record.counters()),
        )
    return wires


def _counts(statistics: type, read: dict[str, int]) -> dict[str, Any]:
    """The counters of a routine or a wire, by field, from the words of its record."""
    return {
        name: read[measure.word] if measure.per == 1 else read[measure.word] / measure.per
        for name, measure in _MEASURES[statistics].items()
        if measure.word
    }


_MEASURES: dict[type, dict[str, Measure]] = {
    statistics: measures(statistics) for statistics in (RoutineStatistics, WireStatistics)
}
