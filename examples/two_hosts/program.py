"""One pipe of a program, whose flows run on three hosts.

    pipert-shm hub --listen tcp/127.0.0.1:7447
    pipert-shm agent --name edge-1 --hub tcp/127.0.0.1:7447                     # in this folder
    pipert-shm agent --name gpu-1 --label gpu=true --hub tcp/127.0.0.1:7447     # in this folder
    python program.py tcp/127.0.0.1:7447

The agents go on with their parts when this program ends: `pipert-shm ctl 'counting@*' kill` ends those.
"""

import sys

from counting import Count, Times

from pipert_shm import START_EVENT_NAME, Pipe, Wire, from_callable

ENOUGH = 20  # results, after which this program ends


def main(hub: str, name: str = "counting") -> None:
    """Runs the pipe until there are enough results."""
    results: list[tuple[int, int]] = []

    def show(result: tuple[int, int]) -> None:  # of this host, so it may be anything: here a function that knows this list
        results.append(result)
        print(*result, flush=True)
        if len(results) == ENOUGH:
            screen.notify_event("kill")

    count, times, screen = Count("count"), Times("times", by=3), from_callable(show, "screen")
    with Pipe(name=name, policy="block", hosts={"hub": hub, "name": "desk"}) as pipe:
        pipe.create_flow("gate", False, count, host="edge-1")
        pipe.create_flow("detect", False, times, host={"gpu": "true"})
        pipe.create_flow("output", False, screen)
        pipe.link(Wire(count, times, codec="zstd", window=4), Wire(times, screen))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
