"""What differs between two pipelines. It computes, and touches no pipe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipert_shm.applying.shape import FIXED, Pair, Shape, same
from pipert_shm.errors import shown
from pipert_shm.pipeline_file.reader import Where
from pipert_shm.pipeline_file.schema import RoutineSettings, Section

IN_PLACE = ("restart", "max_restarts", "restart_window", "max_rss")  # of a flow: only the launcher goes by them
OF_PROCESS = ("cpus", "nice")  # a new process gets them
OF_WIRES = ("policy", "capacity", "timeout", "max_age", "data_transmitter")


@dataclass(frozen=True, slots=True)
class Detail:
    """One setting that differs.

    Attributes:
        where: its field in the file.
        before, after: its values; None where it is not given.
    """

    where: Where
    before: Any
    after: Any

    def __str__(self) -> str:
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.where).lstrip(".")
        return f"{name}: {self.change}"

    @property
    def change(self) -> str:
        """The two values, as text."""
        return f"{_said(self.before)} -> {_said(self.after)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """How to get from one pipeline to another. It is false when there is nothing to do.

    Attributes:
        before, after: the two.
        refused: settings that can't be changed while the pipe runs.
        removed, added: flows.
        rebuilt: flows that are removed and added again, as others, and why.
        failed: those of them that had failed for good.
        replaced: flows whose process makes way for another, while their wires stay, and why.
        live: routines whose settings change without a restart, and which.
        eased: flows of which settings change that only the launcher goes by.
        cut: wires that are unlinked by themselves, and not with a flow.
        linked: wires that are made.
        relinked: which of them were there before, with other settings.
    """

    before: Shape
    after: Shape
    refused: tuple[Detail, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    rebuilt: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    replaced: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    live: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    eased: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    cut: tuple[Pair, ...] = ()
    linked: tuple[Pair, ...] = ()
    relinked: Mapping[Pair, tuple[Detail, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(bool(getattr(self, name)) for name in ("refused", *_CHANGES))

    def applied_to(self, shape: Shape) -> Shape:
        """The shape that comes of another by these changes alone."""
        gone = {*self.removed, *self.rebuilt}
        lost = {routine for routine, flow in shape.flow_of.items() if flow in gone}
        wires = {pair: wire for pair, wire in shape.wires.items() if pair not in self.cut and not lost.intersection(pair)}
        flows = {name: flow for name, flow in shape.flows.items() if name not in gone}
        routines = {name: its for name, its in shape.routines.items() if name not in lost}
        for name in (*self.added, *self.rebuilt, *self.replaced, *self.eased):
            flows[name] = self.after.flows[name]
        fresh = {routine for name in (*self.added, *self.rebuilt, *self.replaced) for routine in flows[name].routines}
        for routine in fresh | self.live.keys():
            routines[routine] = self.after.routines[routine]
        wires |= {pair: self.after.wires[pair] for pair in self.linked}
        return replace(shape, flows=flows, routines=routines, wires=wires)

    def lines(self) -> list[str]:
        """What is done, a line each, for people."""
        lines = [f"! {detail}: not while the pipe runs" for detail in self.refused]
        lines += [f"- flow {name!r}: {', '.join(self.before.flows[name].routines)}" for name in self.removed]
        lines += [f"+ flow {name!r}: {', '.join(self.after.flows[name].routines)}" for name in self.added]
        for name, details in self.rebuilt.items():
            had = "has failed, " if name in self.failed else ""
            lines.append(f"~ flow {name!r} {had}is removed, and added anew: {_listed(details)}")
        lines += [f"~ flow {name!r} gets a new process: {_listed(details)}" for name, details in self.replaced.items()]
        lines += [f"~ flow {name!r}, without a restart: {_listed(details)}" for name, details in self.eased.items()]
        lines += [f"~ routine {name!r}, without a restart: {_listed(details)}" for name, details in self.live.items()]
        lines += [f"- wire {_named(pair)}" for pair in self.cut if pair not in self.relinked]
        lines += [f"+ wire {_named(pair)}" for pair in self.linked if pair not in self.relinked]
        lines += [f"~ wire {_named(pair)} is linked anew: {_listed(details)}" for pair, details in self.relinked.items()]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing differs"

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""

        def told(details: Mapping[Any, tuple[Detail, ...]]) -> dict[str, list[str]]:
            return {key if isinstance(key, str) else _named(key): list(map(str, its)) for key, its in details.items()}

        return {
            "refused": list(map(str, self.refused)),
            "flows": {
                "removed": list(self.removed),
                "added": list(self.added),
                "rebuilt": told(self.rebuilt),
                "failed": list(self.failed),
                "replaced": told(self.replaced),
                "changed": told(self.eased),
            },
            "routines": told(self.live),
            "wires": {
                "unlinked": [_named(pair) for pair in self.cut if pair not in self.relinked],
                "linked": [_named(pair) for pair in self.linked if pair not in self.relinked],
                "linked_anew": told(self.relinked),
            },
        }


_CHANGES = ("removed", "added", "rebuilt", "replaced", "live", "eased", "cut", "linked")


def between(
    before: Shape,
    after: Shape,
    is_settable: Callable[[str, str], bool],
    is_rebuilt: Callable[[str], bool] = lambda flow: False,
    joins: Callable[[str], bool] = lambda routine: False,
    failed: Collection[str] = (),
) -> Difference:
    """What has to be done to a pipe that is like `before`, so that it is like `after`.

    :param is_settable: whether a routine's parameter can be set while it runs.
    :param is_rebuilt: whether a flow that would get a new process has to be removed and added instead.
    :param joins: whether a routine joins its inputs: it does that with those that it was made with.
    :param failed: flows that have failed for good: what differs in one, whatever it is, makes it anew.
    """
    removed = tuple(name for name in before.flows if name not in after.flows)
    added = tuple(name for name in after.flows if name not in before.flows)
    kept = _Kept(before, after, is_settable, is_rebuilt, joins, failed)
    gone = {routine for name in (*removed, *kept.rebuilt) for routine in before.flows[name].routines}
    fresh = {routine for name in (*added, *kept.rebuilt) for routine in after.flows[name].routines}
    moved = gone | fresh
    relinked = {
        pair: details
        for pair, wire in before.wires.items()
        if pair in after.wires
        and not moved.intersection(pair)
        and (details := _details(("wires", _named(pair)), wire, after.wires[pair], OF_WIRES))
    }
    cut = (pair for pair in before.wires if not gone.intersection(pair) and (pair not in after.wires or pair in relinked))
    linked = (pair for pair in after.wires if pair not in before.wires or pair in relinked or moved.intersection(pair))
    return Difference(
        before,
        after,
        refused=fixed(before, after),
        removed=removed,
        added=added,
        rebuilt=kept.rebuilt,
        failed=tuple(name for name in kept.rebuilt if name in failed),
        replaced=kept.replaced,
        live=kept.live,
        eased=kept.eased,
        cut=tuple(cut),
        linked=tuple(linked),
        relinked=relinked,
    )


class _Kept:
    """What differs in the flows that both pipelines have. Its attributes are as those of `Difference`."""

    def __init__(
        self,
        before: Shape,
        after: Shape,
        is_settable: Callable[[str, str], bool],
        is_rebuilt: Callable[[str], bool],
        joins: Callable[[str], bool],
        failed: Collection[str],
    ) -> None:
        flows = {name: _Flow(name, before, after, is_settable) for name in after.flows if name in before.flows}
        self.rebuilt: dict[str, tuple[Detail, ...]] = {}
        self.replaced: dict[str, tuple[Detail, ...]] = {}
        self.live: dict[str, tuple[Detail, ...]] = {}
        self.eased: dict[str, tuple[Detail, ...]] = {}
        for name, flow in flows.items():
            takes_process = flow.members or ((flow.of_process or flow.live) and is_rebuilt(name))
            if takes_process or (name in failed and flow.details):
                self.rebuilt[name] = flow.details
        for name, why in _joining(before, after, joins, self.rebuilt):
            self.rebuilt[name] = why
        for name, flow in ((name, flow) for name, flow in flows.items() if name not in self.rebuilt):
            if flow.of_process:
                self.replaced[name] = flow.of_process
            else:
                self.live |= flow.live
                if flow.in_place:
                    self.eased[name] = flow.in_place


def _joining(
    before: Shape, after: Shape, joins: Callable[[str], bool], rebuilt: Mapping[str, tuple[Detail, ...]]
) -> Iterator[tuple[str, tuple[Detail, ...]]]:
    """The flows that have to be built anew since a routine joins what comes of others than before, and why.

    :param rebuilt: those that are rebuilt. What is given is in it before the next one is looked for.
    """
    old, new = before.flow_of, after.flow_of
    waiting = {new[name]: name for name in new if old.get(name) == new[name] and joins(name)}
    while True:
        for flow, name in waiting.items():
            if flow in rebuilt:
                continue
            why: tuple[Detail, ...] = ()
            for pair in (pair for pair in {**before.wires, **after.wires} if pair[1] == name):
                sender = old.get(pair[0], "")
                if pair not in before.wires or pair not in after.wires:
                    why += (Detail(("wires", _named(pair)), before.wires.get(pair), after.wires.get(pair)),)
                elif sender in rebuilt:
                    why += rebuilt[sender]
                elif sender != new[pair[0]]:
                    why += (Detail(("flows", sender), before.flows[sender], after.flows.get(sender)),)
            if why:
                yield flow, why
                break
        else:
            return


class _Flow:
    """What differs in one flow that both pipelines have.

    Attributes:
        members: what makes it another flow.
        of_process: what takes a new process.
        live: what does not, by routine.
        in_place: what only the launcher goes by.
        details: all of it.
    """

    def __init__(self, name: str, before: Shape, after: Shape, is_settable: Callable[[str, str], bool]) -> None:
        old, new = before.flows[name], after.flows[name]
        at: Where = ("flows", name)
        self.members = _details(at, old, new, ("routines", "replicas", "ordered"))
        self.in_place = _details(at, old, new, IN_PLACE)
        self.of_process = _details(at, old, new, OF_PROCESS) + _new_transmitters(name, before, after)
        self.live: dict[str, tuple[Detail, ...]] = {}
        for routine in (routine for routine in new.routines if routine in before.routines):
            hard, soft = _of_routine(routine, before.routines[routine], after.routines[routine], is_settable)
            self.of_process += hard
            if soft:
                self.live[routine] = soft
        lighter = tuple(detail for details in self.live.values() for detail in details) + self.in_place
        if self.of_process:
            self.of_process += lighter
        self.details = self.members + (self.of_process or lighter)


def _new_transmitters(flow: str, before: Shape, after: Shape) -> tuple[Detail, ...]:
    """The transmitters that the process of a flow does not know yet: those of wires to it and from it."""
    ends = set(after.flows[flow].routines)
    details: tuple[Detail, ...] = ()
    for pair, wire in after.wires.items():
        earlier = before.wires.get(pair)
        own = None if earlier is None else earlier.data_transmitter
        if ends.intersection(pair) and wire.data_transmitter is not None and not same(own, wire.data_transmitter):
            details += (Detail(("wires", _named(pair), "data_transmitter"), own, wire.data_transmitter),)
    return details


def _of_routine(
    name: str, old: RoutineSettings, new: RoutineSettings, is_settable: Callable[[str, str], bool]
) -> tuple[tuple[Detail, ...], tuple[Detail, ...]]:
    """What takes a new process, and what does not."""
    at: Where = ("routines", name)
    hard = tuple(replace(each, where=(*at, "class")) for each in _details(at, old, new, ("cls",)))
    hard += _details(at, old, new, ("max_errors",))
    soft = _details(at, old, new, ("fps", "hang_timeout"))
    for parameter in dict.fromkeys((*old.parameters, *new.parameters)):
        pair = old.parameters.get(parameter, _NOT), new.parameters.get(parameter, _NOT)
        if not same(*pair):
            detail = Detail((*at, "parameters", parameter), *pair)
            if not hard and is_settable(name, parameter):
                soft += (detail,)
            else:
                hard += (detail,)
    return hard, soft


class _NotGiven:
    def __repr__(self) -> str:
        return "(not given)"


_NOT = _NotGiven()


def _details(at: Where, old: Section, new: Section, names: tuple[str, ...]) -> tuple[Detail, ...]:
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in names)
    return tuple(Detail((*at, name), one, other) for name, one, other in pairs if not same(one, other))


def fixed(before: Shape, after: Shape) -> tuple[Detail, ...]:
    """What differs, and can't be changed while the pipe runs."""
    refused: tuple[Detail, ...] = ()
    for name in FIXED:
        old, new = before.fixed[name], after.fixed[name]
        if old is None or new is None:
            if old is not new:
                refused += (Detail((name,), old, new),)
            continue
        refused += _details((name,), old, new, tuple(type(old).model_fields))
    return refused


def _named(pair: Pair) -> str:
    return f"{pair[0]} -> {pair[1]}"


def _listed(details: tuple[Detail, ...]) -> str:
    return "; ".join(map(str, details))


def _said(value: Any) -> str:
    if isinstance(value, Section):
        value = value.model_dump(by_alias=True, exclude_defaults=True)
    return "none" if value is None else shown(value)
