"""What has failed, hangs, raises errors, dies and is restarted, or does not run."""

from __future__ import annotations

from collections.abc import Iterator

from pipert_shm.diagnosis.finding import About, Finding, begun
from pipert_shm.diagnosis.span import Span
from pipert_shm.flow_statistics import FlowStatistics

SIGKILL = -9
ON_ORDER = "order"
LONG_CALL_S = 2.0
"""Seconds that a call of `main_logic` has to take to be worth a finding, at least."""


def find_failed(span: Span) -> Iterator[Finding]:
    """Flows and routines that have failed for good."""
    for flow in span.now.flows.values():
        if flow.state == "failed":
            what = f"flow {flow.name} has failed for good, after {flow.restarts} restarts. {_exit(flow)}"
            advice = (
                "read the log: it has the exception, or the signal",
                "start the pipe again; max_restarts= and restart_window= of create_flow say how often a flow is tried",
            )
            yield _fault("failed", "flow", flow.name, what, advice, "state, restarts and last_exit of the flow")
    for routine in span.now.routines.values():
        if routine.state == "failed" and span.now.flows[routine.flow].state != "failed":
            what = f"{routine.name} has failed, with {routine.errors} errors so far."
            advice = (
                "read the log: it has the exception",
                f"pipe.notify_event('start', specific_routine={routine.name!r}) tries again",
            )
            yield _fault("failed", "routine", routine.name, what, advice, "state and errors of the routine")


def _fault(kind: str, about: About, where: str, what: str, advice: tuple[str, ...], drawn_from: str) -> Finding:
    return begun(kind, "problem", about, where)(what=what, advice=advice, drawn_from=drawn_from)


def _exit(flow: FlowStatistics) -> str:
    if flow.last_reason == ON_ORDER:
        return "Its last process was ended on purpose: by `apply`, or by `restart_flow`."
    if not flow.last_exit:
        return ""
    if flow.last_exit == SIGKILL:
        return "Its last process was killed (SIGKILL): by hang_timeout, by the kernel for lack of memory, or by hand."
    how = f"signal {-flow.last_exit}" if flow.last_exit < 0 else f"exit status {flow.last_exit}"
    return f"Its last process ended with {how}."


def find_restarts(span: Span) -> Iterator[Finding]:
    """Flows whose process has died."""
    for flow in span.now.flows.values():
        before = span.before.flows.get(flow.name)
        again = flow.restarts - (before.restarts if before else 0)
        is_down = flow.state == "restarting" and bool(flow.last_exit)
        if flow.state == "failed" or not (flow.restarts or is_down):
            continue
        lost = sum(one.lost_in_crash for one in span.now.routines.values() if one.flow == flow.name)
        now = again > 0 or is_down
        how_often = f"{again} times in {span.seconds:.1f} s" if now else "not in this time"
        yield begun("restarts" if now else "earlier restarts", "problem" if now else "note", "flow", flow.name)(
            what=f"flow {flow.name} was restarted {flow.restarts} times so far ({how_often}), and is {flow.state}. "
            f"{lost} messages were lost in its routines' hands. {_exit(flow)}".rstrip(),
            advice=(
                "nothing to do, if the others were on purpose, too; the log has each of them"
                if flow.last_reason == ON_ORDER
                else "read the log: it has the signal or the exception, and the stacks of a flow that hung",
            ),
            drawn_from="restarts, state, last_exit and last_reason of the flow; lost_in_crash of its routines",
            share=again,
        )


def find_hangs(span: Span) -> Iterator[Finding]:
    """Routines whose present call of `main_logic` has taken all of the time."""
    for routine in span.now.routines.values():
        taken = span.in_call_s(routine.name)
        if taken < max(span.seconds, LONG_CALL_S):
            continue
        pid = span.now.flows[routine.flow].pid
        cpu = span.cpu(routine.flow)
        used = "" if cpu is None else f" Its flow uses {cpu:.2f} of a processor."
        waits = cpu is None or cpu < 0.5
        may_wait = waits and not span.ins(span.team_of(routine.name))  # a source: until there is something to send
        yield begun("hang", "note" if may_wait else "problem", "routine", routine.name)(
            what=f"{routine.name} has been in one call of `main_logic` for {taken:.1f} s.{used}",
            why="It waits for something." if waits else "It computes, or is in an endless loop.",
            advice=(
                f"py-spy dump --pid {pid}: what its threads do right now",
                f"{routine.name}.hang_timeout = …: a flow that hangs so long is restarted, and its stacks are logged",
            ),
            drawn_from="when its present call of `main_logic` began",
            share=taken,
        )


