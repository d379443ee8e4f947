"""A stream that is divided among hosts by who has least to do, over Zenoh on the loopback interface."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.hosts import RemoteReceiver, SharedSender
from streams import free_port
from waiting import eventually

MESSAGES, SLOW_S = 80, 0.2


class Numbers(SourceRoutine):
    """Sends numbers, as fast as they are taken."""

    def main_logic(self) -> int:
        if self.meta.sequence == MESSAGES:
            raise EndOfStream
        return self.meta.sequence


class Screen(DestinationRoutine):
    """Takes its time over each number, and adds them up."""

    counter_names = ("sum",)

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name)
        self._seconds = seconds

    def main_logic(self, number: int) -> None:
        time.sleep(self._seconds)
        self.counters["sum"] += number


def test_each_message_goes_to_one_host_and_a_slow_or_absent_one_gets_less() -> None:
    port = free_port()
    way: dict[str, Any] = {"connect": f"tcp/127.0.0.1:{port}", "host": "edge"}
    ends = [{"key": f"to-{host}", "peer": host} for host in ("fast", "slow", "absent")]
    numbers, sender = Numbers("numbers"), SharedSender("sender", ends=ends, policy="block", window=2, **way)
    fast = RemoteReceiver("to-fast", "from-fast", listen=way["connect"], host="fast", peer="edge")
    slow = RemoteReceiver("to-slow", "from-slow", connect=way["connect"], host="slow", peer="edge")
    with Pipe(policy="block", capacity=1) as pipe:
        pipe.create_flow("numbers", False, numbers)
        pipe.create_flow("sender", False, sender, replicas=3)
        pipe.create_flow("fast", True, fast, Screen("fast", SLOW_S / 20))
        pipe.create_flow("slow", True, slow, Screen("slow", SLOW_S))
        pipe.link(Wire(numbers, sender))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)

        def taken() -> dict[str, int]:
            routines = pipe.statistics().routines
            return {name: routines[name].received for name in ("fast", "slow")}

        held = 2  # the one that absent's sender waits with, and the one in its queue
        eventually(lambda: sum(taken().values()) >= MESSAGES - held, "all others", 60)
        counts = taken()
        assert counts["slow"] > 0
        assert counts["fast"] > 3 * counts["slow"]
        assert sum(counts.values()) == MESSAGES - held, "each came once"
        pipe.join(to_kill=True)


def test_ends_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="each a dict with `key` and `peer`"):
        SharedSender("sender", ends=[{"key": "a"}], connect="tcp/a:1", host="edge")
