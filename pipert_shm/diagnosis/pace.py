"""What sets a pipe's pace: the routine that all others wait for, the machine, or a wire that holds its sender up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipert_shm.diagnosis.finding import Finding
from pipert_shm.diagnosis.span import FULL, Span, Team, wire_name
from pipert_shm.statistics import WireStatistics

WAITS = 0.5
"""Processors for each second in `main_logic` below which it counts as waiting, and not as computing."""

MOST_REPLICAS = 16
"""What is advised, at most."""

FULL_QUEUE = ("oldest", "newest", "timeout")
"""Reasons of messages that were lost since a queue was full."""


def lost_by_full_queue(span: Span, wire: WireStatistics) -> int:
    """How many messages found its queue full, and were lost."""
    dropped = span.dropped(wire)
    return sum(dropped.get(reason, 0) for reason in FULL_QUEUE)


def is_held_up(span: Span, team: Team) -> bool:
    """Whether messages wait for it, or are lost since it does not take them."""
    return any(lost_by_full_queue(span, wire) or span.was_full(wire) for wire in span.ins(team))


def bottlenecks(span: Span) -> list[Team]:
    """Routines that are busy all the time, while messages wait for them."""
    return [
        team
        for team in span.teams
        if span.ins(team) and span.is_running(team) and span.share(team) >= FULL and is_held_up(span, team)
    ]


def find_bottlenecks(span: Span) -> Iterator[Finding]:
    """The routines that all others wait for."""
    for team in bottlenecks(span):
        lost = sum(lost_by_full_queue(span, wire) for wire in span.ins(team))
        rate, most = _rates(span, team)
        name = f"{team.name}, in {len(team.members)} processes," if len(team.members) > 1 else team.name
        what = f"{name} is at work {100 * span.share(team):.0f} % of the time, and handles {rate:.1f} messages a second"
        what += f", of {most:.1f} that its speed allows" if most else ""
        inputs = [_input(span, wire) for wire in span.ins(team) if lost_by_full_queue(span, wire) or span.was_full(wire)]
        yield Finding(
            kind="bottleneck",
            severity="problem" if lost else "cost",
            about="routine",
            where=team.name,
            what=f"{what}. {'; '.join(inputs)}.",
            why=_why_slow(span, team),
            advice=(*_more_of_it(span, team, lost), *_less_for_it(span, team, lost, most)),
            drawn_from=_drawn_from(span, team),
            share=span.per_second(lost) + span.share(team),
        )


def _rates(span: Span, team: Team) -> tuple[float, float]:
    """Messages a second that it handled, and that it could if it never waited (0: unknown)."""
    handled = span.handled(team)
    busy = sum(map(span.busy_s, team.members))
    return span.per_second(handled), handled / busy * len(team.members) if busy else 0.0


def _input(span: Span, wire: WireStatistics) -> str:
    lost = lost_by_full_queue(span, wire)
    if lost:
        return f"{wire_name(wire)} loses {span.per_second(lost):.1f} a second ({', '.join(sorted(span.dropped(wire)))})"
    return f"{wire_name(wire)} is full ({wire.waiting} of {wire.capacity}): {wire.sender} waits for it"


def _why_slow(span: Span, team: Team) -> str:
    handled, busy = span.handled(team), sum(map(span.busy_s, team.members))
    why = f"A message takes {1000 * busy / handled:.1f} ms of `main_logic`" if handled else "One message takes all of the time"
    cpu = span.team_cpu(team)
    if cpu is None:
        return f"{why}."
    flows = sorted({span.now.routines[name].flow for name in team.members})
    used = f"{'flow' if len(flows) == 1 else 'flows'} {', '.join(flows)}: {cpu:.2f} of a processor"
    if _waits(span, team):
        return f"{why}, in which it mostly waits, and does not compute ({used}): for a device, a network, a lock, a sleep."
    return f"{why}, in which it computes ({used})."


def _waits(span: Span, team: Team) -> bool:
    """Whether it is known to compute little in `main_logic`."""
    cpu = span.team_cpu(team)
    return cpu is not None and cpu < WAITS * sum(map(span.busy_s, team.members)) / span.seconds


def _more_of_it(span: Span, team: Team, lost: int) -> Iterator[str]:
    """What lets it handle more."""
    mates = span.mates(team.members[0])
    if mates:
        yield f"give {team.name} a flow of its own: it shares an interpreter with {', '.join(mates)}"
    share = max(span.share(team), 0.01)
    wanted = math.ceil(len(team.members) * share * (1 + lost / max(1, span.handled(team))))
    more = min(max(wanted, len(team.members) + 1), max(MOST_REPLICAS, len(team.members) + 1))
    cpu, free = span.team_cpu(team), _free(span)
    each = (cpu or 0.0) / len(team.members)
    if cpu is not None and each >= WAITS and free is not None and free < each / 2:
        yield f"a faster `main_logic`, or more processors: {free:.1f} of {span.processors} are free, so replicas won't help"
    else:
        yield f"create_flow(…, replicas={more}) for {team.name}: more processes side by side"
    yield f"if {team.name} is a network: BatchRoutine(batch_size=…), so that one call handles several messages"


def _free(span: Span) -> float | None:
    used = span.machine()
    return None if used is None or not span.processors else span.processors * (1 - used)


def _less_for_it(span: Span, team: Team, lost: int, most: float) -> Iterator[str]:
    """What gives it less to do."""
    for source in span.sources_before(team):
        fps = f"{most:.0f}" if most >= 1 else f"{most:.2g}"
        if span.is_video_source(source):
            yield f"VideoSource(…, {source!r}, fps={fps}, size=(…, …)): fewer and smaller frames"
        elif lost and most:
            yield f"{source}.set_const_fps({fps}): it makes no more than {team.name} can take"
    policies = {wire.policy for wire in span.ins(team)}
    if lost and "drop_oldest" in policies:
        yield "leave it so if only the newest frames matter: drop_oldest keeps up with a live camera"
    if lost:
        yield 'Wire(…, policy="block") if no message may be lost, and the source can wait (a file)'
    elif "block" in policies and any(map(span.is_video_source, span.sources_before(team))):
        yield 'Wire(…, policy="drop_oldest") if the source is a live camera, so that it is not held up'


def _drawn_from(span: Span, team: Team) -> str:
    busy = sum(map(span.busy_s, team.members))
    return f"busy_s +{busy:.2f}, messages +{span.handled(team)} in {span.seconds:.1f} s; dropped and waiting of its wires; CPU"


# ---- others that set the pace --------------------------------------------------------------------


def find_limits(span: Span) -> Iterator[Finding]:
    """Routines that are busy all the time, though nothing waits for them yet, and sources that can't make more."""
    for team in span.teams:
        share = span.share(team)
        if not span.is_running(team) or share < FULL or not span.handled(team) or is_held_up(span, team):
            continue
        rate, _ = _rates(span, team)
        cpu = span.team_cpu(team)
        numbers = f"{team.name} is at work {100 * share:.0f} % of the time, at {rate:.1f} messages a second"
        if span.ins(team):
            advice = tuple(_more_of_it(span, team, 0))
            yield _limit(
                span, team, "at its limit", f"{numbers}. Nothing is lost before it yet.", _why_slow(span, team), advice
            )
        elif cpu is not None and cpu >= FULL * share:
            what = f"{numbers}, and its flow uses {cpu:.2f} of a processor. It can't make more."
            yield _limit(
                span, team, "pace", what, "The source sets the pace: nothing behind it is slower.", _faster(span, team)
            )


