"""What a pipe has done: counters read out of shared memory, at no cost to the flows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipert_shm import native
from pipert_shm.counters import Counters
from pipert_shm.errors import shown
from pipert_shm.limits import Policy, is_number
from pipert_shm.segments import Member
from pipert_shm.states import FlowState, State
from pipert_shm.tables import HtmlRepr, Table


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
        """The duration, microseconds, that `percent` of all stay below; nan where there is none.

        :param percent: from 0 to 100.
        :raises ValueError: when it is something else.
        """
        if not is_number(percent) or not 0 <= percent <= 100:
            raise ValueError(f"percent must be a number from 0 to 100, not {shown(percent)}")
        rank = percent / 100 * self.count
        below = 0
        for bucket, number in enumerate(self.counts):
            below += number
            if number and below >= rank:
                return native.BUCKET_NS[bucket] / 1000
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
    """A percentile as text: `0.25 ms`, or `-` where nothing was measured."""
    if not latency.count:
        return "-"
    value = latency.percentile_us(percent) / 1000
    return f"{value:.2f} ms" if value >= 0.01 or not value else f"{value:.1g} ms"


@dataclass(frozen=True)
class WireStatistics(HtmlRepr):
    """One sender to one receiver. `sent` = `received` + `dropped` + `waiting`, but for what is on its way right now.

    A wire that was unlinked stays, with its counts, until another one needs its place.

    Attributes:
        linked: whether the sender sends on it; not so after an `unlink` event.
        sent: messages that the sender offered to this wire.
        received: messages that the receiver got.
        waiting: messages in the queue now.
        dropped: messages that were lost, by reason: `oldest` (evicted by a newer one), `newest` (came to a full queue),
            `timeout` (a blocked sender's time ran out), `no_slot` (no free slot in the sender's ring), `ended` (the receiver
            had ended), `stopped` (the pipe was killed before they were sent), `error` (could not be encoded or decoded),
            `crash` (a process died with it half sent or half received), `expired` (older than the wire's `max_age`), `join`
            (nothing to join it with came).
        private_bytes: bytes that were copied on receipt, since the receiver kept more frames than its share.
        hop: from publication to receipt.
    """

    sender: str
    receiver: str
    policy: Policy
    capacity: int
    linked: bool
    sent: int
    received: int
    waiting: int
    dropped: dict[str, int]
    private_bytes: int
    protocol_errors: int
    hop: Latency

    @property
    def lost(self) -> int:
        """Messages that were lost, for any reason."""
        return sum(self.dropped.values())

    def __repr__(self) -> str:
        counts = f"sent={self.sent}, received={self.received}, waiting={self.waiting}, lost={self.lost}"
        unlinked = "" if self.linked else ", unlinked"
        return f"WireStatistics({self.sender!r} -> {self.receiver!r}, {counts}, hop={self.hop!r}{unlinked})"


@dataclass(frozen=True)
class RoutineStatistics(HtmlRepr):
    """One routine.

    Attributes:
        state: `built`, `running`, `stopping` (with the message in hand, or in `cleanup()`), `stopped`, `ended` or `failed`.
        received: messages taken from all of its wires.
        sent: messages sent (once each, however many receivers).
        errors: exceptions in `main_logic`, `setup`, `cleanup` and event handlers, and messages that could not be sent or
            decoded.
        logs_lost: log records that did not reach the parent, which was too slow.
        copied_bytes: bytes of buffers that had to be copied into shared memory to be sent; frames that were loaned or forwarded
            don't count.
        in_band_bytes: bytes that were pickled.
        busy_s: seconds spent in `main_logic`.
        lost_in_crash: messages that its process had received and was not done with when it died.
        age: from capture to receipt.
        counters: what it counts of its own, by name: see `Routine.counters`.
    """

    name: str
    flow: str
    state: str
    received: int
    sent: int
    errors: int
    logs_lost: int
    copied_bytes: int
    in_band_bytes: int
    busy_s: float
    lost_in_crash: int
    age: Latency
    counters: dict[str, int]

    def __repr__(self) -> str:
        counts = f"received={self.received}, sent={self.sent}, errors={self.errors}"
        own = "".join(f", {name}={count}" for name, count in self.counters.items())
        return f"RoutineStatistics({self.name!r} in flow {self.flow!r}, {self.state}, {counts}{own})"


@dataclass(frozen=True)
class FlowStatistics:
    """One flow.

    Attributes:
        state: `running`, `restarting` (also while the pipe is being built), `failed` (for good) or `ended`.
        pid: of its process, 0 while it has none.
        restarts: how often it was restarted.
        last_exit: exit status of its last death, or the negative number of the signal; 0 while it has not died.
    """

    name: str
    state: str
    pid: int
    restarts: int
    last_exit: int


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

    def fps(self, routine: str, since: PipeStatistics) -> float:
        """Messages a second that a routine worked on: those that it got, or sent where it got none.

        :param since: an earlier moment of the same pipe; 0 when the routine was not there yet.
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
    """What went over each wire.

    :param seconds: how long it took; with it there are rates.
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
                _losses(wire, over=all(flow.state in ("ended", "failed") for flow in statistics.flows.values())),
                *rate,
                milliseconds(wire.hop, 50),
                milliseconds(wire.hop, 99),
                f"{copied:,.0f} B",
                f"{wire.private_bytes / max(1, wire.received):,.0f} B",
            ]
        )
    fps = [] if seconds is None else ["fps"]
    return Table(["wire", "sent", "received", "dropped", *fps, "hop p50", "hop p99", "copied/frame", "private/frame"], rows)


def _losses(wire: WireStatistics, *, over: bool) -> str:
    """How many messages did not arrive, and why; what waits in the queue of a pipe that has ended is unread for good."""
    reasons = {**wire.dropped, "unread": wire.waiting if over else 0}
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return told or "0"


def routines_table(statistics: PipeStatistics) -> Table:
    """What each routine has done."""
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


def read_statistics(process: native.Process, flow_names: Sequence[str], members: Sequence[Member]) -> PipeStatistics:
    """Reads the counters of a pipe's control segment, or of a copy of one. Any thread, at any time.

    :param flow_names: the names of its flows, by number.
    :param members: its routines, by number.
    :raises ValueError, LookupError: when the segment is damaged.
    """
    names = [member.name for member in members]
    routines = {}
    for number, (name, flow, counter_names) in enumerate(members):
        record = native.RoutineRecord(process, number)
        counters = record.counters()
        routines[name] = RoutineStatistics(
            name=name,
            flow=flow_names[flow],
            state=State(record.state).name.lower(),
            busy_s=counters.pop("busy_ns") / 1e9,
            age=Latency(tuple(record.age_histogram())),
            counters=dict(Counters(counter_names, record.own_counters())),
            **counters,
        )
    waiting: Counter[int] = Counter()
    for incarnation in process.incarnations():
        if incarnation.state in (native.LIVE, native.SENDER_DEAD):
            waiting[incarnation.edge] += incarnation.waiting()
    wires = {}
    for number in range(process.control.edges):
        edge_record = native.EdgeRecord(process, number)
        sender, receiver = edge_record.ends()
        policy, capacity = edge_record.settings()
        if not capacity or max(sender, receiver) >= len(names):
            continue  # a place that is not in use, a tap, or a wire of routines that are just being added
        wires[names[sender], names[receiver]] = WireStatistics(
            sender=names[sender],
            receiver=names[receiver],
            policy=policy,
            capacity=capacity,
            linked=not edge_record.removed,
            waiting=waiting[number],
            dropped=edge_record.dropped(),
            hop=Latency(tuple(edge_record.hop_histogram())),
            **edge_record.counters(),
        )
    flows = {}
    for number, name in enumerate(flow_names):
        state, pid, last_exit, restarts = native.FlowRecord(process, number).read()
        told = FlowState(state) if state else FlowState.RESTARTING  # it has had no process yet: the pipe is being built
        flows[name] = FlowStatistics(name, told.name.lower(), pid, restarts, last_exit)
    return PipeStatistics(native.now_ns() / 1e9, routines, wires, flows)
