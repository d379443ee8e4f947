"""Single steps of a hand-over, both ends in this one process: what each costs when all is warm and nobody sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from mmap import mmap
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, binding, events
from pipert_shm.data import Meta
from pipert_shm.message.decoder import decode
from pipert_shm.shm.rings import create_ring, open_ring

from .ends import CAMERA, EDGE, NAMES, OUTS, Ends, open_ends
from .sheet import SIZES

SHAPE = SIZES["1080p"]
SLOTS = 8

pytestmark = pytest.mark.benchmark(group="one step, warm, in one process")
on_payloads = pytest.mark.parametrize("kind", ["frame", "dict with a frame"])


def payload_of(frame: np.ndarray, kind: str) -> object:
    return frame if kind == "frame" else {"frame": frame, "camera": 3, "boxes": [(10, 20, 30, 40)]}


def frame_in(payload: Any) -> np.ndarray:
    frame: np.ndarray = payload["frame"] if isinstance(payload, dict) else payload
    return frame


@pytest.fixture
def ends() -> Iterator[Ends]:
    with open_ends(slots=SLOTS) as opened:
        yield opened


def test_loan_and_release(benchmark: BenchmarkFixture, ends: Ends) -> None:
    dtype = np.dtype(np.uint8)
    frame = benchmark(lambda: ends.outbox.loan(SHAPE, dtype))
    assert frame.shape == SHAPE
    assert frame.flags.writeable


@on_payloads
def test_encode(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    payload = payload_of(ends.frame(SHAPE), kind)
    encoder, post, process = ends.encoder(), binding.Post(), ends.sending.process

    def encode() -> None:
        post.begin(OUTS, 1)
        encoder.encode(post, payload, OUTS, b"")
        process.release(post.post.slot[0])
        post.post.slots = 0

    benchmark(encode)
    assert encoder.copied_bytes == 0


@on_payloads
def test_decode(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    frame = ends.frame(SHAPE)
    post = binding.Post()
    post.begin(OUTS, 1)
    number, body = ends.encoder().encode(post, payload_of(frame, kind), OUTS, b"")
    decoded = benchmark(decode, number, body, 0, [frame.data.cast("B")])
    ends.sending.process.release(post.post.slot[0])
    assert np.array_equal(frame_in(decoded), frame)


def test_port_send_and_receive(benchmark: BenchmarkFixture, ends: Ends) -> None:
    """The two calls into C, with a message that carries nothing."""
    messages = create_ring(ends.sending, CAMERA, SLOTS, binding.MESSAGE_BYTES, "the messages of a benchmark")
    open_ring(ends.receiving, messages)
    post, sender, receiver = binding.Post(), ends.sender, ends.receiver

    def hand_over() -> int:
        post.begin(OUTS, 1)
        sender.send(post.post, messages, 0, 0, CAMERA, 0, 0, b"", 0)
        return receiver.receive(0)

    assert benchmark(hand_over) == binding.OK
    counters = binding.EdgeRecord(ends.sending.process, EDGE.number).counters()
    assert counters["received"] == counters["sent"] > 0


@on_payloads
def test_hand_over_without_waking(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    """All that a routine's two ends do for a message: encode, send, receive, decode, release."""
    payload = payload_of(ends.frame(SHAPE), kind)
    outbox = ends.outbox
    sent = 0

    def hand_over() -> object:
        nonlocal sent
        sent += 1
        outbox.send([payload], Meta(NAMES, CAMERA, sent))
        return ends.receive()

    frame = frame_in(benchmark(hand_over))
    assert frame.shape == SHAPE
    assert frame[-1, -1, -1] == 7
    counters = binding.EdgeRecord(ends.sending.process, EDGE.number).counters()
    assert counters["received"] == counters["sent"] == sent
    assert binding.RoutineRecord(ends.sending.process, CAMERA).counters()["copied_bytes"] == 0


class Bell(SourceRoutine):
    """Counts the events that it handles, in memory that the test sees."""

    def __init__(self) -> None:
        super().__init__("bell")
        self.handled = np.frombuffer(mmap(-1, 8), np.int64)

    def main_logic(self) -> None: ...

    @events("RING")
    def ring(self) -> None:
        self.handled[0] += 1


@pytest.mark.benchmark(group="from one process to another")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # numpy has threads; none of ours runs meanwhile
def test_event(benchmark: BenchmarkFixture) -> None:
    """From `notify_event` to the end of the handler in the flow."""
    bell, sink = Bell(), DestinationRoutine("sink")
    sink.main_logic = lambda data: None  # type: ignore[method-assign]
    pipe = Pipe()
    pipe.create_flow("flow", True, bell, sink)
    rung = 0

    def ring() -> None:
        nonlocal rung
        rung += 1
        pipe.notify_event("RING")
        while bell.handled[0] != rung:
            time.sleep(0)

    pipe.build()
    try:
        benchmark(ring)
    finally:
        pipe.join(to_kill=True)
    assert bell.handled[0] == rung > 0
