"""The parts of a run that compare ways to hand over frames."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import numpy as np

from pipert_shm import Pipe
from pipert_shm.shm.listing import list_pipe
from pipert_shm.shm.segments import pipe_ids

from .controls import by_futex, by_threads, copies_per_second
from .figures import Figure, Section, Settings
from .hand_over import (
    BASIC,
    CONTROL,
    ICEORYX,
    LOOPS,
    LOOPS_APART,
    PACED,
    RAY,
    RAY_COPY,
    SHARED,
    THIS,
    THIS_APART,
    WAYS,
    Result,
    Way,
    measure,
    p50_us,
    pairs,
    ratios,
)
from .pipert2 import by_pipert2
from .pipes import by_pipe
from .sheet import SIZES, Load, Sheet

PIPERT2 = (BASIC, SHARED)
CPU_US = operator.attrgetter("cpu_both_us")
SLOW_STARTERS = (*PIPERT2, RAY, RAY_COPY)  # four seconds a round and more, whatever is measured


def _chosen(settings: Settings, keep: Callable[[str, Way], bool] = lambda name, way: True) -> dict[str, Way]:
    return {name: way for name, way in WAYS.items() if name not in settings.without and keep(name, way)}


def _sizes(settings: Settings) -> list[str]:
    return list(SIZES) if settings.full else ["1080p"]


def hand_over(settings: Settings) -> Section:
    """How long after a sender set out to hand over a frame does the receiver hold a view of it?"""
    section = Section("Hand-over of a frame that lies ready")
    at: dict[tuple[str, int], dict[str, Result]] = {}

    def run(load: Load, ways: dict[str, Way]) -> None:
        results = measure(ways, load, settings.rounds)
        at[load.size, load.fps] = results
        section.results += results.values()

    for size in _sizes(settings):
        ways = _chosen(settings, lambda name, way, size=size: way.fast or size != "8K")  # type: ignore[misc]
        if size != "1080p" or not settings.full:
            ways = {name: way for name, way in ways.items() if name not in SLOW_STARTERS}
        run(Load(size, 30, 1.2 * settings.seconds), ways)
    for size in ("VGA", "1080p") if settings.full else ("1080p",):
        run(Load(size, 1000, 0.5 * settings.seconds), _chosen(settings, lambda name, way: name not in SLOW_STARTERS))

    sizes = ("VGA", settings.largest)
    mixed = Load("/".join(sizes), 30, 1.2 * settings.seconds, shapes=tuple(SIZES[size] for size in sizes))
    alternating = measure({THIS: WAYS[THIS]}, mixed, settings.rounds)[THIS]
    section.results.append(alternating)
    slow, fast = at["1080p", 30], at["1080p", 1000]
    section.figures = [
        Figure.of("hand-over, 1080p, 1 kHz, p50: this / C loops that call Python", _between(fast, THIS, LOOPS), 1.5),
        Figure.of("hand-over, 1080p, 1 kHz, p50: this / iceoryx2 zero copy", _between(fast, THIS, ICEORYX), 0.4),
        Figure.of("hand-over, 1080p, 1 kHz, CPU: this / iceoryx2 zero copy", _between(fast, THIS, ICEORYX, CPU_US), 0.5),
        Figure.of("hand-over, 1080p, 30 fps, p50: this / C loops that call Python", _between(slow, THIS, LOOPS), 1.15),
        Figure.of("the same, each end on a processor of its own", _between(slow, THIS_APART, LOOPS_APART), 1.15),
        Figure.of("hand-over, 1080p, 30 fps, p50: this / iceoryx2 zero copy", _between(slow, THIS, ICEORYX)),
        Figure.of("hand-over, 1080p, 30 fps, p50: iceoryx2 zero copy / C loops", _between(slow, ICEORYX, LOOPS)),
        Figure.of(f"hand-over, sizes alternate, p50: {settings.largest} / VGA", _by_size(alternating), 1.05),
    ]
    return section


def _between(results: dict[str, Result], of: str, to: str, figure: Callable[[Sheet], float] = p50_us) -> list[float]:
    return ratios(results[of], results[to], figure) if of in results and to in results else []


def _by_size(alternating: Result) -> list[float]:
    """How far the median of the larger size is from that of the smaller one, in each round."""
    found = []
    for sheet in alternating.sheets:
        odd = sheet.numbers() % 2 == 1
        found.append(float(np.median(sheet.latencies_us()[odd]) / np.median(sheet.latencies_us()[~odd])))
    return found


def within_a_flow(settings: Settings) -> Section:
    """Two routines of one flow: threads of one process."""
    section = Section("Within a flow, 1080p, 1 kHz")
    bare = "SimpleQueue between two threads"
    ways = {bare: Way(by_threads, together=True), THIS: Way(partial(by_pipe, together=True), together=True)}
    results = measure(ways, Load("1080p", 1000, 0.5 * settings.seconds), settings.rounds)
    section.results += results.values()
    section.figures = [
        Figure.of("within a flow, 1 kHz, p50: this / a bare queue.SimpleQueue", _between(results, THIS, bare), 1.5)
    ]
    return section


def throughput(settings: Settings) -> Section:
    """How many frames a second, flat out, with queues of the same depth and nothing lost?"""
    section = Section("Flat out, nothing lost: frames per second")
    results: dict[str, dict[str, Result]] = {}
    for size in _sizes(settings):
        ways = _chosen(settings, lambda name, way, size=size: name not in PACED and (way.fast or size != "8K"))  # type: ignore[misc]
        if size != "1080p" or not settings.full:
            kept = (SHARED,) if size in ("1080p", "VGA") else ()
            ways = {name: way for name, way in ways.items() if name not in SLOW_STARTERS or name in kept}
        results[size] = measure(ways, Load(size, 0, 0.6 * settings.seconds), settings.rounds)
        section.results += results[size].values()

    slots = _ring_slots(Load("1080p", 30, 0.1, written=True))
    shares: list[float] = []
    written = Load("1080p", 0, 0.6 * settings.seconds, written=True)
    this = Result(THIS, written)
    for _ in range(settings.rounds):
        sheet = Sheet(written)
        by_pipe(sheet)
        this.sheets.append(sheet)
        shares.append(sheet.rate() / copies_per_second(written, slots))
    section.results.append(this)
    section.lines.append(f"memcpy control: a ring of {slots} slots of 1080p in /dev/shm, as the source's own")
    section.rows["written_to_memcpy"] = shares
    hd = results["1080p"]
    section.figures = [
        Figure.of(
            "flat out, 1080p, ready, frames/s: this / iceoryx2 zero copy", _between(hd, THIS, ICEORYX, Sheet.rate), 2, True
        ),
        Figure.of(
            "flat out, 1080p, frames/s: this / PipeRT 2.4.0 shared memory", _between(hd, THIS, SHARED, Sheet.rate), 20, True
        ),
        Figure.of("flat out, 1080p, every byte written: this / memcpy alone", shares, 0.9, True),
    ]
    return section


def _ring_slots(load: Load) -> int:
    """Of the ring that the library makes for a source of such frames."""
    found: list[int] = []
    before = set(pipe_ids())

    def look(pipe: Pipe) -> None:
        for pipe_id in set(pipe_ids()) - before:
            listing = list_pipe(pipe_id)
            assert listing is not None, "the pipe runs"
            found.extend(
                segment.slots[0] for segment in listing.segments if segment.slots and segment.slots[1] >= load.frame_bytes
            )

    by_pipe(Sheet(load), look=look)
    if len(found) != 1:
        raise RuntimeError(f"looked for the ring of the one pipe that was built, and found {len(found)}")
    return found[0]


def pipelines(settings: Settings) -> Section:
    """Chains of flows: is every frame received, and how old is it at the end?"""
    section = Section("Pipelines, 1080p, 30 fps: from publication to the last flow")
    load = Load("1080p", 30, 1.5 * settings.seconds, skips=False)
    ways = {
        f"{THIS}, {flows} flows": Way(partial(by_pipe, relays=flows - 2)) for flows in ((2, 3, 5) if settings.full else (3,))
    }
    for name in PIPERT2 if settings.full else (SHARED,):
        transmitter = "SharedMemoryTransmitter" if name == SHARED else "BasicTransmitter"
        if name not in settings.without:
            ways[f"{name}, 3 flows"] = Way(partial(by_pipert2, transmitter=transmitter, relays=1), "pipert2")
    results = measure(ways, load, settings.rounds)
    section.results += results.values()
    ours = results[f"{THIS}, 3 flows"]
    missing = sum(sheet.sent - sheet.received() for sheet in ours.sheets)
    section.figures = [
        Figure("three flows, 1080p, 30 fps: frames not received", missing if ours.sheets else None, 0, unit="frames"),
        Figure.of(
            "three flows, 1080p, 30 fps, end to end p50: this / PipeRT 2.4.0 shared memory",
            _between(results, f"{THIS}, 3 flows", f"{SHARED}, 3 flows"),
            1 / 50,
        ),
    ]
    return section


def fan_out(settings: Settings) -> Section:
    """One source, several receivers: what is written, and what it costs the sender."""
    section = Section("Fan-out, 1080p, 1 kHz: the sender's processor time per frame")
    load = Load("1080p", 1000, 0.5 * settings.seconds)
    counts = (1, 2, 4, 8) if settings.full else (1, 8)
    ways: dict[str, Way] = {}
    for count in counts:
        ways[f"{CONTROL}, {count} receivers"] = Way(by_futex, receivers=count)
        ways[f"{THIS}, {count} receivers"] = Way(by_pipe, receivers=count)
    results = measure(ways, load, settings.rounds)
    section.results += results.values()

    def sender_us(name: str) -> float:
        rounds = results[name].of_rounds(lambda sheet: sheet.cpu_us(0))
        return float(np.median(rounds)) if len(rounds) else float("nan")  # the control takes a C compiler

    written = {}
    for count in (1, 8):
        sheet = Sheet(Load("1080p", 30, 0.4 * settings.seconds), count)
        copied = by_pipe(sheet, private=True).routines["camera"].copied_bytes
        written[count] = copied / sheet.sent / sheet.load.frame_bytes
    for count in counts:
        this, bare = sender_us(f"{THIS}, {count} receivers"), sender_us(f"{CONTROL}, {count} receivers")
        section.rows[f"sender_us_{count}"] = {"this": this, "bare wakes": bare}
        section.lines.append(f"{count} receivers: the sender takes {this:.0f} µs a frame, bare wakes {bare:.0f} µs")
    eight, one = section.rows["sender_us_8"], section.rows["sender_us_1"]
    section.figures = [
        Figure(
            "fan-out 8, frames in private memory: times that each byte is written",
            written[8],
            1,
            said=f"to 1: {written[1]:.4g} x",
        ),
        Figure(
            "fan-out 8 against 1: the sender's processor time per frame",
            eight["this"] / one["this"],
            said=f"{eight['this']:.0f} µs against {one['this']:.0f}; "
            f"bare wakes {eight['bare wakes']:.0f} against {one['bare wakes']:.0f} µs",
        ),
    ]
    return section


def payloads(settings: Settings) -> Section:
    """What a payload costs that is more than an array."""
    section = Section("Payloads, 1080p, 1 kHz")
    results: dict[str, Result] = {}
    kinds = ("frame", "dataclass", "dict")
    loads = {kind: Load("1080p", 1000, 0.5 * settings.seconds, payload=kind) for kind in kinds}
    for _ in range(settings.rounds):
        for kind in kinds:
            one = measure({THIS: WAYS[THIS]}, loads[kind], 1)[THIS]
            whole = results.setdefault(kind, Result(f"{THIS}, {kind}", loads[kind]))
            whole.sheets += one.sheets
            whole.note = whole.note or one.note
    section.results += results.values()
    name = "dataclass with a frame and 50 boxes"
    more = [a - b for a, b in pairs(results["dataclass"], results["frame"])]
    section.figures = [
        Figure.of(f"{name} / bare ndarray, 1 kHz, p50", ratios(results["dataclass"], results["frame"]), 3),
        Figure.of(f"{name} over bare ndarray, 1 kHz, p50", more, 25, unit="µs"),
    ]
    return section
