"""The picture beside a clip."""

from __future__ import annotations

from collections.abc import Sequence

import av

from pipert_shm.video.footage.kept import Kept
from pipert_shm.video.opencv import cv2

WIDTH = 640
"""Pixels that a thumbnail is wide at most."""

MOST_DECODED = 300
"""Packets from the key frame on; if the picture is further away than that, it is the key frame that is shown."""


def thumbnail(packets: Sequence[Kept]) -> bytes | None:
    """A JPEG of the last of these packets; None if they can't be decoded.

    :param packets: from a key frame on, of one run.
    """
    if len(packets) > MOST_DECODED:
        packets = packets[:1]
    decoder = packets[0].run.form.decoder()
    best: av.VideoFrame | None = None
    try:
        for packet in (*packets, None):
            made = None
            if packet is not None:
                made = av.Packet(packet.data)
                made.pts, made.dts = packet.pts, packet.dts
            for frame in decoder.decode(made):
                if best is None or best.pts is None or frame.pts is None or best.pts < frame.pts <= packets[-1].pts:
                    best = frame
    except av.error.FFmpegError:
        if best is None:
            return None
    if best is None:
        return None
    width = min(WIDTH, best.width)
    height = max(1, round(best.height * width / best.width))
    written, jpeg = cv2.imencode(".jpg", best.to_ndarray(format="bgr24", width=width, height=height))
    return jpeg.tobytes() if written else None
