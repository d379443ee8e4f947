"""A real RTSP server, that of aio-rtsp-toolkit, in a process of its own: it sends as a camera does, and notes when.

It differs from what the package runs in four points. A clip has no end. All packets of a frame leave at once, where the package
spreads them over the frame's time. Frames have the time stamps at which they are to be shown; the package gives them those of
their turn, which is wrong with B-frames. And it notes when the last packet of each frame left, in memory that others may map.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .camera_clips import BITS, FPS, order_of
from .processes import end_with_parent

STAMPS = 1 << BITS
LONGEST_START_S = 20.0


class Server:
    """Serves the clips of a folder, each client from the start of the one it asks for, again and again.

    :raises RuntimeError: when it does not come up.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        descriptor = os.memfd_create("stamps")
        os.ftruncate(descriptor, 8 * STAMPS)
        self.sent_ns = _mapped(descriptor)
        command = [sys.executable, "-m", f"{__package__}.camera_server", str(folder), str(self._port), str(descriptor)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, pass_fds=[descriptor], cwd=Path(__file__).parent.parent
        )
        os.close(descriptor)
        until = time.monotonic() + LONGEST_START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.close()
                raise RuntimeError("the RTSP server did not come up: pip install 'pipert_shm[bench]' has it")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    def url(self, path: Path) -> str:
        return f"rtsp://127.0.0.1:{self._port}/{path.name}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _mapped(descriptor: int) -> np.ndarray:
    """When the last packet of each frame was sent, by its number (CLOCK_MONOTONIC, ns); 0: not yet."""
    return np.frombuffer(mmap.mmap(descriptor, 8 * STAMPS), np.int64)


def serve(folder: str, port: int, descriptor: int) -> None:
    """Serves until it is killed."""
    import aio_rtsp_toolkit.server as toolkit
    from aio_rtsp_toolkit.server_session import RtspServerSession

    end_with_parent()
    sent_ns = _mapped(descriptor)
    order = cache(order_of)
    by_package = RtspServerSession._send_video_packet

    class Camera(RtspServerSession):  # type: ignore[misc]  # the package has no types
        sent = 0

        async def _stream_media(self) -> None:
            self.play_count = 0  # again and again
            await super()._stream_media()

        async def _send_video_packet(
            self, state: Any, data: bytes, media_time: float, duration_seconds: float, is_keyframe: bool
        ) -> None:
            numbers = order(self.media_source.file_path)
            rounds, place = divmod(self.sent, len(numbers))
            shown_at = (rounds * len(numbers) + numbers[place]) / FPS
            self.number = numbers[place]
            await by_package(self, state, data, shown_at, 0.0, is_keyframe)
            self.sent += 1

        async def _send_paced_rtp_payloads(
            self, state: Any, payloads: list[tuple[bytes, int]], timestamp: int, media_time: float, duration_seconds: float
        ) -> None:
            await self._sleep_until_media_time(state, self.sent / FPS)
            for payload, marker in payloads:
                await self._send_rtp_packet(state, payload, timestamp=timestamp, marker=marker)
            sent_ns[self.number] = time.monotonic_ns()

    toolkit.RtspServerSession = Camera
    asyncio.run(toolkit.serve(folder, "127.0.0.1", port))


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
