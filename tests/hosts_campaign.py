"""The campaign for wires between hosts: `python tests/hosts_campaign.py --kills 500 --seed 1`; `make hosts-campaign`.

Two pipes, lossless. The flows of the sender and of the receiver get SIGKILL at random under load, and now and then the link is
cut, for up to 5 s. Every byte and the order are checked, and at the end of each round every number that never came has to be
counted as lost; one that a sender had in hand when it died may be counted, and have come. Then a receiver takes 5 frames a
second for a while: the memory of both pipes has to stay flat.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from hosts_ends import COUNT, OPEN, SKIPPED, UNREACHABLE, WRONG, Link, at_rest, receiving, sending, torment
from pipert_shm import Pipe
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from streams import free_port
from waiting import Board

KILLS_PER_PIPE = 25
FRAME = (480, 640, 3)


def round_of(kills: int, rng: random.Random) -> tuple[int, int]:
    """Torments two pipes. Returns how many messages came, and how many did not.

    :raises AssertionError: when one is torn, doubled, out of order, or lost without a count.
    """
    board = Board()
    board[OPEN] = 1
    near, port = free_port(), free_port()
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{near}", policy="block")
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}")
    with Link(near, port) as link, receiving(board, receiver) as hub, sending(board, sender, fps=300) as edge:
        board.wait(COUNT, 10)
        torment(board, edge, hub, kills, rng)
        link.cut()
        time.sleep(rng.uniform(0, 5))
        link.join()
        board.wait(COUNT, board[COUNT] + 20, timeout=30)
        skipped, counted = at_rest(board, edge, hub)
        assert board[WRONG] == 0, f"{board[WRONG]} messages were torn, came twice or out of order"
        assert skipped == counted, f"{skipped} never came, {counted} are counted as lost"
        return board[COUNT], board[SKIPPED]


def memory_of(*pipes: Pipe) -> int:
    return sum(flow.private_bytes or 0 for pipe in pipes for flow in pipe.statistics().flows.values())


def slow_receiver(seconds: float) -> int:
    """Returns by how many bytes the memory of both pipes grew while the receiver took 5 frames a second."""
    board = Board()
    board[OPEN] = 1
    port = free_port()
    sender = RemoteSender("gate", "sender", connect=f"tcp/127.0.0.1:{port}", max_age=1.0)
    receiver = RemoteReceiver("gate", "receiver", listen=f"tcp/127.0.0.1:{port}", max_age=1.0)
    with receiving(board, receiver, delay=0.2) as hub, sending(board, sender, fps=30, shape=FRAME) as edge:
        board.wait(COUNT, 10)
        before = memory_of(edge, hub)
        time.sleep(seconds)
        assert board[WRONG] == board[UNREACHABLE] == 0
        return memory_of(edge, hub) - before


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--slow-seconds", type=float, default=15)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    came = lost = 0
    for begun in range(0, arguments.kills, KILLS_PER_PIPE):
        messages, missing = round_of(min(KILLS_PER_PIPE, arguments.kills - begun), rng)
        came, lost = came + messages, lost + missing
        print(f"{begun + KILLS_PER_PIPE} kills: {came} messages came, {lost} were lost and counted", flush=True)
    grown = slow_receiver(arguments.slow_seconds)
    print(f"a receiver at 5 fps for {arguments.slow_seconds:.0f} s: memory grew by {grown:,} bytes")
    assert grown < 30 << 20
    return 0


if __name__ == "__main__":
    sys.exit(main())