def _limit(span: Span, team: Team, kind: str, what: str, why: str, advice: tuple[str, ...]) -> Finding:
    return Finding(kind, "note", "routine", team.name, what, why, advice, _drawn_from(span, team), span.share(team))


def _faster(span: Span, team: Team) -> tuple[str, ...]:
    if span.is_video_source(team.name):
        return (
            'VideoSource(…, format="nv12" or "gray"): less is converted; size=(…, …): less is written',
            'VideoSource(…, skip_frame="nokey" or "noref", hwaccel="auto", fps=…): less is decoded',
        )
    return (f"if {team.name} is too slow: split what its `main_logic` does, and do a part in a routine behind it",)


def find_full_machine(span: Span) -> Iterator[Finding]:
    """A machine that has no processor left."""
    used, there = span.all_cpu(), span.processors
    machine = span.machine()
    if not there or (used < 0.9 * there and (machine is None or machine < 0.97)):
        return
    flows = sorted(((span.cpu(flow) or 0.0, flow) for flow in span.now.flows), reverse=True)
    most = ", ".join(f"{flow} {cpu:.2f}" for cpu, flow in flows[:3] if cpu >= 0.01)
    others = f", and all programs together {100 * machine:.0f} % of the machine" if machine is not None else ""
    foreign = used < 0.5 * there
    videos = any(map(span.is_video_source, span.now.routines))
    yield Finding(
        kind="processors",
        severity="problem" if _suffers(span) else "note",
        about="pipe",
        where="",
        what=f"The flows use {used:.2f} of {there} processors{others}. Most: {most or 'none'}.",
        why="Other programs take the processors." if foreign else "No processor is free: what is added slows down the rest.",
        advice=(
            *(("end or move the other programs: `top` shows them",) if foreign else ()),
            *(("VideoSource(fps=…, size=(…, …), format=…, idle=…): less to decode, and to handle",) if videos else ()),
            "more processors: replicas and batches can't help while none is free",
        ),
        drawn_from=f"CPU time of the flows' processes in {span.seconds:.1f} s; /proc/stat",
        share=used,
    )


