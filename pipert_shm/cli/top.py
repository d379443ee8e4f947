"""What the pipes of this machine do right now: `pipert-shm top`.

Read from their shared memory and from /proc, at no cost to the flows; the rates are those between two looks.
"""

from __future__ import annotations

import os
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from select import select
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment as Piece
from rich.segment import Segments as Pieces
from rich.table import Table
from rich.text import Text

from pipert_shm.cli.why import chosen
from pipert_shm.display.pager import Pager
from pipert_shm.errors import UnknownTarget
from pipert_shm.measures import measured
from pipert_shm.shm.listing import Control, Segment, list_pipe
from pipert_shm.shm.segments import free_bytes, pipe_ids
from pipert_shm.statistics import Latency, PipeStatistics, read_statistics

NEVER = PipeStatistics(0.0, {}, {}, {})


@dataclass(frozen=True, slots=True)
class Look:
    """A pipe at one moment.

    Attributes:
        name: what it is called; empty where that is unknown.
        problem: why its numbers can't be read, or nothing.
    """

    pipe_id: str
    state: str
    parent: int | None
    segments: list[Segment]
    name: str = ""
    problem: str = ""
    statistics: PipeStatistics = NEVER


def look(wanted: str | None = None) -> dict[str, Look]:
    """At the pipes that run on this machine; by id.

    :param wanted: the id or the name of a pipe, or a part of one of them; None for all.
    :raises UnknownTarget: when no pipe is called so.
    """
    looks = {}
    for pipe_id in pipe_ids():
        listing = list_pipe(pipe_id)
        if listing is None or listing.state == "stale":
            continue
        common = pipe_id, listing.state, listing.parent, listing.segments, listing.name
        try:
            with Control(pipe_id, stale=False) as control:
                statistics = read_statistics(control.process, control.flows, control.routines)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except (OSError, ValueError, LookupError) as error:
            looks[pipe_id] = Look(*common, problem=str(error))
            continue
        looks[pipe_id] = Look(*common, statistics=statistics)
    return looks if wanted is None else chosen(looks, wanted)


def compare(now: dict[str, Look], before: dict[str, Look]) -> dict[str, Any]:
    """What happened between two looks, as plain values for JSON.

    `*_per_s`, `cpu_percent`, `busy_percent` and latencies are of the time between them, for a pipe that is in both; latencies
    are null where no message came. The other numbers are totals, or the present values.
    """
    return {
        "shared_memory_free_bytes": free_bytes(),
        "pipes": [_compare(pipe, before.get(pipe_id, pipe)) for pipe_id, pipe in now.items()],
    }


def _compare(now: Look, before: Look) -> dict[str, Any]:
    seconds = now.statistics.time_s - before.statistics.time_s
    span = _Span(seconds if seconds > 0 else float("inf"))
    return {
        "pipe_id": now.pipe_id,
        "name": now.name,
        "state": now.state,
        "parent": now.parent,
        "problem": now.problem,
        "seconds": seconds,
        "segments_bytes": sum(segment.size for segment in now.segments),
        "flows": [span.flow(now.statistics, before.statistics, name) for name in now.statistics.flows],
        "routines": [span.routine(now.statistics, before.statistics, name) for name in now.statistics.routines],
        "wires": [span.wire(now.statistics, before.statistics, ends) for ends in now.statistics.wires],
        "rings": [
            {
                "what": segment.what,
                "slots": segment.slots[0],
                "slot_bytes": segment.slots[1],
                "free": segment.free,
                "held": segment.held,
            }
            for segment in now.segments
            if segment.slots
        ],
    }


class _Span:
    """Differences over a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def _rate(self, now: float, before: float) -> float:
        return max(0.0, now - before) / self._seconds

    def _numbers(self, now: object, before: object) -> dict[str, Any]:
        """Every field of a routine's, a wire's or a flow's statistics, and the rates of those that have one."""
        numbers: dict[str, Any] = {}
        statistics: type = type(now)
        for name, _, measure in measured(statistics):
            value, earlier = getattr(now, name), getattr(before, name)
            numbers[name] = _latency(value, earlier) if isinstance(value, Latency) else value
            if measure is not None and measure.rate:
                numbers[f"{name}_per_s"] = self._rate(value, earlier)
        return numbers

    def flow(self, now: PipeStatistics, before: PipeStatistics, name: str) -> dict[str, Any]:
        flow = now.flows[name]
        earlier = before.flows.get(name, flow)
        known = flow.cpu_s is not None and earlier.cpu_s is not None and earlier.pid == flow.pid
        return {
            **self._numbers(flow, earlier),
            "cpu_percent": 100 * self._rate(flow.cpu_s or 0, earlier.cpu_s or 0) if known else None,
        }

    def routine(self, now: PipeStatistics, before: PipeStatistics, name: str) -> dict[str, Any]:
        routine = now.routines[name]
        earlier = before.routines.get(name, routine)
        return {
            **self._numbers(routine, earlier),
            "busy_percent": 100 * self._rate(routine.busy_s, earlier.busy_s),
        }

    def wire(self, now: PipeStatistics, before: PipeStatistics, ends: tuple[str, str]) -> dict[str, Any]:
        wire = now.wires[ends]
        earlier = before.wires.get(ends, wire)
        return {
            **self._numbers(wire, earlier),
            "lost": wire.lost,
            "lost_per_s": self._rate(wire.lost, earlier.lost),
        }


