"""Statistics of a pipe that has ended."""

from __future__ import annotations

from pipert_shm import START_EVENT_NAME, Pipe
from routines import Forward, Frames, Sink, chain


def test_statistics_after_the_end() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 50, loan=True), Forward("middle"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    first, second = pipe.statistics(), pipe.statistics()
    assert (first.routines, first.wires) == (second.routines, second.wires)
    assert first.routines["middle"].received == first.routines["middle"].sent == 50
    wire = first.wires["middle", "sink"]
    assert wire.hop.count == 50
    assert 0 < wire.hop.p50_us <= wire.hop.p99_us
    assert first.routines["sink"].age.count == 50
    assert first.routines["sink"].age.p50_us >= wire.hop.p50_us
