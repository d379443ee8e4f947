"""Servers of video streams, real processes: RTSP, HTTP MJPEG, and MPEG-TS over UDP; and videos whose frames have numbers.

Run as a script it is the one for HTTP and UDP: `python streams.py FORMAT URL WIDTH HEIGHT [COUNT]`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

import av
import cv2
import numpy as np

FPS = 25
GREY = 20  # of frame 0
STEPS = 200  # so many numbers there are


def grey(number: int, width: int, height: int) -> np.ndarray:
    """Frame number n of a video, by which it can be told after any codec."""
    return np.full((height, width, 3), GREY + number % STEPS, np.uint8)


def number_of(frame: np.ndarray) -> int:
    """Of a frame, to within one."""
    return round(float(frame.mean())) - GREY


def write_h264(path: Path, width: int, height: int, count: int) -> None:
    """A video that begins anew every 5 frames, so that whoever comes in sees something at once."""
    with av.open(str(path), "w") as container:
        _write(container, width, height, count)


def _write(container: av.container.OutputContainer, width: int, height: int, count: int, live: bool = False) -> None:
    stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size = 5
    began = time.monotonic()
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(grey(number, width, height), format="bgr24")
        frame.pts = number
        container.mux(stream.encode(frame))
        if live:
            time.sleep(max(0.0, began + number / FPS - time.monotonic()))  # as a camera does
    container.mux(stream.encode())


def scale(video: Path, scaled: Path, width: int, height: int) -> None:
    """Writes the same video with smaller pictures."""
    with av.open(str(video)) as source, av.open(str(scaled), "w") as target:
        stream = target.add_stream("libx264", rate=source.streams.video[0].average_rate, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        target.mux(stream.encode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(fields[1].split(":")[1], 16) == port and fields[3] == "0A" for fields in sockets)


class Server:
    """A server process."""

    def __init__(self, url: str, command: list[str]) -> None:
        self.url = url
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL, also to one that is frozen."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It says nothing more, and its connections stay."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


def serve_rtsp(directory: Path, port: int, file: str) -> Server:
    """Serves the videos of a directory, each client from the start of the one it asks for."""
    server = str(Path(sys.executable).parent / "rtsp-server")
    command = [server, "-d", str(directory), "-H", "127.0.0.1", "-p", str(port), "-cp", str(free_port())]
    return Server(f"rtsp://127.0.0.1:{port}/{file}", command)


def serve(kind: str, url: str, width: int, height: int, count: int = 10**6) -> Server:
    """Serves numbered frames: `mpjpeg` over HTTP to each client from the start, or `mpegts` over UDP to whoever listens."""
    return Server(url, [sys.executable, __file__, kind, url, *map(str, (width, height, count))])


def main(kind: str, url: str, width: int, height: int, count: int) -> None:
    if kind == "mpjpeg":
        _serve_mjpeg(urlsplit(url).port or 0, width, height, count)
        return
    with av.open(url, "w", format=kind) as container:
        _write(container, width, height, count, live=True)


def _serve_mjpeg(port: int, width: int, height: int, count: int) -> None:
    """As network cameras do: an answer that has no end, of JPEG images with a line between."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number, began in zip(range(count), repeat(time.monotonic())):
                image = cv2.imencode(".jpg", grey(number, width, height))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
                self.wfile.write(head.encode() + image + b"\r\n")
                time.sleep(max(0.0, began + number / FPS - time.monotonic()))

    ThreadingHTTPServer(("127.0.0.1", port), Camera).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