def _latency(now: Latency, before: Latency) -> dict[str, float | None]:
    """Of what came between the two."""
    recent = Latency(tuple(max(0, new - old) for new, old in zip(now.counts, before.counts, strict=True)))
    known = recent.count > 0
    return {"p50_us": recent.p50_us if known else None, "p99_us": recent.p99_us if known else None}


Elsewhere = Callable[..., list[dict[str, Any]]]  # the pipes of other hosts, as `compare` gives them


def report_once(seconds: float, wanted: str | None = None, elsewhere: Elsewhere | None = None) -> dict[str, Any]:
    """What happens within some seconds, here and on other hosts.

    :raises UnknownTarget: when no pipe is called so.
    """
    try:
        before = look(wanted)
    except UnknownTarget:
        if elsewhere is None:
            raise
        before = {}
    time.sleep(seconds)
    report = with_far(compare(look(wanted) if before else {}, before), elsewhere, wait=True)
    if wanted is not None and not report["pipes"]:
        known = [one.name or pipe_id for pipe_id, one in look().items()]
        known += [pipe["name"] for pipe in elsewhere(every=True) if pipe["name"] not in known] if elsewhere else []
        raise UnknownTarget("pipe", wanted, known)
    return report


def with_far(report: dict[str, Any], elsewhere: Elsewhere | None, *, wait: bool = False) -> dict[str, Any]:
    """A report, with the pipes of other hosts. Those of agents of this machine are in it once."""
    if elsewhere is not None:
        known = {pipe["pipe_id"] for pipe in report["pipes"]}
        report["pipes"] += [pipe for pipe in elsewhere(wait=wait) if pipe["pipe_id"] not in known]
    return report


# ---- on a terminal -------------------------------------------------------------------------------


def show_once(report: dict[str, Any], console: Console) -> None:
    """Prints it as tables."""
    console.print(_view(report))


def show_live(interval: float, console: Console, wanted: str | None = None, elsewhere: Elsewhere | None = None) -> None:
    """Shows the pipes, as they are every `interval` seconds, until `q` is pressed. Keys scroll and filter: see `Pager`.

    :param wanted: the pipe to show, as `look` takes it; once it has ended, there is nothing to show.
    :param elsewhere: gives those of other hosts.
    :raises UnknownTarget: when no pipe is called so.
    :raises KeyboardInterrupt: at Ctrl-C.
    """
    pager = Pager()
    before: dict[str, Look] = {}
    with suppress(UnknownTarget) if elsewhere else nullcontext():
        before = look(wanted)
    report, due = with_far(compare(before, {}), elsewhere), time.monotonic() + interval
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while not pager.wants_end:
            live.update(_screen(matching(report, pager.filter), pager, console), refresh=True)
            pager.press(pressed(max(0.0, due - time.monotonic())))
            if time.monotonic() >= due:
                now: dict[str, Look] = {}
                with suppress(UnknownTarget):
                    now = look(wanted)
                report, due = with_far(compare(now, before), elsewhere), time.monotonic() + interval
                before = now


