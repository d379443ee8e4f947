"""How much of /dev/shm a pipeline needs, and whether it fits into what is there: `pipert-shm doctor FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipert_shm import binding
from pipert_shm.cli.run import load
from pipert_shm.display.tables import Table
from pipert_shm.graph.needs import needs_of
from pipert_shm.launcher.footprint import control_bytes
from pipert_shm.pipe import Pipe
from pipert_shm.shm.needs import SHARE, Needs
from pipert_shm.shm.rings import page_up
from pipert_shm.shm.segments import SHM
from pipert_shm.shm.slots import GROWTH
from pipert_shm.system import calls

NUMBERS = slice(3, 6)  # the columns of numbers


def examine_file(path: Path) -> Examination:
    """Loads a pipeline's file, and looks at what it reads and at /dev/shm. Nothing is built.

    :raises PipertError: when the file does not fit; see `load`.
    """
    return examine(load(path).pipe)


def examine(pipe: Pipe) -> Examination:
    """Looks at what a pipe reads, and at /dev/shm. Nothing is built."""
    plan = pipe._plan()
    needs = needs_of(plan, control_bytes(plan, pipe.name, pipe._made_from), look=True)
    space = calls.space(SHM)
    return Examination(needs, space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize)


@dataclass(frozen=True, slots=True)
class Examination:
    """What a pipeline needs of /dev/shm, and what is there. `str` makes a text for terminals.

    Attributes:
        size: bytes of /dev/shm.
        free: bytes of it that are free.
    """

    needs: Needs
    size: int
    free: int

    @property
    def budget(self) -> int:
        """Bytes that the pipe's rings may take here."""
        return self.free // SHARE if self.needs.memory_budget is None else self.needs.memory_budget

    @property
    def fits(self) -> bool:
        """Whether each ring gets all of its slots here."""
        needs = self.needs
        return needs.in_rings <= self.budget and needs.in_rings + needs.control <= self.free

    def as_json(self) -> dict[str, Any]:
        """The same for scripts; sizes are in bytes."""
        needs = self.needs
        return {
            "rings": [{**asdict(ring), "size": ring.size} for ring in needs.rings],
            "control": needs.control,
            "memory_budget": needs.memory_budget,
            "needed": needs.in_all,
            "shm": {"size": self.size, "free": self.free},
            "fits": self.fits,
            "shm_size": needs.shm_size,
        }

    def __str__(self) -> str:
        advised = self.needs.shm_size >> 20
        others = f"docker run --shm-size={advised}m; Kubernetes: emptyDir of medium Memory, sizeLimit {advised}Mi"
        return "\n".join([self._table(), "", *self._lines(), f"  shm_size: {advised}m  # {others}"])

    def _table(self) -> str:
        rows = [("routine", "flow", "ring of", "slots", "bytes a slot", "bytes", "size of its frames")]
        for ring in self.needs.rings:
            why = f"{ring.why}; made when it is needed" if ring.sure == "perhaps" else ring.why
            numbers = f"{ring.slots:,}", f"{ring.slot_bytes:,}", f"{ring.size:,}"
            rows.append((ring.routine, ring.flow, ring.holds, *numbers, why))
        rows.append(("control segment", "", "", "", "", f"{self.needs.control:,}", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(*NUMBERS.indices(7))]
        aligned = [
            (*row[:3], *(cell.rjust(width) for cell, width in zip(row[NUMBERS], widths, strict=True)), row[6]) for row in rows
        ]
        return str(Table(aligned[0], aligned[1:]))

    def _lines(self) -> Iterator[str]:
        needs = self.needs
        yield f"rings:     {needs.in_rings:,} bytes, of {self.budget:,} that they may take here"
        yield f"/dev/shm:  {needs.in_all:,} bytes have to be free, and {self.free:,} of {self.size:,} are"
        no = "it does not fit (rings get fewer slots, or there is none for a routine, which fails)"
        yield f"verdict:   {'it fits' if self.fits else f'{no}: {self._advice()}'}"
        assumed = [ring.routine for ring in needs.rings if ring.sure == "assumed"]
        if assumed:
            yield (
                f"assumed:   the frames of {', '.join(assumed)}; a routine of yours tells their size by declare_output(shape) "
                f"in __init__, (0,) if it makes none, and a VideoSource by size="
            )
        yield f"for a time it takes more: {self._more()}"

    def _advice(self) -> str:
        needs = self.needs
        if needs.memory_budget is not None and needs.memory_budget < needs.in_rings:
            return f"set memory_budget to {needs.in_rings:,} at least, or leave it away; and give /dev/shm the size below"
        if self.size >= needs.shm_size:
            return "something else has filled /dev/shm: see pipert-shm ls, du -h /dev/shm"
        return "give /dev/shm the size below, or use smaller frames or shorter queues"

    def _more(self) -> str:
        """What is not counted: rings that are there twice for a time."""
        by_flow: Counter[str] = Counter()
        for ring in self.needs.rings:
            by_flow[ring.flow] += ring.size
        larger = [
            binding.ring_bytes(ring.slots, page_up(int(ring.slot_bytes * GROWTH)))
            for ring in self.needs.rings
            if ring.holds == "frames"
        ]
        return (
            f"up to {max(by_flow.values(), default=0):,} bytes when a flow is restarted while its old frames are still read, "
            f"and {max(larger, default=0):,} or more when frames get larger"
        )
