"""Writes a clip of each time that something moves, from before it to after it, without encoding anything anew.

python examples/clips.py
python examples/clips.py --video rtsp://camera/1 --out clips
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pipert_shm import DestinationRoutine, MotionDetector, Pipe, PipertError, VideoSource, Wire
from pipert_shm.video import packaged_clip


class Clips(DestinationRoutine):
    """Asks for a clip when something begins to move, and ends it when nothing has moved for a second."""

    def main_logic(self, data: Any) -> None:
        now = self.meta.capture_time
        if len(data.detections):
            if not hasattr(self, "event"):
                self.event = {"id": f"motion-{self.meta.sequence}", "camera": self.meta.origin, "started": now}
                self.notify_event("record_clip", event={**self.event, "phase": "start", "time": now})
            self.last = now
        elif hasattr(self, "event") and now - self.last > 1:
            self.notify_event("record_clip", event={**self.event, "phase": "end", "time": self.last})
            del self.event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a stream's URL, or a file (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the clips (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or str(packaged_clip())
    footage = {"directory": chosen.out, "clips": {"before": 1, "after": 1, "longest": 60}}
    camera = VideoSource(source, "camera", realtime="://" not in source, footage=footage)
    detector, clips = MotionDetector("detector"), Clips("clips")
    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, detector, clips)
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
