"""Many agents on one hub, as processes without frames: what each costs, and how long an `apply` to all takes.

    python tests/agents_at_scale.py --agents 200

The hub and all agents run on this machine. Bytes are those of the hub's TCP connections, by `ss`.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from agents_alone import STUB
from pipert_shm import HostsError, PipelineFile
from pipert_shm.agents.agent import Agent
from pipert_shm.agents.kept import Store
from streams import free_port

TICK = os.sysconf("SC_CLK_TCK")


def start_hub(address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["pipert-shm", "hub", "--listen", address], stderr=subprocess.DEVNULL)


def fork_agent(number: int, address: str, directory: Path) -> int:
    """Its process. It is forked before anything of Zenoh is loaded, so that all share the memory of what was imported."""
    pid = os.fork()
    if pid:
        return pid
    from pipert_shm.hosts import Hub

    name = f"host-{number:05}"
    agent = Agent(
        name, {"kind": "camera"}, Hub(connect=address), Store(directory / name), logging.getLogger(name), command=STUB
    )
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    agent.wait()
    agent.close(and_pipes=True)
    os._exit(0)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def private_bytes(pid: int) -> int:
    found = re.search(r"Private_Dirty:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) << 10 if found else 0


def carried(port: int) -> int:
    """Bytes that the hub's connections have sent and received."""
    told = subprocess.run(["ss", "-tinH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return sum(int(number) for number in re.findall(r"bytes_(?:acked|received):(\d+)", told))


def file_for(count: int, address: str) -> PipelineFile:
    """A pipeline with a camera on each host, in which nothing crosses hosts."""
    lines = [f"hosts: {{hub: {address}, name: desk}}", "pipe: {name: scale}", "routines:"]
    for number in range(count):
        lines.append(f"  camera-{number}: {{class: pipert_shm.VideoSource, parameters: {{source: a.mp4}}}}")
        lines.append(f"  writer-{number}: {{class: pipert_shm.JsonLinesWriter, parameters: {{path: a.jsonl}}}}")
    lines.append("flows:")
    for number in range(count):
        members = f"[camera-{number}, writer-{number}]"
        lines.append(f"  flow-{number}: {{routines: {members}, auto_wire: true, host: host-{number:05}}}")
    return PipelineFile(Path("scale.yaml"), "\n".join(lines))


def measure(count: int, seconds: float, directory: Path) -> None:
    port = free_port()
    address = f"tcp/127.0.0.1:{port}"
    hub = start_hub(address)
    began = time.monotonic()
    pids = [fork_agent(number, address, directory) for number in range(count)]
    try:
        from pipert_shm.agents.asking import Asker
        from pipert_shm.agents.rollout import remove, roll_out
        from pipert_shm.hosts import Hub

        there = 0
        while True:
            with suppress(HostsError), Asker(Hub(connect=address)) as asker:
                there = len(asker.hosts())
            if there == count or time.monotonic() - began > 300:
                break
            time.sleep(1)
        print(f"{there} of {count} agents are at the hub after {time.monotonic() - began:.1f} s; load {os.getloadavg()[0]:.1f}")
        cpu, hub_cpu, bytes_ = [cpu_s(pid) for pid in pids], cpu_s(hub.pid), carried(port)
        time.sleep(seconds)
        idle = sum(cpu_s(pid) - before for pid, before in zip(pids, cpu, strict=True)) / count / seconds
        rate, hub_idle = (carried(port) - bytes_) / count / seconds, (cpu_s(hub.pid) - hub_cpu) / seconds
        print(
            f"idle, a second: {rate:.0f} bytes and {1000 * idle:.2f} ms CPU for an agent; the hub {1000 * hub_idle:.1f} ms CPU"
        )
        own, its = sum(map(private_bytes, pids)) / count / 1e6, private_bytes(hub.pid) / 1e6
        print(f"own memory: {own:.1f} MB for an agent beyond what is imported, the hub {its:.0f} MB")
        with Asker(Hub(connect=address)) as asker:
            began, bytes_ = time.monotonic(), carried(port)
            asker.hosts()
            print(f"`hosts`: {time.monotonic() - began:.2f} s, {(carried(port) - bytes_) / count:.0f} bytes an agent")
            file, began, bytes_ = file_for(count, address), time.monotonic(), carried(port)
            done = roll_out(file, asker)
            took, sent = time.monotonic() - began, (carried(port) - bytes_) / count
            print(f"`apply` to {len(done.changes)}: {took:.2f} s, {sent:.0f} bytes an agent")
            began = time.monotonic()
            remove(asker, "scale", done.changes)
            print(f"`kill` of all: {time.monotonic() - began:.2f} s; load {os.getloadavg()[0]:.1f}")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            os.waitpid(pid, 0)
        hub.terminate()
        hub.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.agents, options.seconds, Path(folder))
