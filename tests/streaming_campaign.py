"""Watchers by WebRTC who come and go: memory, descriptors and threads of the server must stay as they are.

python tests/streaming_campaign.py [WATCHERS [AT_A_TIME]]

The clients are in a process of their own: `python tests/streaming_campaign.py clients PORT WATCHERS AT_A_TIME`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from serving import serving
from stream_ends import WebRtcClient
from test_streaming_api import state_of, until, with_camera


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def watch(port: int, count: int, at_a_time: int) -> None:
    for first in range(0, count, at_a_time):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            clients = [WebRtcClient() for _ in range(at_a_time)]
            await asyncio.gather(*(one.watch(client, "camera") for one in clients))
            await until(lambda clients=clients: all(one.frames for one in clients), "frames")
            for place, one in enumerate(clients):
                if place % 2:
                    await client.delete(one.location)  # the others just go
                await one.close()
        print(first + at_a_time, flush=True)


def main(count: int = 100, at_a_time: int = 5) -> None:
    with serving(make=with_camera) as served:
        served.do("/start")
        command = [sys.executable, __file__, "clients", *map(str, (served.port, count, at_a_time))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
            assert clients.stdout is not None
            for line in clients.stdout:
                gc.collect()
                files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
                told = f"{resident_mb():.1f} MB, {files} descriptors, {threads} threads"
                print(f"{line.strip()} watchers so far: {told}", flush=True)
        peers, (stream,) = state_of(served).peers, state_of(served).streams.all
        print(f"left: {len(peers)} peers, {len(peers._tasks)} tasks, {stream.watchers} watchers; encoded: {stream.encoded}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        asyncio.run(watch(*map(int, sys.argv[2:])))
    else:
        main(*map(int, sys.argv[1:]))
