"""The kill campaign: `python tests/campaign.py --kills 200 --seed 1`.

Random graphs run under load, their processes are killed and stopped at random moments, and every consumer checks every byte and
the order of all that it gets. After each round everything has to move again; at rest every counter has to add up and every bit
of every slot to be explained. Ends with status 1 at the first violation.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from audit import Snapshot, audit, take_snapshot
from patterned import STYLES, Camera, Checks, Screen, Step
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, PipeStatistics, Routine, Wire
from pipert_shm.wire import POLICIES, Policy
from waiting import Board, eventually

RECOVERY = 15.0  # seconds after which a pipe counts as stuck
KILLS_PER_PIPE = 50
OLD_DEATHS = 0.03  # seconds after which a death counts no more for a flow's back-off
SHAPES = ("chain", "fan out", "fan in", "diamond", "random")
LONGEST_LOG = 40


class Violation(Exception):
    """Something that must not happen did."""


# ---- graphs --------------------------------------------------------------------------------------


@dataclass
class Graph:
    """Routines by number, senders before receivers; which of them share a flow; and who sends to whom."""

    shape: str
    size: int
    edges: list[tuple[int, int]]
    flow_of: list[str]
    policy: Policy
    capacity: int
    fps: int

    def __str__(self) -> str:
        wires = ", ".join(f"{a}->{b}" for a, b in self.edges)
        return f"{self.shape}: {wires}; flows {self.flow_of}; {self.policy}, capacity {self.capacity}, {self.fps or 'no'} fps"

    def senders_to(self, node: int) -> list[int]:
        return [a for a, b in self.edges if b == node]

    def ways_to(self, node: int) -> list[tuple[str, ...]]:
        """Every way on which a message can come to a routine, by names: (origin, …, itself)."""
        senders = self.senders_to(node)
        return [(*way, f"r{node}") for sender in senders for way in self.ways_to(sender)] if senders else [(f"r{node}",)]


def random_graph(rng: random.Random, policy: Policy | None) -> Graph:
    shape = rng.choice(SHAPES)
    size = rng.randint(3, 6)
    if shape == "chain":
        edges = [(n, n + 1) for n in range(size - 1)]
    elif shape == "fan out":
        edges = [(0, n) for n in range(1, size)]
    elif shape == "fan in":
        edges = [(n, size - 2) for n in range(size - 2)] + [(size - 2, size - 1)]
    elif shape == "diamond":
        size = max(size, 4)
        edges = [(0, n) for n in range(1, size)] + [(n, size - 1) for n in range(1, size - 1)]
    else:
        edges = sorted({(rng.randrange(n), n) for n in range(1, size)} | {(rng.randrange(n), n) for n in range(2, size)})
    flow_of = [f"f{n}" for n in range(size)]
    if size > 3 and rng.random() < 0.4:
        a, b = rng.choice(edges)
        flow_of[b] = flow_of[a]
    chosen: Policy = policy if policy is not None else rng.choice(POLICIES)
    return Graph(shape, size, edges, flow_of, chosen, rng.choice((1, 2, 3, 8)), rng.choice((0, 0, 200, 1000)))


def make_pipe(graph: Graph, rng: random.Random) -> tuple[Pipe, list[Routine], dict[tuple[str, ...], int], Board]:
    """The pipe, and where on the board each way to each routine is recorded."""
    cells: dict[tuple[str, ...], int] = {}
    receivers = {b for _, b in graph.edges}
    for node in receivers:
        for way in graph.ways_to(node):
            cells[way] = 2 * len(cells)
    board = Board(2 * len(cells) + 2)
    routines: list[Routine] = []
    senders = {a for a, _ in graph.edges}
    for node in range(graph.size):
        checks = Checks(board, cells)
        if node not in receivers:
            shape = rng.choice(((48, 64, 3), (60, 80, 3), (120, 160, 3)))
            routine: Routine = Camera(f"r{node}", shape, loaning=rng.random() < 0.6)
            routine.set_const_fps(graph.fps)
        elif node in senders:
            routine = Step(f"r{node}", rng.choice(STYLES), checks)
        else:
            routine = Screen(f"r{node}", checks)
        routines.append(routine)
    pipe = Pipe(policy=graph.policy, capacity=graph.capacity)
    for flow in dict.fromkeys(graph.flow_of):
        members = [routines[node] for node in range(graph.size) if graph.flow_of[node] == flow]
        pipe.create_flow(flow, False, *members, max_restarts=10**6, restart_window=OLD_DEATHS)
    for node in senders:
        pipe.link(Wire(routines[node], [routines[b] for a, b in graph.edges if a == node]))
    return pipe, routines, cells, board


# ---- one pipe ------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What the campaign did."""

    kills: int = 0
    stops: int = 0
    restarts: int = 0
    pipes: int = 0
    audits: int = 0
    messages: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost_in_crash: int = 0
    recoveries: list[float] = field(default_factory=list)


