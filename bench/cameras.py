"""What a camera costs, and how old its frames are, beside what one would use instead: the section `cameras` of a run.

RTSP, motion at 320x180 in each frame, every sixth frame to a detector that takes 10 ms, and a line of JSON for each of these.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import get_args

from pipert_shm.video.opening import Backend

from . import camera_age as age
from . import camera_peers as peers
from . import camera_readers as readers
from .camera_clips import FPS, HD, HD_265, HD_B, SMALLER, Clip
from .camera_pipes import sink, whole
from .camera_rounds import Costs, Running, Studio, Way, cheapest, measure, ratios, table
from .figures import Figure, Section, Settings

THIS = "pipert_shm"
FRIGATE, GSTREAMER = "Frigate's way", "GStreamer appsink"
THREADS, THREADS_PYAV = "threads, cv2.VideoCapture", "threads, PyAV's luma"
PYAV = "PyAV's planes alone"
THIS_UNFILTERED, PYAV_UNFILTERED = (f"{way}, skip_loop_filter" for way in (THIS, THREADS_PYAV))

HALF = (640, 360)


def rounds_of(settings: Settings) -> int:
    return settings.rounds // 2 + 1  # each takes seconds


def seconds_of(settings: Settings) -> float:
    return 4 * settings.seconds  # 2 s are from one key frame to the next


def _no_gstreamer() -> str:
    return readers.missing(readers.by_gstreamer)


def _whole_ways() -> dict[str, Way]:
    return {
        THIS: Way(whole),
        THREADS_PYAV: Way(partial(peers.by_threads, readers.by_pyav)),
        THREADS: Way(partial(peers.by_threads, readers.by_cv2)),
        GSTREAMER: Way(partial(peers.by_threads, readers.by_gstreamer), _no_gstreamer()),
        FRIGATE: Way(peers.by_frigate, readers.missing(readers.by_ffmpeg)),
    }


def _unfiltered_ways() -> dict[str, Way]:
    return {
        THIS_UNFILTERED: Way(partial(whole, skip_loop_filter="all")),
        PYAV_UNFILTERED: Way(partial(peers.by_threads, readers.by_pyav_unfiltered)),
    }


def pipelines(studio: Studio, settings: Settings, section: Section) -> None:
    """The whole task, with one camera and with six, at 720p and at 1080p."""
    ways = _whole_ways()
    for clip, cameras in [(clip, cameras) for clip in (HD, SMALLER) for cameras in (1, 6)] if settings.full else [(HD, 1)]:
        tried = ways | _unfiltered_ways() if clip is HD and cameras == 1 and settings.full else dict(ways)
        if clip is SMALLER:
            del tried[THREADS]  # it is the dearest already where it is measured
        results = measure(studio, tried, clip, rounds_of(settings), seconds_of(settings), cameras)
        what = f"{cameras} camera{'s' if cameras > 1 else ''}, {clip.height}p"
        _keep(section, f"Whole pipeline, {what}", list(results.values()))
        this = results.pop(THIS)
        unfiltered, pyav_unfiltered = results.pop(THIS_UNFILTERED, None), results.pop(PYAV_UNFILTERED, None)
        best = cheapest(list(results.values()))
        name = f"whole pipeline, {what}, CPU per frame: this / "
        section.figures += [
            Figure.of(f"{name}cheapest peer", [] if best is None else ratios(this, best), 0.9, said=_said(this, best)),
            Figure.of(f"{name}{FRIGATE}", ratios(this, results[FRIGATE]), 0.7, said=_said(this, results[FRIGATE])),
        ]
        if unfiltered is not None and pyav_unfiltered is not None:
            name = f"the same with skip_loop_filter='all', {what}: this / "
            section.figures += [
                Figure.of(f"{name}cheapest peer as it is", [] if best is None else ratios(unfiltered, best)),
                Figure.of(f"{name}PyAV's luma likewise", ratios(unfiltered, pyav_unfiltered)),
            ]


def _said(this: Costs, peer: Costs | None) -> str:
    """The peer, and who did only a part of the work, so that the costs don't compare."""
    if peer is None:
        return "no peer saw all frames"
    lost = [each.name for each in (this, peer) if each.rounds and not each.is_whole]
    return f"{peer.name}; frames lost by {' and '.join(lost)}" if lost else peer.name