def _suffers(span: Span) -> bool:
    """Whether messages are lost, or sources don't keep up, and not only since a routine waits for something else."""
    waiting = {name for team in bottlenecks(span) if _waits(span, team) for name in team.members}
    late = (span.own_count(one, "late") for one in span.now.routines.values() if span.is_video_source(one.name))
    return any(span.dropped(wire) for wire in span.wires if wire.receiver not in waiting) or any(late)


def find_shared_interpreters(span: Span) -> Iterator[Finding]:
    """Flows whose routines wait for each other, since one interpreter runs one of them at a time."""
    for flow in span.now.flows:
        cpu = span.cpu(flow)
        busy = {one.name: span.busy_s(one.name) / span.seconds for one in span.now.routines.values() if one.flow == flow}
        working = {name: share for name, share in busy.items() if share >= 0.2}
        if cpu is None or not 0.8 <= cpu <= 1.2 or sum(working.values()) < 1.2:
            continue
        told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in working.items())
        yield Finding(
            kind="shared interpreter",
            severity="cost",
            about="flow",
            where=flow,
            what=f"the routines of {flow} are at work at the same time ({told}), but together they use {cpu:.2f} processors.",
            why="The threads of a flow share one interpreter, which runs Python code of one of them at a time.",
            advice=("create_flow(…) for each of them: flows are processes, and frames are not copied between them",),
            drawn_from=f"busy_s of the routines and CPU time of the flow in {span.seconds:.1f} s",
            share=sum(working.values()),
        )


def find_blocked(span: Span) -> Iterator[Finding]:
    """Senders that wait for room in a queue."""
    for wire in span.blocked():
        reason, end = _blocker(span, wire)
        held_up = [name for name in span.sources_before(span.team_of(wire.sender)) if _passes_over(span, name)]
        lost = f" Meanwhile {', '.join(held_up)} passes frames over." if held_up else ""
        sender = span.team_of(wire.sender)
        yield Finding(
            kind="blocked",
            severity="cost",
            about="wire",
            where=wire_name(wire),
            what=f"{wire.sender} waits for room on {wire_name(wire)}: {wire.waiting} of {wire.capacity} messages, at both "
            f"looks. It is at work {100 * span.share(sender):.0f} % of the time.{lost}",
            why=reason,
            advice=(
                f"make {end} faster: it is what all wait for",
                'Wire(…, policy="drop_oldest") if the newest messages matter more than all of them',
            ),
            drawn_from=f"waiting and capacity of the wire at both looks; busy_s of {wire.sender}",
            share=1 - span.share(sender),
        )


def _passes_over(span: Span, source: str) -> bool:
    return span.is_video_source(source) and span.own_count(span.now.routines[source], "skipped") > 0


def _blocker(span: Span, wire: WireStatistics) -> tuple[str, str]:
    """Why nothing takes the messages fast enough, and the routine at the end of the chain of those that wait."""
    blocked = {(one.sender, one.receiver): one for one in span.blocked()}
    at, seen = wire.receiver, {wire.sender}
    while at not in seen:
        seen.add(at)
        behind = [receiver for sender, receiver in blocked if sender == at]
        if not behind:
            break
        at = behind[0]
    through = f"{wire.receiver} waits itself, in the end for {at}: " if at != wire.receiver else ""
    routine = span.now.routines.get(at)
    if routine is None:
        return f"{through}{at} does not take them.", at
    if routine.state != "running":
        return f"{through}{at} is {routine.state}, and takes nothing.", at
    share = span.busy_s(at) / span.seconds
    return f"{through}{at} is at work {100 * share:.0f} % of the time.", at
