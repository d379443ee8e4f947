"""The harness in bench/ for two hosts, with tiny numbers: what it says must be true of what was sent, whatever the machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.__main__ import HOSTS_PARTS
from bench.hosts import BARE, PARTS, TCP, THIS, _after, _ways
from bench.hosts_net import Loopback, Trouble, TwoHosts, why_not
from bench.hosts_ways import HostLoad
from bench.sheet import Sheet

TINY = HostLoad("VGA", 100, 0.2)
SERVE = """
import socket
server = socket.create_server(("10.9.0.2", 7))
print("up", flush=True)
end, _ = server.accept()
end.sendall(end.recv(9))
"""
ASK = "import socket; c = socket.create_connection(('10.9.0.2', 7), 20); c.sendall(b'question'); print(c.recv(9).decode())"

pytestmark = [pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"), pytest.mark.shm]
needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=why_not())


def test_all_parts_can_be_named() -> None:
    assert tuple(PARTS) == HOSTS_PARTS


@pytest.mark.parametrize("way", [THIS, TCP, BARE])
def test_every_way_brings_frames_from_one_end_to_the_other(way: str) -> None:
    with Loopback() as net:
        sheet = Sheet(TINY)
        _ways(net)[way].run(sheet)
    assert sheet.received() > 0
    assert sheet.wrong == 0
    assert (sheet.latencies_us() > 0).all()
    sent, came = sheet.times()
    assert len(sent) == len(came) == sheet.sent
    assert len(_after(sheet, 0)) == sheet.received()
    assert len(_after(sheet, time.monotonic_ns())) == 0


def test_pictures_of_a_clip_go_to_and_fro() -> None:
    load = HostLoad("VGA", 30, 1, pictures=np.arange(4).reshape(4, 1, 1, 1))
    assert [int(load.picture(number)[0, 0, 0]) for number in range(8)] == [0, 1, 2, 3, 2, 1, 0, 1]


@needs_namespaces
def test_two_hosts_have_a_link_that_can_be_slow_and_cut() -> None:
    with TwoHosts(Trouble(delay_ms=30)) as net:
        enter = [["nsenter", "-t", str(pid), "-n", sys.executable, "-c"] for pid in net._anchors]
        with subprocess.Popen([*enter[1], SERVE], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            net.cut()
            net.join()
            begun = time.monotonic()
            answer = subprocess.run([*enter[0], ASK], check=True, capture_output=True, text=True).stdout
            assert time.monotonic() - begun > 0.12, "two trips there and back"
        assert answer == "question\n"
        assert net.sent_bytes(0) > 100
    assert not any(Path(f"/proc/{pid}").exists() for pid in net._anchors)
