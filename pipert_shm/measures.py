"""How a number of a pipe's statistics is described: what it means, and what it is called elsewhere.

The classes in `statistics.py` are the table. Each of their fields that measures something carries a `Measure`, and from that
follow what is read out of the control segment, the API's models, the metrics, what `top` reports, and the docstrings. To add a
counter, add a field to the class, and its word to the record in C and to `counters()` of the binding.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_origin, get_type_hints

from pipert_shm.frozen import Frozen

T = TypeVar("T")

Kind = Literal["counter", "gauge", "state", "reasons", "own", "histogram"]


class Measure(Frozen):
    """What a number is.

    Attributes:
        kind: `counter` (only grows), `gauge` (goes up and down), `state` (one of `states`), `reasons` (counters by reason),
            `own` (counters that a routine's class names), or `histogram` (of durations).
        text: what it means: a sentence.
        metric: its name in Prometheus, without the `pipert_` before it; empty where it is none of the metrics. The reasons of
            `reasons` are a label.
        word: the name of the word that it stands in, of the control segment's record; empty where it is read in another way.
        per: by what the word is divided to get the number.
        rate: whether `top` tells how much came in a second, too.
        states: the names of the states.
        label: what the state is called as a label of the metric.
        example: a value, for the API's documentation.
    """

    kind: Kind
    text: str
    metric: str = ""
    word: str = ""
    per: int = 1
    rate: bool = False
    states: tuple[str, ...] = ()
    label: str = "state"
    example: Any = None


class Measured(NamedTuple):
    """A field of a class of statistics, its type, and what it measures; None where it only names something."""

    name: str
    type: Any
    measure: Measure | None


def counter(text: str, metric: str, *, word: str, per: int = 1, rate: bool = False) -> Measure:
    """A number that only grows, and stands in a word of the control segment's record."""
    return Measure("counter", text, metric, word, per, rate)


def state(text: str, metric: str, states: type[Enum], *, label: str = "state", example: str = "running") -> Measure:
    """One of some states."""
    return Measure("state", text, metric, states=tuple(one.name.lower() for one in states), label=label, example=example)


@cache
def measured(statistics: type) -> tuple[Measured, ...]:
    """The fields of a class of statistics, in order."""
    hints = get_type_hints(statistics, include_extras=True)
    table = []
    for field in fields(statistics):
        hint, found = hints[field.name], None
        if get_origin(hint) is Annotated:
            found = next(extra for extra in hint.__metadata__ if isinstance(extra, Measure))
            hint = hint.__origin__
        table.append(Measured(field.name, hint, found))
    return tuple(table)


def measures(statistics: type) -> dict[str, Measure]:
    """What the fields of a class of statistics measure, by name, in order."""
    return {name: measure for name, _, measure in measured(statistics) if measure is not None}


def words(statistics: type) -> dict[str, Measure]:
    """Those of its measures that are words of the control segment's record, by the word."""
    return {measure.word: measure for measure in measures(statistics).values() if measure.word}


def documented(statistics: type[T]) -> type[T]:
    """Writes what each field measures into the class's docstring."""
    if statistics.__doc__ is not None:  # it is None under `python -OO`
        lines = [f"{name}: {measure.text[0].lower()}{measure.text[1:]}" for name, measure in measures(statistics).items()]
        statistics.__doc__ = "\n        ".join([f"{statistics.__doc__.rstrip()}\n\n    Attributes:", *lines]) + "\n    "
    return statistics
