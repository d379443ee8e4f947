"""Changes a detector's setting while it runs, from the program itself and over HTTP, as another program would.

python examples/custom_events.py --port 8080
curl -H 'Content-Type: application/json' -d '{"extra_args": {"pixels": 5000}}' http://127.0.0.1:8080/routines/detector/events/SET_MIN_AREA/execute
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request

import numpy as np

from pipert_shm import (
    APIWrapper,
    DestinationRoutine,
    DetectedFrame,
    FrameData,
    MotionDetector,
    Pipe,
    PipertError,
    VideoSource,
    Wire,
    events,
)
from pipert_shm.video import default_clip

LOOKED_AT = 20  # frames for each setting


class AdjustableDetector(MotionDetector):
    """A detector whose threshold an event sets. The new value applies from the next frame on."""

    min_area = 0

    @events("SET_MIN_AREA")
    def set_min_area(self, pixels: int) -> None:
        self.logger.info("things of less than %d pixels do not count", pixels)
        self.min_area = pixels

    def main_logic(self, data: np.ndarray | FrameData) -> DetectedFrame:
        detected = super().main_logic(data)
        boxes = detected.detections.boxes
        detected.detections.boxes = boxes[areas_of(boxes) >= self.min_area]
        detected.additional_data["min_area"] = self.min_area
        return detected


def areas_of(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


class Nobody(DestinationRoutine):
    """Takes the place of a routine that uses the detections."""

    def main_logic(self, data: DetectedFrame) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--port", default=8080, type=int, help="of the HTTP control (default: %(default)s)")
    chosen = parser.parse_args()

    camera, detector, nobody = (
        VideoSource(chosen.video or default_clip(), "camera"),
        AdjustableDetector("detector"),
        Nobody("nobody"),
    )
    camera.set_const_fps(50)
    pipe = Pipe()
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("detect", True, detector, nobody)
    pipe.link(Wire(camera, detector))
    pipe.build()

    APIWrapper("127.0.0.1", chosen.port, pipe).run()  # serves in the background
    use(pipe, detector, f"http://127.0.0.1:{chosen.port}")
    pipe.join()  # until /kill


def use(pipe: Pipe, detector: AdjustableDetector, address: str) -> None:
    """Does what an operator does: looks at the detector's output, and sets its threshold."""
    with pipe.tap(detector) as outputs:
        pipe.notify_event("start")

        def look(min_area: int, how: str) -> None:
            """Waits until the setting applies, and prints what is found with it."""
            areas: list[float] = []
            for _ in range(LOOKED_AT):
                while (output := next(outputs)).additional_data["min_area"] != min_area:
                    continue
                areas += areas_of(output.detections.boxes).tolist()
            smallest = f", the smallest of {min(areas):.0f} pixels" if areas else ""
            print(f"at least {min_area} pixels ({how}): {len(areas)} things in {LOOKED_AT} frames{smallest}")

        try:
            look(0, "at first")
            pipe.notify_event("SET_MIN_AREA", {"detect": ["detector"]}, pixels=2000)
            look(2000, "by code")
            post(f"{address}/routines/detector/events/SET_MIN_AREA/execute", {"extra_args": {"pixels": 1_000_000}})
            look(1_000_000, "by HTTP")
        except StopIteration:
            print(f"the video has ended before that: it takes at least {3 * LOOKED_AT} frames")
    post(f"{address}/kill", {})


def post(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