class Errors(logging.Handler):
    """Keeps what is logged as an error: there should be nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {record.getMessage()}"
        self.texts.append(f"{text}\n{record.exc_text}" if record.exc_text else text)


class Trial:
    """One pipe that is tormented."""

    def __init__(self, graph: Graph, rng: random.Random, figures: Figures, errors: Errors) -> None:
        self.graph = graph
        self.rng = rng
        self.figures = figures
        self.errors = errors
        self.log: list[str] = []
        self.kills: Counter[str] = Counter()
        self.pipe, self.routines, self.cells, self.board = make_pipe(graph, rng)
        self.pipe.build()
        assert self.pipe._session is not None
        self.pipe_id = self.pipe._session.segment.pipe_id
        self.launcher = self.pipe._session._launcher
        self.names = self.pipe._session.plan.names
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("the start")
        self.launcher_fds = self.count_launcher_fds()

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
        return {wire: counters.received for wire, counters in self.pipe.statistics().wires.items()}

    # ---- torment -------------------------------------------------------------------------------------

    def torment(self) -> None:
        """Kills and stops some processes, and waits until everything moves again."""
        flows = list(dict.fromkeys(self.graph.flow_of))
        victims = self.rng.sample(flows, min(len(flows), self.rng.choice((1, 1, 1, 2, 2, 3, len(flows)))))
        started = time.monotonic()
        stopped: list[int] = []
        for victim in victims:
            pid = self.pipe.statistics().flows[victim].pid
            if not pid:
                continue
            kill = self.rng.random() < 0.8
            self.note(f"{'SIGKILL' if kill else 'SIGSTOP'} {victim} ({pid})")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGSTOP)
            if kill:
                self.figures.kills += 1
                self.kills[victim] += 1
            else:
                self.figures.stops += 1
                stopped.append(pid)
            time.sleep(self.rng.choice((0, 0, 0.001, 0.01, 0.04)))
        if stopped:
            time.sleep(self.rng.uniform(0, 0.15))
        for pid in stopped:
            fatal = self.rng.random() < 0.3
            self.note(f"{'SIGKILL' if fatal else 'SIGCONT'} the stopped {pid}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if fatal else signal.SIGCONT)
            self.figures.kills += fatal
        try:
            self.await_motion(f"{len(victims)} victims")
        finally:
            self.figures.recoveries.append(time.monotonic() - started)
        self.note("everything moves again")
        time.sleep(self.rng.choice((0, 0, 0.01, 0.05)))

    # ---- at rest -------------------------------------------------------------------------------------

    def audit_stopped(self) -> None:
        """Stops everything at once, with messages in the queues, and looks."""
        self.note("stop all")
        self.pipe.notify_event(STOP_EVENT_NAME)
        self.wait(lambda: all(r.state == "stopped" for r in self.pipe.statistics().routines.values()), "a stop of everything")
        self.check("all stopped", self._in_hand(self.snapshot()), draining=True)
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("a new start")

    def _in_hand(self, shot: Snapshot) -> dict[int, int]:
        """Slots that each routine may hold at rest: of the message it was stopped with, and of those that wait in its flow."""
        in_hand = {number: 4 if self.graph.policy == "block" else 0 for number in self.numbers.values()}
        for number, edge in enumerate(shot.edges[: len(self.graph.edges)]):
            if edge["local"]:
                in_hand[int(edge["sender"])] += 2 * (shot.waiting(number) + shot.pending(number))
        return in_hand

    def audit_drained(self) -> None:
        """Stops the sources and lets the rest take all that there is: then every slot has to be free."""
        sources = [r for r in self.routines if isinstance(r, Camera)]
        self.note("stop the sources")
        for source in sources:
            self.pipe.notify_event(STOP_EVENT_NAME, specific_routine=source.name)
        self.wait(
            lambda: all(self.pipe.statistics().routines[source.name].state == "stopped" for source in sources),
            "a stop of sources",
        )
        # One that was stopped while it waited for room sends the rest when it is started again. Let it.
        self.wait(lambda: self._is_drained(self.snapshot()), "an end of what is on its way")
        self.check("drained", {self.numbers[s.name]: 4 for s in sources if self.graph.policy == "block"})
        self.check_ways()

    def _is_drained(self, shot: Snapshot) -> bool:
        sources = {self.numbers[r.name] for r in self.routines if isinstance(r, Camera)}
        for number, edge in enumerate(shot.edges[: len(self.graph.edges)]):
            pending = 0 if int(edge["sender"]) in sources else shot.pending(number)
            if shot.waiting(number) or pending:
                return False
        return all(r["received"] == r["handled"] for r in shot.routines[: self.graph.size])

    def check(self, when: str, in_hand: dict[int, int], *, draining: bool = False) -> None:
        """The full audit. Retired rings and recoveries that still go on get their time; what is wrong for good stays wrong."""
        found: list[str] = []

        def sound() -> bool:
            shot = self.snapshot()
            found[:] = audit(shot, self.names, in_hand, draining=draining)
            if not shot.budget_is_whole:
                found.append(f"budget: {shot.memory_left} left + {shot.ring_bytes} in rings is not {shot.budget}")
            per_owner = Counter(ring.owner for ring in shot.rings.values())
            if not draining:
                found.extend(f"{self.names[owner]} has {count} rings" for owner, count in per_owner.items() if count > 3)
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
        for way, cell in self.cells.items():
            missing = self.board[cell] - self.board[cell + 1]
            wires = [now.wires[hop] for hop in pairwise(way)]
            allowed = sum(wire.lost for wire in wires) + sum(now.routines[name].lost_in_crash for name in way[1:])
            # A source's message has a number before it counts as sent.
            allowed += self.kills_of(way)
            if missing > allowed:
                raise Violation(f"{missing} messages are missing on the way {way}, {allowed} are accounted for")

    def kills_of(self, way: tuple[str, ...]) -> int:
        now = self.pipe.statistics()
        return sum(now.flows[now.routines[name].flow].restarts for name in way)

    def end(self) -> None:
        """Ends the pipe; nothing must be left."""
        now = self.pipe.statistics()
        self.figures.restarts += sum(flow.restarts for flow in now.flows.values())
        self.figures.messages += sum(wire.sent for wire in now.wires.values())
        for wire in now.wires.values():
            self.figures.dropped.update(wire.dropped)
        self.figures.lost_in_crash += sum(routine.lost_in_crash for routine in now.routines.values())
        self.figures.pipes += 1
        self.pipe.join(to_kill=True)
        left = [name for name in os.listdir("/dev/shm") if self.pipe_id in name]
        if left:
            raise Violation(f"left in /dev/shm: {left}")

    def describe(self, now: PipeStatistics) -> str:
        wires = "\n".join(
            f"  {a} -> {b}: sent {w.sent}, received {w.received}, waiting {w.waiting}, "
            f"dropped { {k: v for k, v in w.dropped.items() if v} }"
            for (a, b), w in now.wires.items()
        )
        flows = "\n".join(f"  {f.name}: {f.state}, pid {f.pid}, {f.restarts} restarts" for f in now.flows.values())
        routines = ", ".join(
            f"{r.name} {r.state} ({getattr(self.routines[self.numbers[r.name]], 'style', '')})" for r in now.routines.values()
        )
        events = "\n".join(f"  {line}" for line in self.log)
        return f"{self.graph}\n{wires}\n{flows}\n  {routines}\nlast events:\n{events}"


# ---- the campaign --------------------------------------------------------------------------------


def run(kills: int, seed: int, policy: Policy | None, figures: Figures) -> None:
    """:raises Violation: at the first one, with all that is known of it."""
    errors = Errors()
    logger = logging.getLogger("Pipe")
    logger.handlers, logger.propagate = [errors], False
    rng = random.Random(seed)
    while figures.kills < kills:
        graph = random_graph(rng, policy)
        until = min(kills, figures.kills + KILLS_PER_PIPE)
        half = (figures.kills + until) // 2
        trial = Trial(graph, rng, figures, errors)
        try:
            while figures.kills < until:
                before = figures.kills
                trial.torment()
                if before < half <= figures.kills:
                    trial.audit_stopped()
            trial.audit_drained()
            trial.end()
        except Violation as violation:
            text = f"{violation}\n{trial.describe(trial.pipe.statistics())}"
            with suppress(Exception):
                trial.pipe.join(to_kill=True)
            raise Violation(text) from None


def report(figures: Figures, seconds: float) -> str:
    recoveries = sorted(figures.recoveries) or [float("nan")]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in figures.dropped.items() if count) or "none"
    return (
        f"{figures.kills} kills, {figures.stops} stops, {figures.restarts} restarts, {figures.pipes} pipes, "
        f"{figures.audits} audits in {seconds:.0f} s\n"
        f"{figures.messages:,} messages; dropped: {dropped}; lost in a dead process's hands: {figures.lost_in_crash:,}\n"
        f"until everything moved again: median {statistics.median(recoveries) * 1000:.0f} ms, "
        f"99 % {recoveries[int(len(recoveries) * 0.99)] * 1000:.0f} ms, slowest {recoveries[-1] * 1000:.0f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", choices=POLICIES, help="of all wires; by default each pipe has one at random")
    options = parser.parse_args()
    figures = Figures()
    started = time.monotonic()
    status = 0
    try:
        run(options.kills, options.seed, options.policy, figures)
    except Violation as violation:
        print(f"VIOLATION (seed {options.seed}): {violation}", file=sys.stderr)
        status = 1
    print(report(figures, time.monotonic() - started))
    return status


if __name__ == "__main__":
    sys.exit(main())