def _rest(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits for a key, for so many seconds, and returns what was pressed."""
    keyboard = sys.stdin.fileno()
    if not os.isatty(keyboard):
        yield _rest
        return
    settings = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield lambda seconds: os.read(keyboard, 64).decode(errors="replace") if select([keyboard], [], [], seconds)[0] else ""
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, settings)


def matching(report: dict[str, Any], text: str) -> dict[str, Any]:
    """The parts of a report whose names contain the text, in any case: whole pipes, else flows, routines, wires and rings."""
    wanted = text.casefold()
    pipes = []
    for pipe in report["pipes"]:
        if wanted in pipe["pipe_id"] or wanted in pipe["name"].casefold():
            pipes.append(pipe)
            continue
        parts = {
            part: [entry for entry in pipe[part] if any(wanted in str(entry[key]).casefold() for key in keys)]
            for part, keys in _NAMES.items()
        }
        if any(parts.values()):
            pipes.append({**pipe, **parts})
    return {**report, "pipes": pipes}


_NAMES = {"flows": ["name"], "routines": ["name", "flow"], "wires": ["sender", "receiver"], "rings": ["what"]}


def _screen(report: dict[str, Any], pager: Pager, console: Console) -> RenderableType:
    """The part of the tables that has room on the terminal, and below it where that is."""
    nothing = Text(f"nothing has {pager.filter!r} in its name") if pager.filter and not report["pipes"] else None
    lines = console.render_lines(nothing or _view(report), pad=False)
    window = pager.window(len(lines), max(1, console.height - 1))
    shown = [segment for line in window for segment in (*lines[line], Piece.line())]
    status = Text(pager.status(window, len(lines)), style="dim", no_wrap=True, overflow="ellipsis")
    return Group(Pieces(shown), *[Text()] * (console.height - 1 - len(window)), status)


def _view(report: dict[str, Any]) -> RenderableType:
    free = f"/dev/shm: {_bytes(report['shared_memory_free_bytes'])} free"
    if not report["pipes"]:
        return Text(f"no pipe runs on this machine; {free}")
    parts: list[RenderableType] = [Text(free)]
    for pipe in report["pipes"]:
        built = "" if pipe["parent"] is None else f", built by process {pipe['parent']}"
        name = f"{pipe['name']} ({pipe['pipe_id']})" if pipe["name"] else pipe["pipe_id"]
        head = f"pipe {name}, {pipe['state']}{built}, {_bytes(pipe['segments_bytes'])}"
        parts.append(Text(f"\n{head}{': ' + pipe['problem'] if pipe['problem'] else ''}", style="bold"))
        if not pipe["problem"]:
            parts += [_flows(pipe), _routines(pipe), _wires(pipe), _rings(pipe)]
    return Group(*parts)


def _table(*columns: str) -> Table:
    """Columns whose name starts with `>` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="reverse", padding=(0, 1, 0, 0))
    for column in columns:
        numbers = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    return table


def _flows(pipe: dict[str, Any]) -> Table:
    has_gpus = any(flow["gpu_bytes"] is not None for flow in pipe["flows"])
    table = _table("flow", ">pid", ">cpu", ">own", ">shared", *([">gpu"] if has_gpus else []), ">restarts", "state")
    for flow in pipe["flows"]:
        reason = f" (last end: {flow['last_reason']})" if flow["last_reason"] not in ("none", "end") else ""
        table.add_row(
            flow["name"],
            str(flow["pid"] or "-"),
            _percent(flow["cpu_percent"]),
            _bytes(flow["private_bytes"]),
            _bytes(flow["shared_bytes"]),
            *([_bytes(flow["gpu_bytes"])] if has_gpus else []),
            _bad(flow["restarts"]),
            f"{flow['state']}{reason}",
        )
    return table


def _counted(counters: dict[str, int]) -> dict[str, int]:
    """The counters that say something to people: not those from which an end of a wire between hosts goes on when restarted."""
    internal = ("stream", "place") if "connected" in counters else ()
    return {name: count for name, count in counters.items() if name not in internal}


def _routines(pipe: dict[str, Any]) -> Table:
    table = _table("routine", "flow", "state", ">in/s", ">out/s", ">busy", ">errors", ">age p50", "counters")
    for routine in pipe["routines"]:
        table.add_row(
            routine["name"],
            routine["flow"],
            routine["state"],
            f"{routine['received_per_s']:.1f}",
            f"{routine['sent_per_s']:.1f}",
            _percent(routine["busy_percent"]),
            _bad(routine["errors"]),
            _ms(routine["age"]["p50_us"]),
            ", ".join(f"{name} {count}" for name, count in _counted(routine["counters"]).items() if count),
        )
    return table


def _wires(pipe: dict[str, Any]) -> Table:
    table = _table("wire", "policy", ">depth", ">msg/s", ">lost/s", ">hop p50", ">hop p99", "lost")
    for wire in pipe["wires"]:
        table.add_row(
            f"{wire['sender']} -> {wire['receiver']}{'' if wire['linked'] else ' (unlinked)'}",
            wire["policy"],
            f"{wire['waiting']}/{wire['capacity']}",
            f"{wire['received_per_s']:.1f}",
            f"{wire['lost_per_s']:.1f}",
            _ms(wire["hop"]["p50_us"]),
            _ms(wire["hop"]["p99_us"]),
            ", ".join(f"{count} {reason}" for reason, count in wire["dropped"].items() if count),
        )
    return table


def _rings(pipe: dict[str, Any]) -> Table:
    table = _table("ring", ">slots", ">of", ">free", "held by")
    for ring in pipe["rings"]:
        held = ", ".join(f"{name} {count}" for name, count in ring["held"].items())
        free = Text(str(ring["free"]), style="" if ring["free"] else "red")
        table.add_row(ring["what"].removeprefix("ring of "), str(ring["slots"]), _bytes(ring["slot_bytes"]), free, held)
    return table


def _bad(count: int) -> Text:
    return Text(str(count), style="red" if count else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def _ms(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1000:.2f} ms"


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
