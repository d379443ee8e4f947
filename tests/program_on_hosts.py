"""A program whose pipe has flows on two other hosts: `program_on_hosts.py HUB NAME`. Its own routine is made of a closure."""

from __future__ import annotations

import sys

from steps import Count, Times  # type: ignore[import-not-found]  # of the yard: agents have it, too

from pipert_shm import Pipe, Wire, from_callable

ENOUGH = 20


def main(hub: str, name: str) -> None:
    count, times = Count("count"), Times("times", by=3)
    seen: list[list[int]] = []

    def check(pair: list[int]) -> None:
        seen.append(pair)
        if len(seen) == ENOUGH:
            assert [its[1] for its in seen] == [3 * its[0] for its in seen]
            assert [its[0] for its in seen] == list(range(ENOUGH))
            log.notify_event("kill")

    log = from_callable(check, "log")
    with Pipe(name=name, policy="block", hosts={"hub": hub, "name": "desk"}) as pipe:
        pipe.create_flow("gate", False, count, host="edge-1")
        pipe.create_flow("detect", False, times, host={"gpu": "true"})
        pipe.create_flow("output", False, log)
        pipe.link(Wire(count, times, codec="zstd", window=4), Wire(times, log))
        pipe.build()
        pipe.notify_event("start")
    statistics = pipe.statistics()
    assert list(statistics.wires) == [("log-from-times@gpu-1", "log")]
    assert statistics.routines["log"].errors == 0
    print(statistics.routines["log"].received >= ENOUGH)


if __name__ == "__main__":
    main(*sys.argv[1:])
