"""What the kill campaign looks at: whether a pipe moves, and what has to hold in it at rest."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from audit import Snapshot, audit, take_snapshot
from campaign_figures import Errors, Figures, Violation
from campaign_graphs import Edge, Graph, Made, Node, Way
from pipert_shm import PipeStatistics
from pipert_shm.graph.sizing import HELD_BACK
from waiting import eventually

RECOVERY = 15.0  # seconds after which a pipe counts as stuck
LONGEST_LOG = 40


@dataclass(frozen=True)
class Rest:
    """What was lost until a pipe came to rest.

    Attributes:
        dropped: per wire, by reason.
        unjoined: per join, the messages that wait for partners.
        missing: per way, of all that its source has sent that way.
        skipped: per way, the numbers that its source has given, and not sent that way.
    """

    dropped: dict[tuple[str, str], Counter[str]]
    unjoined: dict[str, int]
    missing: dict[Way, int]
    skipped: dict[Way, int]


class Watched:
    """One pipe of the campaign, built, and what is known of it."""

    def __init__(self, graph: Graph, made: Made, figures: Figures, errors: Errors) -> None:
        self.graph = graph
        self.made = made
        self.figures = figures
        self.errors = errors
        self.log: list[str] = []
        self.nodes = list(graph.nodes)  # those that there are
        self.linked = set(graph.edges)
        self.pipe = made.pipe
        assert self.pipe._session is not None
        self.session = self.pipe._session
        self.pipe_id = self.session.segment.pipe_id
        self.launcher = self.session._launcher
        self.launcher_fds = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.session.plan.present)

    @property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def edge_of(self, wire: tuple[str, str]) -> Edge:
        a, b = (int(name.split("#")[0][1:]) for name in wire)
        return a, b

    def snapshot(self) -> Snapshot:
        return take_snapshot(self.pipe_id)

    def count_launcher_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.launcher}/fd"))

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic():.4f} {text}")
        del self.log[:-LONGEST_LOG]

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = RECOVERY) -> None:
        def met() -> bool:
            if self.errors.texts:
                raise Violation("an error was logged: " + "\n".join(self.errors.texts))
            return condition()

        try:
            eventually(met, what, timeout)
        except AssertionError as error:
            raise Violation(str(error)) from None

    # ---- in motion -----------------------------------------------------------------------------------

    def await_motion(self, after: str) -> None:
        """Until every flow runs and every wire has carried something since."""
        self.wait(
            lambda: all(flow.state == "running" for flow in self.pipe.statistics().flows.values()), f"running after {after}"
        )
        base = self._received()
        self.wait(
            lambda: all(now > base[wire] for wire, now in self._received().items()), f"motion on every wire after {after}"
        )

    def _received(self) -> dict[tuple[str, str], int]:
        """What each wire has carried, of those that surely carry something."""
        moving = self.graph.moving(self.linked)
        return {
            wire: counters.received + counters.dropped["expired"] + counters.dropped["join"]
            for wire, counters in self.pipe.statistics().wires.items()
            if self.edge_of(wire) in self.linked and self.edge_of(wire)[0] in moving
        }

    # ---- at rest -------------------------------------------------------------------------------------

    def in_hand(self, shot: Snapshot) -> dict[int, int]:
        """Slots that each routine may hold at rest: of the message it was stopped with, and of those that wait in its flow."""
        in_hand: dict[int, int] = Counter()
        for node in self.nodes:
            kept = 4 if self.graph.policy == "block" else 0
            kept = max(kept, 4 * node.batch)
            for sender in self.graph.senders_to(node.number):
                if self.graph.everybody[sender].ordered:
                    kept += 2 * (HELD_BACK + 1) * self.graph.everybody[sender].replicas
            in_hand.update({self.numbers[name]: kept for name in node.copies})
        in_hand.update(self.kept_by_joins(shot))
        for number, edge in enumerate(shot.edges):
            if edge["capacity"] and edge["local"]:
                in_hand[int(edge["sender"])] += 2 * (shot.waiting(number) + shot.pending(number))
        return in_hand

    def kept_by_joins(self, shot: Snapshot) -> dict[int, int]:
        """Slots of what waits for partners. Within a flow frames go by reference: whoever got them there has the slots."""
        kept: dict[int, int] = Counter()
        routines = self.pipe.statistics().routines
        for number in self._joins():
            flow = routines[self.names[number]].flow
            kept.update({self.numbers[name]: 3 * shot.in_hand(number) for name, one in routines.items() if one.flow == flow})
        return kept

    def _joins(self) -> set[int]:
        return {self.numbers[node.name] for node in self.nodes if node.joins}

    def is_drained(self, shot: Snapshot) -> bool:
        """Whether nothing is under way, but for what waits for partners."""
        sources = {self.numbers[node.name] for node in self.nodes if node.kind == "camera"}
        for number, edge in enumerate(shot.edges):
            pending = 0 if int(edge["sender"]) in sources else shot.pending(number)
            if edge["capacity"] and (shot.waiting(number) or pending):
                return False
        routines = enumerate(shot.routines[: len(self.names)])
        return all(r["received"] == r["handled"] for number, r in routines if number not in self._joins())

    def slack(self, shot: Snapshot) -> dict[int, int]:
        """By edge, how far its count may be off: by one, where a process at one of its ends has died."""
        now = self.pipe.statistics()
        died = [now.flows[now.routines[name].flow].restarts > 0 for name in self.names]
        ends = ((number, (int(edge["sender"]), int(edge["receiver"]))) for number, edge in enumerate(shot.edges))
        return {number: any(died[end] for end in both if end < len(died)) for number, both in ends}

    def check(self, when: str, in_hand: dict[int, int], *, draining: bool = False) -> None:
        """The full audit. Retired rings and recoveries that still go on get their time; what is wrong for good stays wrong."""
        found: list[str] = []

        def sound() -> bool:
            shot = self.snapshot()
            found[:] = audit(shot, self.names, in_hand, draining=draining, slack=self.slack(shot))
            if not shot.budget_is_whole:
                found.append(f"budget: {shot.memory_left} left + {shot.ring_bytes} in rings is not {shot.budget}")
            per_owner = Counter(ring.owner for ring in shot.rings.values())
            if not draining:
                found.extend(f"{self.names[owner]} has {count} rings" for owner, count in per_owner.items() if count > 4)
            if self.count_launcher_fds() != self.launcher_fds:
                found.append(f"the launcher had {self.launcher_fds} descriptors, it has {self.count_launcher_fds()}")
            return not found

        try:
            eventually(sound, "a sound state", 3.0)
        except AssertionError:
            raise Violation(f"audit, {when}:\n  " + "\n  ".join(found)) from None
        self.figures.audits += 1

    def check_ways(self) -> None:
        """On lossless wires, what is missing at the end of a way is at most what was counted as lost on it."""
        if self.graph.policy != "block":
            return
        now = self.pipe.statistics()
        for plain, (last, count) in self.seen().items():
            missing = last - count
            nodes, hops = self._along(plain)
            allowed = sum(wire.lost for ends, wire in now.wires.items() if self.edge_of(ends) in hops)
            allowed += sum(now.routines[name].lost_in_crash for node in nodes[1:] for name in node.copies)
            # A source's message has a number before it counts as sent.
            allowed += sum(now.flows[flow].restarts for node in nodes for flow in node.flows)
            if missing > allowed:
                raise Violation(f"{missing} messages are missing on the way {plain}, {allowed} are accounted for")

    def seen(self) -> dict[Way, tuple[int, int]]:
        """By each way that was always there: the number after that of the last message that came, and how many have come."""
        alike: dict[Way, list[Way]] = defaultdict(list)
        for way in self.made.cells:
            alike[self.graph.plain(way)].append(way)
        board, cells = self.made.board, self.made.cells
        return {
            plain: (max(board[cells[way][0]] for way in ways), sum(board[cells[way][1]] for way in ways))
            for plain, ways in alike.items()
            if not any(hop in self.graph.loose or hop in self.graph.late_edges for hop in self._along(plain)[1])
        }

    def _along(self, plain: Way) -> tuple[list[Node], list[Edge]]:
        nodes = [self.graph.everybody[int(name[1:])] for name in plain]
        return nodes, [(a.number, b.number) for a, b in pairwise(nodes)]

    def rest(self) -> Rest:
        """What is lost and missing by now, in a pipe at rest."""
        now, shot = self.pipe.statistics(), self.snapshot()
        return Rest(
            {ends: Counter(wire.dropped) for ends, wire in now.wires.items()},
            {self.names[number]: shot.in_hand(number) for number in self._joins()},
            {plain: self._sent(shot, plain) - count for plain, (_, count) in self.seen().items()},
            {plain: self._sequence(shot, plain) - self._sent(shot, plain) for plain in self.seen()},
        )

    def _sequence(self, shot: Snapshot, plain: Way) -> int:
        return int(shot.routines[self.numbers[plain[0]]]["sequence"])

    def _sent(self, shot: Snapshot, plain: Way) -> int:
        """What the way's source has sent on its first wire, or on those to the replicas there."""
        hop = self._along(plain)[1][0]
        return sum(
            int(edge["sent"]) - shot.pending(number)
            for number, edge in enumerate(shot.edges)
            if edge["capacity"] and edge["receiver"] < len(self.names)
            if self.edge_of((self.names[edge["sender"]], self.names[edge["receiver"]])) == hop
        )

    def check_stops(self, before: Rest) -> None:
        """Stops and starts alone, since then, have lost nothing on lossless wires."""
        if self.graph.policy != "block" or self.graph.timeout is not None:
            return
        now = self.rest()
        grown = {ends: dropped - before.dropped[ends] for ends, dropped in now.dropped.items()}  # what has grown only
        for (sender, receiver), more in grown.items():
            lost = {reason: count for reason, count in more.items() if reason not in ("join", "expired")}
            if lost:
                raise Violation(f"stops alone have lost messages on the wire {sender} -> {receiver}: {lost}")
            waited = before.unjoined.get(receiver, 0)
            if self.graph.joins_lose_nothing and more["join"] > waited:
                raise Violation(
                    f"stops alone have left {more['join']} messages of {sender} -> {receiver} without partners; {waited} "
                    "waited for them before"
                )
        for plain, missing in now.missing.items():
            hops = self._along(plain)[1]
            allowed = sum(more.total() for ends, more in grown.items() if self.edge_of(ends) in hops)
            allowed += sum(now.unjoined.get(name, 0) for name in plain)
            if missing > before.missing[plain] + allowed:
                raise Violation(
                    f"stops alone: {missing - before.missing[plain]} more messages are missing on the way {plain}, "
                    f"{allowed} are accounted for"
                )
            if now.skipped[plain] > before.skipped[plain] + 1:  # one may be in the source's hands, which waits for room
                raise Violation(f"stops alone: {plain[0]} has {now.skipped[plain] - before.skipped[plain]} numbers not sent")

    def check_counts(self) -> None:
        """What a routine's wires brought is what it has seen, but for what was in its hands when it died, or waits there."""
        now, shot = self.pipe.statistics(), self.snapshot()
        for node in self.nodes:
            if node.kind == "camera":
                continue
            after_order = any(self.graph.everybody[sender].ordered for sender in self.graph.senders_to(node.number))
            for name in node.copies:
                came = sum(wire.received for ends, wire in now.wires.items() if ends[1] == name)
                seen = sum(self.made.board[cells[1]] for way, cells in self.made.cells.items() if way[-1] == name)
                deaths = now.flows[now.routines[name].flow].restarts
                unseen = now.routines[name].lost_in_crash + deaths + shot.in_hand(self.numbers[name])
                least = 0 if after_order else came - unseen
                if not least <= seen <= came + deaths:
                    raise Violation(f"{name} got {came} messages and has seen {seen}; at least {least} were expected")

    def style_of(self, name: str) -> str:
        style: str = getattr(self.made.routines[int(name.split("#")[0][1:])], "style", "")
        return style

    def describe(self, now: PipeStatistics) -> str:
        wires = "\n".join(
            f"  {a} -> {b}: sent {w.sent}, received {w.received}, waiting {w.waiting}, "
            f"dropped { {k: v for k, v in w.dropped.items() if v} }"
            for (a, b), w in now.wires.items()
        )
        flows = "\n".join(f"  {f.name}: {f.state}, pid {f.pid}, {f.restarts} restarts" for f in now.flows.values())
        routines = ", ".join(f"{r.name} {r.state} ({self.style_of(r.name)})" for r in now.routines.values())
        events = "\n".join(f"  {line}" for line in self.log)
        return f"{self.graph}\n  linked now: {sorted(self.linked)}\n{wires}\n{flows}\n  {routines}\nlast events:\n{events}"
