"""The campaign for wires between hosts: `python tests/hosts_campaign.py --kills 500 --seed 1`; `make hosts-campaign`.

Two pipes on two hosts of their own (network, /dev/shm), a router beside one of them, and a link with delay, losses and a rate.

- Sender, receiver and router get SIGKILL at random under load, and the link is cut. Every byte and the order are checked. With
  `block`, each number that never came has to be counted as lost, once; with `drop_oldest` nothing is older than promised.
- The sender and the receiver are killed at each kind of line of their own code (hosts_steps.py).
- The link is cut for long.
- A receiver takes 5 frames a second: the memory of both pipes stays flat.

Where this machine allows no hosts, the same runs on the loopback interface, with a proxy that stalls: without delay, loss and
rate. The first line says so.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hosts_apart import at_rest, serve_edge, serve_hub, torment
from hosts_ends import COUNT, LAST, OLDEST, OPEN, RETURNED, SKIPPED, TOLD_NS, UNREACHABLE, WRONG, receiving, sending
from hosts_ends import Link as Proxy
from hosts_ends import at_rest as at_rest_here
from hosts_ends import torment as torment_here
from hosts_net import Host, Link, LinkSettings, why_not
from hosts_steps import RECEIVER_AT, SENDER_AT, SteppedReceiver, SteppedSender, kill_at
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from streams import free_port
from waiting import Board

KILLS_PER_PIPE = 25
FRAME = (480, 640, 3)
LINKS = (
    LinkSettings(20, 0.01, 100),
    LinkSettings(0, 0, 1000),
    LinkSettings(150, 0.01, 1000),
    LinkSettings(20, 0.05, 100),
    LinkSettings(1, 0, 100),
)
MAX_AGE = 0.5
LATE = 0.3  # seconds from the last look at a frame's age until it is sent on; the machine is busy


def new_board() -> Board:
    board = Board()
    board[OPEN] = 1
    return board


def check(board: Board, counted: int | None) -> None:
    """:raises AssertionError: when a message was torn, doubled, out of order, too old, or lost without a count."""
    assert board[WRONG] == 0, f"{board[WRONG]} messages were torn, came twice or out of order"
    if counted is not None:
        assert board[SKIPPED] == counted, f"{board[SKIPPED]} never came, {counted} are counted as lost"
    else:
        assert board[OLDEST] < (MAX_AGE + LATE) * 1e6, f"a frame was {board[OLDEST] / 1e6:.2f} s old"


@contextmanager
def two_hosts(board: Board, fps: int, link: LinkSettings, *seed: int, lossless: bool) -> Iterator[tuple[Host, Host, Link]]:
    """Two hosts, of which the first sends to the second, and the link between them."""
    max_age = None if lossless else MAX_AGE
    policy = "block" if lossless else "drop_oldest"
    with (
        Host("10.77.0.1", serve_edge(board, fps, (48, 64, 3), policy=policy, max_age=max_age)) as edge,
        Host("10.77.0.2", serve_hub(board, max_age=max_age)) as hub,
        Link(edge, hub, link, *seed) as between,
    ):
        yield edge, hub, between


def killing(kills: int, link: LinkSettings, rng: random.Random, *, lossless: bool) -> str:
    """Torments two hosts; what came of it."""
    board = new_board()
    with two_hosts(board, 200, link, rng.randrange(1 << 30), lossless=lossless) as (edge, hub, between):
        board.wait(COUNT, 10, timeout=60)
        done = torment(board, edge, hub, kills, rng)
        between.cut()
        time.sleep(rng.uniform(0, 5))
        between.join()
        board.wait(COUNT, board[COUNT] + 20, timeout=60)
        check(board, at_rest(board, edge, hub, OPEN, LAST) if lossless else None)
    return f"{board[COUNT]} messages came, {board[SKIPPED]} not; killed: {done}"


def killing_here(kills: int, rng: random.Random) -> str:
    """The same on the loopback interface, without a router."""
    board = new_board()
    near, port = free_port(), free_port()
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{near}", policy="block")
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    with Proxy(near, port) as link, receiving(board, receiver) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        torment_here(board, edge, hub, kills, rng)
        link.cut()
        time.sleep(rng.uniform(0, 5))
        link.join()
        board.wait(COUNT, board[COUNT] + 20, timeout=30)
        skipped, counted = at_rest_here(board, edge, hub)
        assert skipped == board[SKIPPED]
        check(board, counted)
    return f"{board[COUNT]} messages came, {board[SKIPPED]} were lost and counted"


def stepping(kills: int, rng: random.Random) -> str:
    """Kills the ends at chosen lines of their code."""
    board = new_board()
    port = free_port()
    sender = SteppedSender("gate", "sender", connect=f"tcp/127.0.0.1:{port}", policy="block")
    receiver = SteppedReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    sender.board = receiver.board = board
    with receiving(board, receiver) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        for _ in range(kills):
            cell, pipe = rng.choice(((RECEIVER_AT, hub), (SENDER_AT, edge)))
            kill_at(pipe, board, cell, rng.randint(1, 1500))
            board.wait(COUNT, board[COUNT] + 3, timeout=60)
        skipped, counted = at_rest_here(board, edge, hub)
        assert skipped == board[SKIPPED]
        check(board, counted)
    return f"{board[COUNT]} messages came, {board[SKIPPED]} were lost and counted"


def cutting(seconds: float, *, lossless: bool) -> str:
    """Cuts the link once, for so long; how long it took until frames came again."""
    board = new_board()
    with two_hosts(board, 100, LinkSettings(20, 0, 100), lossless=lossless) as (edge, hub, between):
        board.wait(COUNT, 10, timeout=60)
        between.cut()
        began = time.monotonic()
        board.wait(UNREACHABLE)
        loss = board[TOLD_NS] / 1e9 - began
        time.sleep(max(seconds - loss, 0))
        told, seen, began = board[UNREACHABLE], board[COUNT], time.monotonic()
        between.join()
        board.wait(COUNT, seen + 1, timeout=60)
        took = time.monotonic() - began
        board.wait(RETURNED)
        returned = board[TOLD_NS] / 1e9 - began
        board.wait(COUNT, seen + 20, timeout=60)
        check(board, at_rest(board, edge, hub, OPEN, LAST) if lossless else None)
        assert told == 1, f"the loss was told {told} times"
        if lossless:
            assert board[SKIPPED] == 0
    back = f"frames came again {took:.2f} s after it was back, which was told after {returned:.2f} s"
    return f"the loss was told after {loss:.2f} s; {back}"


def slow(seconds: float) -> int:
    """Returns by how many bytes the memory of both pipes grew while the receiver took 5 frames a second."""
    board = new_board()
    near = free_port()
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{near}", max_age=1.0)
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{near}", max_age=1.0)
    with receiving(board, receiver, delay=0.2) as hub, sending(board, sender, fps=30, shape=FRAME) as edge:

        def memory() -> int:
            return sum(flow.private_bytes or 0 for pipe in (edge, hub) for flow in pipe.statistics().flows.values())

        board.wait(COUNT, 10)
        before = memory()
        time.sleep(seconds)
        grown = memory() - before
        assert board[WRONG] == board[UNREACHABLE] == 0
    assert grown < 30 << 20, f"{grown:,} bytes"
    return grown


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100, help="kills at chosen lines")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--cuts", type=float, nargs="*", default=[5, 60], help="seconds, each once per policy")
    parser.add_argument("--slow-seconds", type=float, default=60)
    arguments = parser.parse_args()
    missing = why_not()
    print(
        f"seed {arguments.seed}" + (f"; on the loopback interface, without links and cuts: {missing}" if missing else ""),
        flush=True,
    )
    rng = random.Random(arguments.seed)
    for number, begun in enumerate(range(0, arguments.kills, KILLS_PER_PIPE)):
        kills, link = min(KILLS_PER_PIPE, arguments.kills - begun), LINKS[number % len(LINKS)]
        lossless = number % 4 != 3
        if missing:
            print(f"{begun + kills} kills: {killing_here(kills, rng)}", flush=True)
            continue
        text = killing(kills, link, rng, lossless=lossless)
        print(f"{begun + kills} kills, {link}, {'block' if lossless else 'drop_oldest'}: {text}", flush=True)
    for begun in range(0, arguments.steps, KILLS_PER_PIPE):
        kills = min(KILLS_PER_PIPE, arguments.steps - begun)
        print(f"{begun + kills} kills at chosen lines: {stepping(kills, rng)}", flush=True)
    for seconds in () if missing else arguments.cuts:
        for lossless in (True, False):
            text = cutting(seconds, lossless=lossless)
            print(f"a cut of {seconds:g} s, {'block' if lossless else 'drop_oldest'}: {text}", flush=True)
    if arguments.slow_seconds:
        print(f"a receiver at 5 fps for {arguments.slow_seconds:g} s: memory grew by {slow(arguments.slow_seconds):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
