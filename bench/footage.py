"""What recording adds to the processor time of a camera: its packets kept for clips, and all of them written to files."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from .camera_clips import FPS, HD
from .camera_pipes import sink
from .camera_rounds import Studio, Way, measure_together, ratios, table
from .figures import Figure, Section, Settings

PLAIN, KEPT, RECORDED = "not recorded", "kept in memory, for clips", "recorded continuously"


def footage(settings: Settings) -> Section:
    """A camera for each way, to a sink: as it is, recorded, and, in a full run, with its packets kept."""
    section = Section(f"Footage: a camera of 1080p at {FPS} fps by RTSP, to a sink")
    with Studio() as studio, tempfile.TemporaryDirectory() as directory:
        all_of_it = {"directory": Path(directory, "all"), "clips": False, "continuous": {"segment": 2}}
        ways = {PLAIN: Way(sink), RECORDED: Way(partial(sink, footage=all_of_it))}
        if settings.full:
            ways[KEPT] = Way(partial(sink, footage={"directory": Path(directory, "clips")}))
        results = measure_together(studio, ways, HD, settings.rounds, 16 * settings.seconds)
    section.lines += table(list(results.values()))
    section.rows["footage"] = [result.as_json() for result in results.values()]
    section.figures = [
        Figure.of(f"camera, CPU per frame: {name} / {PLAIN}", ratios(result, results[PLAIN]), 1.05)
        for name, result in results.items()
        if name != PLAIN
    ]
    return section
