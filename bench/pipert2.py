"""The hand-over, and whole pipelines, by PipeRT 2.4.0 (PyPI `PipeRT`, module `pipert2`), which this project succeeds.

Its shared-memory transmitter carries arrays only in `additional_data`, where it calls `bytes()` on every value, so the frame's
number travels as text. Its own `set_const_fps` does not hold a rate, so the source sleeps until its tick is due.
"""

from __future__ import annotations

import logging
import os
import time
from itertools import pairwise
from typing import Any

from .processes import run_together
from .sheet import DEPTH, FRAMES, Sheet

QUIET_S = 1.0  # after so long with nothing received, what is missing was lost


def by_pipert2(sheet: Sheet, transmitter: str, *, relays: int = 0) -> None:
    """One round, with a flow for each routine. At a pace its queues are as it sets them up (1 message, which a newer one
    replaces); flat out they hold `DEPTH`, and its sources wait.

    :param transmitter: `BasicTransmitter` or `SharedMemoryTransmitter`.
    """
    run_together(lambda: _run(sheet, transmitter, relays))


def _run(sheet: Sheet, transmitter: str, relays: int) -> None:
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"  # it warns of each of its segments at the end
    import pipert2
    from pipert2 import KILL_EVENT_NAME, START_EVENT_NAME, Data, FPSRoutine, Pipe, QueueNetwork, Wire

    load = sheet.load

    class Camera(FPSRoutine):
        def setup(self) -> None:
            self.frames = load.frames()
            self.begun, self.ticks = 0, 0

        def main_logic(self, data: Any) -> Any:
            if sheet.is_full(self.ticks):
                if self.ticks >= 0:
                    sheet.mark(0, end=True)
                    sheet.set(Sheet.OVER)
                    self.ticks = 1 << 40
                time.sleep(0.01)
                return None
            self.begun = self.begun or time.monotonic_ns()
            self.ticks += 1
            time.sleep(max(0, self.begun + self.ticks * load.period_ns - time.monotonic_ns()) / 1e9)
            if not sheet.may_send():
                return None
            number = sheet.stamp()
            message = Data()
            message.additional_data = {"frame": self.frames[number % FRAMES], "number": str(number)}
            return message

    class Relay(FPSRoutine):
        def main_logic(self, data: Any) -> Any:
            return data

    class Screen(FPSRoutine):
        def main_logic(self, data: Any) -> None:
            sheet.note(data.additional_data["frame"], int(data.additional_data["number"]))
            sheet.mark(1, end=True)

    logger = logging.getLogger("PipeRT2")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    network = QueueNetwork() if load.fps else QueueNetwork(max_queue_sizes=DEPTH, put_block=True, timeout=5)
    pipe = Pipe(network=network, logger=logger, data_transmitter=getattr(pipert2, transmitter)())
    chain: list[Any] = [Camera("camera"), *(Relay(f"relay{number}") for number in range(relays)), Screen("screen")]
    for routine in chain:
        pipe.create_flow(routine.name, False, routine)
    for sender, receiver in pairwise(chain):
        pipe.link(Wire(source=sender, destinations=(receiver,)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    sheet.wait_for(Sheet.OVER)
    seen, since = -1, time.monotonic()
    while sheet.received() < sheet.sent and time.monotonic() - since < QUIET_S:
        if sheet.received() != seen:
            seen, since = sheet.received(), time.monotonic()
        time.sleep(0.01)
    pipe.notify_event(KILL_EVENT_NAME)
    pipe.join()