def _keep(section: Section, title: str, results: list[Costs]) -> None:
    section.rows[title] = [result.as_json() for result in results]
    section.lines += [f"{title}:", "", *table(results), ""]


def decoders(studio: Studio, settings: Settings, section: Section) -> None:
    """A camera whose frames nobody looks at: what reading, decoding and handing over take."""
    ways = {PYAV: Way(partial(peers.sink_of, readers.by_pyav)), THIS: Way(sink)}
    bgr = {f"{THIS}, BGR": Way(partial(sink, format="bgr"))}
    for clip in (HD, HD_B, HD_265) if settings.full else (HD,):
        tried = ways | bgr if clip is HD and settings.full else ways
        results = measure(studio, tried, clip, rounds_of(settings), seconds_of(settings))
        _keep(section, f"To a sink, {clip.name}", list(results.values()))
        section.figures.append(
            Figure.of(f"{clip.name} to a sink, I420, CPU per frame: this / {PYAV}", ratios(results[THIS], results[PYAV]), 1.2)
        )


def scaling(studio: Studio, settings: Settings, section: Section) -> None:
    """Frames that are scaled at full rate, in one step and in two."""
    before, bgr = "convert to BGR, then scale", f"{THIS}, BGR"
    ways = {
        before: Way(partial(sink, size=HALF, format="bgr", backend="opencv")),
        THIS: Way(partial(sink, size=HALF)),
        bgr: Way(partial(sink, size=HALF, format="bgr")),
    }
    results = measure(studio, ways, HD, rounds_of(settings), seconds_of(settings))
    _keep(section, "1080p to 640x360, to a sink", list(results.values()))
    name = f"size=(640, 360), 1080p, CPU per frame: this {{}} / {before}"
    section.figures += [
        Figure.of(name.format("in I420"), ratios(results[THIS], results[before]), 0.5),
        Figure.of(name.format("in BGR"), ratios(results[bgr], results[before])),
    ]


def idle(studio: Studio, settings: Settings, section: Section) -> None:
    """A camera of which only the key frames are decoded."""
    full, keys = "all frames", "key frames"
    ways = {full: Way(sink), keys: Way(partial(sink, skip_frame="nokey"))}
    results = measure(studio, ways, HD, rounds_of(settings), seconds_of(settings))
    _keep(section, "Key frames only, 1080p, to a sink", list(results.values()))
    section.figures.append(Figure.of("idle camera, CPU: key frames / all frames", ratios(results[keys], results[full]), 0.12))


def ages(studio: Studio, settings: Settings, section: Section) -> None:
    """From the last packet of a frame to the frame in hand."""
    ways = {THIS: Way(sink), GSTREAMER: Way(partial(peers.sink_of, readers.by_gstreamer), _no_gstreamer())}
    results = age.measure_ages(studio, ways, HD, rounds_of(settings), seconds_of(settings))
    found = age.ratios(results[THIS], results[GSTREAMER])
    section.figures.append(Figure.of(f"age of a frame, 1080p, p50: this / {GSTREAMER}", found, 1.2))
    if settings.full:
        results |= age.measure_ages(studio, _more_readers(), HD, 1, seconds_of(settings))
    section.rows["Age"] = [result.as_json() for result in results.values()]
    section.lines += ["Age of a frame, 1080p:", "", *age.table(list(results.values())), ""]


def _more_readers() -> dict[str, Way]:
    """Of this project, and of others: their ages are told, but are no figure."""
    backends = [backend for backend in get_args(Backend) if backend != "auto"]
    notes = {"gstreamer": _no_gstreamer()}
    return {
        **{f"{THIS}, {name}": Way(partial(sink, backend=name), notes.get(name, "")) for name in backends},
        "PyAV": Way(partial(peers.sink_of, readers.by_pyav)),
        "cv2.VideoCapture": Way(partial(peers.sink_of, readers.by_cv2_default)),
        "cv2.VideoCapture, one thread": Way(partial(peers.sink_of, readers.by_cv2)),
        "ffmpeg through a pipe": Way(partial(peers.sink_of, readers.by_ffmpeg), readers.missing(readers.by_ffmpeg)),
    }


