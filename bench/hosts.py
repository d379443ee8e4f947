"""What a frame costs from one host to another, beside what one would use instead: the section `hosts` of a run."""

from __future__ import annotations

import importlib.util
import mmap
import operator
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from .camera_clips import SMALLER, _pictures
from .figures import Figure, Section, Settings
from .hand_over import Result, Way, measure, p50_us, ratios, table
from .hosts_net import Loopback, Trouble, TwoHosts, why_not
from .hosts_ray import by_ray
from .hosts_ways import HostLoad, Tcp, Zenoh, ZenohDrop, Zmq, peer, this
from .processes import fork
from .sheet import SIZES, Sheet

THIS, TCP, ZMQ, DROP, BARE, RAY = (
    "pipert_shm",
    "socket, credit",
    "pyzmq, credit",
    "zenoh, its DROP policy",
    "zenoh, bare put and get",
    "ray, an actor, credit",
)
HD = SIZES["1080p"]
SMALL = (720, 1280, 3)
PICTURES = 30
CPU_US = operator.attrgetter("cpu_both_us")
SLOW = Trouble(delay_ms=20, loss_percent=1)
SLOW_WINDOW = 8  # of peers: the rate times the round trip, and what a lost packet takes
LEAST_CUT_S = 3.0


def _ways(net: Loopback, **settings: object) -> dict[str, Way]:
    return {
        THIS: Way(this(net, **settings), "zenoh", extra="hosts"),
        TCP: Way(peer(net, Tcp)),
        ZMQ: Way(peer(net, Zmq), "zmq"),
        DROP: Way(peer(net, ZenohDrop), "zenoh"),
        BARE: Way(peer(net, Zenoh), "zenoh"),
    }


def raw(settings: Settings, section: Section) -> None:
    """1080p as it is, on a link that carries it."""
    with _two_hosts() as net:
        load = HostLoad("1080p", 30, 4 * settings.seconds)
        ways = _ways(net) | {RAY: Way(partial(by_ray, net), "ray", extra="bench-ray", most_rounds=1)}
        results = measure(ways, load, settings.rounds)
    _keep(section, "1080p raw, 30 fps", results)
    missing = [float(sheet.sent - sheet.received()) for sheet in results[THIS].sheets]
    section.figures += [
        Figure.of("hosts, 1080p raw, 30 fps: frames not received", missing, 0, unit="frames"),
        Figure.of(f"hosts, 1080p raw, CPU per frame: this / {BARE}", _ratios(results, BARE, CPU_US), 1.3),
        Figure.of(f"hosts, 1080p raw, p50: this / {TCP}", _ratios(results, TCP, p50_us), 1.2),
    ]


def jpeg(settings: Settings, section: Section) -> None:
    """720p as JPEG on a slow link that loses packets."""
    with TwoHosts(SLOW) as net:
        load = HostLoad("720p", 30, 6 * settings.seconds, shapes=(SMALL,), jpeg=True, window=SLOW_WINDOW, pictures=pictures())
        results = measure(_ways(net, codec="jpeg"), load, settings.rounds)
    _keep(section, "720p as JPEG, 30 fps, 20 ms each way, 1 % loss", results)
    rates = [load.fps * sheet.received() / sheet.sent for sheet in results[THIS].sheets]
    section.figures.append(Figure.of("hosts, 720p JPEG, 20 ms and 1 % loss: frames/s", rates, 25, at_least=True, unit="fps"))


def cut(settings: Settings, section: Section) -> None:
    """How long after a link is there again does a frame come?"""
    seconds = max(LEAST_CUT_S, 5 * settings.seconds)
    found: dict[str, list[float]] = {}
    with TwoHosts() as net:
        ways = _ways(net)
        for _ in range(settings.rounds):
            for name, way in ways.items():
                if way.is_installed:
                    found.setdefault(name, []).append(_recovery(net, way, seconds))
    section.rows["recovery_s"] = found
    section.lines += [f"Link cut for {seconds:g} s, VGA raw at 30 fps; seconds from its return to the first frame:", ""]
    section.lines += [f"- {name}: {', '.join(f'{each:.2f}' for each in rounds)}" for name, rounds in found.items()] + [""]
    name = f"hosts, a cut of {seconds:g} s: until the first frame"
    section.figures.append(Figure.of(name, found.get(THIS, []), 1.0, unit="s"))


