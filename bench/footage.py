"""What recording adds to the processor time of a camera: its packets kept for clips, and all of them written to files."""

from __future__ import annotations

import tempfile
from functools import partial

from .camera_clips import FPS, HD
from .camera_pipes import sink
from .camera_rounds import Studio, Way, measure, ratios, table
from .figures import Figure, Section, Settings

PLAIN, KEPT, RECORDED = "not recorded", "kept in memory, for clips", "recorded continuously"


def footage(settings: Settings) -> Section:
    """One camera to a sink, in turns: as it is, with its packets kept, and recorded."""
    section = Section(f"Footage: a camera of 1080p at {FPS} fps by RTSP, to a sink")
    with Studio() as studio, tempfile.TemporaryDirectory() as directory:
        ways = {
            PLAIN: Way(sink),
            KEPT: Way(partial(sink, footage={"directory": directory})),
            RECORDED: Way(partial(sink, footage={"directory": directory, "clips": False, "continuous": {"segment": 2}})),
        }
        rounds, seconds = (2 * settings.rounds, 8.0) if settings.full else (settings.rounds, 2.0)
        results = measure(studio, ways, HD, rounds, seconds)
    section.lines += table(list(results.values()))
    section.rows["footage"] = [result.as_json() for result in results.values()]
    section.figures = [
        Figure.of("camera, CPU per frame: recorded continuously / not", ratios(results[RECORDED], results[PLAIN]), 1.05),
        Figure.of("camera, CPU per frame: packets kept for clips / not", ratios(results[KEPT], results[PLAIN]), 1.05),
    ]
    return section
