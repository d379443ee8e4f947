"""Wires that lose messages, rings without a free slot, and bytes that need not be copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipert_shm.diagnosis.finding import Finding, begun
from pipert_shm.diagnosis.pace import bottlenecks
from pipert_shm.diagnosis.span import FULL, Span, wire_name
from pipert_shm.statistics import WireStatistics

COPIED = 32 << 10
"""Bytes for each message from which copies and pickles are worth a finding."""


class _Loss(NamedTuple):
    """What a reason means, why it comes about, and what to try."""

    what: str
    why: Callable[[Span, WireStatistics], str]
    advice: tuple[str, ...]


def _full(span: Span, wire: WireStatistics) -> str:
    """Why the receiver does not take what comes."""
    receiver = span.now.routines.get(wire.receiver)
    if receiver is None or receiver.state != "running":
        return f"{wire.receiver} is {'gone' if receiver is None else receiver.state}, and takes nothing."
    team = span.team_of(wire.receiver)
    if team in bottlenecks(span):
        return f"{team.name} is the bottleneck, and does not take them in time."
    share = 100 * span.share(team)
    waits = [wire_name(out) for out in span.outs(team) if out.policy == "block" and span.was_full(out)]
    if waits:
        return f"{team.name} is at work only {share:.0f} % of the time: it waits for room on {', '.join(waits)}."
    if team.name in {ring.owner for ring in span.starved()}:
        return f"{team.name} is at work only {share:.0f} % of the time: it waits for a free slot."
    if span.share(team) >= FULL:
        return f"{team.name} is at work {share:.0f} % of the time."
    return (
        f"{team.name} is at work only {share:.0f} % of the time, so its speed would do: messages come in bursts that are "
        f"larger than its queue of {wire.capacity}, it is limited by set_const_fps, or it does not get a processor in time."
    )


def _expired(span: Span, wire: WireStatistics) -> str:
    hop = span.hop(wire)
    receiver = span.now.routines.get(wire.receiver)
    age = span.age(receiver) if receiver is not None else None
    told = f"Half of its messages wait more than {hop.p50_us / 1000:.1f} ms on this wire" if hop.count else "It takes none"
    if age is not None and age.count:
        told += f"; half of those that {wire.receiver} gets are older than {age.p50_us / 1000:.1f} ms when they come"
    team = span.team_of(wire.receiver) if receiver is not None else None
    share = f" {team.name} is at work {100 * span.share(team):.0f} % of the time." if team is not None else ""
    return f"{told}.{share}"


def _receiver_state(span: Span, wire: WireStatistics) -> str:
    receiver = span.now.routines.get(wire.receiver)
    return f"{wire.receiver} is {'gone' if receiver is None else receiver.state}."


def _errors(span: Span, wire: WireStatistics) -> str:
    ends = [span.now.routines[name] for name in (wire.sender, wire.receiver) if name in span.now.routines]
    told = [f"{one.name} {span.count(one, 'errors')}" for one in ends]
    return f"Errors meanwhile: {', '.join(told)}."


def _restarts(span: Span, wire: WireStatistics) -> str:
    flows = {span.now.routines[name].flow for name in (wire.sender, wire.receiver) if name in span.now.routines}
    told = [f"{flow}: {span.now.flows[flow].state}, {span.now.flows[flow].restarts} restarts" for flow in sorted(flows)]
    return f"{'; '.join(told)}."


def _nobody_free(span: Span, wire: WireStatistics) -> str:
    rings = [ring for ring in span.rings if ring.owner == wire.sender]
    held = [f"{ring.free} of {ring.slots} slots free; held by " + _holders(ring.held) for ring in rings if ring.held]
    return f"{wire.sender} has {'; '.join(held)}." if held else f"All slots of {wire.sender} were held at those moments."


def _partners(span: Span, wire: WireStatistics) -> str:
    told = []
    for one in span.ins(span.team_of(wire.receiver)) if wire.receiver in span.now.routines else ():
        lost = sum(count for reason, count in span.dropped(one).items() if reason != "join")
        told.append(f"{wire_name(one)} brought {span.wire_count(one, 'received')}, and lost {lost}")
    return f"What came to be joined: {'; '.join(told)}."


def _nothing(span: Span, wire: WireStatistics) -> str:
    return ""


def _holders(held: object) -> str:
    assert isinstance(held, dict)
    return ", ".join(f"{name} {count}" for name, count in held.items()) or "nobody"


LOSSES: dict[str, _Loss] = {
    "oldest": _Loss(
        "a newer message took the place of the oldest one in a full queue",
        _full,
        ("make the receiver faster, or leave it so: drop_oldest keeps up with a live camera", "Wire(…, capacity=…) for bursts"),
    ),
    "newest": _Loss(
        "they came to a full queue",
        _full,
        ('Wire(…, policy="drop_oldest") for the newest messages instead of the oldest', "Wire(…, capacity=…) for bursts"),
    ),
    "timeout": _Loss(
        "there was no room within the wire's timeout",
        _full,
        ("Wire(…, timeout=None) to wait as long as it takes, or a longer one", "make the receiver faster"),
    ),
    "expired": _Loss(
        "they were older than the wire's max_age when they came",
        _expired,
        (
            "Wire(…, capacity=1) on this wire and those before it: less waits, and is younger",
            "make what comes before it faster, or the receiver itself; a larger max_age= if old messages are of use",
        ),
    ),
    "no_slot": _Loss(
        "all of the sender's slots in shared memory were held",
        _nobody_free,
        (
            "Pipe(memory_budget=…), or a larger /dev/shm: `pipert-shm doctor FILE` says how large",
            "Wire(…, capacity=…) smaller, and frames that routines keep let go sooner: `pipert-shm ls` shows who holds them",
        ),
    ),
    "join": _Loss(
        "nothing came that they could be joined with",
        _partners,
        (
            "look at what the other wires of the join lose: a message that is lost there has no partner here",
            "see the how-to page on joins: by what they join, and how long they wait",
        ),
    ),
    "error": _Loss(
        "they could not be encoded or decoded",
        _errors,
        ("read the log: it has the exception",),
    ),
    "crash": _Loss(
        "a process died with them half sent or half received",
        _restarts,
        ("read the log: it has how the process died",),
    ),
    "ended": _Loss(
        "the receiver had ended",
        _receiver_state,
        ("the receiver raised EndOfStream, or failed: read the log; the event `start` starts it again",),
    ),
    "stopped": _Loss("the pipe was killed before they were sent", _nothing, ()),
}
"""The reasons for which wires lose messages: all of `binding.REASONS`."""

_ANY = _Loss("for a reason that this version does not know", _nothing, ())


def find_losses(span: Span) -> Iterator[Finding]:
    """Wires that lose messages: one finding for each reason."""
    slow = {name for team in bottlenecks(span) for name in team.members}
    for wire in span.wires:
        sent = span.wire_count(wire, "sent")
        for reason, count in span.dropped(wire).items():
            loss = LOSSES.get(reason, _ANY)
            of = f" of {sent}" if sent >= count else ""
            told_there = reason in ("oldest", "newest") and wire.receiver in slow
            yield begun("drops", "cost" if told_there else "problem", "wire", wire_name(wire))(
                what=f"{wire_name(wire)} lost {count}{of} messages, {span.per_second(count):.1f} a second ({reason}): "
                f"{loss.what}.",
                why=loss.why(span, wire),
                advice=("see the bottleneck",) if told_there else loss.advice,
                drawn_from=f"dropped[{reason!r}] +{count}, sent +{sent}; policy {wire.policy}, capacity {wire.capacity}",
                share=span.per_second(count),
            )


def find_starved(span: Span) -> Iterator[Finding]:
    """Routines whose ring has no free slot."""
    for ring in span.starved():
        others = {name: count for name, count in ring.held.items() if name != ring.owner}
        most = max(others, key=lambda name: others[name]) if others else ""
        advice = [f"{most} holds {others[most]}: let it keep fewer frames, or copies of them (frame.copy())"] if most else []
        yield begun("no free slot", "problem", "routine", ring.owner)(
            what=f"none of the {ring.slots} slots of {ring.owner} is free, at both looks. Held by {_holders(dict(ring.held))}.",
            why=f"{ring.owner} waits for a slot before it can make the next frame, or drops it.",
            advice=(
                *advice,
                "Wire(…, capacity=…) smaller where queues hold them",
                "Pipe(memory_budget=…), or a larger /dev/shm, for more slots: `pipert-shm doctor FILE` says how large",
            ),
            drawn_from="the slots of its ring at both looks, as `pipert-shm ls` shows them",
            share=1.0,
        )


def find_copies(span: Span) -> Iterator[Finding]:
    """Frames that are copied or pickled to be sent, or copied on receipt."""
    for routine in span.now.routines.values():
        sent = span.count(routine, "sent")
        for kind, counter in (("copies", "copied_bytes"), ("pickles", "in_band_bytes")):
            each = span.count(routine, counter) / max(1, sent)
            if each >= COPIED:
                yield _copied(span, routine.name, kind, counter, each)
    for wire in span.wires:
        kept = span.wire_count(wire, "private_bytes")
        if kept:
            yield begun("kept frames", "cost", "wire", wire_name(wire))(
                what=f"{_bytes(span.per_second(kept))} a second are copied on receipt on {wire_name(wire)}.",
                why=f"{wire.receiver} keeps more frames than its share of the sender's slots.",
                advice=(
                    f"let {wire.receiver} keep fewer frames; views of a frame keep it, too",
                    "frame.copy() of what it has to keep, so that the slot is free again",
                ),
                drawn_from=f"private_bytes +{kept} in {span.seconds:.1f} s",
                share=kept,
            )


def _copied(span: Span, name: str, kind: str, counter: str, each: float) -> Finding:
    rate = _bytes(span.per_second(span.count(span.now.routines[name], counter)))
    if kind == "copies":
        what, why = "copied into shared memory", "It sends arrays that it did not loan: each is copied once."
        advice = (
            "frame = self.loan(shape, dtype), and write into it: `out=` of numpy, `dst=` of OpenCV",
            "leave it so if the arrays come from a library that takes no `out=`: one copy is the price",
        )
    else:
        what, why = "pickled", "What it sends is no array, or goes by BasicTransmitter: it is pickled, and unpickled behind."
        advice = (
            "numpy arrays in place of lists and texts: arrays travel without a pickle",
            "Wire(…) without BasicTransmitter",
        )
    return begun(kind, "cost", "routine", name)(
        what=f"{_bytes(each)} of each message of {name} are {what}, {rate} a second.",
        why=why,
        advice=advice,
        drawn_from=f"{counter} and sent of {name} in {span.seconds:.1f} s",
        share=each,
    )


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
