"""One thing that was found out about a pipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from pipert_shm.frozen import Frozen

Severity = Literal["problem", "cost", "note"]
About = Literal["pipe", "flow", "routine", "wire"]

KINDS = (
    "failed",
    "hang",
    "lost source",
    "errors",
    "not running",
    "bottleneck",
    "processors",
    "shared interpreter",
    "drops",
    "no free slot",
    "blocked",
    "restarts",
    "late",
    "damaged",
    "reconnects",
    "skipped",
    "copies",
    "pickles",
    "kept frames",
    "logs lost",
    "at its limit",
    "pace",
    "earlier restarts",
    "fine",
)
"""The kinds of findings, in the order in which they matter where the severity is the same."""

SEVERITIES = ("problem", "cost", "note")


class Finding(Frozen):
    """One thing that was found out.

    Attributes:
        kind: one of `KINDS`.
        severity: `problem` (something is lost, or stands), `cost` (it works, but takes more than it has to, or holds up
            others), or `note`.
        about: what `where` names.
        where: the name of a routine, a flow or the pipe; of a wire `sender -> receiver`.
        what: a sentence with the numbers.
        why: what follows from the numbers; empty where nothing does.
        advice: what to try, the likeliest first.
        drawn_from: the counters that say so.
        share: how much it matters among findings of the same kind; more is more.
    """

    kind: str
    severity: Severity
    about: About
    where: str
    what: str
    why: str = ""
    advice: tuple[str, ...] = ()
    drawn_from: str = ""
    share: float = 0.0

    @property
    def place(self) -> tuple[int, int, float]:
        """Sorts findings by how much they matter."""
        return SEVERITIES.index(self.severity), KINDS.index(self.kind), -self.share


def begun(kind: str, severity: Severity, about: About, where: str) -> Callable[..., Finding]:
    """How a finding begins: `begun("hang", "problem", "routine", name)(what=…, advice=…)` is the whole."""
    return partial(Finding, kind=kind, severity=severity, about=about, where=where)
