"""Ray from one host to another: a cluster of two nodes, and an actor on the second one that is given each frame."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any
from uuid import uuid4

from .hosts_net import Loopback
from .hosts_ways import GRACE_S, HostLoad
from .processes import adopt_orphans, end_orphans, run_together
from .sheet import FRAMES, Sheet

FAR = "far"  # the resource that only the second node has
STORE = 300_000_000  # bytes
LONGEST_START_S = 120  # of a node, on a busy machine


def by_ray(net: Loopback, sheet: Sheet) -> None:
    """One round. The credit is that of the peers; the processor time is that of the sending driver alone.

    On one host there are two nodes as well, but one object store serves both where they have one /dev/shm.
    """
    run_together(lambda: _run(net, sheet), longest_s=3 * LONGEST_START_S)


def _run(net: Loopback, sheet: Sheet) -> None:
    adopt_orphans()
    address = f"{net.address(0)}:{net.next_port()}"
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid4().hex,
        "RAY_raylet_start_wait_time_s": str(LONGEST_START_S),
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            run_together(
                lambda: _node(net, 0, "--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={directory}"),
                longest_s=LONGEST_START_S,
            )
            run_together(
                lambda: _node(net, 1, f"--address={address}", f'--resources={{"{FAR}": 1}}'), longest_s=LONGEST_START_S
            )
            run_together(lambda: _send(net, sheet, address), longest_s=LONGEST_START_S)
        finally:
            end_orphans(0)


def _node(net: Loopback, end: int, *words: str) -> None:
    """Starts a node, which runs on when this returns."""
    net.enter(end)
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={net.address(end)}", "--num-cpus=1"]
    done = subprocess.run([*start, f"--object-store-memory={STORE}", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no node of Ray starts: {(done.stdout + done.stderr)[-500:]}")


class Taker:
    """Is given frames, on the second node."""

    def take(self, frame: Any, number: int) -> tuple[int, int, bool]:
        now = time.monotonic_ns()  # the machine's, whatever the namespace
        return number, now, bool(frame[0, 0, 0] == frame[-1, -1, -1] == number % FRAMES)


def _send(net: Loopback, sheet: Sheet, address: str) -> None:
    import ray

    load = sheet.load
    assert isinstance(load, HostLoad)
    net.enter(0)
    ray.init(address=address, _node_ip_address=net.address(0), log_to_driver=False, logging_level="error")
    taker = ray.remote(Taker).options(resources={FAR: 1}, num_cpus=0).remote()
    frames = load.frames()
    ray.get(taker.take.remote(frames[0], 0))  # it runs
    sheet.set(Sheet.READY)
    pending: list[Any] = []
    start, ticks = time.monotonic_ns(), 0
    while not sheet.is_full(ticks):
        ticks += 1
        time.sleep(max(0, start + ticks * load.period_ns - time.monotonic_ns()) / 1e9)
        pending = _noted(ray, sheet, pending, 0)
        number = sheet.stamp()
        if len(pending) < load.window:
            pending.append(taker.take.remote(frames[number % FRAMES], number))
    sheet.mark(0, end=True)
    _noted(ray, sheet, pending, GRACE_S)
    sheet.set(Sheet.OVER)
    ray.shutdown()


def _noted(ray: Any, sheet: Sheet, pending: list[Any], patience: float) -> list[Any]:
    """Notes those that came; returns the others."""
    done, left = ray.wait(pending, num_returns=len(pending), timeout=patience) if pending else ([], [])
    for number, now, right in ray.get(done):
        sheet.note(None, number, now=now)
        sheet.words[Sheet.WRONG] += not right
    return list(left)
