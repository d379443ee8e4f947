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
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

from audit import Snapshot, audit, take_snapshot
from campaign_figures import Errors, Figures, Violation, report
from campaign_graphs import Edge, Graph, Way, make_pipe, random_graph
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    PipeStatistics,
    WiresValidation,
)
from pipert_shm.plan import HELD_BACK
from pipert_shm.wire import POLICIES, Policy
from waiting import eventually

RECOVERY = 15.0  # seconds after which a pipe counts as stuck
KILLS_PER_PIPE = 50
LONGEST_LOG = 40


# ---- one pipe ------------------------------------------------------------------------------------


class Trial:
    """One pipe that is tormented."""

    def __init__(self, graph: Graph, rng: random.Random, figures: Figures, errors: Errors) -> None:
        self.graph = graph
        self.rng = rng
        self.figures = figures
        self.errors = errors
        self.log: list[str] = []
        self.made = make_pipe(graph, rng)
        self.nodes = list(graph.nodes)  # those that there are
        self.linked = set(graph.edges)
        self.pipe = self.made.pipe
        self.pipe.build()
        assert self.pipe._session is not None
        self.session = self.pipe._session
        self.pipe_id = self.session.segment.pipe_id
        self.launcher = self.session._launcher
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("the start")
        self.launcher_fds = self.count_launcher_fds()

    @property
    def names(self) -> tuple[str, ...]:
        return self.session.plan.names

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

    # ---- torment -------------------------------------------------------------------------------------

    def torment(self) -> None:
        """Kills and stops some processes, and waits until everything moves again."""
        flows = list(dict.fromkeys(flow for node in self.nodes for flow in node.flows))
        self.rewire()
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
        self.rewire()
        try:
            self.await_motion(f"{len(victims)} victims")
        finally:
            self.figures.recoveries.append(time.monotonic() - started)
        self.note("everything moves again")
        time.sleep(self.rng.choice((0, 0, 0.01, 0.05)))

    def rewire(self) -> None:
        """Links or unlinks some wires, perhaps."""
        for edge in self.graph.loose:
            if self.rng.random() < 0.25:
                self.toggle(edge)

    def toggle(self, edge: Edge) -> None:
        sender, receiver = (self.graph.everybody[number].name for number in edge)
        if edge in self.linked:
            self.note(f"unlink {edge}")
            self.pipe.notify_event(UNLINK_EVENT_NAME, specific_routine=sender, unlink_routine_name=receiver)
            self.linked.remove(edge)
            return
        capacity = self.rng.choice((None, 1, 4))
        self.note(f"link {edge}, capacity {capacity}")
        try:
            self.pipe.notify_event(LINK_EVENT_NAME, specific_routine=sender, link_routine_name=receiver, capacity=capacity)
        except WiresValidation as error:
            if "no holder bit" not in str(error):  # all are in use where some senders of late are not drained yet
                raise Violation(f"link {edge}: {error}") from error
            self.note(str(error))
            self.figures.refused += 1
            if len(self.graph.everybody[edge[0]].copies) > 1:
                self.pipe.notify_event(UNLINK_EVENT_NAME, specific_routine=sender, unlink_routine_name=receiver)
            return
        self.linked.add(edge)
        self.figures.links += 1

    def grow(self) -> None:
        """Adds the flows that were planned for later."""
        self.note(f"add {self.graph.late_edges}")
        self.made.add(self.graph, self.graph.late, self.graph.late_edges)
        self.pipe.build()
        self.nodes += self.graph.late
        self.linked.update(self.graph.late_edges)
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("an addition")
        self.launcher_fds = self.count_launcher_fds()
        self.figures.added += 1

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
        in_hand: dict[int, int] = Counter()
        for node in self.nodes:
            kept = 4 if self.graph.policy == "block" else 0
            kept = max(kept, 4 * node.batch)
            for sender in self.graph.senders_to(node.number):
                if self.graph.everybody[sender].ordered:
                    kept += 2 * (HELD_BACK + 1) * self.graph.everybody[sender].replicas
            in_hand.update({self.numbers[name]: kept for name in node.copies})
        for number, edge in enumerate(shot.edges):
            if edge["capacity"] and edge["local"]:
                in_hand[int(edge["sender"])] += 2 * (shot.waiting(number) + shot.pending(number))
        return in_hand

    def audit_drained(self) -> None:
        """Stops the sources and lets the rest take all that there is: then every slot has to be free."""
        self.note("stop the sources")
        self.stop([node.name for node in self.nodes if node.kind == "camera"])
        # One that was stopped while it waited for room sends the rest when it is started again. Let it.
        self.wait(lambda: self._is_drained(self.snapshot()), "an end of what is on its way")
        in_hand = {self.numbers[node.name]: 4 for node in self.nodes if node.kind == "camera" and self.graph.policy == "block"}
        shot, now = self.snapshot(), self.pipe.statistics()
        for number in self._joins():
            flow = now.routines[self.names[number]].flow  # in which frames go by reference: whoever got them here has the slots
            for name in (name for name, routine in now.routines.items() if routine.flow == flow):
                in_hand[self.numbers[name]] = 3 * shot.in_hand(number)
        self.check("drained", in_hand)
        self.check_ways()
        self.check_counts()

    def stop(self, names: list[str]) -> None:
        for name in names:
            self.pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
        self.wait(lambda: all(self.pipe.statistics().routines[name].state == "stopped" for name in names), f"a stop of {names}")

    def _joins(self) -> set[int]:
        return {self.numbers[node.name] for node in self.nodes if node.joins}

    def _is_drained(self, shot: Snapshot) -> bool:
        """Whether nothing is under way, but for what waits for partners."""
        sources = {self.numbers[node.name] for node in self.nodes if node.kind == "camera"}
        for number, edge in enumerate(shot.edges):
            pending = 0 if int(edge["sender"]) in sources else shot.pending(number)
            if edge["capacity"] and (shot.waiting(number) or pending):
                return False
        routines = enumerate(shot.routines[: len(self.names)])
        return all(r["received"] == r["handled"] for number, r in routines if number not in self._joins())

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
        alike: dict[Way, list[Way]] = defaultdict(list)
        for way in self.made.cells:
            alike[self.graph.plain(way)].append(way)
        for plain, ways in alike.items():
            nodes = [self.graph.everybody[int(name[1:])] for name in plain]
            hops = [(a.number, b.number) for a, b in pairwise(nodes)]
            if any(hop in self.graph.loose or hop in self.graph.late_edges for hop in hops):
                continue  # it did not always go there
            last = max(self.made.board[self.made.cells[way][0]] for way in ways)
            missing = last - sum(self.made.board[self.made.cells[way][1]] for way in ways)
            allowed = sum(wire.lost for ends, wire in now.wires.items() if self.edge_of(ends) in hops)
            allowed += sum(now.routines[name].lost_in_crash for node in nodes[1:] for name in node.copies)
            # A source's message has a number before it counts as sent.
            allowed += sum(now.flows[flow].restarts for node in nodes for flow in node.flows)
            if missing > allowed:
                raise Violation(f"{missing} messages are missing on the way {plain}, {allowed} are accounted for")

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
                if trial.graph.late and len(trial.nodes) == len(graph.nodes) and rng.random() < 0.1:
                    trial.grow()
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
