"""What people use to hand a frame from one process to another, each by its best documented way: see README.md."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from .processes import fork, run_together
from .sheet import DEPTH, FRAMES, Load, Sheet

Hand = Callable[[], object]


class Pair(ABC):
    """Two processes, and a way from one to the other that loses nothing and holds `DEPTH` messages.

    Made in a process that forks both.
    """

    bounded = True  # whether it holds no more than `DEPTH` by itself; else its sender waits for the receiver's count

    def __init__(self, load: Load) -> None:
        self.load = load

    @abstractmethod
    def sender(self) -> Callable[[int], Hand]:
        """Opens the sending end: a function that makes a frame ready, and gives what hands it over. Only that is measured."""

    @abstractmethod
    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        """Opens the receiving end, says that it is ready, and yields each frame as a view of it is there."""

    def close(self) -> None:  # noqa: B027  most have nothing to close in the parent
        """Called in the parent when both processes have ended."""


def by_pair(kind: Callable[[Load], Pair], sheet: Sheet) -> None:
    """Runs one round, in processes of its own: some packages leave threads and helpers behind in whoever uses them."""
    run_together(lambda: _run_pair(kind, sheet))


def _run_pair(kind: Callable[[Load], Pair], sheet: Sheet) -> None:
    load = sheet.load
    pair = kind(load)

    def send() -> None:
        make_ready = pair.sender()
        sheet.wait_for(Sheet.READY)
        hand = make_ready(0)
        start, ticks = time.monotonic_ns(), 0
        while not sheet.is_full(ticks):
            ticks += 1
            if load.fps:
                time.sleep(max(0, start + ticks * load.period_ns - time.monotonic_ns()) / 1e9)
                if not sheet.may_send():
                    continue
            elif not pair.bounded:
                while sheet.sent - sheet.received() > DEPTH:
                    time.sleep(0)
            number = sheet.stamp()
            hand()
            hand = make_ready(number + 1)
        sheet.mark(0, end=True)
        hand()  # one more than are counted: the receiver ends with it
        sheet.wait_for(Sheet.OVER)

    def receive() -> None:
        for frame in pair.receiver(lambda: sheet.set(Sheet.READY)):
            if sheet.received() == sheet.sent:
                break
            sheet.note(frame)
            del frame
        sheet.mark(1, end=True)
        sheet.set(Sheet.OVER)

    try:
        run_together(receive, send)
    finally:
        pair.close()


class Queue(Pair):
    """`put()` and `get()`, which pickle the frame into a pipe."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._queue: Any = fork.Queue(DEPTH)

    def sender(self) -> Callable[[int], Hand]:
        frames = self.load.frames()
        return lambda number: lambda: self._queue.put(frames[number % FRAMES])

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        ready()
        while True:
            yield self._queue.get()

    def close(self) -> None:
        self._queue.close()


class Pipe(Pair):
    """`send_bytes()` and `recv_bytes_into()` a new array."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._receiving, self._sending = fork.Pipe(duplex=False)

    def sender(self) -> Callable[[int], Hand]:
        frames = self.load.frames()
        return lambda number: lambda: self._sending.send_bytes(frames[number % FRAMES].data.cast("B"))

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        ready()
        number = 0
        while True:
            frame = np.empty(self.load.shape(number), np.uint8)
            self._receiving.recv_bytes_into(frame.data.cast("B"))
            number += 1
            yield frame

    def close(self) -> None:
        self._receiving.close()
        self._sending.close()


class SharedSlots(Pair):
    """Slots of a `SharedMemory`, their numbers through a `SimpleQueue`, and a semaphore that counts the free ones."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        count = DEPTH + 2  # one that is written, and one in the receiver's hands
        self._memory = SharedMemory(create=True, size=count * load.frame_bytes)
        self._free, self._numbers = fork.Semaphore(count), fork.SimpleQueue()
        self._slots = count

    def _views(self) -> np.ndarray:
        assert self._memory.buf is not None, "the memory is open"
        return np.frombuffer(self._memory.buf, np.uint8)[: self._slots * self.load.frame_bytes].reshape(
            self._slots, *self.load.largest
        )

    def sender(self) -> Callable[[int], Hand]:
        frames, slots = self.load.frames(), self._views()
        for slot in slots:
            slot[:] = 0  # else the first turn pays for the pages

        def hand_over(number: int) -> None:
            self._free.acquire()
            np.copyto(slots[number % self._slots], frames[number % FRAMES])
            self._numbers.put(number % self._slots)

        return lambda number: lambda: hand_over(number)

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        slots = self._views()
        ready()
        while True:
            yield slots[self._numbers.get()]
            self._free.release()

    def close(self) -> None:
        self._memory.close()
        self._memory.unlink()
        self._numbers.close()


def _zmq() -> Any:
    import zmq

    return zmq


