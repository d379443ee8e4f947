"""What a flow's process is born with."""

from __future__ import annotations

from dataclasses import dataclass

from pipert_shm.plan import EdgePlan


@dataclass(frozen=True, slots=True)
class Attachment:
    """Which lives of its wires, and which rings, a flow's process begins with.

    Attributes:
        outs: the incarnation of each outgoing edge, by edge number.
        ins: the incarnations of each incoming edge, oldest first, by edge number; those that are still being recovered follow
            as messages.
        rings: per routine number, the ring that build() made for it, and its slot size. For the first process of a flow only.
        leaving: incoming edges that were unlinked and are not drained.
    """

    outs: dict[int, int]
    ins: dict[int, list[int]]
    rings: dict[int, tuple[int, int]]
    leaving: list[EdgePlan]
