"""A campaign by hand: a camera that records continuously, and clips all the time, is killed again and again at random.

    python tests/footage_campaign.py [KILLS]

After each kill the next process makes whole what is left. In the end each file must open, begin with a key frame, be decoded to
its last packet, and have nothing doubled or out of order; and no `.part` may be left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import av

from pipert_shm.video.footage.shelf import segments
from rtp_pieces import encode, number_in
from rtsp_server import RtspServer

COUNT, GOP = 150, 15

CAMERA = """
import sys, time
from pipert_shm import VideoSource

source = VideoSource(sys.argv[1], "gate", size=(64, 48), fps=5, footage={
    "directory": sys.argv[2], "clips": {"before": 0.5, "after": 0.5}, "continuous": {"segment": 1}})
source.setup()
print("runs", flush=True)
number = 0
while True:
    number += 1
    source.record_clip({"id": f"{sys.argv[3]}-{number}"})
    time.sleep(0.3)
"""


def looked_at(path: Path) -> int:
    """How many pictures it has.

    :raises AssertionError: when something is wrong with it.
    """
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        numbers = [number_in(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    assert packets[0].is_keyframe, "no key frame first"
    assert len(numbers) == len(packets), f"{len(packets)} packets, {len(numbers)} pictures"
    steps = [(b - a) % COUNT for a, b in pairwise(numbers)]
    assert all(0 < step <= 3 for step in steps), f"steps {sorted(set(steps))}"
    return len(numbers)


def main(kills: int) -> None:
    chance, begun = random.Random(7), time.time()
    packets = [
        packet._replace(pts=packet.pts + 900_000) for packet in encode("libx264", COUNT, "bframes=2:scenecut=0", gop=GOP)
    ]
    with tempfile.TemporaryDirectory(prefix="footage") as directory, RtspServer("libx264", packets) as server:
        for turn in range(kills + 1):
            command = [sys.executable, "-c", CAMERA, server.url, directory, str(turn)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as camera:
                assert camera.stdout is not None
                camera.stdout.readline()
                time.sleep(chance.uniform(0.2, 6.0) if turn < kills else 5.0)
                os.kill(camera.pid, signal.SIGKILL)
        folder = Path(directory, "gate")
        left = len(list(folder.rglob("*.part")))
        from pipert_shm import VideoSource

        last = VideoSource(server.url, "gate", footage={"directory": directory})  # makes whole what the last one left
        last.setup()
        until = time.monotonic() + 30
        while list(folder.rglob("*.part")) and time.monotonic() < until:
            time.sleep(0.1)
        last.cleanup()
        clips, recorded = sorted(folder.glob("clips/*/*.mp4")), list(segments(folder))
        wrong, pictures = [], 0
        for path in (*clips, *(segment.path for segment in recorded)):
            try:
                pictures += looked_at(path)
            except (AssertionError, av.error.FFmpegError) as error:
                wrong.append(f"{path}: {error}")
        told = [json.loads(path.read_text()) for path in folder.glob("clips/*/*.json")]
        described = {each["file"] for clip in told for each in clip["files"]}
        strangers = [path.name for path in clips if path.name not in described]
        print(
            f"{kills} kills in {time.time() - begun:.0f} s: {len(clips)} clips ({sum(clip['is_cut'] for clip in told)} cut), "
            f"{len(recorded)} files of {sum(segment.seconds for segment in recorded):.0f} s, {pictures} pictures; "
            f"{left} leftovers before the last start, {len(list(folder.rglob('*.part')))} after; "
            f"{len(strangers)} clips without a description; wrong: {wrong or 'nothing'}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
