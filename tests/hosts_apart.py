"""Two pipes on two hosts (see hosts_net.py), joined by a wire: directly, or by a router that may be killed, too."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from hosts_ends import COUNT, kill, receiving, sending
from hosts_net import Host, answer
from pipert_shm import Pipe
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from waiting import Board, eventually

EDGE, HUB = "10.77.0.1", "10.77.0.2"
PORT = 7447
_ROUTER = """
import sys, zenoh
config = zenoh.Config()
settings = {
    "mode": '"router"',
    "listen/endpoints": f'["tcp/0.0.0.0:{sys.argv[1]}"]',
    "scouting/multicast/enabled": "false",
    "scouting/gossip/enabled": "false",
    "transport/link/tx/lease": "2000",
}
for key, value in settings.items():
    config.insert_json5(key, value)
with zenoh.open(config):
    print("up", flush=True)
    sys.stdin.read()
"""


class Router:
    """A Zenoh router in a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        command = [sys.executable, "-c", _ROUTER, str(PORT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


def facts(pipe: Pipe) -> dict[str, Any]:
    """What a campaign asks of a pipe's statistics."""
    now = pipe.statistics()
    return {
        "routines": {name: (one.sent, one.lost_in_crash, dict(one.counters)) for name, one in now.routines.items()},
        "lost": sum(wire.lost for wire in now.wires.values()),
        "bytes": sum(flow.private_bytes or 0 for flow in now.flows.values()),
    }


def serve_edge(board: Board, fps: float, shape: tuple[int, ...], **settings: Any) -> Callable[[Connection], None]:
    """A host with a camera and a sender, for `Host`."""

    def serve(ask: Connection) -> None:
        sender = RemoteSender("gate", "sender", connect=f"tcp/{HUB}:{PORT}", **settings)
        with sending(board, sender, fps=fps, shape=shape) as pipe:
            answer(ask, {"kill": lambda: kill(pipe, "sender"), "facts": lambda: facts(pipe), "clock": time.monotonic_ns})

    return serve


def serve_hub(board: Board, *, delay: float = 0.0, routed: bool = True, **settings: Any) -> Callable[[Connection], None]:
    """A host with a receiver, a log and, if it is routed, a router."""

    def serve(ask: Connection) -> None:
        router = Router() if routed else None
        address: dict[str, Any] = {"connect": f"tcp/127.0.0.1:{PORT}"} if routed else {"listen": f"tcp/0.0.0.0:{PORT}"}
        receiver = RemoteReceiver("gate", "receiver", **address, **settings)
        with receiving(board, receiver, delay) as pipe:
            words = {"kill": lambda: kill(pipe, "receiver"), "facts": lambda: facts(pipe), "clock": time.monotonic_ns}
            if router is not None:
                words |= {"kill router": router.kill, "start router": router.start}
            answer(ask, words)
        if router is not None:
            router.kill()

    return serve


def torment(board: Board, edge: Host, hub: Host, kills: int, rng: random.Random) -> dict[str, int]:
    """Kills sender, receiver and router at random, and waits for messages after each. How often each was killed."""
    done = {"sender": 0, "receiver": 0, "router": 0}
    for _ in range(kills):
        victim = rng.choices(list(done), (5, 5, 1))[0]
        done[victim] += 1
        time.sleep(rng.uniform(0, 0.2))
        if victim == "router":
            hub.ask("kill router")
            time.sleep(rng.uniform(0, 1.0))
            hub.ask("start router")
        else:
            (edge if victim == "sender" else hub).ask("kill")
        seen = board[COUNT]
        board.wait(COUNT, seen + 5, timeout=120)
    return done


def at_rest(board: Board, edge: Host, hub: Host, opener: int, last: int) -> int:
    """Stops the camera, and waits until its last frame has come or is counted; how many are counted as lost.

    :param opener: the board's cell that lets the camera send; `last`: that of the last number that came, and one.
    """
    board[opener] = 0
    sent = edge.ask("facts")["routines"]["camera"][0]
    eventually(lambda: board[last] >= sent, f"frame {sent} (came: {board[last]})", 120)
    there, here = edge.ask("facts"), hub.ask("facts")
    missed = here["routines"]["receiver"][2]["missed"]
    return int(missed + there["routines"]["sender"][1] + there["lost"] + here["lost"])
