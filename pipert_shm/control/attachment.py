"""The wires and rings that a new process of a flow begins with."""

from __future__ import annotations

from pipert_shm.frozen import Frozen
from pipert_shm.graph.model import EdgePlan


class Attachment(Frozen):
    """Which incarnations of its wires, and which rings, a flow's process begins with.

    Attributes:
        outs: the incarnation of each outgoing edge, by edge number.
        ins: the names of the incarnations of each incoming edge, oldest first, by edge number. Those that are still being
            recovered follow as AddIn messages.
        rings: the ring that build() made for each routine, and its slot size, by number. For a flow's first process only.
        leaving: incoming edges that were unlinked but are not drained yet.
    """

    outs: dict[int, int]
    ins: dict[int, list[int]]
    rings: dict[int, tuple[int, int]]
    leaving: list[EdgePlan]
