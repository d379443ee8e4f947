"""What slows the pipe down, in words: for the route `/why`, and as a panel of the dashboard."""

from __future__ import annotations

from collections import deque
from html import escape

from pipert_shm.diagnosis import Finding, Moment, diagnose, take
from pipert_shm.pipe import Pipe
from pipert_shm.shm.listing import list_pipe

WINDOW = 5  # looks of the dashboard that its findings are drawn from
SHOWN = 6  # findings of the panel, at most
COLOURS = {"problem": "#fca5a5", "cost": "#fcd34d", "note": "#94a3b8"}


def moment_of(pipe: Pipe) -> Moment:
    """The pipe as it is now; it works after its end, too.

    :raises PipeStateError: when it is not built.
    """
    session = pipe._built()
    listing = list_pipe(session.segment.pipe_id)
    return take(session.segment.process, *session.plan.directory(), listing.segments if listing is not None else ())


class Diagnosis:
    """Follows a pipe, and says what was found out of the last few looks. One thread."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._moments = deque([moment_of(pipe)], maxlen=WINDOW + 1)

    def look(self) -> list[Finding]:
        """Looks once more; the findings, the weightiest first."""
        self._moments.append(moment_of(self._pipe))
        return diagnose(self._moments[-1], self._moments[0])


def panel_of(findings: list[Finding]) -> str:
    """The findings as HTML: what each says, and as the tooltip why, and what to try."""
    lines = []
    for finding in findings[:SHOWN]:
        where = f" · {finding.where}" if finding.where else ""
        further = "\n".join(filter(None, (finding.why, *(f"try: {advice}" for advice in finding.advice))))
        first = f'<div class="small">try: {escape(finding.advice[0])}</div>' if finding.advice else ""
        head = f'<b style="color:{COLOURS[finding.severity]}">{escape(finding.kind + where)}</b>'
        lines.append(f'<li title="{escape(further)}">{head} {escape(finding.what)}{first}</li>')
    left = len(findings) - SHOWN
    more = f'<div class="small">and {left} more: `pipert-shm why` shows all</div>' if left > 0 else ""
    return f"<h2>What slows it down</h2><ul class='why'>{''.join(lines)}</ul>{more}"