def find_errors(span: Span) -> Iterator[Finding]:
    """Routines that raise, and log records that are lost."""
    for routine in span.now.routines.values():
        errors = span.count(routine, "errors")
        calls = span.count(routine, "received") or span.count(routine, "sent")
        if errors:
            every = errors >= calls
            yield begun("errors", "problem", "routine", routine.name)(
                what=f"{routine.name} had {errors} errors, at {calls} messages: {span.per_second(errors):.1f} a second"
                + (". Nothing that it does succeeds." if every else "."),
                why="An exception in `main_logic` costs its message.",
                advice=("read the log: it has the exception with its traceback",),
                drawn_from=f"errors +{errors}, messages +{calls} in {span.seconds:.1f} s",
                share=errors / max(1, calls),
            )
        lost = span.count(routine, "logs_lost")
        if lost:
            yield begun("logs lost", "cost", "routine", routine.name)(
                what=f"{lost} log records of {routine.name} did not reach the program, which was too slow.",
                advice=("log less often, or at a lower level than the logger takes",),
                drawn_from=f"logs_lost +{lost} in {span.seconds:.1f} s",
                share=lost,
            )
    for wire in span.wires:
        if wire.protocol_errors:
            where = f"{wire.sender} -> {wire.receiver}"
            what = f"{wire.protocol_errors} descriptors on {where} did not fit their slots, which would be a bug."
            yield _fault("errors", "wire", where, what, ("report it, with the log",), "protocol_errors of the wire")


def find_resting(span: Span) -> Iterator[Finding]:
    """Routines, or the whole pipe, that do not run; and a pipe that runs, in which nothing moves."""
    states = {name: routine.state for name, routine in span.now.routines.items()}
    if not states:
        yield _rest(span, "The pipe has no routines.", "", ())
        return
    if set(states.values()) == {"built"}:
        yield _rest(
            span, "The pipe is built, and was not started.", "", ("pipe.notify_event('start'), or `pipert-shm ctl URL start`",)
        )
    elif set(states.values()) <= {"ended", "failed"}:
        yield _rest(span, "All routines have ended.", "", ())
    elif set(states.values()) <= {"stopped", "built", "ended", "failed"}:
        yield _rest(span, "The pipe is paused: no routine runs.", "", ("pipe.notify_event('start') goes on",))
    else:
        for name, state in states.items():
            if state in ("stopped", "built") and any(
                wire.linked and name in (wire.sender, wire.receiver) for wire in span.wires
            ):
                yield begun("not running", "problem", "routine", name)(
                    what=f"{name} is {state}, while others run.",
                    advice=(f"pipe.notify_event('start', specific_routine={name!r})",),
                    drawn_from="the states of the routines",
                )
        moved = sum(span.handled(team) for team in span.teams)
        if not moved:
            sources = [team.name for team in span.teams if not span.ins(team)]
            told = ", ".join(f"{name} ({_state_of(span, name)})" for name in sources)
            yield _rest(span, f"No message moved in {span.seconds:.1f} s.", f"The sources: {told}.", ())


def _state_of(span: Span, name: str) -> str:
    routine = span.now.routines.get(name)
    if routine is None:
        return "unknown"
    in_call = span.in_call_s(name)
    where = f", in `main_logic` since {in_call:.1f} s" if in_call else ""
    connected = f", connected {routine.counters['connected']}" if span.is_video_source(name) else ""
    return f"{routine.state}{where}{connected}"


def _rest(span: Span, what: str, why: str, advice: tuple[str, ...]) -> Finding:
    return Finding(
        "not running", "note", "pipe", "", what, why, advice, f"the states of the routines, messages in {span.seconds:.1f} s"
    )