def stalls(studio: Studio, settings: Settings, section: Section) -> None:
    """Frames that come after the camera's flow has been stopped for a second."""
    old: list[float] = []
    for number in range(rounds_of(settings) if settings.full else 1):
        try:
            found = age.stall(studio, HD)
        except RuntimeError as error:
            section.lines.append(f"After a stall: failed in round {number + 1}: {error}\n")
            old.clear()
            break
        old.append(float(found.old))
        section.lines.append(
            f"After a stall: {found.old} of {len(found.ages_ms)} frames were more than two gaps older than the usual "
            f"{found.usual_ms:.0f} ms; the oldest was {max(found.ages_ms):.0f} ms old\n"
        )
    name = "frames more than two gaps old, handed over after a stall of 1 s"
    section.figures.append(Figure(name, max(old) if old else None, 0, unit="", rounds=tuple(old)))


def capacity(studio: Studio, settings: Settings, section: Section) -> None:
    """With how many cameras of 1080p does the machine do the whole task before it loses frames?"""
    if not settings.full:
        return
    ways = _whole_ways()
    found: dict[str, list[float]] = {THIS: [], THREADS: [], THREADS_PYAV: []}
    guess = dict.fromkeys(found, max(1, round(0.8 * (os.cpu_count() or 1) * 1000 / FPS / 8)))
    for _ in range(2):
        for name, most in found.items():
            kept = most_cameras(studio, ways[name], HD, guess[name], seconds_of(settings))
            most.append(float(kept))
            guess[name] = max(1, kept)
    section.rows["Cameras before loss"] = found
    section.lines += ["Cameras of 1080p at 30 fps before frames are lost, of each round:", ""]
    section.lines += [f"- {name}: {', '.join(f'{most:g}' for most in each)}" for name, each in found.items()]
    for peer, limit in (THREADS, 1.3), (THREADS_PYAV, None):
        ratio = [a / b for a, b in zip(found[THIS], found[peer], strict=True) if b]
        section.figures.append(
            Figure.of(f"cameras of 1080p before loss: this / {peer}", ratio, limit, at_least=True, said=_counts(found, peer))
        )


def _counts(found: dict[str, list[float]], peer: str) -> str:
    return f"{max(found[THIS]):g} and {max(found[peer]):g}"


def most_cameras(studio: Studio, way: Way, clip: Clip, guess: int, seconds: float) -> int:
    """The most cameras with which a way loses nothing; 0 if it does so with one.

    :param guess: where to begin.
    """

    def is_kept(cameras: int) -> bool:
        try:
            with Running(way, studio.task(clip, cameras)) as running:
                cost = running.cost(seconds)
        except RuntimeError:  # it does not even come up
            return False
        return cost.is_whole

    if is_kept(guess):
        while is_kept(guess + 1):
            guess += 1
        return guess
    while guess > 1 and not is_kept(guess - 1):
        guess -= 1
    return guess - 1


PARTS: dict[str, Callable[[Studio, Settings, Section], None]] = {
    "pipelines": pipelines,
    "decoders": decoders,
    "scaling": scaling,
    "idle": idle,
    "ages": ages,
    "stalls": stalls,
    "capacity": capacity,
}


def cameras(settings: Settings, *parts: str) -> Section:
    """Measures some parts; by default all."""
    section = Section(f"Cameras, RTSP at {FPS} fps")
    with Studio() as studio:
        for part in parts or PARTS:
            print(f"cameras: {part}", file=sys.stderr, flush=True)
            try:
                PARTS[part](studio, settings, section)
            except Exception as error:  # the other parts took minutes, and are not to be lost
                traceback.print_exc()
                section.lines.append(f"{part}: failed: {error}")
    return section
