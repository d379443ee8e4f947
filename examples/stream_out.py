"""Streams a video with boxes around what moves: to an RTSP or WHIP server, or as HLS for any web server to serve.

python examples/stream_out.py                                          HLS, in out/hls
python examples/stream_out.py --to rtsp://media.example:8554/yard      to MediaMTX or go2rtc, say
python examples/stream_out.py --to https://media.example/yard/whip     by WHIP
"""

from __future__ import annotations

import argparse
import sys

from pipert_shm import Annotator, HlsWriter, MotionDetector, Pipe, PipertError, RtspPush, VideoSource, WhipPush, Wire
from pipert_shm.video import default_clip


def push_to(where: str) -> RtspPush | WhipPush | HlsWriter:
    if where.startswith("rtsp"):
        return RtspPush(where, "push", width=1280)
    if where.startswith("http"):
        return WhipPush(where, "push", width=1280)
    return HlsWriter(where, "push", width=1280)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--to", default="out/hls", help="rtsp://…, https://… or a directory (default: %(default)s)")
    chosen = parser.parse_args()

    camera = VideoSource(chosen.video or default_clip(), "camera", realtime=True)  # a file plays as fast as it was filmed
    detector, annotator, push = MotionDetector("detector"), Annotator(name="annotator"), push_to(chosen.to)
    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, detector, annotator)
        pipe.create_flow("output", False, push)
        pipe.link(Wire(camera, detector), Wire(annotator, push))
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end

    counts = pipe.statistics().routines["push"].counters
    print(f"sent {counts['sent']} frames to {chosen.to}; {counts['skipped']} skipped, {counts['lost']} lost")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
