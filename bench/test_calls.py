"""Single steps of a hand-over, both ends in this one process: what each costs when all is warm and nobody sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.hand_over import SHAPE
from pipert_shm import SharedMemoryTransmitter, native
from pipert_shm.codec import Encoder, decode
from pipert_shm.data import Meta
from pipert_shm.memory import ControlSegment, create_ring, open_ring, unlink_pipe
from pipert_shm.plan import EdgePlan
from pipert_shm.ports import Inbox, Outbox

NAMES = ("camera", "screen")
CAMERA, SCREEN = 0, 1
REACH = frozenset({CAMERA})
OUTS = 1  # the sender's one edge, as a bit
SLOTS = 8
EDGE = EdgePlan(
    number=0,
    sender=CAMERA,
    receiver=SCREEN,
    policy="drop_oldest",
    capacity=2,
    timeout=None,
    transmitter=SharedMemoryTransmitter(),
    local=False,
    bit=1,
)

pytestmark = pytest.mark.benchmark(group="one step, warm, in one process")
on_payloads = pytest.mark.parametrize("kind", ["frame", "dict with a frame"])


@dataclass
class Ends:
    """The two ends of one edge. Each has opened the segment for itself, as if it were in a process of its own."""

    sending: ControlSegment
    receiving: ControlSegment
    sender: native.Port
    receiver: native.Port
    outbox: Outbox
    inbox: Inbox

    def frame(self) -> np.ndarray:
        frame = self.outbox.loan(SHAPE, np.dtype(np.uint8))
        frame[:] = 7
        return frame

    def encoder(self) -> Encoder:
        return Encoder(self.sender, self.outbox.slots, NAMES[CAMERA])


def payload_of(frame: np.ndarray, kind: str) -> object:
    return frame if kind == "frame" else {"frame": frame, "camera": 3, "boxes": [(10, 20, 30, 40)]}


def frame_in(payload: Any) -> np.ndarray:
    frame: np.ndarray = payload["frame"] if isinstance(payload, dict) else payload
    return frame


@pytest.fixture
def ends() -> Iterator[Ends]:
    sending = ControlSegment.create(native.ControlSize(flows=1, routines=2, edges=1, incarnations=1, cells=16), budget=1 << 30)
    try:
        EDGE.format(native.EdgeRecord(sending.process, EDGE.number), REACH)
        native.Incarnation(sending.process, 0).format(EDGE.number, EDGE.bit)
        receiving = ControlSegment.open(sending.pipe_id)
        sender, receiver = native.Port(sending.process, CAMERA), native.Port(receiving.process, SCREEN)
        outbox = Outbox(sending, sender, CAMERA, NAMES[CAMERA], SLOTS, SLOTS, {})
        outbox.add(EDGE, 0)
        inbox = Inbox(receiving, receiver, SCREEN, NAMES, {})
        inbox.add(EDGE, 0)
        yield Ends(sending, receiving, sender, receiver, outbox, inbox)
    finally:
        unlink_pipe(sending.pipe_id)
    for segment in (receiving, sending):
        segment.close()
        assert segment.unmap(), "a slot is still held"


def test_loan_and_release(benchmark: BenchmarkFixture, ends: Ends) -> None:
    dtype = np.dtype(np.uint8)
    frame = benchmark(lambda: ends.outbox.loan(SHAPE, dtype))
    assert frame.shape == SHAPE
    assert frame.flags.writeable


@on_payloads
def test_encode(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    payload = payload_of(ends.frame(), kind)
    encoder, post, process = ends.encoder(), native.Post(), ends.sending.process

    def encode() -> None:
        post.begin(OUTS, 1)
        encoder.encode(post, payload, OUTS, b"")
        process.release(post.post.slot[0])
        post.post.slots = 0

    benchmark(encode)
    assert encoder.copied_bytes == 0


@on_payloads
def test_decode(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    frame = ends.frame()
    post = native.Post()
    post.begin(OUTS, 1)
    number, body = ends.encoder().encode(post, payload_of(frame, kind), OUTS, b"")
    decoded = benchmark(decode, number, body, 0, [frame.data.cast("B")])
    ends.sending.process.release(post.post.slot[0])
    assert np.array_equal(frame_in(decoded), frame)


def test_port_send_and_receive(benchmark: BenchmarkFixture, ends: Ends) -> None:
    """The two calls into C, with a message that carries nothing."""
    messages = create_ring(ends.sending, CAMERA, SLOTS, native.MESSAGE_BYTES, "the messages of a benchmark")
    open_ring(ends.receiving, messages)
    post, sender, receiver = native.Post(), ends.sender, ends.receiver

    def hand_over() -> int:
        post.begin(OUTS, 1)
        sender.send(post, messages, 0, 0, CAMERA, 0, 0, b"")
        return receiver.receive(0)

    assert benchmark(hand_over) == native.OK
    counters = native.EdgeRecord(ends.sending.process, EDGE.number).counters()
    assert counters["received"] == counters["sent"] > 0


@on_payloads
def test_hand_over_without_waking(benchmark: BenchmarkFixture, ends: Ends, kind: str) -> None:
    """All that a routine's two ends do for a message: encode, send, receive, decode, release."""
    payload = payload_of(ends.frame(), kind)
    outbox, inbox = ends.outbox, ends.inbox
    sent = 0

    def hand_over() -> object:
        nonlocal sent
        sent += 1
        outbox.put([payload], Meta(NAMES, CAMERA, sent))
        outbox.flush()
        inbox.receive(0)
        return inbox.take()[0]

    frame = frame_in(benchmark(hand_over))
    assert frame.shape == SHAPE
    assert frame[-1, -1, -1] == 7
    counters = native.EdgeRecord(ends.sending.process, EDGE.number).counters()
    assert counters["received"] == counters["sent"] == sent
    assert native.RoutineRecord(ends.sending.process, CAMERA).counters()["copied_bytes"] == 0