class Zmq(Pair):
    """PUSH and PULL over ipc, `copy=False` at both ends."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._endpoint = f"ipc://{tempfile.gettempdir()}/bench-{uuid4().hex}"

    def sender(self) -> Callable[[int], Hand]:
        zmq = _zmq()
        frames = self.load.frames()
        socket = zmq.Context().socket(zmq.PUSH)
        socket.set_hwm(DEPTH)
        socket.bind(self._endpoint)
        return lambda number: lambda: socket.send(frames[number % FRAMES], copy=False)

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        zmq = _zmq()
        socket = zmq.Context().socket(zmq.PULL)
        socket.set_hwm(DEPTH)
        socket.connect(self._endpoint)
        ready()
        number = 0
        while True:
            message = socket.recv(copy=False)
            yield np.frombuffer(message.buffer, np.uint8).reshape(self.load.shape(number))
            number += 1

    def close(self) -> None:
        Path(self._endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


class Iceoryx(Pair):
    """Publish-subscribe with an event that wakes the receiver; no overflow, so that nothing is lost."""

    copies = False

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._name = f"bench-{uuid4().hex}"

    def _open(self) -> tuple[Any, Any, Any, Any]:
        import iceoryx2 as iox2

        iox2.set_log_level_from_env_or(iox2.LogLevel.Error)
        node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        frames = (
            node.service_builder(iox2.ServiceName.new(self._name))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(DEPTH)
            .open_or_create()
        )
        event = node.service_builder(iox2.ServiceName.new(self._name)).event().open_or_create()
        return iox2, node, frames, event

    def sender(self) -> Callable[[int], Hand]:
        iox2, node, frames, event = self._open()
        publisher = (
            frames.publisher_builder()
            .initial_max_slice_len(self.load.frame_bytes)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        notifier = event.notifier_builder().create()
        sources = self.load.frames() if self.copies else []
        while not frames.dynamic_config.number_of_subscribers or not event.dynamic_config.number_of_listeners:
            time.sleep(0.001)

        def loan(number: int) -> tuple[Any, np.ndarray]:
            shape = self.load.shape(number)
            sample = publisher.loan_slice_uninit(int(np.prod(shape)))
            return sample, np.frombuffer(sample.payload().as_memory_view(), np.uint8).reshape(shape)

        def send(sample: Any) -> None:
            sample.assume_init().send()
            notifier.notify()

        def copy(number: int) -> None:
            sample, frame = loan(number)
            np.copyto(frame, sources[number % FRAMES])
            send(sample)

        send(loan(0)[0])  # not counted: a frame for which there is no room is lost before the receiver has seen its first

        def make_ready(number: int, node: Any = node) -> Hand:
            if self.copies:
                return lambda: copy(number)
            sample, frame = loan(number)
            frame[0, 0, 0] = frame[-1, -1, -1] = number % FRAMES
            return lambda: send(sample)

        return make_ready

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        _, node, frames, event = self._open()
        subscriber, listener = frames.subscriber_builder().create(), event.listener_builder().create()
        while subscriber.receive() is None:
            time.sleep(0.001)
        ready()
        number = 0
        while node is not None:
            listener.blocking_wait()
            while (sample := subscriber.receive()) is not None:
                yield np.frombuffer(sample.payload().as_memory_view(), np.uint8).reshape(self.load.shape(number))
                number += 1


class IceoryxCopy(Iceoryx):
    """The same, when the frame lies in the sender's own memory."""

    copies = True


class Zenoh(Pair):
    """A publisher that puts the same shared-memory buffers again and again; the binding gives the receiver a copy of them."""

    bounded = False

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self._endpoint = f"unixsock-stream/{self._directory.name}/socket"

    def _open(self, how: str) -> Any:
        import json

        import zenoh

        zenoh.init_log_from_env_or("error")
        config = zenoh.Config()
        config.insert_json5("mode", json.dumps("peer"))
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("transport/shared_memory/mode", json.dumps("init"))
        config.insert_json5("listen/endpoints", json.dumps([self._endpoint] if how == "listen" else []))
        if how == "connect":
            while not os.path.exists(self._endpoint.partition("/")[2]):
                time.sleep(0.001)
            config.insert_json5("connect/endpoints", json.dumps([self._endpoint]))
        return zenoh.open(config)

    def sender(self) -> Callable[[int], Hand]:
        import zenoh

        session = self._open("listen")
        publisher = session.declare_publisher("bench/frames", congestion_control=zenoh.CongestionControl.BLOCK)
        provider = zenoh.shm.ShmProvider.default_backend((FRAMES + 1) * self.load.frame_bytes)
        ready = []
        for frame in self.load.frames():
            buffer = provider.alloc(frame.nbytes)
            buffer[:] = frame.tobytes()
            ready.append(zenoh.ZBytes(buffer))
        while not publisher.matching_status.matching:
            time.sleep(0.001)

        def hand_over(number: int, open: Any = (session, provider)) -> None:  # both end when nobody holds them
            publisher.put(ready[number % FRAMES])

        return lambda number: lambda: hand_over(number)

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        import zenoh

        session = self._open("connect")
        frames = session.declare_subscriber("bench/frames", zenoh.handlers.FifoChannel(DEPTH))
        ready()
        for number, sample in enumerate(frames):
            if sample.payload.as_shm() is None:
                raise RuntimeError("zenoh did not send the frame through shared memory")
            yield np.frombuffer(sample.payload.to_bytes(), np.uint8).reshape(self.load.shape(number))

    def close(self) -> None:
        self._directory.cleanup()