def _recovery(net: TwoHosts, way: Way, seconds: float) -> float:
    """Not a number where none comes within 6 s."""
    sheet = Sheet(HostLoad("VGA", 30, 2 + seconds + 6))
    joined = np.frombuffer(mmap.mmap(-1, 8), np.int64)

    def trouble() -> None:
        while sheet.received() < 30:
            time.sleep(0.01)
        net.cut()
        time.sleep(seconds)
        net.join()
        joined[0] = time.monotonic_ns()
        while not len(_after(sheet, int(joined[0]))) and not sheet.words[Sheet.OVER]:
            time.sleep(0.01)
        sheet.set(Sheet.OVER)

    way.run(sheet, trouble)  # type: ignore[call-arg]
    after = _after(sheet, int(joined[0]))
    return float(after.min() - joined[0]) / 1e9 if len(after) else float("nan")


def _after(sheet: Sheet, when: int) -> np.ndarray:
    """When frames came that were sent and received after a time."""
    sent, came = sheet.times()
    chosen: np.ndarray = came[(sent > when) & (came > when)]
    return chosen


def films(settings: Settings, section: Section) -> None:
    """Bits on the wire, and processor time, of 720p by each codec."""
    load = HostLoad("720p", 30, 4 * settings.seconds, shapes=(SMALL,), pictures=pictures())
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    with TwoHosts() as net:
        for _ in range(settings.rounds):
            for codec in ("jpeg", "h264", "h265", "auto") if settings.full else ("h264",):
                sheet, before = Sheet(load), net.sent_bytes(0)
                this(net, codec=codec)(sheet)
                took = (sheet.times()[0].max() - sheet.times()[0][0]) / 1e9
                rates.setdefault(codec, []).append(8e-6 * (net.sent_bytes(0) - before) / took)
                costs.setdefault(codec, []).append(sheet.cpu_both_us / 1000)
    section.rows["films"] = {"mbit_s": rates, "cpu_ms": costs}
    section.lines += ["720p, 30 fps, of a clip: Mbit/s on the wire, and CPU of both ends a frame:", ""]
    section.lines += [f"- {codec}: {np.median(rates[codec]):.2f} Mbit/s, {np.median(costs[codec]):.1f} ms" for codec in rates]
    section.lines.append("")
    section.figures.append(Figure.of("hosts, 720p, 30 fps, H.264 on the wire", rates["h264"], 4.0, unit="Mbit/s"))


def pictures() -> np.ndarray:
    """720p of a clip, BGR. They are made in a process of their own, since OpenCV's threads would be missing in a fork."""
    memory = mmap.mmap(-1, PICTURES * int(np.prod(SMALL)))
    room = np.frombuffer(memory, np.uint8).reshape(PICTURES, *SMALL)

    def fill() -> None:
        for place, picture in zip(range(PICTURES), _pictures(SMALLER), strict=False):
            room[place] = cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_I420)

    process = fork.Process(target=fill)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the pictures of the clip can't be made: see above")
    return room


def _two_hosts() -> Loopback:
    return Loopback() if why_not() else TwoHosts()


def _keep(section: Section, title: str, results: dict[str, Result]) -> None:
    section.lines += [f"{title}:", "", *table(list(results.values())), ""]
    section.rows[title] = [result.as_json() for result in results.values()]


def _ratios(results: dict[str, Result], to: str, figure: Callable[[Sheet], float]) -> list[float]:
    return ratios(results[THIS], results[to], figure)


PARTS: dict[str, Callable[[Settings, Section], None]] = {"raw": raw, "jpeg": jpeg, "cut": cut, "films": films}
ON_LOOPBACK = ("raw",)


def hosts(settings: Settings, *parts: str) -> Section:
    """Measures some parts; by default all."""
    section = Section("From one host to another")
    if importlib.util.find_spec("zenoh") is None:
        section.lines.append("not measured: zenoh is not installed")
        return section
    reason = why_not()
    if reason:
        section.lines.append(f"On the loopback interface of one host, and without slow links and cuts: {reason}")
    for part in parts or PARTS:
        if reason and part not in ON_LOOPBACK:
            continue
        print(f"hosts: {part}", file=sys.stderr, flush=True)
        try:
            PARTS[part](settings, section)
        except Exception as error:  # the other parts took minutes, and are not to be lost
            traceback.print_exc()
            section.lines.append(f"{part}: failed: {error}")
    return section
