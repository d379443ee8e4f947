"""Puts together what was found out about a pipe, in the order in which it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipert_shm.diagnosis.faults import find_errors, find_failed, find_hangs, find_restarts, find_resting
from pipert_shm.diagnosis.finding import Finding
from pipert_shm.diagnosis.losses import find_copies, find_losses, find_starved
from pipert_shm.diagnosis.moment import Moment
from pipert_shm.diagnosis.pace import find_blocked, find_bottlenecks, find_full_machine, find_limits, find_shared_interpreters
from pipert_shm.diagnosis.sources import find_sources
from pipert_shm.diagnosis.span import Span

FINDERS: tuple[Callable[[Span], Iterable[Finding]], ...] = (
    find_failed,
    find_hangs,
    find_resting,
    find_errors,
    find_restarts,
    find_bottlenecks,
    find_full_machine,
    find_shared_interpreters,
    find_losses,
    find_starved,
    find_blocked,
    find_sources,
    find_copies,
    find_limits,
)


def diagnose(now: Moment, before: Moment) -> list[Finding]:
    """What happened to a pipe between two moments, in words: what slows it down, what it loses, and what to try.

    It goes by the counters alone, and each finding says by which. There is at least one: that nothing is wrong.

    :param before: an earlier moment of the same pipe.
    """
    span = Span(now, before)
    found = sorted((finding for find in FINDERS for finding in find(span)), key=lambda finding: finding.place)
    moved = any(map(span.handled, span.teams))
    if moved and all(finding.severity == "note" for finding in found):
        found.insert(0, _fine(span))
    return found


def _fine(span: Span) -> Finding:
    """Nothing is wrong. A source may wait for its camera in `main_logic`, so only those who receive are compared."""
    running = [team for team in span.teams if span.handled(team)]
    slowest = max([team for team in running if span.ins(team)] or running, key=span.share)
    rate = span.per_second(span.handled(slowest))
    return Finding(
        kind="fine",
        severity="note",
        about="pipe",
        where="",
        what=f"Nothing is wrong: nothing was lost, and nobody waits for a slow routine. The slowest is {slowest.name}, at work "
        f"{100 * span.share(slowest):.0f} % of the time, at {rate:.1f} messages a second.",
        drawn_from=f"all counters of {span.seconds:.1f} s",
    )
