"""The kill campaign: `python tests/campaign.py --kills 200 --seed 1`.

Random graphs run under load, their processes are killed and stopped at random moments, their routines stopped by events, log
handlers wait; every consumer checks every byte and the order of all that it gets. After each round everything has to
move again; at rest every counter has to add up and every bit of every slot to be explained; and stops alone may lose nothing on
lossless wires. Ends with status 1 at the first violation.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress

from campaign_attachers import Attachers
from campaign_checks import Watched
from campaign_figures import Errors, Figures, Violation, Waits, report
from campaign_graphs import Edge, Graph, make_pipe, random_graph
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    WiresValidation,
)
from pipert_shm.limits import POLICIES, Policy

KILLS_PER_PIPE = 50


# ---- one pipe ------------------------------------------------------------------------------------


class Trial(Watched):
    """One pipe that is tormented."""

    def __init__(self, graph: Graph, rng: random.Random, figures: Figures, errors: Errors, listener: Waits) -> None:
        made = make_pipe(graph, rng)
        made.pipe.build()
        super().__init__(graph, made, figures, errors)
        self.rng = rng
        self.listener = listener
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("the start")
        self.launcher_fds = self.count_launcher_fds()
        senders = [copy for node in graph.nodes if node.kind != "screen" for copy in node.copies]
        self.attachers = Attachers(self.pipe_id, senders, rng, figures)

    # ---- torment -------------------------------------------------------------------------------------

    def torment(self) -> None:
        """Kills and stops some processes, and waits until everything moves again."""
        flows = list(dict.fromkeys(flow for node in self.nodes for flow in node.flows))
        self.hold_listener()
        self.attachers.torment()
        self.rewire()
        idle = self.stop_some() if self.rng.random() < 0.2 else []
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
        if self.rng.random() < 0.2:
            idle += self.stop_some()
        self.start_again(idle)
        self.rewire()
        try:
            self.await_motion(f"{len(victims)} victims")
        finally:
            self.figures.recoveries.append(time.monotonic() - started)
        self.note("everything moves again")
        self.attachers.check()
        time.sleep(self.rng.choice((0, 0, 0.01, 0.05)))

    def stop_some(self) -> list[str]:
        """Stops everything, or some routines, and perhaps does not wait for it; returns their names."""
        names = [node.name for node in self.nodes]
        if self.rng.random() < 0.3:
            self.note("stop all")
            self.pipe.notify_event(STOP_EVENT_NAME)
        else:
            names = self.rng.sample(names, min(len(names), self.rng.choice((1, 1, 2, 3))))
            if self.rng.random() < 0.5:
                names.sort(reverse=True)  # receivers first: then senders find full wires
            for name in names:
                self.note(f"stop {name}")
                self.pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
                time.sleep(self.rng.choice((0, 0, 0.002, 0.02)))
        self.figures.pauses += 1
        if self.rng.random() < 0.7:
            self.await_stop(names)
        time.sleep(self.rng.choice((0, 0, 0.005)))
        return names

    def start_again(self, names: list[str]) -> None:
        if not names:
            return
        if self.rng.random() < 0.5:
            self.note("start all")
            self.pipe.notify_event(START_EVENT_NAME)
            return
        for name in dict.fromkeys(self.rng.sample(names, len(names))):
            self.note(f"start {name}")
            self.pipe.notify_event(START_EVENT_NAME, specific_routine=name)

    def hold_listener(self) -> None:
        """Lets a log handler wait at the next warning, which a death is, perhaps; and flows say much meanwhile, perhaps."""
        if self.listener.held:
            return
        self.made.talk[0] = 0
        if self.rng.random() < 0.05:
            seconds = self.rng.uniform(0.2, 1.2)
            self.note(f"the next warning's handler waits for {seconds:.2f} s")
            self.listener.hold(seconds)
            self.made.talk[0] = self.rng.random() < 0.5

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
        self.attachers.end()  # they would be among the launcher's descriptors
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
        self.attachers.end()
        self.note("stop all")
        self.pipe.notify_event(STOP_EVENT_NAME)
        self.await_stop([node.name for node in self.nodes])
        self.check("all stopped", self.in_hand(self.snapshot()), draining=True)
        self.pipe.notify_event(START_EVENT_NAME)
        self.await_motion("a new start")

    def audit_drained(self) -> None:
        """Stops the sources and lets the rest take all that there is: then every slot has to be free."""
        self.attachers.end()
        self.note("stop the sources")
        cameras = [node.name for node in self.nodes if node.kind == "camera"]
        for name in cameras:
            self.pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
        self.await_stop(cameras)
        # One that was stopped while it waited for room sends the rest when it is started again. Let it.
        self.wait(lambda: self.is_drained(self.snapshot()), "an end of what is on its way")
        in_hand = Counter({self.numbers[name]: 4 for name in cameras if self.graph.policy == "block"})
        in_hand.update(self.kept_by_joins(self.snapshot()))
        self.check("drained", in_hand)
        self.check_ways()
        self.check_counts()

    def audit_stops(self) -> None:
        """After a rest: some stops and starts, with no death among them, which may lose nothing; and a rest again."""
        before = self.rest()
        self.pipe.notify_event(START_EVENT_NAME)
        for _ in range(3):
            self.await_motion("a start")
            time.sleep(self.rng.choice((0, 0.01)))
            self.start_again(self.stop_some())
        self.await_motion("some stops")
        self.audit_drained()
        self.check_stops(before)

    def await_stop(self, names: list[str]) -> None:
        copies = [copy for node in self.nodes if node.name in names for copy in node.copies]

        def met() -> bool:
            routines = self.pipe.statistics().routines
            return all(routines[name].state == "stopped" for name in copies)

        self.wait(met, f"a stop of {'everything' if len(names) >= len(self.nodes) else ', '.join(names)}")

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


# ---- the campaign --------------------------------------------------------------------------------


def run(kills: int, seed: int, policy: Policy | None, figures: Figures) -> None:
    """:raises Violation: at the first one, with all that is known of it."""
    errors = Errors()
    logger = logging.getLogger("Pipe")
    listener = Waits(figures)
    logger.handlers, logger.propagate = [errors, listener], False
    rng = random.Random(seed)
    while figures.kills < kills:
        graph = random_graph(rng, policy)
        until = min(kills, figures.kills + KILLS_PER_PIPE)
        half = (figures.kills + until) // 2
        trial = Trial(graph, rng, figures, errors, listener)
        try:
            while figures.kills < until:
                before = figures.kills
                if trial.graph.late and len(trial.nodes) == len(graph.nodes) and rng.random() < 0.1:
                    trial.grow()
                trial.torment()
                if before < half <= figures.kills or rng.random() < 0.05:
                    trial.audit_stopped()
            trial.audit_drained()
            trial.audit_stops()
            trial.end()
        except Violation as violation:
            text = f"{violation}\n{trial.describe(trial.pipe.statistics())}"
            with suppress(Exception):
                trial.attachers.end()
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
