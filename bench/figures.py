"""The figures that this project means to reach, and what a run says of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .hand_over import Result


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: of each way.
        seconds: of each round, as a share of what a full run takes.
        full: whether all sizes and ways are measured, or a few.
        largest: the size that takes turns with VGA in one pair of processes.
        without: ways that are left out.
    """

    rounds: int = 5
    seconds: float = 1.0
    full: bool = True
    largest: str = "8K"
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        value: None where what it takes was not measured; of several rounds the median.
        limit: what it is to be, at most or at least; None: it is only stated.
        rounds: what each round came to, in the order in which they ran; of one measurement it is empty.
    """

    name: str
    value: float | None
    limit: float | None = None
    at_least: bool = False
    unit: str = "x"
    said: str = ""
    rounds: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, rounds: Sequence[float], limit: float | None = None, at_least: bool = False, **more: Any) -> Figure:
        """The median of the rounds."""
        return cls(name, statistics.median(rounds) if rounds else None, limit, at_least, rounds=tuple(rounds), **more)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.limit is None:
            return "stated"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "NOT MET"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


@dataclass
class Section:
    """What one part of a run came to.

    Attributes:
        lines: text for the reader, beside the table of the results.
        rows: numbers that are no results of rounds, by name.
    """

    title: str
    results: list[Result] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "results": [result.as_json() for result in self.results], "rows": self.rows}


def figures_table(figures: Iterable[Figure]) -> list[str]:
    """Lines of text: target, measured, least and most of the rounds, met or not."""
    columns = "{:78}{:>12}{:>14}{:>20}  {}"
    lines = [columns.format("figure", "target", "measured", "rounds", "")]
    for figure in figures:
        target = "" if figure.limit is None else f"{'>=' if figure.at_least else '<='} {figure.limit:.4g} {figure.unit}"
        value = "" if figure.value is None else f"{figure.value:.4g} {figure.unit}"
        spread = f"{min(figure.rounds):.3g} to {max(figure.rounds):.3g}" if figure.rounds else ""
        said = f"{figure.verdict}  {figure.said}" if figure.said else figure.verdict
        lines.append(columns.format(figure.name, target, value, spread, said))
    return lines
