"""Finds what moves, and writes a video with boxes and the rows of a database, in three processes. No frame is lost or copied.

python examples/motion.py
python examples/motion.py --video walk.mp4 --out walk
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from pipert_shm import Annotator, MotionDetector, Pipe, PipertError, SqliteWriter, VideoInfo, VideoSource, VideoWriter, Wire
from pipert_shm.video import default_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the results (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or default_clip()
    info = VideoInfo.of(source)
    database = chosen.out / "motion.sqlite"
    database.unlink(missing_ok=True)  # the writer would add to it

    camera = VideoSource(source, "camera")
    camera.declare_output(info.shape)
    detector, annotator = MotionDetector("detector"), Annotator(name="annotator")
    video, rows = VideoWriter(chosen.out / "motion.mp4", info.fps or 25, "video"), SqliteWriter(database, "rows")

    with Pipe(policy="block") as pipe:  # for a real camera take the default, drop_oldest, which never waits
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("output", False, annotator, video, rows)
        pipe.link(Wire(camera, detector), Wire(detector, (annotator, rows)), Wire(annotator, video))
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end

    statistics = pipe.statistics()
    connection = sqlite3.connect(database)
    things, frames = connection.execute("SELECT count(*), count(DISTINCT sequence) FROM detections").fetchone()
    connection.close()
    print(f"{statistics.routines['video'].received} frames, in {frames} of them {things} moving things")
    print(f"copied on the way to the detector: {statistics.routines['camera'].copied_bytes} bytes")
    print(f"wrote {video.path} and {database}")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
