"""Finds people, tracks them, counts those who cross a line, and writes an H.264 video.

The detector is slow, so it runs in several processes. Their results come out in order. With --one-process the same routines run
in a plain loop, and count the same.

    pip install '.[demo,tracking,pyav]'                            # in the clone
    python examples/people.py --video vtest.avi --line 0.75        # Debian's package opencv-doc has that video
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import cv2

from pipert_shm import (
    Annotator,
    DestinationRoutine,
    DetectedFrame,
    HogPeopleDetector,
    MiddleRoutine,
    Pipe,
    PipertError,
    Tracker,
    VideoInfo,
    VideoSource,
    VideoWriter,
    Wire,
    writable,
)
from pipert_shm.extras import to_install
from pipert_shm.video import open_video, packaged_clip


class LineCounter(MiddleRoutine):
    """Counts the tracks that cross an upright line, for each camera, and draws the line."""

    def __init__(self, info: VideoInfo, where: float) -> None:
        import supervision as sv

        super().__init__("counter")
        x = round(info.width * where)
        made = partial(sv.LineZone, sv.Point(x, info.height), sv.Point(x, 0), triggering_anchors=[sv.Position.CENTER])
        self.lines = self.per_origin(made)  # each camera has counts of its own
        self.drawing = sv.LineZoneAnnotator(text_scale=0.5, custom_in_text="left", custom_out_text="right")

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        line = self.lines[self.meta.origin]
        line.trigger(data.detections.to_supervision())
        counted = data.changed(frame=self.drawing.annotate(writable(data.frame), line))
        counted.additional_data["crossed"] = line.in_count, line.out_count
        return counted


class Report(DestinationRoutine):
    """Prints the counts at the end."""

    def __init__(self) -> None:
        super().__init__("report")
        self.frames, self.people, self.crossed, self.tracks = 0, 0, (0, 0), set[int]()

    def main_logic(self, data: DetectedFrame) -> None:
        self.frames += 1
        self.people += len(data.detections)
        self.crossed = data.additional_data["crossed"]
        self.tracks.update(data.detections.track_ids.tolist() if data.detections.track_ids is not None else ())

    def cleanup(self) -> None:
        tracks, (left, right) = len(self.tracks - {-1}), self.crossed
        print(f"{self.frames} frames, {self.people} finds, {tracks} tracks; crossed to the left: {left}, right: {right}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the video (default: %(default)s)")
    parser.add_argument("--line", default=0.5, type=float, help="where the line is, from 0, left, to 1 (default: %(default)s)")
    parser.add_argument("--detectors", default=2, type=int, help="processes that detect (default: %(default)s)")
    parser.add_argument("--one-process", action="store_true", help="a plain loop, to compare")
    chosen = parser.parse_args()
    try:
        import av  # noqa: F401 - writes the video
        import supervision as sv
        from trackers import ByteTrackTracker
    except ModuleNotFoundError as error:
        parser.error(f"{error}: {to_install('tracking', 'pyav')}")
    source = chosen.video or packaged_clip()
    info = VideoInfo.of(source)

    cv2.setNumThreads(-1 if chosen.one_process or chosen.detectors == 1 else 1)  # the processes share the cores
    camera, detector = VideoSource(source, "camera"), HogPeopleDetector("detector")
    make = partial(ByteTrackTracker, track_activation_threshold=0.3, high_conf_det_threshold=0.3)
    annotator = Annotator(sv.BoxAnnotator(), sv.TraceAnnotator(), sv.LabelAnnotator(), name="annotator")
    steps: list[MiddleRoutine] = [Tracker("tracker", make=make), LineCounter(info, chosen.line), annotator]
    video, report = VideoWriter(chosen.out / "people.mp4", info.fps or 25, "video", codec="h264"), Report()

    if chosen.one_process:
        in_one_process(str(source), [detector, *steps], [video, report])
    else:
        with Pipe(policy="block") as pipe:
            pipe.create_flow("camera", False, camera)
            pipe.create_flow("detect", False, detector, replicas=chosen.detectors, ordered=chosen.detectors > 1)
            pipe.create_flow("output", True, *steps, video)
            pipe.create_flow("report", False, report)
            pipe.link(Wire(camera, detector), Wire(detector, steps[0]), Wire(steps[-1], report))
            pipe.build()
            pipe.notify_event("start")
    print(f"wrote {video.path}")


def in_one_process(source: str, steps: list[MiddleRoutine], ends: list[DestinationRoutine]) -> None:
    for routine in (*steps, *ends):
        routine.setup()
    capture = open_video(source)
    while (data := capture.read()[1]) is not None:
        for step in steps:
            data = step.main_logic(data)
        for end in ends:
            end.main_logic(data)
    for routine in (*steps, *ends):
        routine.cleanup()


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
