"""What happened to a pipe between two moments: rates, shares, and who waits for whom."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipert_shm.diagnosis.moment import Moment, Ring
from pipert_shm.statistics import Latency, RoutineStatistics, WireStatistics

FULL = 0.85
"""The share of its time that a routine is in `main_logic` from which it counts as busy all the time."""

VIDEO_SOURCE = {"connected", "reconnects", "skipped", "late", "damaged", "idle"}
"""The counters by which a `VideoSource` is known."""

_REPLICA = re.compile(r"(.+)#\d+")


@dataclass(frozen=True, slots=True)
class Team:
    """A routine, or all replicas of one.

    Attributes:
        name: without the replicas' numbers.
        members: their names.
    """

    name: str
    members: tuple[str, ...]


def wire_name(wire: WireStatistics) -> str:
    """`camera -> detector`."""
    return f"{wire.sender} -> {wire.receiver}"


def _grown(counter: str, now: object, before: object | None) -> int:
    return max(0, int(getattr(now, counter)) - (int(getattr(before, counter)) if before is not None else 0))


class Span:
    """The time between two moments of the same pipe.

    Attributes:
        seconds: how long it is; more than 0.
    """

    def __init__(self, now: Moment, before: Moment) -> None:
        self.now, self.before = now.statistics, before.statistics
        self._moment, self._earlier = now, before
        self.seconds = max(self.now.time_s - self.before.time_s, 1e-9)
        self.processors = now.processors

    # ---- structure -------------------------------------------------------------------------------

    @property
    def wires(self) -> list[WireStatistics]:
        """Those that are linked."""
        return [wire for wire in self.now.wires.values() if wire.linked]

    @cached_property
    def teams(self) -> list[Team]:
        """All routines; replicas together."""
        found: dict[str, list[str]] = {}
        for name, routine in self.now.routines.items():
            match = _REPLICA.fullmatch(name)
            is_replica = match is not None and _REPLICA.fullmatch(routine.flow) is not None
            found.setdefault(match[1] if match is not None and is_replica else name, []).append(name)
        return [Team(name, tuple(members)) for name, members in found.items()]

    def ins(self, team: Team) -> list[WireStatistics]:
        """The wires to it."""
        return [wire for wire in self.wires if wire.receiver in team.members]

    def outs(self, team: Team) -> list[WireStatistics]:
        """The wires from it."""
        return [wire for wire in self.wires if wire.sender in team.members]

    def team_of(self, routine: str) -> Team:
        """The team that a routine is in."""
        return next(team for team in self.teams if routine in team.members)

    def sources_before(self, team: Team) -> list[str]:
        """The sources whose messages lead to it, or it itself if it is one."""
        seen, following, sources = {team.name}, [team], []
        while following:
            one = following.pop()
            senders = {wire.sender for wire in self.ins(one) if wire.sender in self.now.routines}
            if not senders:
                sources.append(one.name)
            for before in map(self.team_of, sorted(senders)):
                if before.name not in seen:
                    seen.add(before.name)
                    following.append(before)
        return sources

    def is_video_source(self, routine: str) -> bool:
        """Whether it has the counters of a `VideoSource`."""
        found = self.now.routines.get(routine)
        return found is not None and found.counters.keys() >= VIDEO_SOURCE

    def mates(self, routine: str) -> list[str]:
        """The other routines of its flow."""
        flow = self.now.routines[routine].flow
        return [other.name for other in self.now.routines.values() if other.flow == flow and other.name != routine]

    # ---- differences -----------------------------------------------------------------------------

    def count(self, routine: RoutineStatistics, counter: str) -> int:
        """By how much a counter of a routine has grown."""
        return _grown(counter, routine, self.before.routines.get(routine.name))

    def own_count(self, routine: RoutineStatistics, counter: str) -> int:
        """By how much one of a routine's own counters has grown."""
        before = self.before.routines.get(routine.name)
        return max(0, routine.counters[counter] - (before.counters.get(counter, 0) if before else 0))

    def wire_count(self, wire: WireStatistics, counter: str) -> int:
        """By how much a counter of a wire has grown."""
        return _grown(counter, wire, self.before.wires.get((wire.sender, wire.receiver)))

    def dropped(self, wire: WireStatistics) -> dict[str, int]:
        """The messages that a wire lost, by reason; only reasons with some."""
        before = self.before.wires.get((wire.sender, wire.receiver))
        grown = {reason: count - (before.dropped.get(reason, 0) if before else 0) for reason, count in wire.dropped.items()}
        return {reason: count for reason, count in grown.items() if count > 0}

    def per_second(self, count: float) -> float:
        """As a rate."""
        return count / self.seconds

    @staticmethod
    def recent(now: Latency, before: Latency | None) -> Latency:
        """The durations that were added."""
        if before is None or len(before.counts) != len(now.counts):
            return now
        return Latency(tuple(max(0, new - old) for new, old in zip(now.counts, before.counts, strict=True)))

    def hop(self, wire: WireStatistics) -> Latency:
        """From publication to receipt."""
        before = self.before.wires.get((wire.sender, wire.receiver))
        return self.recent(wire.hop, before.hop if before else None)

    def age(self, routine: RoutineStatistics) -> Latency:
        """From capture to receipt."""
        before = self.before.routines.get(routine.name)
        return self.recent(routine.age, before.age if before else None)

    # ---- work ------------------------------------------------------------------------------------

    def in_call_s(self, routine: str) -> float:
        """How long its present call of `main_logic` takes so far; 0 while it is in none."""
        return self._moment.in_call_s.get(routine, 0.0)

    def busy_s(self, routine: str) -> float:
        """How long it was in `main_logic`; of a call that goes on, the part in this time."""
        now, before = self.now.routines[routine], self.before.routines.get(routine)
        done = now.busy_s - (before.busy_s if before else 0.0)
        return min(self.seconds, max(0.0, done + self.in_call_s(routine) - self._earlier.in_call_s.get(routine, 0.0)))

    def share(self, team: Team) -> float:
        """The share of its time that it was in `main_logic`; of replicas, on average."""
        return sum(map(self.busy_s, team.members)) / len(team.members) / self.seconds

    def handled(self, team: Team) -> int:
        """How many messages it took, or made where it takes none."""
        routines = [self.now.routines[name] for name in team.members]
        return sum(self.count(routine, "received") for routine in routines) or sum(
            self.count(routine, "sent") for routine in routines
        )

    def is_running(self, team: Team) -> bool:
        """Whether one of it runs."""
        return any(self.now.routines[name].state == "running" for name in team.members)

    def cpu(self, flow: str) -> float | None:
        """How many processors a flow used; None where that is unknown, or its process is another one."""
        now, before = self._moment.cpu_s.get(flow), self._earlier.cpu_s.get(flow)
        flow_now, flow_before = self.now.flows.get(flow), self.before.flows.get(flow)
        if now is None or before is None or flow_now is None or flow_before is None or flow_now.pid != flow_before.pid:
            return None
        return max(0.0, now - before) / self.seconds

    def team_cpu(self, team: Team) -> float | None:
        """How many processors the flows of a team used; None where one of them is unknown."""
        used = [self.cpu(flow) for flow in {self.now.routines[name].flow for name in team.members}]
        known = [one for one in used if one is not None]
        return sum(known) if len(known) == len(used) else None

    def all_cpu(self) -> float:
        """How many processors all flows used."""
        return sum(self.cpu(flow) or 0.0 for flow in self.now.flows)

    def machine(self) -> float | None:
        """The share of the machine's processors that was used, by anybody; None where that is unknown."""
        work, there = (now - before for now, before in zip(self._moment.machine_s, self._earlier.machine_s, strict=True))
        return work / there if there > 0 else None

    # ---- who waits -------------------------------------------------------------------------------

    def was_full(self, wire: WireStatistics) -> bool:
        """Whether its queue was full at both looks."""
        before = self.before.wires.get((wire.sender, wire.receiver))
        return before is not None and wire.waiting >= wire.capacity and before.waiting >= before.capacity

    def blocked(self) -> Iterator[WireStatistics]:
        """Wires whose sender waits for room."""
        return (wire for wire in self.wires if wire.policy == "block" and self.was_full(wire))

    @property
    def rings(self) -> Sequence[Ring]:
        """All of them, as they are now."""
        return self._moment.rings

    def starved(self) -> list[Ring]:
        """Rings without a free slot, at both looks."""
        earlier = {(ring.owner, ring.slots) for ring in self._earlier.rings if not ring.free}
        return [ring for ring in self.rings if not ring.free and (ring.owner, ring.slots) in earlier]
