"""Measures on this machine what a hand-over and a pipeline cost, beside what one would use instead."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipert_shm.extras import to_install

from . import costs, sections
from .figures import Figure, Section, Settings, figures_table
from .hand_over import WAYS, table
from .machine import describe

SECTIONS: dict[str, Callable[[Settings], Section]] = {
    "hand-over": sections.hand_over,
    "within-a-flow": sections.within_a_flow,
    "throughput": sections.throughput,
    "pipelines": sections.pipelines,
    "fan-out": sections.fan_out,
    "payloads": sections.payloads,
    "scaling": costs.scaling,
    "start": costs.start,
    "idle": costs.idle,
    "sibling": costs.sibling,
}
CAMERA_PARTS = ("pipelines", "decoders", "scaling", "idle", "ages", "stalls", "capacity")


def _cameras(*parts: str) -> Callable[[Settings], Section]:
    """Reading cameras needs packages that the rest does not, so it is imported when it is asked for."""

    def measure(settings: Settings) -> Section:
        from .cameras import cameras

        return cameras(settings, *parts)

    return measure


HOSTS_PARTS = ("raw", "jpeg", "cut", "films")


def _hosts(*parts: str) -> Callable[[Settings], Section]:
    """Likewise for two hosts."""

    def measure(settings: Settings) -> Section:
        from .hosts import hosts

        return hosts(settings, *parts)

    return measure


def _tracing(settings: Settings) -> Section:
    """Likewise for a trace."""
    from .tracing import tracing

    return tracing(settings)


def _footage(settings: Settings) -> Section:
    """Likewise for recording."""
    from .footage import footage

    return footage(settings)


ON_REQUEST: dict[str, Callable[[Settings], Section]] = {
    "tracing": _tracing,
    "footage": _footage,
    "cameras": _cameras(),
    **{f"cameras-{part}": _cameras(part) for part in CAMERA_PARTS},
    "hosts": _hosts(),
    **{f"hosts-{part}": _hosts(part) for part in HOSTS_PARTS},
}
"""Sections that run only when they are named."""

NEEDED = {
    "cameras": ("av", "aio_rtsp_toolkit"),
    "footage": ("av", "aio_rtsp_toolkit"),
    "hosts": ("av", "zenoh"),
    "tracing": ("perfetto",),
}
"""Packages that these take."""

QUICK = Settings(rounds=3, seconds=0.5, full=False)


def run(settings: Settings, names: Sequence[str]) -> dict[str, Section]:
    """Runs sections, and prints each as it is done."""
    done = {}
    for name in names:
        begun = time.monotonic()
        section = done[name] = (SECTIONS | ON_REQUEST)[name](settings)
        section.rows["load"] = os.getloadavg()[0]
        took = f"{time.monotonic() - begun:.0f} s; load of the machine {section.rows['load']:.1f}"
        print(f"\n{section.title} ({name}, {settings.rounds} rounds, {took})\n")
        for line in (*(table(section.results) if section.results else ()), *section.lines):
            print(f"  {line}", flush=True)
    return done


def not_installed() -> list[str]:
    """A line for each extra of which something is not installed."""
    absent: dict[str, list[str]] = {}
    for way in WAYS.values():
        if not way.is_installed and way.module not in absent.setdefault(way.extra, []):
            absent[way.extra].append(way.module)
    return [
        f"not measured, since not installed: {', '.join(modules)}: {to_install(extra)}" for extra, modules in absent.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pipert-shm bench", description=__doc__)
    named = ", ".join(SECTIONS | ON_REQUEST)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"measure only these: {named}")
    parser.add_argument("--quick", action="store_true", help="a first look in two minutes: one size, three rounds, fewer ways")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw plots there")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.sections if name not in SECTIONS | ON_REQUEST]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; there are: {named}")
    for subject, needed in NEEDED.items():
        wanted = any(name.startswith(subject) for name in arguments.sections)
        if wanted and (absent := [package for package in needed if find_spec(package) is None]):
            parser.error(f"{' and '.join(absent)} not installed, which {subject} need: {to_install('bench')}")
    if arguments.plot and find_spec("matplotlib") is None:
        parser.error(f"--plot needs matplotlib: {to_install('bench')}")
    for line in not_installed():
        print(line, file=sys.stderr)
    machine = describe()
    for what, value in machine.items():
        print(f"{what}: {value}")
    done = run(QUICK if arguments.quick else Settings(), arguments.sections or list(SECTIONS))
    figures: list[Figure] = [figure for section in done.values() for figure in section.figures]
    print("\nFigures\n")
    for line in figures_table(figures):
        print(f"  {line}")
    report = {
        "machine": machine,
        "quick": arguments.quick,
        "figures": [figure.as_json() for figure in figures],
        "sections": {name: section.as_json() for name, section in done.items()},
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report) + "\n")
    if arguments.plot:
        from .plots import draw

        draw(report, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
